/** Who may write a token: names, looks, and the threshold that let a guess go. */

/** @typedef {import("./answer.js").Token} Token */
/** @typedef {import("./answer.js").Plan} Plan */

const NUM_LOOKS = 4;

/** Layers of each sub-model, the shallowest first. @type {number[]} */
let exitLayers = [];

/**
 * Learn the draft's sub-models.
 * @param {number[]} layers none while there is no draft: what was known stays
 */
export function learnExits(layers) {
  if (layers.length > 0) exitLayers = [...layers];
}

/** Sub-models whose confidence is held against a threshold: all but the deepest. */
export function exitsWithThreshold() {
  return exitLayers.slice(0, -1);
}

/**
 * @param {number | null} writer see `Token.drafted_by`
 */
export function nameOf(writer) {
  if (writer === null) return "target";
  return writer === 0 ? "tier 0" : `draft, ${writer} layers`;
}

/**
 * The class that colours and underlines what a writer wrote.
 * @param {number | null} writer
 */
export function lookOf(writer) {
  if (writer === null) return "by-target";
  if (writer === 0) return "by-tier-0";
  return `by-exit-${Math.max(0, exitLayers.indexOf(writer)) % NUM_LOOKS}`;
}

/**
 * In which order writers are listed: the target, tier 0, then deeper and deeper.
 * @param {number | null} writer
 */
export function orderOf(writer) {
  return writer ?? -1;
}

/**
 * What is to be said about a token, as pairs of term and value.
 * @param {Token} token
 * @param {Plan | null} plan the one that the text began by
 * @param {Plan | null} lastPlan the one that it ended by
 * @returns {[string, string][]}
 */
export function factsOf(token, plan, lastPlan) {
  const round = token.round === 0 ? "none: written with the prompt" : String(token.round);
  if (token.drafted_by === null) return [["Written by", "target"], ["Round", round]];
  const facts = [
    ["Guessed by", nameOf(token.drafted_by)],
    ["Confidence", (token.confidence ?? 0).toFixed(3)],
    ["Threshold", thresholdOf(token.drafted_by, plan, lastPlan)],
    ["Round", round],
  ];
  if (token.rank) facts.push(["Guess", `number ${token.rank + 1} at its place`]);
  return /** @type {[string, string][]} */ (facts);
}

/**
 * The exit threshold that a guess of this writer had to reach, in words.
 * @param {number} writer
 * @param {Plan | null} plan
 * @param {Plan | null} lastPlan
 */
function thresholdOf(writer, plan, lastPlan) {
  if (writer === 0) return "none: tier 0 looks it up";
  const index = exitLayers.indexOf(writer);
  if (index < 0 || plan === null) return "not known";
  if (index === exitLayers.length - 1) return "none: the deepest always answers";
  const first = plan.exit_thresholds[index] ?? 0;
  const last = (lastPlan ?? plan).exit_thresholds[index] ?? 0;
  if (first === last) return first.toFixed(2);
  return `${first.toFixed(2)} at the beginning, ${last.toFixed(2)} at the end`;
}
