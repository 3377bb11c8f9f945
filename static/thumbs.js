// Small pictures for the library: a frame of what is video, the spectral tokens of what is sound, else how many bytes a
// second the groups of blocks have. One at a time, for rows that are seen, when the list rests.

import * as api from "./api.js";
import { colours } from "./canvas.js";
import { $ } from "./dom.js";

const REST = 150; // ms without scrolling
const PATIENCE = 8000; // ms for one picture
const LATE = 300; // ms until one that was drawn before anybody looked is taken as it is
const POSTER = 2 * 3600e6; // µs: the index of longer films is much to read for a small picture
const SOUND = 120e6; // µs: longer sound is not decoded for it
const POINTS = 48;
const RECORDS = { structure: 64, detail: 136 }; // bytes of a stored token, by profile
const COLUMNS = 144; // of pixels in a picture
const RUN = 8; // stored tokens that are read of each column's
const RANGES = 16; // more at once are answered with everything
const KEPT = 400;
const drawn = new Map();
const dark = matchMedia("(prefers-color-scheme: dark)");

let list = null;
let timer;
let busy = false;

/** Draw what is seen of this list, soon: called whenever that may be something else. */
export function look(items) {
  if (!list) {
    dark.addEventListener("change", () => {
      drawn.clear();
      for (const canvas of list.querySelectorAll("canvas.drawn")) canvas.classList.remove("drawn");
      soon();
    });
  }
  list = items;
  soon();
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(next, REST);
}

async function next() {
  if (busy) return;
  // Whoever opens or seeks something waits for that, and for no small picture.
  const media = document.querySelector("#stage video, #stage audio");
  if ($("player").hasAttribute("aria-busy") || (media && !media.error && (media.seeking || media.readyState < 1))) {
    soon();
    return;
  }
  const row = [...list.children].find((one) => one.item && visible(one) && !one.querySelector(".drawn"));
  if (!row) return;
  busy = true;
  const canvas = row.querySelector("canvas");
  const key = row.item.range_url ?? row.item.name;
  try {
    const picture = drawn.get(key) ?? (await draw(row.item, canvas.width, canvas.height));
    drawn.delete(key); // and to the end: the first ones go
    drawn.set(key, picture);
    if (drawn.size > KEPT) drawn.delete(drawn.keys().next().value);
    canvas.getContext("2d").drawImage(picture, 0, 0);
  } catch {
    // It stays blank: a picture is no reason for a message.
  }
  canvas.classList.add("drawn");
  busy = false;
  clearTimeout(timer);
  timer = setTimeout(next, 0);
}

function visible(row) {
  const { top, bottom } = row.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}

async function draw(item, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const track = item.tracks[0];
  const plain = track && (!item.mask || item.mask.unmaskable) && item.range_url;
  if (plain && track.kind === "video" && Number(item.duration) < POSTER && (await poster(item, context).then(() => true, () => false))) return canvas;
  const stored = item.tracks.findIndex((one) => one.kind === "tokens" && one.codec in RECORDS);
  const tokens = stored >= 0 ? () => kept(item, stored) : Number(item.duration) < SOUND ? () => computed(item) : null;
  if (plain && track.kind === "audio" && tokens && (await spectrum(item, context, tokens).then(() => true, () => false))) return canvas;
  await rates(item, context);
  return canvas;
}

/** What the server says of a track, if its stream has no holes. */
async function whole(item, number) {
  const { tracks, lost } = await api.info(item.name);
  if (lost.some((one) => one.track === number && one.count)) throw new Error("holes");
  return tracks[number];
}

/** A frame from a tenth of the way in, as the media element shows it. */
async function poster(item, context) {
  if (item.tracks[0].lost) throw new Error("no browser plays streams with holes");
  const video = document.createElement("video");
  video.muted = true;
  video.preload = "auto";
  const ready = (event) => new Promise((resolve, reject) => {
    video.addEventListener(event, resolve, { once: true });
    video.addEventListener("error", () => reject(new Error("no picture")), { once: true });
    setTimeout(() => reject(new Error("no picture in time")), PATIENCE);
  });
  try {
    video.src = api.local(item.range_url);
    await ready("loadeddata");
    const there = shown(video);
    video.currentTime = Math.min(10, video.duration / 10 || 0);
    await ready("seeked");
    await Promise.race([there, new Promise((resolve) => setTimeout(resolve, LATE))]);
    const { width, height } = context.canvas;
    if (!video.videoWidth) throw new Error("no picture");
    const scale = Math.max(width / video.videoWidth, height / video.videoHeight);
    const [wide, high] = [video.videoWidth * scale, video.videoHeight * scale];
    context.drawImage(video, (width - wide) / 2, (height - high) / 2, wide, high);
  } finally {
    video.removeAttribute("src"); // else the browser goes on fetching
    video.load();
  }
}

/** The picture of a seek is there: `seeked` may come before it can be drawn. */
function shown(video) {
  return new Promise((resolve) => {
    const again = () => video.requestVideoFrameCallback?.((_, { mediaTime }) => {
      const to = video.currentTime;
      if (Math.abs(mediaTime - to) < to / 2) resolve(); // not that of the beginning
      else again();
    });
    again();
  });
}

async function get(url, headers, status) {
  const response = await fetch(url, { headers, signal: AbortSignal.timeout(PATIENCE) });
  if (response.status === status) return response;
  response.body?.cancel();
  throw new Error("no tokens");
}

/** Spectral tokens that the server makes of the sound. */
async function computed(item) {
  const response = await get(`audio/stream?${new URLSearchParams({ name: item.name })}`, { Accept: "application/x-ndjson" }, 200);
  const lines = (await response.text()).trim().split("\n").map((line) => JSON.parse(line));
  return { tokens: lines.filter(({ event }) => event === "token").map(({ data }) => data), each: 1 };
}

/** The tokens of a stored track, of long ones some of each column: records are of one size, so they are where one looks. */
async function kept(item, number) {
  const size = RECORDS[item.tracks[number].codec];
  const count = Math.floor(item.tracks[number].bytes / size);
  const url = api.local((await whole(item, number)).range_url);
  const [columns, run] = count > COLUMNS * RUN ? [COLUMNS, RUN] : [1, count];
  const ranges = Array.from({ length: columns }, (_, at) => Math.floor((at * count) / columns) * size).map((at) => `${at}-${at + run * size - 1}`);
  const tokens = [];
  while (ranges.length) {
    const response = await get(url, { Range: `bytes=${ranges.splice(0, RANGES)}` }, 206);
    for (const part of parts(response.headers, await response.arrayBuffer())) {
      for (let at = 0; at < part.byteLength; at += size) tokens.push(record(part, at));
    }
  }
  return { tokens, each: count / tokens.length };
}

/** The parts of an answer to ranges: one that is no multipart is one. */
function parts(headers, body) {
  if (!headers.get("Content-Type")?.startsWith("multipart/byteranges")) return [new DataView(body)];
  const text = new TextDecoder("latin1").decode(body); // a character for each byte
  const found = [];
  const head = /Content-Range: bytes (\d+)-(\d+)\/\d+\r\n(?:[^\r\n]+\r\n)*\r\n/gi;
  for (let one = head.exec(text); one; one = head.exec(text)) {
    const length = one[2] - one[1] + 1;
    found.push(new DataView(body, head.lastIndex, length));
    head.lastIndex += length;
  }
  return found;
}

/** A record (tokenize/audiotoken.py) as `/audio/stream` tells it. Outside of the view it is a RangeError. */
function record(view, at) {
  if (view.getUint8(at) !== 1) throw new Error("no token");
  return {
    frame: 2 ** view.getUint8(at + 6),
    step: 2 ** view.getUint8(at + 7),
    rate: view.getUint32(at + 8),
    pts: Number(view.getBigUint64(at + 24)),
    end: Number(view.getBigUint64(at + 32)),
    bins: Array.from({ length: view.getUint8(at + 3) }, (_, bin) => [view.getUint16(at + 40 + 3 * bin), view.getUint8(at + 42 + 3 * bin)]),
  };
}

async function spectrum(item, context, ask) {
  const { width, height } = context.canvas;
  const { tokens, each } = await ask();
  const { accent, sunk } = colours(document.body);
  context.fillStyle = sunk;
  context.fillRect(0, 0, width, height);
  context.fillStyle = accent;
  for (const data of tokens) {
    for (const [bin, level] of data.bins) {
      const hertz = (bin * data.rate) / (data.frame * data.step);
      const high = Math.log2(Math.max(1, hertz / 60)) / Math.log2(12000 / 60);
      // One that stands for others covers as much as they would, one upon the other.
      context.globalAlpha = 1 - (1 - Math.max(0.06, (level - 100) / 155)) ** each;
      context.fillRect((data.pts / item.duration) * width, height * (1 - high) - 2, Math.max(2, ((data.end - data.pts) / item.duration) * width), 3);
    }
  }
  context.globalAlpha = 1;
}

/** Bytes a second of groups of blocks, at times that are spread evenly. */
async function rates(item, context) {
  const { width, height } = context.canvas;
  const { tick, sunk } = colours(document.body);
  context.fillStyle = sunk;
  context.fillRect(0, 0, width, height);
  const duration = Number(item.duration);
  if (!duration || !item.tracks[0]?.keyframes) return;
  const times = Array.from({ length: POINTS }, (_, at) => Math.floor((duration * at) / POINTS));
  const { results } = await api.seekMany(item.name, times);
  const found = results.map((one) => (one.error ? 0 : one.size / Math.max(1, (one.next_pts ?? duration) - one.pts)));
  const most = Math.max(...found, 1e-9);
  context.fillStyle = tick;
  found.forEach((value, at) => {
    const high = Math.max(2, (value / most) * (height - 10));
    context.fillRect((at * width) / POINTS, height - high, width / POINTS - 1, high);
  });
}
