// The list of containers: search, order, and as many pages as are looked at.

import * as api from "./api.js";
import { $, element, note, plain, tell } from "./dom.js";
import { bytes, clock, count, linkTime, scrubbed, sentence } from "./format.js";
import * as seen from "./seen.js";
import * as session from "./session.js";
import { VirtualList } from "./virtual.js";

const PAGE = 100;
const MOST = 1000; // rows of a page where somebody is far behind what is known
const ROW = 60; // px, the height of .items li
const TOUCH = 50; // ms: a touch's click comes a while after the finger is gone

let running = null; // the list that is shown: {abort, query, items, next, total, busy}
let coming = null; // the one that is being fetched
let current = null;
let thumbs = null; // the module that draws them, when it is there
const list = new VirtualList($("items"), ROW, row, { seen: look });

/** The address of a container, at a time (µs). */
export function href(name, pts) {
  const place = `?${new URLSearchParams({ name })}`;
  return pts === undefined ? place : `${place}#t=${linkTime(pts)}`;
}

/** Show the list from its beginning, or anew as far as it is looked at (`keep`). Resolves when that is there. */
export async function load(keep = false) {
  coming?.abort.abort();
  const q = $("search").value.trim();
  const mine = { abort: new AbortController(), query: { q, sort: $("sort").value }, items: [], next: undefined, total: 0, busy: false };
  coming = mine;
  if (!list.count) list.show(6); // rows that say: something comes
  $("items").setAttribute("aria-busy", "true");
  try {
    do await fetchPage(mine, keep ? Math.min(MOST, lowest() + PAGE) : PAGE);
    while (keep && mine.next && mine.items.length < lowest() + PAGE);
    await released();
  } catch (error) {
    if (error.name !== "AbortError" && coming === mine) refused(mine, error);
    return;
  } finally {
    if (!coming || coming === mine) $("items").removeAttribute("aria-busy");
  }
  if (coming !== mine) return;
  running?.abort.abort();
  [running, coming] = [mine, null];
  const focused = $("items").contains(document.activeElement);
  const place = keep || focused ? held() : null;
  if (!keep && !focused) $("library").scrollTop = 0;
  reshow(mine);
  if (place) hold(mine, place);
  if (focused && !mine.total) $("search").focus(); // what had the focus is no more
  $("count").textContent = count(mine.total, "container");
  mine.empty = !mine.total && !q;
  if (current === null) idle();
  if (mine.total) show(null);
  else if (q) show(note("Nothing found", `No name contains “${q}”.`));
  else show(note("The library is empty", ["Drop media on this page, or put containers into it: ", element("code", {}, "harmony4 export film.mp4 -o film.h4mk")]));
  thumbs ??= await import("./thumbs.js").catch(() => null); // they are no reason for a message
  thumbs?.look($("items"));
}

/** Show the rows of `mine`: those whose container is the same stay the elements they are. */
function reshow(mine) {
  const places = new Map(mine.items.map((one, at) => [one.name, at]));
  list.show(mine.total, ({ said }, number) => {
    if (said === undefined) return mine.items[number] ? -1 : number;
    const at = places.get(said.name) ?? -1;
    return at >= 0 && JSON.stringify(said) === JSON.stringify(mine.items[at]) ? at : -1;
  });
}

/** The list cannot be fetched. What was shown of it stays, if it is that what was asked for. */
function refused(mine, error) {
  coming = null;
  const kept = error.code !== "unauthorized" && running?.total && JSON.stringify(running.query) === JSON.stringify(mine.query);
  if (!kept) {
    running?.abort.abort();
    running = null;
    list.show(0);
    $("count").textContent = "";
  }
  if (error.code === "unauthorized") {
    show(note("Sign in to see the library", "The server shows it to those who have a token."));
    session.look();
  } else show(again(error), kept);
}

let pressed = null; // what is resolved when a pointer that is down on a row is let go
addEventListener("pointerdown", (event) => {
  // Only what may become a click: of a right press the menu may keep the end to itself.
  if (event.button === 0 && event.target.closest("#items li")) pressed ??= Promise.withResolvers();
}, true);
for (const event of ["pointerup", "pointercancel", "blur"]) {
  addEventListener(event, () => {
    const one = pressed;
    setTimeout(() => {
      one?.resolve();
      if (pressed === one) pressed = null;
    }, TOUCH);
  });
}

/** Resolves when no pointer is down on a row: its click comes only if it is let go where it was pressed. */
async function released() {
  while (pressed) await pressed.promise;
}

/** The number of the lowest row that is an element, 0 where there is none. */
const lowest = () => Math.max(0, ...[...$("items").children].map((one) => Number(one.dataset.row)));

/** The row that stays where it is when the list is shown anew: the one with the focus, else the topmost that is seen. */
function held() {
  const focused = document.activeElement?.closest("#items li");
  const { top } = $("library").getBoundingClientRect();
  const rows = [...$("items").children].filter((one) => one.getBoundingClientRect().top >= top);
  const li = focused ?? ($("library").scrollTop ? rows.sort((a, b) => a.dataset.row - b.dataset.row)[0] : null);
  return li && { name: li.item?.name, row: Number(li.dataset.row), focus: Boolean(focused) };
}

function hold(mine, { name, row, focus }) {
  const found = mine.items.findIndex((one) => one.name === name);
  const number = found < 0 ? Math.min(row, mine.total - 1) : found; // it is no more: what is in its place
  if ($("library").scrollTop) $("library").scrollTop += (number - row) * ROW;
  list.update();
  if (focus && number >= 0) list.reveal(number, true);
}

function again(error) {
  tell(`The library cannot be shown: ${error.message}`);
  const button = element("button", { type: "button", class: "quiet" }, "Try again");
  button.addEventListener("click", () => load());
  return [...note("The library cannot be shown", sentence(error.message)), button];
}

async function fetchPage(mine, limit) {
  const page = await api.media({ ...mine.query, limit, cursor: mine.next }, mine.abort.signal);
  mine.items.push(...page.items);
  mine.next = page.next;
  // Containers come and go meanwhile: the last page knows best.
  mine.total = page.next === null ? mine.items.length : Math.max(page.total, mine.items.length + 1);
}

/** Rows up to this one are near the screen. */
function look(first, last) {
  more(last);
  thumbs?.look($("items"));
}

/** Fetch what is missing up to row `last` and some more. */
async function more(last) {
  const mine = running;
  if (!mine || mine.busy || !mine.next) return;
  mine.wanted = last;
  if (last + PAGE / 2 < mine.items.length) return;
  mine.busy = true;
  try {
    while (mine.next && mine.wanted + PAGE / 2 >= mine.items.length) {
      const [known, before] = [mine.items.length, mine.total];
      await fetchPage(mine, mine.wanted - known > PAGE ? MOST : PAGE);
      if (running !== mine) return;
      if (mine.total !== before) {
        $("count").textContent = count(mine.total, "container");
        reshow(mine);
      } else list.renew(known, mine.items.length);
    }
  } catch (error) {
    if (error.name !== "AbortError" && running === mine) show(again(error), true);
  } finally {
    mine.busy = false;
  }
}

/** Show a container's row anew: what is known of it has changed. */
export function renew(name) {
  const number = running?.items.findIndex((one) => one.name === name) ?? -1;
  if (number >= 0) list.renew(number, number + 1);
}

/** What stands where a container would be, while none is open. */
export function idle() {
  const empty = running?.empty;
  const lines = empty ? ["Drop a film or a sound here", "It becomes a container, and plays straight out of it, by byte ranges."] : ["Choose a container", "Its media plays here, straight out of the container, by byte ranges."];
  $("view-note").classList.add("idle"); // on a small screen the list alone says it
  $("view-note").replaceChildren(...note(...lines));
}

/** Show the list anew where nobody would be disturbed: not while somebody scrolls or moves in it. */
export async function refresh() {
  const busy = coming || $("library").scrollTop || scrollY || $("items").contains(document.activeElement);
  if (!busy) await load();
}

/** Give the focus to a container's row, or to the first one. */
export function enter(name) {
  const number = running?.items.findIndex((one) => one.name === name) ?? -1;
  if (list.count) list.reveal(Math.max(0, number), true);
}

/** Highlight the container that is open. */
export function mark(name) {
  current = name;
  for (const link of $("items").querySelectorAll("a.item")) {
    if (link.dataset.name === name) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

/** Show a note in place of the list, or `beside` it. */
function show(nodes, beside = false) {
  $("library-note").classList.toggle("beside", Boolean(beside));
  $("library-note").hidden = nodes === null;
  $("library-note").replaceChildren(...(nodes ?? []));
}

function row(number) {
  const item = running?.items[number];
  if (!item) return element("li", { class: "coming", "aria-hidden": "true" }, element("span"), element("span"));
  const cut = (item.name ?? "").lastIndexOf("/") + 1;
  const path = cut ? element("span", { class: "path" }, plain(item.name.slice(0, cut))) : null;
  const label = item.name === null ? "(unreadable name)" : plain(item.name.slice(cut).replace(/\.h4mk$/, ""));
  const lock = item.mask ? element("img", { class: "lock", src: "static/padlock.svg", alt: "masked", width: 12, height: 12 }) : null;
  const name = element("span", { class: "name", title: item.name && plain(item.name) }, path, element("bdi", {}, label));
  if (item.error) {
    const broken = element("li", {}, damaged(item, element("span", { class: "thumb", "aria-hidden": "true" }, "!"), name, element("span")));
    broken.said = item;
    return broken;
  }
  const track = item.tracks[0];
  const facts = [
    plain(item.tracks.map((one) => one.codec.replaceAll(",", " + ") || one.kind).join(", ")),
    bytes(item.size),
    track ? count(track.keyframes, "keyframe") : null,
  ];
  const found = item.verified; // by the server, when it read all of it
  const damage = found?.ok === false ? found.problem : null;
  const here = item.head && !damage ? seen.verified(item.name, item.head) : null;
  const verified = here ? element("span", { class: "mark good", title: "checked in this window, block by block, against its signature" }, here) : null;
  const signers = item.signed?.length > 1 ? `${item.signed.length} keys` : item.signed?.[0];
  const signed = signers ? element("span", { class: "mark", title: `signed by ${item.signed.join(", ")}` }, `signed by ${signers}`) : null;
  const state = item.state === "sealed" ? null : element("span", { class: "mark bad" }, item.state);
  const read = found && element("span", { class: damage ? "mark bad" : "mark", title: scrubbed(found) }, damage ? "damaged" : "server: verified");
  const marks = damage ? [state, read, element("span", { class: "bad", title: damage }, damage), signed] : [verified, signed, state, read];
  const link = element(
    "a",
    { ...leads(item), class: "item" },
    element("canvas", { class: "thumb", width: 144, height: 80, "aria-hidden": "true" }),
    name,
    element("span", { class: "time" }, lock, " ", clock(item.duration, 1)),
    element("span", { class: "more-facts" }, ...marks.filter(Boolean).flatMap((one) => [one, " "]), facts.filter(Boolean).join(" · ")),
  );
  const li = element("li", {}, link);
  li.item = li.said = item; // `item` is for those who draw it
  return li;
}

/** What a row's link is: where it leads, and whether one is there. */
const leads = ({ name }) => ({ href: href(name), "data-name": name, "aria-current": name === current ? "true" : null });

/** A row of what is damaged can be gone to like all others, and says in full what is wrong; what has no name cannot be opened. */
function damaged(item, ...children) {
  const what = element("span", { class: "more-facts bad", title: item.error.message }, item.error.message);
  if (item.name !== null) return element("a", { ...leads(item), class: "item broken" }, ...children, what);
  const button = element("button", { type: "button", class: "item broken" }, ...children, what);
  button.addEventListener("click", () => {
    tell(item.error.message);
    show(note("This file cannot be opened", sentence(item.error.message)), true);
  });
  return button;
}
