/** The API key: kept in this tab's session storage, and asked for in a dialog. */

import { byId } from "./dom.js";

const PLACE = "s2d-key";

/** @returns {string | null} */
export function key() {
  return sessionStorage.getItem(PLACE);
}

/**
 * Open the dialog.
 * @param {string} [reason] why a key is asked for
 */
export function askForKey(reason) {
  if (reason) byId("key-reason").textContent = reason;
  byId("key-input").value = "";
  if (!byId("key-dialog").open) byId("key-dialog").showModal();
}

/**
 * Wire the button and the dialog.
 * @param {() => void} onChange is called after another key is set, or none
 */
export function setUpKey(onChange) {
  const dialog = byId("key-dialog");
  const showState = () => {
    byId("key-button").textContent = key() ? "API key set" : "API key";
    byId("key-forget").hidden = !key();
  };
  const take = (/** @type {string} */ text) => {
    if (text) sessionStorage.setItem(PLACE, text);
    else sessionStorage.removeItem(PLACE);
    dialog.close();
    showState();
    onChange();
  };
  byId("key-button").addEventListener("click", () => askForKey());
  byId("key-cancel").addEventListener("click", () => dialog.close());
  byId("key-forget").addEventListener("click", () => take(""));
  dialog.querySelector("form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    take(byId("key-input").value.trim());
  });
  showState();
}
