// The panel of tokens: the live stream around the position, blocks and groups as bars over time, and the sound's spectrum.

import { part } from "./api.js";
import { colours, redraw, sharp } from "./canvas.js";
import { $, element } from "./dom.js";
import { bytes, clock } from "./format.js";
import { Follower } from "./follower.js";
import { unshown } from "./unshown.js";

const SHOWN = 4; // tokens before and behind the current one in the table
const SPANS = [10, 30, 120, 600]; // seconds that the bars show
const HEARD = 600e6; // µs: longer sound is decoded only when asked for

export function open(context, root) {
  if (context.facts.state === "original") {
    root.replaceChildren(element("p", { class: "waiting" }, "Files of the original implementation hold no tokens."));
    return;
  }
  const { name, track, signal, position } = context;
  const video = track.kind === "video";
  const count = element("b", {}, "0");
  const state = element("span", {}, "connecting");
  const spans = element("select", { "aria-label": "Time shown" }, ...SPANS.map((one) => element("option", { value: one }, one < 60 ? `${one} s` : `${one / 60} min`)));
  spans.value = "30";
  const bars = element("canvas", { class: "bars", role: "img", "aria-label": "Sizes of blocks and of groups of them over time; the table below has the numbers" });
  const body = element("tbody");
  const head = ["block", "time", "until", "size", "offset", "kind", "SHA-256"].map((one) => element("th", { scope: "col" }, one));
  const table = element("table", { class: "tokens", id: "tokens" }, element("caption", { class: "aside" }, "Tokens around the position"), element("thead", {}, element("tr", {}, ...head)), body);
  const sound = element("div", { class: "sound" });
  root.replaceChildren(
    element("p", { class: "live" }, element("span", { class: "dot" }), state, element("span", { class: "spread" }), count, " tokens", spans),
    bars,
    element("p", { class: "legend" }, element("span", { class: "key" }, video ? "keyframe block" : "block to begin at"), element("span", { class: "other" }, "other block"), element("span", { class: "group" }, video ? "group of pictures" : "from one such block to the next")),
    element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Table of tokens" }, table),
    sound,
  );
  const span = () => Math.min(Number(spans.value) * 1e6, Number(context.facts.duration) || Infinity);
  const shown = () => frame(position(), span(), Number(context.facts.duration));
  let current = null;
  let drawing = false;
  const draw = () => {
    if (drawing || signal.aborted) return;
    drawing = true;
    requestAnimationFrame(() => {
      drawing = false;
      count.textContent = tokens.received.toLocaleString("en");
      drawBars(bars, tokens.tokens, position(), shown());
      const at = find(tokens.tokens, position());
      const near = tokens.tokens.slice(Math.max(0, at - SHOWN), Math.max(0, at - SHOWN) + 2 * SHOWN + 1);
      const shape = `${near[0]?.index} ${near.length} ${tokens.tokens[at]?.index}`;
      if (shape !== current) body.replaceChildren(...near.map((one) => row(one, one === tokens.tokens[at])));
      current = shape;
    });
  };
  const tokens = new Follower("video/stream", { name, track: track.track }, {
    ahead: 600e6, behind: 210e6, position, signal, changed: draw,
    state: (text, bad = false) => {
      state.textContent = text;
      root.classList.toggle("broken", bad);
      root.classList.toggle("running", !bad && text.startsWith("live"));
    },
  });
  spans.addEventListener("change", draw);
  redraw(bars, draw, signal);
  bars.addEventListener("click", (event) => {
    const { left, width } = bars.getBoundingClientRect();
    const [start] = shown();
    context.jump(Math.round(Math.max(0, start + ((event.clientX - left) / width) * span())));
  });
  context.moved(() => (tokens.move(), draw()), signal);
  // Between two timeupdates (four a second) the position goes on.
  const tick = () => {
    if (signal.aborted) return;
    if (context.playing()) draw();
    requestAnimationFrame(tick);
  };
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) tick();
  hear({ ...context, shown, spans }, sound);
}

/** The spectrum of what sounds, or a button where computing it is much work. */
async function hear(context, box) {
  const { facts, track, signal } = context;
  const stored = facts.tracks.find((one) => one.kind === "tokens" && !one.masked && one.media_type.includes("spect"));
  const sounds = !track.masked && (track.kind === "audio" || /aac|opus|vorbis|mp3|flac|ac-?3|pcm|alac/i.test(track.codec));
  if (!sounds && !stored) return;
  const begin = async () => {
    try {
      const { show } = await part(import("./spectrogram.js"));
      if (!signal.aborted) show(context, box, stored?.track);
    } catch (error) {
      if (signal.aborted) return;
      const again = () => {
        begin();
        $("tab-tokens").focus(); // the button is no more
      };
      box.replaceChildren(unshown(error, again));
    }
  };
  if (stored || Number(facts.duration) <= HEARD) {
    await begin();
    return;
  }
  const button = element("button", { type: "button", class: "quiet" }, "Show the spectrum of the sound");
  button.addEventListener("click", begin, { once: true });
  box.replaceChildren(button);
}

/** The token that plays at a time. */
function find(tokens, now) {
  let at = 0;
  for (let number = 0; number < tokens.length && tokens[number].pts <= now; number += 1) if (!tokens[number].header) at = number;
  return at;
}

function row(token, playing) {
  const kind = [token.header && "header", token.key && "key", token.last && "last", token.masked && "masked"].filter(Boolean).join(", ");
  const cells = [token.index, clock(token.pts, 3), clock(token.end, 3), bytes(token.size), Number(token.offset).toLocaleString("en"), kind, element("code", {}, token.digest.slice(0, 12))];
  return element("tr", { "aria-current": playing ? "true" : null, class: token.key ? "key" : null }, ...cells.map((one) => element("td", {}, one)));
}

/** [start, stop] of the time that is shown: the position stands at a third, but for the ends. */
function frame(now, span, duration) {
  const start = Math.max(0, Math.min(now - span / 3, duration - span));
  return [start, start + span];
}

function drawBars(canvas, tokens, now, [start, stop]) {
  const drawing = sharp(canvas);
  if (!drawing) return;
  const { context, width, height } = drawing;
  const { accent, tick, soft, line, wash, text } = colours(canvas);
  const x = (us) => ((us - start) / (stop - start)) * width;
  const split = Math.round(height * 0.62); // above: blocks; below: groups
  const shown = tokens.filter((one) => one.end >= start && one.pts <= stop);
  const groups = new Map();
  for (const one of tokens) {
    if (one.header || one.key_pts === null) continue;
    const group = groups.get(one.key_pts) ?? { start: Number(one.key_pts), end: 0, size: 0 };
    group.end = Math.max(group.end, one.end);
    group.size += one.size;
    groups.set(one.key_pts, group);
  }
  const inView = [...groups.values()].filter((one) => one.end >= start && one.start <= stop);
  const mostBlock = Math.max(1, ...shown.map((one) => one.size));
  const mostGroup = Math.max(1, ...inView.map((one) => one.size));
  const bar = (from, to, floor, high) => {
    const left = Math.max(0, x(from));
    context.fillRect(left, floor - high, Math.max(1.5, Math.min(width, x(to)) - left - 1), high);
  };
  for (const one of shown) {
    context.fillStyle = one.key ? accent : tick;
    bar(one.pts, Math.max(one.end, one.pts + 1), split, Math.max(2, (one.size / mostBlock) * (split - 18)));
  }
  for (const one of inView) {
    context.fillStyle = wash;
    const high = Math.max(2, (one.size / mostGroup) * (height - split - 22));
    bar(one.start, one.end, height - 2, high);
    context.fillStyle = accent;
    bar(one.start, one.end, height - 2 - high + 1.5, 1.5);
  }
  context.fillStyle = line;
  context.fillRect(0, split, width, 1);
  context.fillStyle = soft;
  context.font = "11px system-ui, sans-serif";
  context.fillText(`largest block ${bytes(mostBlock)}`, 6, 12);
  context.fillText(`largest group ${bytes(mostGroup)}`, 6, split + 14);
  context.textAlign = "right";
  context.fillText(`${clock(start, 1)} – ${clock(stop, 1)}`, width - 6, 12);
  context.textAlign = "left";
  context.fillStyle = text;
  context.fillRect(Math.round(x(now)), 0, 1, height);
}
