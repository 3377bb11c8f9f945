// The chunks of a container by byte ranges: where each one lies, without reading the file. RMAP says where blocks are, so
// only what is looked at is fetched, 4 KiB at a time.

import { CHUNK, ENTRY, MIB, TABLE_LIMIT, TAIL_SIZE, TOKN_SIZE, chunkHeader, need, parseTail } from "./h4mk.js";
import * as session from "./session.js";
import { RangeMap, Recent, Source } from "./source.js";

export const PAGE = 4096;
const PAGES = 256;
const START = 8; // bytes of the file's own header
const TOKEN = CHUNK + TOKN_SIZE; // bytes of TOKN with its header
const WALK = 2000; // chunks that are looked for one after the other, until somebody wants more
const GROUPS = 600; // of blocks on the map
const FEW = 40; // groups where RMAP is read by pages
const json = (bytes) => JSON.parse(new TextDecoder().decode(bytes));

/** A chunk: {tag, offset, size (of its payload), crc (null until it is read), block?, track?}. */
export class Chunks {
  #source;
  #pages = new Recent(PAGES);
  #maps = [];

  /** Open the file at `url`. Rejects with a Harmony4Error, or an AbortError. */
  static async open(url, signal) {
    const made = new Chunks();
    const asked = async (...request) => {
      const response = await fetch(...request);
      if (response.status === 401) session.refused("unauthorized");
      return response;
    };
    made.#source = new Source(url, { fetch: asked, signal, headers: {} });
    await made.#open();
    return made;
  }

  async #open() {
    const last = await this.#source.tail(TAIL_SIZE);
    /** Bytes of the file. */
    this.length = this.#source.length;
    this.tail = parseTail(last, this.length);
    this.front = [];
    this.back = [];
    /** Blocks between front and back; two rows each. */
    this.blocks = 0;
    this.trak = this.meta = null;
    if (!this.tail) {
      this.end = START;
      await this.more();
      return;
    }
    const trak = await this.header(START);
    need(trak.tag === "TRAK" && trak.size <= MIB, "order", "TRAK is not where it belongs");
    this.trak = json(await this.payload(trak));
    this.front = [trak];
    if (this.trak.mask) this.front.push({ ...(await this.header(START + CHUNK + trak.size)) });
    const meta = await this.header(this.tail.meta);
    need(meta.tag === "META" && meta.size <= MIB, "order", "META is not where it belongs");
    this.metaBytes = await this.payload(meta);
    this.meta = json(this.metaBytes);
    this.blocks = this.tail.blocks;
    for (const [track, place] of this.meta.tracks.entries()) {
      this.#maps.push(await RangeMap.open(this.#source, Number(place.rmap), this.tail.meta, track, place.blocks, TABLE_LIMIT));
    }
    const end = this.blocks ? await this.block(this.blocks - 1) : null;
    this.end = end ? end.position + end.size : START + this.front.reduce((sum, one) => sum + CHUNK + one.size, 0);
    await this.more();
  }

  /** Look for the chunks that follow `end`, which are in no table: up to 2000 of them, one after the other. */
  async more() {
    const found = await this.walk(this.end, this.length, WALK);
    const last = found.at(-1);
    if (last) this.end = last.offset + CHUNK + last.size;
    /** Whether there may be more chunks from `end` on. Else what follows there, if anything does, is no whole chunk. */
    this.cut = found.length === WALK && this.end < this.length;
    if (this.tail) this.back = [...this.back, ...found];
    else this.front = [...this.front, ...found];
  }

  /** How many rows there are. */
  get count() {
    return this.front.length + 2 * this.blocks + this.back.length;
  }

  /** Row `number`, complete. */
  async row(number) {
    const { front, back, blocks } = this;
    if (number < front.length) return front[number];
    const inner = number - front.length;
    if (inner >= 2 * blocks) return back[inner - 2 * blocks];
    const block = await this.block(inner >> 1);
    const chunk = await this.header(inner % 2 ? block.position - CHUNK : block.position - CHUNK - TOKEN);
    return { ...chunk, block: inner >> 1, track: block.track, flags: block.flags, pts: block.pts };
  }

  /** The row that begins at or before an offset of the file. */
  async find(offset) {
    let [low, high] = [0, this.count];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((await this.#offset(middle)) <= offset) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }

  async #offset(number) {
    const inner = number - this.front.length;
    if (inner < 0 || inner >= 2 * this.blocks) return (await this.row(number)).offset;
    const block = await this.block(inner >> 1);
    return inner % 2 ? block.position - CHUNK : block.position - CHUNK - TOKEN;
  }

  /** The entry of RMAP of the block with this leaf number, and its track. */
  async block(leaf) {
    for (const [track, map] of this.#maps.entries()) {
      let [low, high] = [0, map.count];
      if (this.#maps.length === 1) [low, high] = [leaf, leaf];
      while (low < high) {
        const middle = (low + high) >> 1;
        if ((await map.entry(middle)).leaf < leaf) low = middle + 1;
        else high = middle;
      }
      if (low >= map.count) continue;
      const entry = await map.entry(low);
      if (entry.leaf === leaf) return { ...entry, track };
    }
    need(false, "order", `no range map knows block ${leaf}`);
    return null;
  }

  /**
   * What META says is lost of a track: `[{first, count, start, stop}]`, numbers of blocks and bytes of its stream. `count` 0 is the end of
   * the track, which is lost from `start` on. `length` is that of the stream, as far as it is known.
   */
  async holes(track) {
    const map = this.#maps[track];
    let row = 0; // of the first block behind the holes so far
    let gone = 0;
    const holes = [];
    for (const { first, count } of (this.meta.lost ?? []).filter((one) => one.track === track)) {
      row = first - gone;
      gone += count;
      const before = row ? await map.entry(row - 1) : null;
      const start = before ? before.offset + before.size : 0;
      holes.push({ first, count, start, stop: count ? (await map.entry(row)).offset : null });
    }
    const last = map.count ? await map.entry(map.count - 1) : null;
    return { holes, length: last ? last.offset + last.size : 0 };
  }

  /** What a map of the file draws: chunks, and groups of blocks where there are many: {tag, offset, size, blocks?, row}. */
  async regions() {
    const regions = this.front.map((one, row) => ({ ...one, row }));
    const whole = this.blocks * ENTRY <= TABLE_LIMIT;
    const step = Math.max(1, Math.ceil(this.blocks / (whole ? GROUPS : FEW)));
    for (let leaf = 0; leaf < this.blocks; leaf += step) {
      const stop = Math.min(this.blocks, leaf + step);
      const first = await this.block(leaf);
      const offset = first.position - CHUNK - TOKEN;
      const row = this.front.length + 2 * leaf;
      if (step === 1) {
        regions.push({ tag: "TOKN", offset, size: TOKN_SIZE, row, block: leaf });
        regions.push({ tag: first.flags & 2 ? "SAFE" : "CORE", offset: offset + TOKEN, size: first.size, row: row + 1, block: leaf, key: Boolean(first.flags & 1) });
      } else {
        const last = await this.block(stop - 1);
        regions.push({ tag: first.flags & 2 ? "SAFE" : "CORE", offset, size: last.position + last.size - offset - CHUNK, row, blocks: [leaf, stop - 1] });
      }
    }
    const behind = this.front.length + 2 * this.blocks;
    return [...regions, ...this.back.map((one, number) => ({ ...one, row: behind + number }))];
  }

  /** The chunks from `at` to `stop`, one after the other, up to `most` of them. */
  async walk(at, stop, most) {
    const found = [];
    while (at + CHUNK <= stop && found.length < most) {
      const chunk = await this.header(at);
      if (!/^[A-Za-z]{4}$/.test(chunk.tag) || at + CHUNK + chunk.size > stop) break;
      found.push(chunk);
      at += CHUNK + chunk.size;
    }
    return found;
  }

  async header(offset) {
    return { ...chunkHeader(await this.bytes(offset, CHUNK)), offset };
  }

  async payload(chunk) {
    return this.#source.read(chunk.offset + CHUNK, chunk.offset + CHUNK + chunk.size);
  }

  /** `count` (≤ 4096) bytes at `offset`; fewer at the end of the file. */
  async bytes(offset, count) {
    const stop = Math.min(this.length, offset + count);
    const out = new Uint8Array(Math.max(0, stop - offset));
    for (let at = offset; at < stop; ) {
      const number = Math.floor(at / PAGE);
      const page = await this.#page(number);
      const piece = page.subarray(at - number * PAGE, Math.min(PAGE, stop - number * PAGE));
      out.set(piece, at - offset);
      at += piece.length;
    }
    return out;
  }

  #page(number) {
    let page = this.#pages.use(number);
    if (!page) {
      page = this.#source.read(number * PAGE, Math.min(this.length, (number + 1) * PAGE));
      page.catch(() => this.#pages.delete(number));
      this.#pages.keep(number, page);
    }
    return page;
  }
}

