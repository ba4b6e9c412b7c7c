/** The whole page: which view is shown, and what all views share. */

import { health, models } from "./api.js";
import { Chat } from "./chat.js";
import { byId } from "./dom.js";
import { askForKey, setUpKey } from "./key.js";
import { Live } from "./live.js";
import { errorNotice } from "./notice.js";
import { Race } from "./race.js";
import { Settings } from "./settings.js";
import { setUpTheme } from "./theme.js";
import { hideTooltip } from "./tooltip.js";
import { learnExits } from "./writers.js";

const VIEWS = ["chat", "race", "live"];

const settings = new Settings();
const chat = new Chat(settings);
const race = new Race(settings);
const live = new Live(showService);

/** Show the view that the address names. */
function showView() {
  const name = window.location.hash.slice(1);
  const shown = VIEWS.includes(name) ? name : VIEWS[0];
  for (const view of VIEWS) {
    byId(view).hidden = view !== shown;
    const link = document.querySelector(`nav a[href="#${view}"]`);
    if (view === shown) link?.setAttribute("aria-current", "page");
    else link?.removeAttribute("aria-current");
  }
  byId("settings").hidden = shown === "live";
  hideTooltip();
  live.show(shown === "live");
}

/** @param {any} state what /health told, null if nothing */
function showService(state) {
  const pill = byId("service");
  pill.dataset.state = state?.status ?? "gone";
  pill.textContent = { ok: "ok", degraded: "no draft", starting: "starting" }[state?.status] ?? "no answer";
  learnExits(state?.draft.exit_layers ?? []);
}

/** Learn what the service has: its state, then its models. */
async function load() {
  showService(await health().catch(() => null));
  document.querySelector("#settings .notice")?.remove();
  try {
    settings.take(await models());
  } catch (error) {
    byId("settings").prepend(errorNotice(error, load));
    if (/** @type {any} */ (error).status === 401) askForKey(/** @type {Error} */ (error).message);
  }
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  hideTooltip();
  chat.stop();
  race.stop();
});
window.addEventListener("hashchange", showView);
setUpTheme();
setUpKey(load);
showView();
byId("prompt").focus();
load();
