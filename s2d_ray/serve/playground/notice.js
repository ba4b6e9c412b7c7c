/** Errors and waits in words, with what the user can do about them. */

import { ApiError } from "./api.js";
import { make } from "./dom.js";
import { askForKey } from "./key.js";

const TITLES = {
  0: "No answer",
  400: "The request was refused",
  401: "An API key is needed",
  403: "This key may not do that",
  404: "Not found",
  429: "A limit is used up",
  503: "The service cannot take it now",
};

/**
 * A box that tells of an error.
 * @param {any} error
 * @param {(() => void) | null} retry what the button "Try again" does; null: there is none
 */
export function errorNotice(error, retry) {
  const { status = 0, param = null } = error;
  const title = TITLES[/** @type {keyof typeof TITLES} */ (status)] ?? `HTTP ${status}`;
  const box = make("div", { className: "notice is-error", role: "alert" }, make("strong", {}, title));
  const field = param ? make("span", { className: "hint" }, `Field: ${param}`) : null;
  box.append(make("p", {}, `${error.message}${untilWhen(error)}`), ...(field ? [field] : []));
  if (status === 401) box.append(button("Enter a key", () => askForKey(error.message)));
  if (retry) box.append(button("Try again", retry));
  return box;
}

/**
 * A box that tells of a wait.
 * @param {ApiError} error
 * @param {number} seconds
 */
export function waitNotice(error, seconds) {
  const text = `${error.message}. Asked again in ${seconds} s; Esc or Stop ends it.`;
  return make("div", { className: "notice", role: "status" }, make("p", {}, text));
}

/** @param {ApiError} error */
function untilWhen(error) {
  if (error.status !== 429 || error.retryAfterS === null) return "";
  return ` (again in ${error.retryAfterS} s)`;
}

/**
 * @param {string} text
 * @param {() => void} onClick
 */
function button(text, onClick) {
  const made = make("button", { type: "button" }, text);
  made.addEventListener("click", onClick);
  return made;
}
