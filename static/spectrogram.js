// The spectrum of the sound, out of its tokens, at the times that the bars above it show.

import { colours, redraw, sharp } from "./canvas.js";
import { element } from "./dom.js";
import { Follower } from "./follower.js";
import { clock } from "./format.js";

const MORE = 1e6; // µs beyond the edges
const [LOW, HIGH] = [50, 16000]; // Hz
const LINES = [100, 1000, 10000];
const QUIET = 80; // levels (of 255) below this are not drawn

/**
 * Draw into `box`; `stored` is the number of the track of spectral tokens, if there is one. `shown()` says which time is, and `spans` tells
 * when that is longer or shorter.
 */
export function show(context, box, stored) {
  const { name, track, signal, position, shown, spans } = context;
  const canvas = element("canvas", { class: "spectrum", role: "img", "aria-label": "Spectrum of the sound around the position: frequencies that stand out, from 50 Hz to 16 kHz" });
  const state = element("span");
  box.replaceChildren(element("p", { class: "live" }, element("span", {}, stored === undefined ? "Spectrum, computed from the sound" : "Spectrum, as stored"), element("span", { class: "spread" }), state), canvas);
  let pending = false;
  const draw = () => {
    if (pending || signal.aborted) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      paint(canvas, tokens.tokens, position(), shown());
      canvas.dataset.tokens = tokens.received;
    });
  };
  // Stored tokens are found by themselves; a track that is named is decoded.
  const query = stored === undefined ? { name, track: track.track } : { name };
  let [tokens, run] = [null, null];
  const begin = () => {
    run?.abort();
    run = new AbortController();
    const [start, stop] = shown();
    const span = stop - start + MORE; // at the film's end all of it is behind the position
    tokens = new Follower("audio/stream", query, { ahead: span, behind: span, position, signal: AbortSignal.any([signal, run.signal]), changed: draw, state: (text) => (state.textContent = text) });
  };
  begin();
  spans.addEventListener("change", () => (begin(), draw()), { signal });
  context.moved(() => (tokens.move(), draw()), signal);
  redraw(canvas, draw, signal);
  const tick = () => {
    if (signal.aborted) return;
    if (context.playing()) draw();
    requestAnimationFrame(tick);
  };
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) tick();
}

function paint(canvas, tokens, now, [start, stop]) {
  const drawing = sharp(canvas);
  if (!drawing) return;
  const { context, width, height } = drawing;
  const { accent, line, soft, text } = colours(canvas);
  const x = (us) => ((us - start) / (stop - start)) * width;
  const y = (hertz) => height * (1 - Math.log(hertz / LOW) / Math.log(HIGH / LOW));
  context.fillStyle = line;
  for (const hertz of LINES) context.fillRect(0, Math.round(y(hertz)), width, 1);
  context.fillStyle = accent;
  for (const token of tokens) {
    if (token.end < start || token.pts > stop) continue;
    const left = x(token.pts);
    const wide = Math.max(1.5, x(token.end) - left);
    for (const [bin, level] of token.bins) {
      const hertz = (bin * token.rate) / (token.frame * token.step);
      if (hertz < LOW || level < QUIET) continue;
      context.globalAlpha = ((level - QUIET) / (255 - QUIET)) ** 1.5;
      context.fillRect(left, y(hertz) - 2, wide, 4);
    }
  }
  context.globalAlpha = 1;
  context.fillStyle = soft;
  context.font = "11px system-ui, sans-serif";
  for (const hertz of LINES) context.fillText(hertz < 1000 ? `${hertz} Hz` : `${hertz / 1000} kHz`, 6, Math.round(y(hertz)) - 3);
  context.textAlign = "right";
  context.fillText(`${clock(start, 1)} – ${clock(stop, 1)}`, width - 6, 12);
  context.textAlign = "left";
  context.fillStyle = text;
  context.fillRect(Math.round(x(now)), 0, 1, height);
}
