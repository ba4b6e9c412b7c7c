/** The one tooltip of the page: it shows pairs of term and value beside an element. */

import { byId, make } from "./dom.js";

const GAP = 8;

/** What the tooltip is about now. @type {HTMLElement | null} */
let shownFor = null;

/**
 * Show facts about an element, below it or, where there is no room, above.
 * @param {HTMLElement} element
 * @param {[string, string][]} facts
 */
export function showTooltip(element, facts) {
  hideTooltip();
  shownFor = element;
  const tooltip = byId("tooltip");
  const rows = facts.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]);
  tooltip.replaceChildren(make("dl", {}, ...rows));
  tooltip.hidden = false;
  element.setAttribute("aria-describedby", "tooltip");
  place(tooltip, element);
}

/** Hide it, if it is shown. */
export function hideTooltip() {
  shownFor?.removeAttribute("aria-describedby");
  shownFor = null;
  byId("tooltip").hidden = true;
}

/**
 * @param {HTMLElement} tooltip
 * @param {HTMLElement} element
 */
function place(tooltip, element) {
  // A token that is broken over two lines has two boxes; the first one is where it begins.
  const box = element.getClientRects()[0] ?? element.getBoundingClientRect();
  const { width, height } = tooltip.getBoundingClientRect();
  const right = document.documentElement.clientWidth - width - GAP;
  const below = box.bottom + GAP;
  const fits = below + height < window.innerHeight;
  const top = fits ? below : Math.max(GAP, box.top - GAP - height);
  tooltip.style.left = `${Math.max(GAP, Math.min(box.left, right))}px`;
  tooltip.style.top = `${top + window.scrollY}px`; // it scrolls with the text
}
