/** The figures of one answer: speed, accepted length, and who wrote how much. */

import { make, shown } from "./dom.js";
import { lookOf, nameOf, orderOf } from "./writers.js";

/** @typedef {import("./answer.js").Answer} Answer */

/** Shows figures below an answer, while it grows and after. */
export class Figures {
  /** @param {Answer} answer */
  constructor(answer) {
    this.answer = answer;
    this.numbers = make("dl", { className: "numbers" });
    this.bar = make("div", { className: "share-bar", "aria-hidden": "true" });
    this.legend = make("ul", { className: "legend", "aria-label": "Who wrote the tokens" });
    this.element = make("div", { className: "figures" }, this.numbers, this.bar, this.legend);
  }

  /** Show the figures of now. */
  update() {
    this.showNumbers();
    this.showShares();
  }

  showNumbers() {
    const { answer } = this;
    const pairs = [
      ["tokens/s", shown(answer.tokensPerSecond, 1)],
      ["accepted length", shown(answer.meanAcceptedLength, 2)],
      ["tokens", shown(answer.tokens.length)],
      ["seconds", shown(answer.seconds, 2)],
    ];
    const rows = pairs.map(([term, value]) =>
      make("div", {}, make("dt", {}, term), make("dd", {}, value)),
    );
    this.numbers.replaceChildren(...rows);
  }

  showShares() {
    const { shares, tokens } = this.answer;
    const writers = [...shares.keys()].sort((one, other) => orderOf(one) - orderOf(other));
    const parts = [];
    const entries = [];
    for (const writer of writers) {
      const share = (shares.get(writer) ?? 0) / tokens.length;
      const part = make("span", { className: lookOf(writer) });
      part.style.flexGrow = String(share);
      parts.push(part);
      const sample = make("span", { className: `token ${lookOf(writer)}` }, nameOf(writer));
      entries.push(make("li", {}, sample, ` ${shown(100 * share)} %`));
    }
    this.bar.replaceChildren(...parts);
    this.legend.replaceChildren(...entries);
  }
}
