// Media elements and masked containers: an address of this page's own whose bytes are unmasked here, range by range. The
// service worker (unmask-worker.js) only carries questions and answers; keys and containers stay in this page.

import { Harmony4Error, need } from "./h4mk.js";

const PIECE = 2 ** 21; // bytes of an answer at once
const TRIES = 5; // of a request that the server does not answer
const WAIT = 10_000; // ms for the worker to take over the page
const MEDIA = /^(?:video|audio)\/[a-z0-9][a-z0-9.+-]{0,63}$|^text\/vtt$/;
const published = new Map();
let ready = null;

/**
 * Give a track of a container an address that media elements of this page can play and seek in, as long as the page lives.
 *
 * The page must lie below the parent of the folder that holds this module. The server must send
 * `Service-Worker-Allowed: ../` with unmask-worker.js; HarmonyØ4's does.
 *
 * @param {import("./harmony4.js").Container} container unlocked
 * @param {object} [options]
 * @param {number} [options.track] counted from 0
 * @param {(error: Error) => void} [options.failed] told why an answer failed: media elements only know that it did
 * @returns {Promise<{url: string, close: () => void}>} `close` takes the address back
 * @throws {Harmony4Error} `unsupported` where the browser has no service workers: on plain http, in some private windows
 */
export async function publish(container, { track = 0, failed = () => {} } = {}) {
  const size = await container.size(track);
  const scope = await (ready ??= takeOver().catch((error) => {
    ready = null;
    throw error;
  }));
  const url = new URL(`unmasked/${crypto.randomUUID()}`, scope).href;
  const { mediaType } = container.tracks[track];
  const type = MEDIA.test(mediaType) ? mediaType : "application/octet-stream"; // the file says it, so it must be harmless
  published.set(url, { container, track, size, type, failed });
  return { url, close: () => published.delete(url) };
}

/** Start the worker and wait until it stands between this page and the network; resolves to its scope. */
async function takeOver() {
  const workers = navigator.serviceWorker;
  need(workers, "unsupported", "cannot play what is masked here: this browser window has no service workers");
  const worker = new URL("unmask-worker.js", import.meta.url).href;
  const scope = new URL("../", import.meta.url).href;
  let registration;
  try {
    registration = await workers.register(worker, { scope, updateViaCache: "none" });
  } catch (error) {
    throw new Harmony4Error("unsupported", `cannot play what is masked here: ${error.message}`);
  }
  workers.addEventListener("message", (event) => event.data?.harmony4 === "unmask" && respond(event.data, event.ports[0]));
  workers.startMessages();
  await new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Harmony4Error("unsupported", "cannot play what is masked here: load the page again")), WAIT);
    const look = () => {
      if (workers.controller?.scriptURL !== worker) return;
      clearTimeout(late);
      resolve();
    };
    workers.addEventListener("controllerchange", look);
    // A worker that was there before this page claims nobody by itself.
    registration.active?.postMessage("claim");
    look();
  });
  return scope;
}

async function respond({ url, range, start, stop }, port) {
  const one = published.get(url);
  try {
    if (!one) port.postMessage({ status: 404, body: null });
    else if (start === undefined) await begin(one, range, port);
    else await send(one, start, stop, {}, port);
  } catch (error) {
    port.postMessage({ status: 502, body: null });
    if (published.get(url) === one) one.failed(error);
  }
}

function begin(one, value, port) {
  const { size, type } = one;
  const headers = { "Accept-Ranges": "bytes", "Cache-Control": "no-store", "Content-Type": type, "X-Content-Type-Options": "nosniff" };
  const range = parseRange(value, size);
  if (range === undefined) {
    headers["Content-Range"] = `bytes */${size}`;
    port.postMessage({ status: 416, headers, body: null });
    return undefined;
  }
  const { start, stop } = range ?? { start: 0, stop: size };
  headers["Content-Length"] = String(stop - start);
  if (range) headers["Content-Range"] = `bytes ${start}-${stop - 1}/${size}`;
  return send(one, start, stop, { status: range ? 206 : 200, headers }, port);
}

async function send({ container, track }, start, stop, answer, port) {
  const at = Math.min(stop, start + PIECE);
  const { buffer, byteOffset, byteLength } = await insist(() => container.read(start, at, track));
  const body = byteLength === buffer.byteLength ? buffer : buffer.slice(byteOffset, byteOffset + byteLength);
  port.postMessage({ ...answer, body, at, stop }, [body]);
}

/** Players give up at the first failure, so short ones of the network are bridged here: 3.75 s at most. */
async function insist(call) {
  for (let turn = 1; ; turn += 1) {
    try {
      return await call();
    } catch (error) {
      if (error.code !== "source" || turn === TRIES) throw error;
    }
    await new Promise((done) => setTimeout(done, 125 * 2 ** turn));
  }
}

/**
 * What a Range header asks for of `size` bytes: {start, stop}, null for the whole, undefined for what there is not
 * (RFC 9110 14.2). An open end gets one piece: answers stay short, so that a worker never has to live long.
 */
function parseRange(value, size) {
  const found = /^bytes=(\d{0,15})-(\d{0,15})$/i.exec(value?.replaceAll(" ", "") ?? "");
  if (!found || (!found[1] && !found[2])) return null;
  const [first, last] = found.slice(1);
  if (!first) {
    const start = Math.max(0, size - Number(last));
    return start < size ? { start, stop: size } : undefined;
  }
  const start = Number(first);
  if (last && Number(last) < start) return null;
  if (start >= size) return undefined;
  return { start, stop: last ? Math.min(size, Number(last) + 1) : Math.min(size, start + PIECE) };
}
