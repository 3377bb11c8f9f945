// A file behind a URL, read by byte ranges, and RMAP on top of it: whole where it is small, by pages where it is not.

import { CHUNK, ENTRY, Harmony4Error, MAP_HEAD, chunkHeader, mapCount, mapEntry, need, payloadOf, view } from "./h4mk.js";

const PAGE = 1024; // entries of RMAP, 40 KiB
const PAGES = 64;

/** A Map that forgets what was not used for longest. */
export class Recent extends Map {
  constructor(most) {
    super();
    this.most = most;
  }

  use(key) {
    const value = this.get(key);
    if (value !== undefined) this.keep(key, value);
    return value;
  }

  keep(key, value) {
    this.delete(key);
    this.set(key, value);
    if (this.size > this.most) this.delete(this.keys().next().value);
  }
}

/** The bytes at a URL. They must stay the same ones: a strong ETag is held to. */
export class Source {
  #etag = null;

  constructor(url, options) {
    this.url = url;
    this.options = options;
    /** Length in bytes, known after `tail`. */
    this.length = null;
  }

  /** The last `count` bytes; fewer of a shorter file. */
  async tail(count) {
    const response = await this.#ask(`bytes=-${count}`);
    const found = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16})$/.exec(response.headers.get("Content-Range") ?? "");
    const [start, last, length] = (found ?? []).slice(1).map(Number);
    need(found && Number.isSafeInteger(length) && last === length - 1 && start === Math.max(0, length - count), "source", "the server sent another range than was asked for");
    this.length = length;
    const etag = response.headers.get("ETag");
    if (etag?.startsWith('"')) this.#etag = etag;
    return body(response, length - start);
  }

  /** Bytes `start` to `stop`, all of them: whoever asks must know that they are there and bear that many. */
  async read(start, stop) {
    if (start === stop) return new Uint8Array(0);
    const response = await this.#ask(`bytes=${start}-${stop - 1}`);
    const expected = `bytes ${start}-${stop - 1}/${this.length}`;
    const etag = response.headers.get("ETag");
    if ((this.#etag !== null && etag !== null && etag !== this.#etag) || response.headers.get("Content-Range") !== expected) {
      response.body?.cancel();
      throw new Harmony4Error("source-changed", "the container was replaced, or the server sent another range than was asked for");
    }
    return body(response, stop - start);
  }

  async #ask(range) {
    const headers = { ...this.options.headers, Range: range };
    if (this.#etag !== null) headers["If-Match"] = this.#etag;
    let response;
    try {
      // Kept by nobody: browsers let only one request at a time write into a cached resource.
      response = await this.options.fetch(this.url, { headers, cache: "no-store", signal: this.options.signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Harmony4Error("source", "the server cannot be reached");
    }
    if (response.status === 206) return response;
    response.body?.cancel();
    need(response.status !== 404, "not-found", "there is no such container");
    need(![410, 412].includes(response.status), "source-changed", "the container was replaced");
    need(response.status !== 416, "truncated", "the container is empty");
    throw new Harmony4Error("source", response.ok ? "the server does not answer byte ranges" : `the server answered ${response.status}`);
  }
}

/** The body of a response, which must have exactly `length` bytes. */
export async function body(response, length) {
  const bytes = new Uint8Array(length);
  const reader = response.body.getReader();
  let at = 0;
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Harmony4Error("source", "the connection broke off");
    }
    if (piece.done) break;
    if (at + piece.value.length > length) {
      reader.cancel();
      break;
    }
    bytes.set(piece.value, at);
    at += piece.value.length;
  }
  need(at === length, "source", "the server sent fewer or more bytes than it said");
  return bytes;
}

/** Rows of RMAP that follow each other: offsets increase, times do not decrease. */
function checkRows(rows, track) {
  let before = { pts: 0, offset: -1 };
  for (let at = 0; at < rows.byteLength; at += ENTRY) {
    const row = mapEntry(rows, at);
    need(row.pts >= before.pts && row.offset > before.offset, "order", `RMAP of track ${track} runs backwards`);
    before = row;
  }
}

/** The range map of one track (H4MK 9). What it says of a block is to be compared with the block's token. */
export class RangeMap {
  #load;
  #page;
  #pages = new Recent(PAGES);

  constructor(count, page, load) {
    /** The number of blocks. */
    this.count = count;
    this.#page = page;
    this.#load = load;
  }

  /** Open the map at chunk offset `at` of a file whose tables end at `stop`; up to `limit` bytes are read whole. */
  static async open(source, at, stop, track, blocks, limit) {
    const { tag, size } = chunkHeader(await source.read(at, Math.min(at + CHUNK, stop)));
    need(tag === "RMAP", "order", "META does not point at RMAP");
    need(size >= MAP_HEAD, "limit", `RMAP of track ${track} has an impossible size`);
    need(size <= stop - at - CHUNK, "truncated", `RMAP of track ${track} reaches into META`);
    const whole = size <= limit ? payloadOf(await source.read(at, at + CHUNK + size), 0, "RMAP", size) : null;
    const front = whole ?? (await source.read(at + CHUNK, at + CHUNK + MAP_HEAD));
    const count = mapCount(front, size, track);
    need(count === blocks, "seal", "RMAP and META count differently");
    if (whole) {
      const rows = view(whole.subarray(MAP_HEAD));
      checkRows(rows, track);
      return new RangeMap(count, Math.max(1, count), async () => rows);
    }
    const first = at + CHUNK + MAP_HEAD;
    return new RangeMap(count, PAGE, async (number) => {
      const rows = Math.min(PAGE, count - number * PAGE);
      const start = first + number * PAGE * ENTRY;
      const page = view(await source.read(start, start + rows * ENTRY));
      checkRows(page, track);
      return page;
    });
  }

  /** Entry `row`, which exists. */
  async entry(row) {
    const number = Math.floor(row / this.#page);
    let data = this.#pages.use(number);
    if (data === undefined) {
      data = await this.#load(number);
      this.#pages.keep(number, data);
    }
    return mapEntry(data, (row - number * this.#page) * ENTRY);
  }

  /** The last row whose logical offset is ≤ `offset`; -1 if there is none. */
  async find(offset) {
    let [low, high] = [0, this.count];
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if ((await this.entry(middle)).offset <= offset) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }
}
