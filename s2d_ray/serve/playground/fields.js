/** Fields of a form. Each has an `element` to be shown and a `value` to be read. */

import { make } from "./dom.js";

let lastId = 0;

/**
 * A label and its control.
 * @param {string} name
 * @param {any} control
 * @param {Node | null} [beside] stands at the end of the label's line
 */
function labelled(name, control, beside = null) {
  lastId += 1;
  control.id = `field-${lastId}`;
  const label = make("label", { htmlFor: control.id }, name);
  return make("div", { className: "field" }, make("div", { className: "field-head" }, label, beside), control);
}

/**
 * A choice from a list that may change.
 * @param {string} name
 * @param {(value: string) => void} onChange
 */
export function selectField(name, onChange) {
  const control = make("select", { disabled: true });
  control.addEventListener("change", () => onChange(control.value));
  return {
    element: labelled(name, control),
    get value() {
      return control.value;
    },
    /** Offer these; what was chosen stays chosen. @param {string[]} values */
    offer(values) {
      const chosen = control.value;
      control.replaceChildren(...values.map((value) => make("option", { value }, value)));
      if (values.includes(chosen)) control.value = chosen;
      control.disabled = values.length === 0;
    },
  };
}

/** @param {string} name */
export function textField(name) {
  const control = make("textarea", { rows: 2 });
  return {
    element: labelled(name, control),
    get value() {
      return control.value;
    },
  };
}

/**
 * A whole number, null if it is left empty.
 * @param {string} name
 * @param {object} properties of the control
 */
export function numberField(name, properties) {
  const control = make("input", { type: "number", step: 1, inputMode: "numeric", ...properties });
  return {
    element: labelled(name, control),
    /** @returns {number | null} */
    get value() {
      return control.value === "" ? null : Number(control.value);
    },
    set value(value) {
      control.value = value ?? "";
    },
  };
}

/**
 * A slider that shows its value.
 * @param {string} name
 * @param {{min: number, max: number, value: number, step?: number, isOff?: boolean}} range
 */
export function sliderField(name, { min, max, value, step = 1, isOff = false }) {
  const control = make("input", { type: "range", min, max, step, disabled: isOff });
  control.value = value; // only now that the range is known
  const told = make("output");
  const tell = () => (told.textContent = step < 1 ? Number(control.value).toFixed(2) : control.value);
  control.addEventListener("input", tell);
  tell();
  return {
    element: labelled(name, control, told),
    get value() {
      return Number(control.value);
    },
  };
}

/**
 * One of a few words.
 * @param {string} name
 * @param {string[]} values
 * @param {string} chosen
 */
export function choiceField(name, values, chosen) {
  const radios = values.map((value) =>
    make("input", { type: "radio", name, value, checked: value === chosen }),
  );
  const labels = radios.map((radio) => make("label", {}, radio, make("span", {}, radio.value)));
  const legend = make("legend", {}, name);
  return {
    element: make("fieldset", { className: "choice" }, legend, ...labels),
    get value() {
      return radios.find((radio) => radio.checked).value;
    },
  };
}

/**
 * Yes or no.
 * @param {string} name
 * @param {() => void} onChange
 */
export function checkField(name, onChange) {
  const control = make("input", { type: "checkbox" });
  control.addEventListener("change", onChange);
  return {
    element: make("label", { className: "check" }, control, name),
    get value() {
      return control.checked;
    },
  };
}
