/** A text of coloured tokens. One stop of the Tab key; arrow keys go from token to token. */

import { make } from "./dom.js";
import { hideTooltip, showTooltip } from "./tooltip.js";
import { factsOf, lookOf } from "./writers.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./answer.js").Token} Token */

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/** Shows the tokens of one answer. */
export class TokenView {
  /**
   * @param {Answer} answer
   * @param {string} label what a screen reader calls the text
   */
  constructor(answer, label) {
    this.answer = answer;
    this.element = make("p", { className: "tokens", role: "group", "aria-label": label });
    /** The token of each element. @type {WeakMap<Element, Token>} */
    this.tokenOf = new WeakMap();
    this.listen();
  }

  /** @param {Token[]} tokens the next ones */
  add(tokens) {
    for (const token of tokens) {
      if (token.text === "") continue; // a part of a character, or the end
      const isBreak = token.text.trim() === "" && token.text.includes("\n");
      const look = `token ${lookOf(token.drafted_by)}${isBreak ? " is-break" : ""}`;
      const span = make("span", { className: look, tabIndex: -1 }, token.text);
      this.tokenOf.set(span, token);
      if (this.element.childElementCount === 0) span.tabIndex = 0;
      this.element.append(span);
    }
  }

  /** Add what no token tells of, once the answer has ended. */
  end() {
    if (this.answer.tail) this.element.append(this.answer.tail);
  }

  /**
   * Mark the token in which a character of the text lies, as the place where two texts part.
   * @param {number} index
   */
  markFrom(index) {
    let end = 0;
    for (const span of this.element.children) {
      end += span.textContent?.length ?? 0;
      if (end > index) return span.classList.add("is-other");
    }
  }

  listen() {
    const show = (/** @type {Event} */ event) => this.show(event.target);
    for (const kind of ["mouseover", "focusin", "click"]) this.element.addEventListener(kind, show);
    this.element.addEventListener("focusout", hideTooltip);
    this.element.addEventListener("mouseout", () => {
      hideTooltip();
      this.show(document.activeElement); // what was tapped or reached by keys is still told of
    });
    this.element.addEventListener("keydown", (event) => this.move(event));
  }

  /** @param {any} element */
  show(element) {
    const token = this.tokenOf.get(element);
    if (!token) return;
    const { firstPlan, s2d } = this.answer;
    showTooltip(element, factsOf(token, firstPlan, s2d.plan ?? null));
  }

  /** @param {KeyboardEvent} event */
  move(event) {
    const from = /** @type {HTMLElement} */ (event.target);
    const all = /** @type {HTMLElement[]} */ ([...this.element.children]);
    const step = STEPS[/** @type {keyof typeof STEPS} */ (event.key)] ?? 0;
    const ends = { Home: all[0], End: all.at(-1) };
    const to = ends[/** @type {keyof typeof ends} */ (event.key)] ?? all[all.indexOf(from) + step];
    if (!to || to === from) return;
    event.preventDefault();
    from.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  }
}
