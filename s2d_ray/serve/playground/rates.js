/** Rates from counters that only grow, as differences between two looks. No document, no network. */

/** One look at the service. @typedef {{at: number, health: any}} Look at: milliseconds */

/**
 * How much a counter grew per second.
 * @param {Look | null} before
 * @param {Look} now
 * @param {(health: any) => number | undefined} counter
 * @returns {number | null} null: not told, or the process that counts is another one
 */
export function rate(before, now, counter) {
  if (before === null) return null;
  const [from, to] = [counter(before.health), counter(now.health)];
  if (from === undefined || to === undefined || to < from) return null;
  return (1000 * (to - from)) / (now.at - before.at);
}

/**
 * Share of the time in which the draft computed.
 * @param {Look | null} before
 * @param {Look} now
 */
export function draftUtilisation(before, now) {
  const busy = rate(before, now, (health) => health.draft.counters?.busy_microseconds);
  return busy === null ? null : Math.min(1, busy / 1e6);
}

/**
 * Tokens that the draft guesses per second, at all exits.
 * @param {Look | null} before
 * @param {Look} now
 */
export function draftSpeed(before, now) {
  return rate(before, now, (health) => sumOf(health.draft.counters ?? {}, /^drafted_by_\d+$/));
}

/**
 * Share of guesses that a target accepted since its replica began; null before the first.
 * @param {Record<string, number>} counters
 */
export function acceptedShare(counters) {
  const { drafted_tokens: drafted = 0, accepted_tokens: accepted = 0 } = counters;
  return drafted > 0 ? accepted / drafted : null;
}

/**
 * @param {Record<string, number>} counters
 * @param {RegExp} names
 */
function sumOf(counters, names) {
  const values = Object.entries(counters).filter(([name]) => names.test(name));
  return values.reduce((sum, [, value]) => sum + value, 0);
}
