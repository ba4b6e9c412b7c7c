/** The race: one prompt and seed, plain and speculated, and whether the texts are equal. */

import { Answer, firstDifference } from "./answer.js";
import { ask } from "./ask.js";
import { announce, byId, make, shown, submitOnEnter } from "./dom.js";
import { Figures } from "./figures.js";
import { errorNotice, waitNotice } from "./notice.js";
import { TokenView } from "./tokens.js";

/** @typedef {import("./settings.js").Settings} Settings */

const SEED_HIGH = 2 ** 21;
const SEED_LOW = 2 ** 32;

/** The page of the race. */
export class Race {
  /** @param {Settings} settings */
  constructor(settings) {
    this.settings = settings;
    /** @type {AbortController | null} */
    this.running = null;
    byId("race-form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.run();
    });
    submitOnEnter(byId("race-prompt"));
    byId("race-stop").addEventListener("click", () => this.stop());
  }

  /** Stop both runs. */
  stop() {
    this.running?.abort();
  }

  /** Have both texts written, then compare them. */
  async run() {
    const prompt = byId("race-prompt").value.trim();
    if (!prompt || this.running) return;
    this.running = new AbortController();
    this.showRunning(true);
    byId("verdict").replaceChildren();
    const messages = [...this.settings.systemMessages(), { role: "user", content: prompt }];
    const fields = { ...this.settings.fields(), messages };
    fields.seed ??= drawnSeed();
    const lanes = [new Lane("Plain decoding", "off"), new Lane("Speculation", "force")];
    byId("lanes").replaceChildren(...lanes.map((lane) => lane.element));
    announce("The race has begun");
    try {
      await this.runLanes(lanes, fields, this.running.signal);
      showVerdict(lanes, fields.seed);
    } catch (error) {
      this.stop(); // the other lane, if both were under way
      this.tell(error);
    }
    this.running = null;
    this.showRunning(false);
  }

  /**
   * @param {Lane[]} lanes
   * @param {any} fields
   * @param {AbortSignal} signal
   */
  async runLanes(lanes, fields, signal) {
    if (byId("race-form").elements.order.value === "at-once") {
      await Promise.all(lanes.map((lane) => lane.run(fields, signal)));
      return;
    }
    for (const lane of lanes) await lane.run(fields, signal);
  }

  /** @param {any} error */
  tell(error) {
    const isStop = error.name === "AbortError";
    const notice = isStop
      ? make("p", { className: "notice" }, "Stopped.")
      : errorNotice(error, () => this.run());
    byId("verdict").replaceChildren(notice);
  }

  /** @param {boolean} isRunning */
  showRunning(isRunning) {
    byId("race-start").hidden = isRunning;
    byId("race-stop").hidden = !isRunning;
  }
}

/** One of the two runs. */
class Lane {
  /**
   * @param {string} title
   * @param {"off" | "force"} mode
   */
  constructor(title, mode) {
    this.mode = mode;
    this.answer = new Answer(performance.now());
    this.tokens = new TokenView(this.answer, `Tokens of the text: ${title}`);
    this.figures = new Figures(this.answer);
    this.note = make("div", {}, make("p", { className: "hint" }, "waits for its turn"));
    const heading = make("h3", {}, title, " ", make("code", {}, `mode: ${mode}`));
    const parts = [heading, this.tokens.element, this.note, this.figures.element];
    this.element = make("article", { className: "lane" }, ...parts);
  }

  /**
   * @param {any} fields
   * @param {AbortSignal} signal
   */
  async run(fields, signal) {
    const s2d = { ...fields.s2d, mode: this.mode };
    // A salt of its own: the second run must not find the first one's prompt already computed.
    const body = { ...fields, s2d, cache_salt: crypto.getRandomValues(new Uint32Array(4)).join("-") };
    this.answer.beganAt = performance.now();
    this.note.replaceChildren(make("p", { className: "hint" }, "asked …"));
    await ask(body, signal, {
      onChunk: (chunk) => this.take(chunk),
      onWait: (error, seconds) => {
        this.note.replaceChildren(waitNotice(error, seconds));
        this.answer.beganAt = performance.now() + 1000 * seconds; // waiting is no part of the race
      },
    });
    this.tokens.end();
  }

  /** @param {any} chunk */
  take(chunk) {
    this.note.replaceChildren();
    this.tokens.add(this.answer.add(chunk, performance.now()));
    this.figures.update();
  }
}

/** 53 random bits, as the service draws them. */
function drawnSeed() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high % SEED_HIGH) * SEED_LOW + low;
}

/**
 * Say whether the texts are equal, and what that took.
 * @param {Lane[]} lanes
 * @param {number} seed
 */
function showVerdict(lanes, seed) {
  const [plain, guessed] = lanes.map((lane) => lane.answer);
  const parting = firstDifference(plain.text, guessed.text);
  const isEqual = parting === null;
  let title = isEqual ? "✓ Equal texts" : `✗ The texts differ from character ${parting + 1} on`;
  if (plain.model !== guessed.model) {
    title = `No comparison: ${plain.model} and ${guessed.model} answered. Choose one target`;
  }
  if (parting !== null) lanes.forEach((lane) => lane.tokens.markFrom(parting));
  const state = isEqual ? "is-good" : "is-error";
  const box = make("div", { className: `notice ${state}` }, make("strong", {}, title));
  box.append(make("p", {}, `${timesOf(plain, guessed)} Seed ${seed}, ${plain.model}.`));
  byId("verdict").replaceChildren(box);
  announce(title);
}

/**
 * @param {Answer} plain
 * @param {Answer} guessed
 */
function timesOf(plain, guessed) {
  const ratio = plain.seconds / guessed.seconds;
  const times = `${shown(plain.seconds, 2)} s plain, ${shown(guessed.seconds, 2)} s with speculation`;
  return `${shown(plain.tokens.length)} tokens: ${times}, ${shown(ratio, 2)} times as quick in this run.`;
}
