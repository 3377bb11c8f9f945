// The list of containers: search, order, page by page.

import * as api from "./api.js";
import { $, element, note } from "./dom.js";
import { bytes, clock, count } from "./format.js";
import * as session from "./session.js";

const PAGE = 100;
let running = null;
let next = null;

export function href(name, seconds) {
  const place = `?${new URLSearchParams({ name })}`;
  return seconds === undefined ? place : `${place}#t=${seconds}`;
}

/** Show the first page, or (`more`) add the following one. Resolves to its items. */
export async function load({ more = false } = {}) {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const q = $("search").value.trim();
  const query = { q, sort: $("sort").value, limit: PAGE, cursor: more ? next : undefined };
  let page;
  try {
    page = await api.media(query, signal);
  } catch (error) {
    if (error.name === "AbortError") return [];
    $("items").replaceChildren();
    $("more").hidden = true;
    $("count").textContent = "";
    if (error.code === "unauthorized") {
      show(note("Sign in to see the library", "The server shows it to those who have a token."));
      session.look();
    } else show(note("The library cannot be shown", error.message));
    return [];
  }
  next = page.next;
  const list = $("items");
  const rows = page.items.map(row);
  if (more) list.append(...rows);
  else list.replaceChildren(...rows);
  $("more").hidden = next === null;
  const shown = list.childElementCount;
  $("count").textContent = next === null ? count(shown, "container") : `first ${count(shown, "container")}`;
  if (shown) show(null);
  else if (q) show(note("Nothing found", `No name contains “${q}”.`));
  else show(note("The library is empty", ["Drop media on this page, or put containers into it: ", element("code", {}, "harmony4 export film.mp4 -o film.h4mk")]));
  mark();
  return page.items;
}

/** Highlight the container that is open. */
export function mark(name = current) {
  current = name;
  for (const link of $("items").querySelectorAll("a.item")) {
    if (link.dataset.name === name) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}
let current = null;

function show(nodes) {
  $("library-note").hidden = nodes === null;
  $("library-note").replaceChildren(...(nodes ?? []));
}

function row(item) {
  const cut = (item.name ?? "").lastIndexOf("/") + 1;
  const path = cut ? element("span", { class: "path" }, item.name.slice(0, cut)) : null;
  const label = item.name === null ? "(unreadable name)" : item.name.slice(cut).replace(/\.h4mk$/, "");
  const lock = item.mask ? element("img", { class: "lock", src: "static/lock.svg", alt: "masked", width: 12, height: 12 }) : null;
  const name = element("span", { class: "name" }, path, label, lock);
  if (item.error) {
    const what = element("span", { class: "more-facts bad" }, item.error.message);
    return element("li", {}, element("div", { class: "item" }, name, element("span"), what));
  }
  const track = item.tracks[0];
  const facts = [
    item.tracks.map((one) => one.codec.replaceAll(",", " + ") || one.kind).join(", "),
    bytes(item.size),
    track ? count(track.keyframes, "keyframe") : null,
    item.state === "sealed" ? null : item.state,
  ];
  return element(
    "li",
    {},
    element(
      "a",
      { class: "item", href: href(item.name), "data-name": item.name },
      name,
      element("span", { class: "time" }, clock(item.duration, 1)),
      element("span", { class: "more-facts" }, facts.filter(Boolean).join(" · ")),
    ),
  );
}
