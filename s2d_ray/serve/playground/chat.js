/** The conversation: questions, answers as they come, and what can be done about them. */

import { Answer } from "./answer.js";
import { ask } from "./ask.js";
import { byId, make, submitOnEnter } from "./dom.js";
import { TurnView } from "./turn.js";

/** @typedef {import("./settings.js").Settings} Settings */
/** @typedef {import("./turn.js").Turn} Turn */

const EXAMPLES = [
  "What is the capital of France?",
  "Write a Python function that reverses a list.",
  "Tell me a short story about rain.",
];

/** The page of the conversation. */
export class Chat {
  /** @param {Settings} settings */
  constructor(settings) {
    this.settings = settings;
    /** @type {Turn[]} */
    this.turns = [];
    /** @type {AbortController | null} */
    this.running = null;
    byId("composer").addEventListener("submit", (/** @type {Event} */ event) => this.submit(event));
    submitOnEnter(byId("prompt"));
    byId("stop").addEventListener("click", () => this.stop());
    byId("new-chat").addEventListener("click", () => this.reset());
    this.reset();
  }

  /** Stop what is being written. */
  stop() {
    this.running?.abort();
  }

  /** Begin anew. */
  reset() {
    this.stop();
    this.turns = [];
    const examples = EXAMPLES.map((text) => {
      const button = make("button", { type: "button" }, text);
      button.addEventListener("click", () => this.write(text));
      return button;
    });
    const hint =
      "Guesses of the draft that the target agreed with are coloured. Point at a token, tap it, or " +
      "reach it with Tab and the arrow keys, to see who guessed it and how surely.";
    const welcome = make("div", { className: "welcome" }, make("h2", {}, "See who writes each token"));
    welcome.append(make("p", {}, hint), make("div", { className: "examples" }, ...examples));
    byId("conversation").replaceChildren(welcome);
    byId("prompt").focus();
  }

  /** @param {Event} event */
  submit(event) {
    event.preventDefault();
    const prompt = byId("prompt").value.trim();
    if (!prompt || this.running) return;
    byId("prompt").value = "";
    this.write(prompt);
  }

  /**
   * Ask for an answer and show it.
   * @param {string} prompt
   */
  async write(prompt) {
    if (this.running) return;
    this.running = new AbortController();
    const turn = { prompt, answer: new Answer(performance.now()) };
    const view = new TurnView(turn, () => this.again(view, prompt), this.settings);
    if (this.turns.length === 0) byId("conversation").replaceChildren();
    byId("conversation").append(view.element);
    // A button that is gone with what it stood in took the focus with it.
    if (document.activeElement === document.body) byId("main").focus({ preventScroll: true });
    this.showRunning(true);
    const body = { ...this.settings.fields(), messages: this.messages(prompt) };
    const turns = this.turns;
    try {
      await ask(body, this.running.signal, {
        onChunk: (chunk) => view.take(chunk),
        onWait: (error, seconds) => view.wait(error, seconds),
      });
      view.end();
    } catch (error) {
      view.fail(error);
    }
    // A conversation that was begun anew meanwhile has other turns.
    if (turn.answer.text) turns.push(turn);
    this.running = null;
    this.showRunning(false);
  }

  /**
   * Ask once more for what failed.
   * @param {TurnView} view
   * @param {string} prompt
   */
  again(view, prompt) {
    if (this.running) return;
    view.element.remove();
    this.turns = this.turns.filter((turn) => turn !== view.turn);
    this.write(prompt);
  }

  /** @param {string} prompt */
  messages(prompt) {
    const before = this.turns.flatMap((turn) => [
      { role: "user", content: turn.prompt },
      { role: "assistant", content: turn.answer.text },
    ]);
    return [...this.settings.systemMessages(), ...before, { role: "user", content: prompt }];
  }

  /** @param {boolean} isRunning */
  showRunning(isRunning) {
    byId("send").hidden = isRunning;
    byId("stop").hidden = !isRunning;
    byId("conversation").setAttribute("aria-busy", String(isRunning));
  }
}
