// The panel of the container itself: its chunks to scale and as a list, TRAK and META as trees, any 4 KiB as hex.

import * as api from "./api.js";
import { colours, redraw, sharp } from "./canvas.js";
import { Chunks } from "./chunks.js";
import { element, plain } from "./dom.js";
import { bytes, count, sentence } from "./format.js";
import { hexdump } from "./hex.js";
import { VirtualList } from "./virtual.js";

const ROW = 26; // px, the height of .chunks li
const ROWS = 100_000; // of a list: browsers end at some millions of pixels
const KINDS = {
  CORE: "media", SAFE: "masked media", TOKN: "a block's token", TRAK: "what the tracks are", META: "directory and history", SEEK: "keyframes of a track", RMAP: "where blocks are",
  MERK: "hash tree", VERI: "digest of everything before it", SIGN: "signature", KEYS: "wrapped keys", TAIL: "where the parts are, root, head",
};
const hex8 = (value) => value.toString(16).padStart(8, "0");
const number = (value) => Number(value).toLocaleString("en");

export async function open({ name, signal }, root) {
  const chunks = await Chunks.open(api.containerUrl(name), signal);
  let regions = await chunks.regions();
  let base = 0;
  let selected = null;

  const scale = element("fieldset", { class: "scale" }, element("legend", { class: "aside" }, "Scale of the map"));
  for (const [value, text] of [["linear", "to scale"], ["log", "logarithmic"]]) {
    scale.append(element("label", {}, element("input", { type: "radio", name: "scale", value, checked: value === "linear" }), ` ${text}`));
  }
  const map = element("canvas", { class: "map", role: "img" });
  const total = element("span");
  const missing = element("span", { role: "status" });
  const more = element("button", { type: "button", class: "quiet" }, "Show more");
  const rest = element("p", { class: "live rest" }, missing, element("span", { class: "spread" }), more);
  const tip = element("output", { class: "maptip" }, "Point at the map: what lies there?");
  const list = element("ul", { class: "chunks", id: "chunks", "aria-label": "Chunks" });
  const earlier = element("button", { type: "button", class: "quiet" }, "Earlier");
  const later = element("button", { type: "button", class: "quiet" }, "Later");
  const where = element("span", { role: "status" });
  const pages = element("p", { class: "live" }, where, element("span", { class: "spread" }), earlier, later);
  const dump = hexdump(chunks, signal);
  root.replaceChildren(
    element("div", { class: "live" }, total, element("span", { class: "spread" }), scale),
    map,
    tip,
    rest,
    element("p", { class: "legend" }, element("span", { class: "other" }, "media"), element("span", { class: "key" }, "tokens"), element("span", { class: "ink" }, "TRAK, META, KEYS"), element("span", { class: "rest" }, "tables, seal, signatures")),
    element("div", { class: "columns" },
      element("section", { "aria-label": "Chunks of the file" },
        element("div", { class: "chunkhead", "aria-hidden": "true" }, ...["tag", "offset", "size", "CRC"].map((one) => element("span", {}, one))),
        element("div", { class: "chunkbox" }, list),
        pages),
      element("section", { class: "trees", "aria-label": "Documents" }, tree("TRAK", chunks.trak), tree("META", chunks.meta))),
    dump.root,
  );

  const rows = new VirtualList(list, ROW, (at) => {
    const button = element("button", { type: "button" }, element("span", { class: "tag" }, "…"));
    const li = element("li", {}, button);
    const global = base + at;
    chunks.row(global).then((chunk) => {
      if (selected === chunk.offset) button.setAttribute("aria-current", "true");
      button.title = KINDS[chunk.tag] ?? "ancillary";
      button.dataset.tag = chunk.tag;
      const more = chunk.block === undefined ? KINDS[chunk.tag] ?? "" : `block ${number(chunk.block)}`;
      // The heads of the columns, for those who do not see them.
      const cells = [[" at ", number(chunk.offset)], [" bytes ", number(chunk.size)], [" CRC ", hex8(chunk.crc)]].map(([name, value]) => element("span", {}, element("i", { class: "heads" }, name), value));
      button.replaceChildren(element("span", { class: "tag" }, chunk.tag), ...cells, element("span", { class: "what" }, ` ${more}`));
      button.onclick = () => select(chunk);
    }, (error) => {
      if (!signal.aborted) button.replaceChildren(element("span", { class: "tag bad" }, "?"), element("span", { class: "bad" }, error.message));
    });
    return li;
  }, { signal });
  const part = (start) => {
    base = Math.max(0, Math.min(start, chunks.count - 1));
    base -= base % ROWS;
    const stop = Math.min(chunks.count, base + ROWS);
    where.textContent = `${number(base + 1)} to ${number(stop)} of ${number(chunks.count)}`;
    earlier.disabled = base === 0;
    later.disabled = stop === chunks.count;
    pages.hidden = chunks.count <= ROWS;
    rows.show(stop - base);
  };
  earlier.addEventListener("click", () => part(base - ROWS));
  later.addEventListener("click", () => part(base + ROWS));
  // What no table names is found one after the other: how far that has come, and why it goes no further.
  const say = () => {
    total.textContent = `${bytes(chunks.length)} · ${count(chunks.count, "chunk")}${chunks.cut ? " so far" : ""}`;
    map.setAttribute("aria-label", `The file as a map of its ${number(chunks.count)} chunks; the list below has the same`);
    rest.hidden = chunks.end === chunks.length;
    more.hidden = !chunks.cut;
    const left = `${number(chunks.length - chunks.end)} bytes from ${number(chunks.end)} on`;
    missing.textContent = chunks.cut ? `The first ${number(chunks.count)} chunks; ${left} are still to be looked through.` : `The last ${left} are no whole chunk.`;
  };
  let busy = false; // a button that is disabled would lose the focus
  more.addEventListener("click", async () => {
    if (busy) return;
    busy = true;
    try {
      await chunks.more();
      regions = await chunks.regions();
      say();
      part(base);
      draw();
    } catch (error) {
      if (!signal.aborted) missing.textContent = sentence(error.message);
    } finally {
      busy = false;
    }
  });
  say();
  part(0);

  function select(chunk) {
    selected = chunk.offset;
    for (const one of list.querySelectorAll("[aria-current]")) one.removeAttribute("aria-current");
    rows.renew(0, Infinity);
    dump.show(chunk.offset, chunk);
    draw();
  }

  let places = [];
  const draw = () => (places = drawMap(map, regions, chunks.length, scale.querySelector(":checked").value === "log", selected));
  const pointed = (event) => {
    const x = event.clientX - map.getBoundingClientRect().left;
    // Of what lies below the pointer, the narrowest: wide neighbours are easy to hit elsewhere.
    const near = places.filter((one) => x >= one.left - 1.5 && x <= one.right + 1.5);
    return near.sort((a, b) => a.right - a.left - (b.right - b.left))[0]?.region;
  };
  scale.addEventListener("change", draw);
  redraw(map, draw, signal);
  const tell = (one) => {
    tip.textContent = one.blocks ? `blocks ${number(one.blocks[0])} to ${number(one.blocks[1])}, with their tokens · at ${number(one.offset)} · ${bytes(one.size)}` : `${one.tag} · ${KINDS[one.tag] ?? "ancillary"} · at ${number(one.offset)} · ${number(one.size)} bytes`;
  };
  map.addEventListener("pointermove", (event) => {
    const one = pointed(event);
    if (one) tell(one);
  });
  map.addEventListener("click", async (event) => {
    const one = pointed(event);
    if (!one) return;
    tell(one); // a finger that taps moves over nothing
    if (one.row < base || one.row >= base + ROWS) part(one.row);
    rows.reveal(one.row - base);
    select(await chunks.row(one.row));
  });
  dump.show(0);
}

/** Draw the regions side by side; gives back where each one is. */
function drawMap(canvas, regions, length, log, selected) {
  const drawing = sharp(canvas);
  if (!drawing) return [];
  const { context, width, height } = drawing;
  const { accent, tick, text, soft, wash, panel } = colours(canvas);
  const fill = { CORE: tick, SAFE: tick, TOKN: accent, TRAK: text, META: text, KEYS: text };
  // A group of n blocks is as wide as n of its average.
  const weight = (one) => (one.blocks ? ((n) => n * Math.log2(2 + one.size / n))(one.blocks[1] - one.blocks[0] + 1) : Math.log2(2 + one.size));
  const total = regions.reduce((sum, one) => sum + weight(one), 0);
  let at = 0;
  const places = regions.map((region) => {
    const left = log ? at : (region.offset / length) * width;
    at += (weight(region) / total) * width;
    const right = log ? at : ((region.offset + 12 + region.size) / length) * width;
    return { region, left, right };
  });
  context.fillStyle = wash;
  context.fillRect(0, 0, width, height);
  for (const { region, left, right } of places) {
    context.fillStyle = fill[region.tag] ?? soft;
    const gap = right - left > 3 ? 1 : 0;
    const media = region.tag === "CORE" || region.tag === "SAFE";
    context.fillRect(left, media ? 6 : 0, Math.max(1, right - left - gap), media ? height - 12 : height);
  }
  const mark = places.find(({ region }) => region.offset === selected);
  if (mark) {
    context.strokeStyle = panel;
    context.lineWidth = 4;
    const box = [Math.max(2, mark.left - 1), 2, Math.max(3, Math.min(width - 2, mark.right + 1) - Math.max(2, mark.left - 1)), height - 4];
    context.strokeRect(...box);
    context.strokeStyle = accent;
    context.lineWidth = 2;
    context.strokeRect(...box);
  }
  return places;
}

/** A JSON value as nested details; everything in it is text. */
function tree(name, value, depth = 0) {
  const label = plain(name);
  if (value === null || typeof value !== "object") {
    const shown = value === null ? "–" : plain(String(value));
    return element("div", { class: "leaf" }, element("span", { class: "key" }, label), " ", element("span", { class: "mono" }, shown));
  }
  const entries = Object.entries(value);
  const what = Array.isArray(value) ? count(entries.length, "entry", "entries") : entries.length ? "" : "empty";
  const details = element("details", { open: depth === 0 }, element("summary", {}, label, " ", element("span", { class: "soft" }, what)));
  const fill = () => details.append(...entries.map(([key, inner]) => tree(key, inner, depth + 1)));
  if (depth === 0) fill();
  else details.addEventListener("toggle", fill, { once: true });
  return details;
}

