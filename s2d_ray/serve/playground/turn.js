/** One question of the conversation and its answer. */

import { announce, make } from "./dom.js";
import { Figures } from "./figures.js";
import { errorNotice, waitNotice } from "./notice.js";
import { TokenView } from "./tokens.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./settings.js").Settings} Settings */
/** @typedef {{prompt: string, answer: Answer}} Turn */

const LABEL = "Tokens of the answer; arrow keys go from one to the next";
const NEAR_END = 80;

/** Shows a turn, while it grows and after. */
export class TurnView {
  /**
   * @param {Turn} turn
   * @param {() => void} retry
   * @param {Settings} settings
   */
  constructor(turn, retry, settings) {
    this.turn = turn;
    this.retry = retry;
    this.settings = settings;
    this.tokens = new TokenView(turn.answer, LABEL);
    this.figures = new Figures(turn.answer);
    this.note = make("div");
    this.answer = make("div", { className: "answer" }, this.tokens.element, this.note);
    const question = make("p", { className: "question" }, turn.prompt);
    this.element = make("article", { className: "turn" }, question, this.answer);
    announce("The answer is being written");
  }

  /** @param {any} chunk */
  take(chunk) {
    const { answer } = this.turn;
    const isFirst = answer.tokens.length === 0;
    const wasAtEnd = isAtEnd();
    const tokens = answer.add(chunk, performance.now());
    if (tokens.length > 0 && isFirst) this.answer.append(this.figures.element);
    this.note.replaceChildren();
    this.tokens.add(tokens);
    this.figures.update();
    if (wasAtEnd) window.scrollTo(0, document.documentElement.scrollHeight);
  }

  /**
   * @param {import("./api.js").ApiError} error
   * @param {number} seconds
   */
  wait(error, seconds) {
    this.note.replaceChildren(waitNotice(error, seconds));
  }

  /** The answer is whole. */
  end() {
    const { answer } = this.turn;
    this.tokens.end();
    this.figures.update();
    this.answer.append(this.foot(answer.finishReason === "length" ? "cut off: longest answer" : ""));
    announce(`Answer: ${answer.text}`);
  }

  /** @param {any} error */
  fail(error) {
    const isStop = error.name === "AbortError";
    this.note.replaceChildren(...(isStop ? [] : [errorNotice(error, this.retry)]));
    if (isStop) this.answer.append(this.foot("stopped"));
    if (isStop) announce("Stopped");
  }

  /**
   * What stands below an answer that has ended.
   * @param {string} remark
   */
  foot(remark) {
    const { model, s2d, text } = this.turn.answer;
    const facts = [model, s2d.plan_reason, remark].filter(Boolean).join(" · ");
    const copy = make("button", { type: "button", className: "quiet" }, "Copy");
    copy.addEventListener("click", () => copyText(text, copy));
    const keep = make("button", { type: "button", className: "quiet" }, `Keep seed ${s2d.seed}`);
    keep.addEventListener("click", () => (this.settings.seed.value = s2d.seed));
    const buttons = s2d.seed === undefined ? [copy] : [keep, copy];
    return make("div", { className: "foot" }, make("span", { className: "hint" }, facts), ...buttons);
  }
}

/** Whether the end of the page is in sight: only then it follows the text. */
function isAtEnd() {
  const { scrollHeight } = document.documentElement;
  return window.scrollY + window.innerHeight > scrollHeight - NEAR_END;
}

/**
 * @param {string} text
 * @param {HTMLElement} button says how it went
 */
async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here"; // a page without TLS may not
  }
}
