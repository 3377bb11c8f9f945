// The timeline below the player: a tick per keyframe, what the browser has fetched, the position.

import { $ } from "./dom.js";
import { clock } from "./format.js";

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
  constructor(jump) {
    this.canvas = $("ticks");
    this.box = $("timeline");
    this.tip = $("tip");
    this.jump = jump;
    this.reset();
    new ResizeObserver(() => this.draw()).observe(this.box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.box.addEventListener("pointermove", (event) => this.hover(event));
    this.box.addEventListener("pointerleave", () => this.leave());
    this.box.addEventListener("pointerdown", (event) => {
      if (event.button === 0 && this.duration) this.jump(Math.round(this.at(event)));
    });
    this.box.addEventListener("keydown", (event) => this.key(event));
  }

  reset() {
    this.duration = 0;
    this.keyframes = [];
    this.position = 0;
    this.buffered = [];
    this.pointed = null;
    this.tip.hidden = true;
  }

  show(duration, keyframes) {
    this.duration = Number(duration);
    this.keyframes = keyframes;
    this.box.setAttribute("aria-valuemax", Math.floor(this.duration / 1e6));
    this.draw();
  }

  /** Follow a media element. */
  follow(player) {
    this.position = player.currentTime * 1e6;
    this.buffered = [];
    for (let index = 0; index < player.buffered.length; index += 1) {
      this.buffered.push([player.buffered.start(index) * 1e6, player.buffered.end(index) * 1e6]);
    }
    this.box.setAttribute("aria-valuenow", Math.floor(player.currentTime));
    this.box.setAttribute("aria-valuetext", clock(this.position, 1));
    this.draw();
  }

  at(event) {
    const { left, width } = this.box.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - left) / width)) * this.duration;
  }

  hover(event) {
    if (!this.duration) return;
    this.pointed = this.at(event);
    const index = before(this.keyframes, this.pointed);
    const key = index < 0 ? "no keyframe before" : `keyframe ${clock(this.keyframes[index])}`;
    this.tip.textContent = `${clock(this.pointed, 2)} · ${key}`;
    this.tip.hidden = false;
    const { left, width } = this.box.getBoundingClientRect();
    const wanted = event.clientX - left - this.tip.offsetWidth / 2;
    this.tip.style.left = `${Math.max(0, Math.min(width - this.tip.offsetWidth, wanted))}px`;
    this.draw();
  }

  leave() {
    this.pointed = null;
    this.tip.hidden = true;
    this.draw();
  }

  key(event) {
    const steps = { ArrowLeft: -5e6, ArrowRight: 5e6, PageDown: -60e6, PageUp: 60e6 };
    let target = null;
    if (event.key in steps) target = this.position + steps[event.key];
    else if (event.key === "Home") target = 0;
    else if (event.key === "End") target = this.duration;
    if (target === null || !this.duration) return;
    event.preventDefault();
    this.jump(Math.round(Math.min(this.duration, Math.max(0, target))));
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.box;
    const scale = devicePixelRatio || 1;
    const { canvas } = this;
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.duration) return;
    const colour = (name) => getComputedStyle(this.box).getPropertyValue(name).trim();
    const x = (us) => (us / this.duration) * width;
    const accent = colour("--accent");
    context.fillStyle = colour("--wash");
    for (const [start, stop] of this.buffered) context.fillRect(x(start), 0, Math.max(1, x(stop) - x(start)), height);
    context.fillStyle = colour("--tick");
    let last = -2;
    for (const us of this.keyframes) {
      const place = Math.min(width - 1, Math.round(x(us)));
      if (place - last < 1.5) continue; // denser than that is a solid area anyway
      context.fillRect(place, height - 15, 1, 15);
      last = place;
    }
    if (this.pointed !== null) {
      const index = before(this.keyframes, this.pointed);
      context.fillStyle = accent;
      if (index >= 0) context.fillRect(Math.min(width - 2, Math.round(x(this.keyframes[index]))), height - 19, 2, 19);
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
