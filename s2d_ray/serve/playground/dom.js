/** Small helpers around the document. */

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, any>} [properties] those with a dash and `role` become attributes
 * @param {...(Node | string | null)} children null is left out
 * @returns {any}
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/**
 * The element of an id that the page is known to have.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Have a screen reader say something, once it has nothing else to say.
 * @param {string} message
 */
export function announce(message) {
  byId("announcer").textContent = message;
}

/**
 * Let Enter in a text area submit its form; Shift+Enter still breaks the line.
 * @param {HTMLTextAreaElement} area
 */
export function submitOnEnter(area) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    area.form?.requestSubmit();
  });
}

/**
 * A number with its digits grouped, and at most so many behind the point.
 * @param {number} value
 * @param {number} [digits]
 */
export function shown(value, digits = 0) {
  return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
}
