/**
 * HarmonyØ4 in the browser: open an H4MK container behind a URL, unmask what is masked, and read any byte range of its
 * streams. Everything is checked before it is given out. The key stays in this page: only byte ranges of the file are asked for.
 *
 *     import { Container } from "./harmony4.js";
 *     const container = await Container.open("container?name=film.h4mk");
 *     await container.unlock("000102…1f");
 *     const bytes = await container.read(0, 65536);
 *
 * No dependency, no build step: the modules h4mk.js, masking.js, merkle.js, proof.js, source.js, trust.js and
 * verified.js stand beside this one. docs/API.md describes them.
 */

import * as h4mk from "./h4mk.js";
import { Harmony4Error, need } from "./h4mk.js";
import { MasterKey, sha256, xorMask } from "./masking.js";
import { RangeMap, Recent, Source } from "./source.js";
import { finalSigns } from "./trust.js";

export { Harmony4Error, MasterKey };
export { parseKey } from "./masking.js";
export { Trust, checkProof, verifyRange, verifySeek } from "./proof.js";
export { VerifiedSource, fetchVerified } from "./verified.js";

const HEADERS = 152; // TOKN and its chunk header, and that of the payload, which follows
const RUN = 4 * h4mk.MIB; // bytes of the file in one request, if blocks are small
const GAP = 65536; // bytes between two blocks of a track that are read rather than asked for twice
const SEGMENT = 65536; // what is read of a block that was checked before
const KNOWN = 4096; // blocks whose digests are remembered
const HELD = 8 * h4mk.MIB; // stored bytes of blocks that were read in part
const MOST = 256 * h4mk.MIB; // bytes of one `read`

export class Container {
  #source;
  #tail;
  #cut;
  #commit;
  #slots;
  #trak; // H(TRAK)
  #lost;
  #masking; // the last entry of the history, if it is the mask's
  #places;
  #limit;
  #file = null;
  #whole = false;
  #streams = new Map();
  #known = new Recent(KNOWN);
  #held = [];

  /**
   * Open a sealed container: TAIL, header, TRAK, KEYS and META are read and checked (H4MK 18.1).
   *
   * @param {string|URL} url where the file itself is: `container?name=…`, or any server that answers byte ranges
   * @param {object} [options]
   * @param {typeof fetch} [options.fetch] makes the requests
   * @param {AbortSignal} [options.signal] ends all requests
   * @param {Record<string, string>} [options.headers] sent along, such as `Authorization`
   * @param {number} [options.tableLimit] bytes; a larger range map is read by pages. 8 MiB
   * @param {import("./proof.js").Trust} [options.trust] what must hold of the container: a signature over its head, or the head itself
   * @returns {Promise<Container>}
   * @throws {Harmony4Error}
   */
  static async open(url, { fetch = globalThis.fetch, signal, headers = {}, tableLimit = h4mk.TABLE_LIMIT, trust = null } = {}) {
    const made = new Container();
    made.#limit = tableLimit;
    made.#source = new Source(url, { fetch: (...request) => fetch(...request), signal, headers });
    await made.#open(trust);
    return made;
  }

  async #open(trust) {
    const source = this.#source;
    const tail = (this.#tail = h4mk.parseTail(await source.tail(h4mk.TAIL_SIZE), source.length));
    need(!tail || tail.merk - tail.meta - h4mk.CHUNK <= h4mk.MIB, "limit", "META is too large");
    const first = source.read(0, Math.min(h4mk.FIRST_READ, source.length));
    const [front, directory] = await Promise.all([first, tail && source.read(tail.meta, tail.merk)]);
    const magic = h4mk.hex(front.subarray(0, 8));
    need(magic !== "48344d4b00010000", "version", "a container of the original implementation: nothing in it can be unmasked");
    need(magic === "48344d4b00000001", "version", "this is no H4MK container of version 1");
    need(tail, "format", "the container is not sealed, or its end is damaged");

    const size = h4mk.chunkHeader(front, 8).size;
    need(size >= 2 && size <= h4mk.MIB, "limit", "TRAK has an impossible size");
    const index = 8 + h4mk.CHUNK + size + h4mk.CHUNK + h4mk.KEYS_SIZE; // where KEYS ends, if there is one
    const start = index <= front.length ? front : await source.read(0, Math.min(index, source.length));
    const trakBytes = h4mk.payloadOf(start, 8, "TRAK", size);
    const metaBytes = h4mk.payloadOf(directory, 0, "META", directory.length - h4mk.CHUNK);
    this.#trak = await sha256(trakBytes);
    const headBytes = h4mk.headBytes(tail, this.#trak, await sha256(metaBytes));
    const head = await sha256(headBytes);
    need(h4mk.equal(head, tail.head), "seal", "TRAK, META and TAIL do not belong together");
    /** The signature that was believed, `{key, kind, revision, subject}`; null where none was asked for. */
    this.accepted = trust && (await trust.check(headBytes, await finalSigns(source, tail)));

    const trak = h4mk.parseJSON(trakBytes, h4mk.TRAK, "TRAK");
    const meta = h4mk.parseJSON(metaBytes, h4mk.META, "META");
    const blocks = meta.tracks.reduce((sum, one) => sum + one.blocks, 0);
    const agree = trak.tracks.length === tail.tracks && meta.tracks.length === tail.tracks;
    need(agree && meta.blocks === tail.blocks && blocks === tail.blocks && meta.duration === tail.duration, "seal", "TRAK, META and TAIL count differently");
    const masked = trak.tracks.some((one) => one.masked);
    need(masked === (trak.mask !== undefined), "json", "TRAK has a mask exactly if a track is masked");
    this.#slots = masked ? h4mk.parseKeys(h4mk.payloadOf(start, 8 + h4mk.CHUNK + size, "KEYS", h4mk.KEYS_SIZE, "limit")) : [];
    this.#commit = trak.mask?.commit;
    this.#cut = trak.cut;
    this.#lost = meta.lost ?? [];
    h4mk.checkLost(this.#lost, trak.tracks.length);
    this.#places = meta.tracks;
    const last = meta.history.at(-1);
    this.#masking = last?.op === "mask" ? last : undefined;
    /** Its identity (H4MK 12.2), 64 hexadecimal digits. */
    this.head = h4mk.hex(head);
    /** µs; a BigInt beyond 2^53 - 1, as all integers here. */
    this.duration = tail.duration;
    /** A title for people, from the file: text, never markup. Null if it has none. */
    this.title = meta.title ?? null;
    /**
     * `{number, kind, codec, mediaType, lang, name, masked, blocks, bytes, keyframes, lost}` of each track; `bytes` counts
     * what is stored, `lost` tells whether there are holes. Texts come from the file.
     */
    this.tracks = trak.tracks.map((one, number) => ({
      number, kind: one.kind, codec: one.codec, mediaType: one.media_type, lang: one.lang ?? null, name: one.name ?? null, masked: one.masked,
      blocks: meta.tracks[number].blocks, bytes: meta.tracks[number].bytes, keyframes: meta.tracks[number].keyframes,
      lost: this.#lost.some((hole) => hole.track === number),
    }));
  }

  /** Whether any track is masked. */
  get masked() {
    return this.#slots.length > 0;
  }

  /** Whether a key is needed and none has been accepted. */
  get locked() {
    return this.masked && this.#file === null;
  }

  /** Whether the key shows that no block is missing: not in a container that was cut off or changed after it was masked. */
  get whole() {
    return this.#whole;
  }

  /** The ids (32 hexadecimal digits) of the keys that open it. They are public. */
  get keyIds() {
    return this.#slots.map((slot) => slot.id);
  }

  /**
   * Accept a key, before anything is unmasked: it must open its slot to the key that TRAK commits to, and all blocks must be there.
   *
   * @param {Uint8Array|string|MasterKey} secret 32 bytes, 64 hexadecimal digits, the text of a key file, or what `MasterKey.from` made
   * @throws {Harmony4Error} `key`: not a key of this container; `seal`: blocks are missing, or none is of this key; `usage`: nothing is masked; `unsupported`: no WebCrypto here
   */
  async unlock(secret) {
    need(this.masked, "usage", "nothing in this container is masked");
    const master = secret instanceof MasterKey ? secret : await MasterKey.from(secret);
    const slot = this.#slots.find((one) => one.id === master.id);
    need(slot, "key", "this key does not open the container");
    const file = await master.unwrap(slot.wrapped, this.#commit);
    if (this.#masking) {
      const whole = this.#masking.args.whole;
      need(typeof whole === "string" && /^[0-9a-f]{64}$/.test(whole), "seal", "the history does not say which blocks were masked");
      const { blocks, root } = this.#tail;
      need(await file.isWhole(this.#trak, blocks, root, h4mk.unhex(whole)), "seal", "the container does not have the blocks that were masked");
    }
    // Without a tag TRAK may be anybody's, and plain tracks in it anybody's media.
    const shown = this.#masking || this.tracks.some((one) => one.masked && one.blocks);
    need(shown, "seal", "nothing in the container shows that it was masked with this key");
    this.#whole = this.#masking !== undefined;
    this.#file = file;
  }

  /**
   * The length of a track's stream in bytes. The end of a masked track is checked by its last block's tag.
   *
   * @param {number} [track] counted from 0
   * @returns {Promise<number>}
   */
  async size(track = 0) {
    return (await this.#stream(track)).size;
  }

  /**
   * Bytes `start` to `end` (exclusive) of a track's stream, unmasked. Each block's token, tag, size and place are checked, and
   * every byte against the block's SHA-256; plain tracks the same way, without tags.
   *
   * @param {number} start
   * @param {number} end at most `size(track)`; up to 256 MiB at once
   * @param {number} [track]
   * @returns {Promise<Uint8Array>}
   * @throws {Harmony4Error} `locked`: unlock it first; `seal`, `order`, `checksum`, …: what is wrong with which block
   */
  async read(start, end, track = 0) {
    const stream = await this.#stream(track);
    const sound = Number.isSafeInteger(start) && Number.isSafeInteger(end) && 0 <= start && start <= end && end <= stream.size;
    need(sound, "usage", `the range must lie within the stream of ${stream.size} bytes`);
    need(end - start <= MOST, "limit", "up to 256 MiB are read at once");
    const out = new Uint8Array(end - start);
    if (start === end) return out;
    const pieces = await this.#pieces(stream, start, end);
    let first = 0;
    while (first < pieces.length) {
      const run = [pieces[first]];
      if (!this.#recall(pieces[first])) {
        for (let next = first + 1; next < pieces.length && this.#follows(run, pieces[next]); next += 1) run.push(pieces[next]);
        await this.#readRun(stream, run);
      }
      await Promise.all(run.map(async (piece) => out.set(await this.#unmask(stream, piece), piece.entry.offset + piece.from - start)));
      first += run.length;
    }
    return out;
  }

  /** A track's map and length; for masked tracks the end is authenticated. */
  #stream(track) {
    need(Number.isInteger(track) && this.tracks[track], "not-found", "there is no such track");
    need(!this.tracks[track].masked || this.#file, "locked", "this track is masked: a key must unlock it first");
    if (!this.#streams.has(track)) {
      const opening = this.#openStream(track);
      opening.catch(() => this.#streams.delete(track)); // a request may succeed later
      this.#streams.set(track, opening);
    }
    return this.#streams.get(track);
  }

  async #openStream(track) {
    const tail = this.#tail;
    const place = this.#places[track];
    need(place.rmap >= tail.index && place.rmap < tail.meta, "order", "META names an impossible place for RMAP");
    const map = await RangeMap.open(this.#source, place.rmap, tail.meta, track, place.blocks, this.#limit);
    const stream = { track, map, size: 0, masked: this.tracks[track].masked };
    const lost = this.#lost.filter((hole) => hole.track === track);
    stream.indexOf = (row) => lost.reduce((index, hole) => (hole.first <= index ? index + hole.count : index), row);
    if (map.count) {
      const last = await this.#entry(stream, map.count - 1);
      const headers = await this.#source.read(last.entry.position - HEADERS, last.entry.position);
      const token = await this.#token(stream, last, headers);
      const ended = Boolean(token.flags & h4mk.LAST);
      need(ended !== lost.some((hole) => hole.count === 0), "order", `${last.where} is not the last one: the end of track ${track} is missing`);
      stream.size = last.entry.offset + last.entry.size;
    }
    return stream;
  }

  async #entry(stream, row) {
    const entry = await stream.map.entry(row);
    const where = `block ${stream.indexOf(row)} of track ${stream.track}`;
    const inside = entry.position >= 8 + h4mk.CHUNK + HEADERS && entry.position + entry.size <= this.#tail.index;
    need(inside && Number.isSafeInteger(entry.offset + entry.size), "order", `RMAP points out of the blocks for ${where}`);
    need(entry.size >= 1 && entry.size <= this.#cut.block, "limit", `${where} has an impossible size`);
    return { row, entry, where, key: `${stream.track} ${row}` };
  }

  /** The blocks that hold a range, and which bytes of each. */
  async #pieces(stream, start, end) {
    const pieces = [];
    let at = start;
    for (let row = await stream.map.find(start); at < end; row += 1) {
      need(row >= 0 && row < stream.map.count, "order", `bytes at ${at} of track ${stream.track} are missing`);
      const piece = await this.#entry(stream, row);
      const { offset, size } = piece.entry;
      need(offset <= at && at < offset + size && (at === start || offset === at), "order", `bytes before ${piece.where} are missing`);
      piece.from = at - offset;
      piece.to = Math.min(size, end - offset);
      at = offset + piece.to;
      pieces.push(piece);
    }
    return pieces;
  }

  /** Whether a block was checked before and can be read in part; puts what is known of it into the piece. */
  #recall(piece) {
    const known = this.#known.use(piece.key);
    if (!known?.stored && !known?.digests) return false;
    piece.known = known;
    piece.stored = known.stored;
    return true;
  }

  /** Whether a block is read with those of a run in one request. */
  #follows(run, piece) {
    const begin = run[0].entry.position - HEADERS;
    const { position, size } = run.at(-1).entry;
    const gap = piece.entry.position - HEADERS - (position + size);
    return !this.#known.has(piece.key) && gap >= 0 && gap <= GAP && piece.entry.position + piece.entry.size - begin <= RUN;
  }

  /** Read blocks that lie behind each other and check them; their stored bytes are in `piece.stored` then. */
  async #readRun(stream, run) {
    const begin = run[0].entry.position - HEADERS;
    const bytes = await this.#source.read(begin, run.at(-1).entry.position + run.at(-1).entry.size);
    await Promise.all(
      run.map(async (piece) => {
        const at = piece.entry.position - begin;
        const token = await this.#token(stream, piece, bytes.subarray(at - HEADERS, at));
        const stored = bytes.subarray(at, at + piece.entry.size);
        const crc = h4mk.chunkHeader(bytes, at - h4mk.CHUNK).crc;
        need(h4mk.equal(await sha256(stored), token.digest), "seal", `${piece.where} is not what its token says`);
        need(h4mk.crc32(stored) === crc, "checksum", `${piece.where} fails its CRC`);
        const whole = piece.from === 0 && piece.to === piece.entry.size;
        const known = { stored: null, digests: null, cipher: stream.masked ? await this.#file.blockKey(stream.track, token.index) : null };
        // The digest of the whole says nothing about a part that is read again: those of its segments do.
        if (!whole && stored.length > 2 * SEGMENT) known.digests = await Promise.all(segments(stored.length).map(([from, to]) => sha256(stored.subarray(from, to))));
        piece.known = known;
        piece.stored = stored;
        if (whole) return;
        known.stored = stored.slice();
        this.#known.keep(piece.key, known);
        this.#hold(known);
      }),
    );
  }

  /** The token in the 152 bytes before a payload, compared with RMAP; the tag of a masked block must be one of the file's key. */
  async #token(stream, { row, entry, where }, headers) {
    const record = h4mk.payloadOf(headers, 0, "TOKN", h4mk.TOKN_SIZE);
    const payload = h4mk.chunkHeader(headers, HEADERS - h4mk.CHUNK);
    const token = h4mk.parseToken(record, where);
    need(payload.tag === (stream.masked ? "SAFE" : "CORE"), "order", `${where} is not followed by its payload`);
    need(payload.size === token.size, "order", `${where} and its payload differ in size`);
    need(Boolean(token.flags & h4mk.MASKED) === stream.masked, "critical", `${where} is masked, or is not, against TRAK`);
    if (stream.masked) need(await this.#file.fits(this.#trak, record), "seal", `the tag of ${where} is not one of this key: it was changed, moved or made by somebody else`);
    need(token.track === stream.track && token.index === stream.indexOf(row), "order", `${where} is another block`);
    const same = ["pts", "offset", "size", "flags"].every((name) => token[name] === entry[name]);
    need(same, "seal", `${where} and RMAP differ`);
    return token;
  }

  /** The bytes of a piece, unmasked. */
  async #unmask(stream, piece) {
    const { known, stored, from, to } = piece;
    const bytes = stored ? stored.subarray(from, to) : await this.#segments(piece, known.digests);
    return stream.masked ? xorMask(known.cipher, bytes, from) : bytes;
  }

  /** Bytes of a block that was checked before: only the segments that hold them are read, and checked again. */
  async #segments({ entry, where, from, to }, digests) {
    const first = Math.floor(from / SEGMENT);
    const begin = first * SEGMENT;
    const end = Math.min(Math.ceil(to / SEGMENT) * SEGMENT, entry.size);
    const bytes = await this.#source.read(entry.position + begin, entry.position + end);
    for (const [number, [start, stop]] of segments(bytes.length).entries()) {
      const digest = await sha256(bytes.subarray(start, stop));
      need(h4mk.equal(digest, digests[first + number]), "source-changed", `${where} is no longer what it was`);
    }
    return bytes.subarray(from - begin, to - begin);
  }

  /** Keep the stored bytes of a block that was read in part: players go on where they were. */
  #hold(known) {
    this.#held.push(known);
    let sum = this.#held.reduce((total, one) => total + one.stored.length, 0);
    while (sum > HELD && this.#held.length > 1) {
      const oldest = this.#held.shift();
      sum -= oldest.stored.length;
      oldest.stored = null;
    }
  }
}

/** [start, stop] of each segment of `length` bytes. */
function segments(length) {
  return Array.from({ length: Math.ceil(length / SEGMENT) }, (_, number) => [number * SEGMENT, Math.min(length, (number + 1) * SEGMENT)]);
}
