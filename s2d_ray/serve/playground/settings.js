/** The settings: which target, how its text is drawn, and how it is drafted. */

import { byId, make } from "./dom.js";
import { checkField, choiceField, numberField, selectField, sliderField, textField } from "./fields.js";
import { exitsWithThreshold } from "./writers.js";

/** @typedef {import("./api.js").Model} Model */
/** @typedef {import("./answer.js").Plan} Plan */

/** Of a name that stands for a choice among targets, which has no plan of its own. @type {Plan} */
const SOME_PLAN = { exit_thresholds: [0.5], stop_threshold: 0, max_proposal: 4, tree_width: 1 };
const MODES = ["auto", "off", "force"];

/** Shows the settings, and makes fields of requests from them. */
export class Settings {
  constructor() {
    /** @type {Model[]} */
    this.models = [];
    this.model = selectField("Model", (/** @type {string} */ _) => this.showPlan());
    this.system = textField("System prompt");
    this.temperature = sliderField("Temperature", { min: 0, max: 2, step: 0.05, value: 0.7 });
    this.maxTokens = numberField("Longest answer, tokens", { min: 1, value: "256" });
    this.seed = numberField("Seed", { min: 0, placeholder: "drawn anew each time" });
    this.mode = choiceField("Speculation", MODES, "auto");
    this.byHand = checkField("Set the plan by hand", () => this.showPlan());
    this.plan = make("div", { className: "plan" });
    /** @type {Record<string, any>} */
    this.planFields = {};
    this.show();
  }

  /** @param {Model[]} models */
  take(models) {
    this.models = models;
    this.model.offer(models.map((model) => model.id));
    this.showPlan();
  }

  /** Fields of a request, beside its messages. */
  fields() {
    return {
      model: this.model.value,
      temperature: this.temperature.value,
      max_tokens: this.maxTokens.value ?? undefined,
      seed: this.seed.value ?? undefined,
      s2d: { mode: this.mode.value, trace: true, ...this.planOfHand() },
    };
  }

  /** The messages that go before all others. */
  systemMessages() {
    const content = this.system.value.trim();
    return content ? [{ role: "system", content }] : [];
  }

  show() {
    const title = make("summary", {}, "Settings");
    const panel = make("details", { open: true }, title);
    panel.append(this.model.element, this.system.element, this.temperature.element);
    panel.append(this.maxTokens.element, this.seed.element, this.mode.element);
    panel.append(this.byHand.element, this.plan);
    // On a narrow screen they stand above the text, and are folded away at first.
    const wide = window.matchMedia("(min-width: 60rem)");
    const fold = () => (panel.open = wide.matches);
    wide.addEventListener("change", fold);
    fold();
    byId("settings").replaceChildren(panel);
  }

  /** Sliders for the plan: the one of the chosen model, which can be changed once it is by hand. */
  showPlan() {
    const chosen = this.models.find((model) => model.id === this.model.value);
    const plan = chosen?.s2d.plan ?? SOME_PLAN;
    const isOff = !this.byHand.value;
    const thresholds = this.thresholdFields(plan, isOff);
    const part = { min: 0, max: 1, step: 0.05, isOff };
    this.planFields = {
      thresholds,
      stop: sliderField("Stop threshold", { ...part, value: plan.stop_threshold }),
      length: sliderField("Longest proposal", { min: 0, max: 32, value: plan.max_proposal, isOff }),
      width: sliderField("Tree width", { min: 1, max: 8, value: plan.tree_width, isOff }),
    };
    const { stop, length, width } = this.planFields;
    const shown = [...thresholds, stop, length, width].map((field) => field.element);
    const hint = isOff ? "The service chooses, and may change it as the text goes." : "Stays as set.";
    this.plan.replaceChildren(make("p", { className: "hint" }, hint), ...shown);
  }

  /**
   * One slider for each exit but the deepest, which has no threshold.
   * @param {Plan} plan
   * @param {boolean} isOff
   */
  thresholdFields(plan, isOff) {
    const exits = exitsWithThreshold();
    const names = exits.length
      ? exits.map((layers) => `Exit threshold, ${layers} layers`)
      : plan.exit_thresholds.map((_, index) => `Exit threshold ${index + 1}`);
    return names.map((name, index) => {
      const value = plan.exit_thresholds[index] ?? 0;
      return sliderField(name, { min: 0, max: 1, step: 0.05, value, isOff });
    });
  }

  /** Fields of `s2d` that the user has set. */
  planOfHand() {
    if (!this.byHand.value) return {};
    const { thresholds, stop, length, width } = this.planFields;
    return {
      exit_thresholds: thresholds.map((/** @type {{value: number}} */ field) => field.value),
      stop_threshold: stop.value,
      max_proposal: length.value,
      tree_width: width.value,
    };
  }
}
