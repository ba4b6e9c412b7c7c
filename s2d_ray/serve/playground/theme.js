/** Light, dark, or as the system says. The choice is kept by the browser. */

import { byId } from "./dom.js";

const PLACE = "s2d-theme";
const SCHEMES = { system: "light dark", light: "light", dark: "dark" };
const NAMES = /** @type {(keyof typeof SCHEMES)[]} */ (Object.keys(SCHEMES));

/** Show the theme that was chosen, and let the button choose the next one. */
export function setUpTheme() {
  let chosen = NAMES.find((name) => name === localStorage.getItem(PLACE)) ?? NAMES[0];
  const show = () => {
    document.documentElement.style.colorScheme = SCHEMES[chosen];
    byId("theme-button").textContent = `Theme: ${chosen}`;
  };
  byId("theme-button").addEventListener("click", () => {
    chosen = NAMES[(NAMES.indexOf(chosen) + 1) % NAMES.length];
    localStorage.setItem(PLACE, chosen);
    show();
  });
  show();
}
