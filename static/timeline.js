// The timeline below the player: a tick per keyframe, what the browser has fetched, what was checked, the position.

import { colours, redraw, sharp } from "./canvas.js";
import { $ } from "./dom.js";
import { clock } from "./format.js";

const STEP = 5e6; // µs of an arrow key
const PAGE = 60e6;
const REST = 100; // ms that a pointer rests until somebody is asked for the keyframe below it

/** The number of the last keyframe at or before `us`, -1 if there is none. */
export function before(keyframes, us) {
  let low = 0;
  let high = keyframes.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (keyframes[middle] <= us) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

export class Timeline {
  /** `jump(pts)` is called where somebody clicks or lets go, `scrub(pts)` on the way there; `ask(pts)` resolves to a keyframe that is not here, or null. */
  constructor(jump, scrub, ask) {
    this.canvas = $("ticks");
    this.box = $("timeline");
    this.tip = $("tip");
    this.jump = jump;
    this.scrub = scrub;
    this.ask = ask;
    this.dragging = false;
    this.reset();
    redraw(this.box, () => this.draw());
    const { box } = this;
    box.addEventListener("pointermove", (event) => this.move(event));
    box.addEventListener("pointerleave", () => this.leave());
    box.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !this.duration) return;
      box.setPointerCapture(event.pointerId);
      this.dragging = true;
      this.from = event.clientX;
      this.hover(event);
    });
    box.addEventListener("pointerup", (event) => {
      if (!this.dragging) return;
      this.dragging = false;
      this.jump(Math.round(this.at(event)));
    });
    box.addEventListener("pointercancel", () => (this.dragging = false));
    box.addEventListener("keydown", (event) => this.key(event));
  }

  reset() {
    this.duration = 0;
    this.keyframes = [];
    this.known = false;
    this.some = false; // there are more keyframes than these
    $("some").hidden = true;
    this.position = 0;
    this.buffered = [];
    this.checked = []; // {start, end, kind: "good", "bad" or "lost"} of blocks, µs
    this.pointed = null;
    this.tip.hidden = true;
    this.box.setAttribute("aria-valuemax", 0);
    this.box.setAttribute("aria-valuenow", 0);
    this.draw();
  }

  /** `found`: the keyframes, null as long as they are not known. `count` is how many there are, if these are only some. */
  show(duration, found, count = found?.length ?? 0) {
    const keyframes = found ?? [];
    this.duration = Number(duration);
    this.keyframes = keyframes;
    this.known = found !== null;
    this.some = count > keyframes.length;
    $("some").hidden = !this.some;
    $("some").textContent = `There are ${count.toLocaleString("en")} keyframes; the timeline has ticks for ${keyframes.length.toLocaleString("en")} of them, spread evenly.`;
    this.box.setAttribute("aria-valuemax", Math.floor(this.duration / 1e6));
    this.say();
    this.draw();
    if (this.pointed !== null) this.point(this.clientX);
  }

  /** Follow a media element, whose clock is `base` seconds ahead. */
  follow(player, base = 0) {
    if (!this.dragging) this.position = Math.max(0, player.currentTime - base) * 1e6;
    this.buffered = [];
    for (let index = 0; index < player.buffered.length; index += 1) {
      this.buffered.push([(player.buffered.start(index) - base) * 1e6, (player.buffered.end(index) - base) * 1e6]);
    }
    this.say();
    this.draw();
  }

  say() {
    this.box.setAttribute("aria-valuenow", Math.floor(this.position / 1e6));
    this.box.setAttribute("aria-valuetext", `${clock(this.position, 1)} of ${clock(this.duration, 1)}`);
  }

  at(event) {
    const { left, width } = this.box.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - left) / width)) * this.duration;
  }

  move(event) {
    if (this.dragging && Math.abs(event.clientX - this.from) > 2) {
      this.position = this.at(event);
      this.scrub(Math.round(this.position));
      this.say();
    }
    this.hover(event);
  }

  hover(event) {
    if (!this.duration) return;
    this.pointed = this.at(event);
    this.point(event.clientX);
  }

  point(clientX) {
    this.clientX = clientX;
    this.below = this.some || !this.known ? undefined : (this.keyframes[before(this.keyframes, this.pointed)] ?? null);
    this.label(clientX);
    clearTimeout(this.resting);
    if (this.some) this.resting = setTimeout(() => this.look(clientX), REST);
  }

  async look(clientX) {
    const { pointed, keyframes } = this;
    if (pointed === null) return;
    const key = await this.ask(Math.floor(pointed)).catch(() => undefined);
    if (this.pointed !== pointed || this.keyframes !== keyframes) return;
    this.below = key;
    this.label(clientX);
  }

  /** What is below the pointer; a keyframe that is not known (yet) is left out. */
  label(clientX) {
    const key = this.below === undefined ? "" : this.below === null ? " · no keyframe before" : ` · keyframe ${clock(this.below)}`;
    this.tip.textContent = `${clock(this.pointed, 2)}${key}`;
    this.tip.hidden = false;
    const { left, width } = this.box.getBoundingClientRect();
    const wanted = clientX - left - this.tip.offsetWidth / 2;
    this.tip.style.left = `${Math.max(0, Math.min(width - this.tip.offsetWidth, wanted))}px`;
    this.draw();
  }

  leave() {
    this.pointed = null;
    this.tip.hidden = true;
    this.draw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const steps = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageDown: -PAGE, PageUp: PAGE };
    let target = null;
    if (event.key in steps) target = this.position + steps[event.key];
    else if (event.key === "Home") target = 0;
    else if (event.key === "End") target = this.duration;
    if (target === null || !this.duration) return;
    event.preventDefault();
    event.stopPropagation();
    this.jump(Math.round(Math.min(this.duration, Math.max(0, target))));
  }

  draw() {
    const drawing = sharp(this.canvas);
    if (!drawing || !this.duration) return;
    const { context, width, height } = drawing;
    const { accent, wash, tick, good, bad, soft } = colours(this.box);
    const x = (us) => (us / this.duration) * width;
    context.fillStyle = wash;
    for (const [start, stop] of this.buffered) context.fillRect(x(start), 0, Math.max(1, x(stop) - x(start)), height);
    for (const { start, end, kind } of this.checked) {
      const wide = Math.max(kind === "good" ? 1 : 3, x(end) - x(start));
      if (kind === "lost") {
        hatch(context, x(start), wide, height, soft);
        continue;
      }
      context.fillStyle = kind === "good" ? good : bad;
      context.fillRect(x(start), kind === "good" ? height - 4 : 0, wide, kind === "good" ? 4 : height);
    }
    context.fillStyle = tick;
    let last = -2;
    const foot = this.checked.length ? 4 : 0;
    for (const us of this.keyframes) {
      const place = Math.min(width - 1, Math.round(x(us)));
      if (place - last < 1.5) continue; // denser than that is a solid area anyway
      context.fillRect(place, height - 15 - foot, 1, 15);
      last = place;
    }
    if (this.pointed !== null) {
      context.fillStyle = accent;
      if (typeof this.below === "number") context.fillRect(Math.min(width - 2, Math.round(x(this.below))), height - 19 - foot, 2, 19);
      context.globalAlpha = 0.45;
      context.fillRect(Math.round(x(this.pointed)), 0, 1, height);
      context.globalAlpha = 1;
    }
    const now = x(this.position);
    context.fillStyle = accent;
    context.fillRect(0, 0, now, 3);
    context.fillRect(Math.max(0, Math.min(width - 2, now - 1)), 0, 2, height);
  }
}

/** Strokes across an area: there is nothing there. */
function hatch(context, left, width, height, colour) {
  context.save();
  context.beginPath();
  context.rect(left, 0, width, height);
  context.clip();
  context.strokeStyle = colour;
  context.lineWidth = 1;
  context.beginPath();
  for (let at = left - height; at < left + width; at += 5) {
    context.moveTo(at, height);
    context.lineTo(at + height, 0);
  }
  context.stroke();
  context.restore();
}
