/** The live page: what /health tells, asked once a second while somebody can see it. */

import { health } from "./api.js";
import { byId, make, shown } from "./dom.js";
import { acceptedShare, draftSpeed, draftUtilisation } from "./rates.js";
import { Sparkline } from "./sparkline.js";

/** @typedef {import("./rates.js").Look} Look */

const EVERY_MS = 1000;
const UNKNOWN = "–";

/** The page of the service's state. */
export class Live {
  /** @param {(health: any) => void} onHealth is told of each look; null: no answer */
  constructor(onHealth) {
    this.onHealth = onHealth;
    this.isShown = false;
    this.timer = 0;
    /** @type {Look | null} */
    this.before = null;
    /** @type {Map<string, Sparkline>} */
    this.lines = new Map();
    this.note = make("div");
    this.cards = make("div", { className: "cards" });
    const hint =
      "Looked at once a second. What is told of a target, its replicas aside, is told by the replica " +
      "that answered. Curves are the last minute.";
    byId("live").append(make("h2", {}, "The service now"), make("p", { className: "hint" }, hint));
    byId("live").append(this.note, this.cards);
    document.addEventListener("visibilitychange", () => this.goOn());
  }

  /** @param {boolean} isShown whether this page is the one in sight */
  show(isShown) {
    this.isShown = isShown;
    this.goOn();
  }

  /** Look now if somebody can see it, and stop looking if nobody can. */
  goOn() {
    clearTimeout(this.timer);
    if (this.isShown && !document.hidden) this.look();
    else this.before = null; // the next difference would be over a long time
  }

  async look() {
    try {
      const now = { at: performance.now(), health: await health() };
      this.note.replaceChildren();
      this.onHealth(now.health);
      this.draw(now);
      this.before = now;
    } catch (error) {
      this.before = null;
      this.onHealth(null);
      const text = `${/** @type {Error} */ (error).message} Asked again each second.`;
      this.note.replaceChildren(make("p", { className: "notice is-error" }, text));
    }
    clearTimeout(this.timer); // of a look that began while this one was under way
    if (this.isShown && !document.hidden) this.timer = setTimeout(() => this.look(), EVERY_MS);
  }

  /** @param {Look} now */
  draw(now) {
    const targets = Object.entries(now.health.targets);
    const cards = targets.map(([name, target]) => this.targetCard(name, target));
    this.cards.replaceChildren(this.draftCard(now), ...cards);
  }

  /** @param {Look} now */
  draftCard(now) {
    const { draft } = now.health;
    const counters = draft.counters ?? {};
    const utilisation = draftUtilisation(this.before, now);
    const speed = draftSpeed(this.before, now);
    const state = draft.alive ? "alive" : "not there: targets decode plainly";
    return card("Draft, shared by all targets", draft.alive ? "ok" : "degraded", state, [
      ["utilisation", percent(utilisation), this.line("draft utilisation", utilisation, 1)],
      ["guessed tokens/s", speed === null ? UNKNOWN : shown(speed), this.line("guessed tokens", speed)],
      ["draft sessions", shown(counters.sessions ?? 0), null],
      ["sub-models, layers", (draft.exit_layers ?? []).join(", ") || UNKNOWN, null],
    ]);
  }

  /**
   * @param {string} name
   * @param {any} target
   */
  targetCard(name, target) {
    const { counters, ready } = target;
    const depth = counters.queue_depth ?? null;
    const isAsleep = counters.replicas === 0;
    const state = isAsleep ? "asleep: wakes for the next request" : ready ? "ready" : "not there yet";
    return card(name, ready ? "ok" : "starting", state, [
      ["queue depth", depth === null ? UNKNOWN : shown(depth), this.line(`queue of ${name}`, depth)],
      ["replicas", counters.replicas === undefined ? UNKNOWN : shown(counters.replicas), null],
      ["guesses accepted", percent(acceptedShare(counters)), null],
      ["circuit to the draft", target.draft_circuit, null],
      ["equal bit for bit", yesOrNo(target.bitwise_exact), null],
      ...benefitRows(target.control?.benefit ?? {}),
    ]);
  }

  /**
   * The curve of a number, with its newest value.
   * @param {string} name
   * @param {number | null} value
   * @param {number} [top]
   */
  line(name, value, top) {
    const line = this.lines.get(name) ?? new Sparkline(name, top);
    this.lines.set(name, line);
    line.add(value);
    return line.element;
  }
}

/**
 * @param {string} title
 * @param {string} state ok, degraded or starting
 * @param {string} told the state in words
 * @param {[string, string, Node | null][]} rows
 */
function card(title, state, told, rows) {
  const list = rows.map(([term, value, line]) =>
    make("div", {}, make("dt", {}, term), make("dd", {}, make("span", {}, value), line)),
  );
  const badge = make("span", { className: "pill", "data-state": state }, told);
  const head = make("div", { className: "card-head" }, make("h3", {}, title), badge);
  return make("article", { className: "card" }, head, make("dl", {}, ...list));
}

/**
 * What speculation was measured to gain, by load; none while there is no figure.
 * @param {Record<string, {is_on: boolean, ratio?: number, low: number, high: number}>} benefit
 * @returns {[string, string, null][]}
 */
function benefitRows(benefit) {
  const measured = Object.entries(benefit).filter(([, { ratio }]) => ratio !== undefined);
  return measured.map(([load, { ratio, low, high, is_on: isOn }]) => {
    const interval = `${shown(ratio ?? 0, 2)} (${shown(low, 2)} to ${shown(high, 2)})`;
    return [`times plain decoding, below ${load} texts`, isOn ? interval : `${interval}: off`, null];
  });
}

/** @param {number | null} share */
function percent(share) {
  return share === null ? UNKNOWN : `${shown(100 * share)} %`;
}

/** @param {boolean | null} value */
function yesOrNo(value) {
  if (value === null) return UNKNOWN;
  return value ? "yes" : "no";
}
