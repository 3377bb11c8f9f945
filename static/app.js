// The page: the address says what is open (?name=…#t=seconds), everything else follows it.

import * as api from "./api.js";
import { $ } from "./dom.js";
import { parseLink, parseTime } from "./format.js";
import * as keyboard from "./keyboard.js";
import * as library from "./library.js";
import * as player from "./player.js";
import * as session from "./session.js";
import * as upload from "./upload.js";

const openName = () => new URLSearchParams(location.search).get("name");

/** The time (µs) that the address says: 0 without a fragment, null where it is about something else. Throws where it is none. */
function openTime() {
  const text = new URLSearchParams(location.hash.slice(1)).get("t");
  if (text !== null) return parseLink(text);
  return location.hash.length > 1 ? null : 0; // "#view", say
}

let shown = null;

/** Show what the address says; `moved`: somebody went there, so the focus goes along; `chosen`: by a link. */
function follow(moved = false, chosen = false) {
  const name = openName();
  const before = shown;
  if (name && name === shown && !$("player").hidden) {
    if (chosen) again(name); // the list knows no time: it goes on where it is
    else attempt(() => openTime() !== null && player.jump(openTime())); // only the position is another one
    return;
  }
  shown = name;
  library.mark(name);
  if (name) {
    const start = attempt(openTime);
    player.show(name, start ?? 0).then(() => start === undefined && shown === name && attempt(openTime));
    if (moved) $("view").focus({ preventScroll: true });
    return;
  }
  $("view").setAttribute("aria-label", "Container");
  player.close();
  document.title = "HarmonyØ4";
  $("player").hidden = true;
  $("view-note").hidden = false;
  library.idle();
  if (moved && before) library.enter(before);
}

/** What `act` returns; undefined, and said below the player, where a time is not valid. */
function attempt(act) {
  try {
    return act();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    player.fail(error.message);
    return undefined;
  }
}

/** What is open was chosen once more: another container may have that name by now. */
async function again(name) {
  const old = player.facts();
  if (!old) return; // it is being opened
  const now = await api.info(name).catch(() => null);
  if (!now || api.version(now) === api.version(old) || player.facts() !== old) return;
  shown = null;
  follow(true);
}

function navigate(url) {
  history.pushState(null, "", url);
  follow(true, true);
  scrollTo({ top: 0 });
}

for (const list of ["items", "uploads"]) $(list).addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  navigate(link.getAttribute("href"));
});

let typing;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => library.load(), 150);
});
$("sort").addEventListener("change", () => library.load());
$("tools").addEventListener("submit", (event) => {
  event.preventDefault();
  library.load();
});

$("jump").addEventListener("submit", (event) => {
  event.preventDefault();
  const pts = attempt(() => parseTime($("pts").value));
  if (pts === undefined) return;
  history.replaceState(null, "", library.href(openName(), pts));
  player.jump(pts);
});

$("link").addEventListener("click", async () => {
  const url = new URL(library.href(openName(), player.place()), document.baseURI).href;
  history.replaceState(null, "", url);
  try {
    await navigator.clipboard.writeText(url);
    $("link").textContent = "Copied";
  } catch {
    $("link").textContent = "It is in the address bar";
  }
  setTimeout(() => ($("link").textContent = "Copy link"), 1500);
});

addEventListener("popstate", () => follow(true)); // new fragments come here too

// Whoever comes back to the page sees what has come meanwhile.
document.addEventListener("visibilitychange", () => document.hidden || library.refresh());
addEventListener("focus", () => library.refresh());

function everything() {
  shown = null;
  follow();
  library.load();
}

keyboard.start(() => library.enter(openName()));
upload.start(() => library.load(true));
session.start(everything);
everything();
