// The spectrum of the sound, out of its tokens, scrolling below the position.

import { colours, redraw, sharp } from "./canvas.js";
import { element } from "./dom.js";
import { Follower } from "./follower.js";

const SPAN = 30e6; // µs from edge to edge
const [LOW, HIGH] = [50, 16000]; // Hz
const LINES = [100, 1000, 10000];
const QUIET = 80; // levels (of 255) below this are not drawn

/** Draw into `box`; `stored` is the number of the track of spectral tokens, if there is one. */
export function show(context, box, stored) {
  const { name, track, signal, position } = context;
  const canvas = element("canvas", { class: "spectrum", role: "img", "aria-label": "Spectrum of the sound around the position: frequencies that stand out, from 50 Hz to 16 kHz" });
  const state = element("span");
  box.replaceChildren(element("p", { class: "live" }, element("span", {}, stored === undefined ? "Spectrum, computed from the sound" : "Spectrum, as stored"), element("span", { class: "spread" }), state), canvas);
  let pending = false;
  const draw = () => {
    if (pending || signal.aborted) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      paint(canvas, tokens.tokens, position());
      canvas.dataset.tokens = tokens.received;
    });
  };
  // Stored tokens are found by themselves; a track that is named is decoded.
  const query = stored === undefined ? { name, track: track.track } : { name };
  const tokens = new Follower("audio/stream", query, { ahead: SPAN, behind: SPAN / 2 + 1e6, position, signal, changed: draw, state: (text) => (state.textContent = text) });
  context.moved(() => (tokens.move(), draw()), signal);
  redraw(canvas, draw, signal);
  const tick = () => {
    if (signal.aborted) return;
    if (context.playing()) draw();
    requestAnimationFrame(tick);
  };
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) tick();
}

function paint(canvas, tokens, now) {
  const drawing = sharp(canvas);
  if (!drawing) return;
  const { context, width, height } = drawing;
  const { accent, line, soft, text } = colours(canvas);
  const start = now - SPAN / 2;
  const x = (us) => ((us - start) / SPAN) * width;
  const y = (hertz) => height * (1 - Math.log(hertz / LOW) / Math.log(HIGH / LOW));
  context.fillStyle = line;
  for (const hertz of LINES) context.fillRect(0, Math.round(y(hertz)), width, 1);
  context.fillStyle = accent;
  for (const token of tokens) {
    if (token.end < start || token.pts > start + SPAN) continue;
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
  context.fillStyle = text;
  context.fillRect(Math.round(width / 2), 0, 1, height);
}
