/** One answer as it grows: a fold over the chunks of its stream. No document, no network. */

/**
 * @typedef {object} Plan how a text is drafted, as docs/api.md describes it
 * @property {number[]} exit_thresholds
 * @property {number} stop_threshold
 * @property {number} max_proposal
 * @property {number} tree_width
 */

/**
 * @typedef {object} Token one token and who wrote it
 * @property {number} token_id
 * @property {string} text
 * @property {number | null} drafted_by layers of the sub-model, 0 for tier 0, null for the target
 * @property {number | null} confidence
 * @property {number | null} rank
 * @property {number} round
 */

/** An answer; times are milliseconds of one clock. */
export class Answer {
  /** @param {number} beganAt when it was asked for */
  constructor(beganAt) {
    this.beganAt = beganAt;
    /** @type {number | null} */
    this.firstAt = null;
    this.lastAt = beganAt;
    this.text = "";
    this.model = "";
    /** @type {Token[]} */
    this.tokens = [];
    /** @type {Record<string, any>} */
    this.s2d = {};
    /** The plan that it began by. @type {Plan | null} */
    this.firstPlan = null;
    /** @type {string | null} */
    this.finishReason = null;
  }

  /**
   * Take in one chunk.
   * @param {any} chunk
   * @param {number} now
   * @returns {Token[]} its tokens
   */
  add(chunk, now) {
    const { tokens = [], ...facts } = chunk.s2d ?? {};
    this.s2d = { ...this.s2d, ...facts };
    this.firstPlan ??= facts.plan ?? null;
    this.model = chunk.model;
    for (const choice of chunk.choices) {
      this.text += choice.delta.content ?? "";
      this.finishReason = choice.finish_reason ?? this.finishReason;
    }
    if (tokens.length > 0) this.firstAt ??= now;
    this.lastAt = now;
    this.tokens.push(...tokens);
    return tokens;
  }

  /** Text that no token tells of: what was held back to the very end. */
  get tail() {
    const told = this.tokens.map((token) => token.text).join("");
    return this.text.startsWith(told) ? this.text.slice(told.length) : "";
  }

  get seconds() {
    return (this.lastAt - this.beganAt) / 1000;
  }

  /** From the question to the first token; null before it. */
  get firstTokenSeconds() {
    return this.firstAt === null ? null : (this.firstAt - this.beganAt) / 1000;
  }

  get tokensPerSecond() {
    return this.seconds > 0 ? this.tokens.length / this.seconds : 0;
  }

  /** Tokens committed per round so far; the service's own figure once it has told it. */
  get meanAcceptedLength() {
    if (this.s2d.mean_accepted_length !== undefined) return this.s2d.mean_accepted_length;
    const rounds = this.tokens.at(-1)?.round ?? 0;
    const accepted = this.tokens.filter((token) => token.drafted_by !== null).length;
    return rounds > 0 ? 1 + accepted / rounds : 1;
  }

  /**
   * Tokens by writer.
   * @returns {Map<number | null, number>}
   */
  get shares() {
    const shares = new Map();
    for (const { drafted_by: writer } of this.tokens) {
      shares.set(writer, (shares.get(writer) ?? 0) + 1);
    }
    return shares;
  }
}

/**
 * Where two texts part: the number of characters they have in common, null if they are equal.
 * @param {string} one
 * @param {string} other
 */
export function firstDifference(one, other) {
  if (one === other) return null;
  let index = 0;
  while (index < one.length && one[index] === other[index]) index += 1;
  return index;
}
