// A stream from a server that need not be honest: bytes of /video/range are given out only after their proof (/video/proof) held.
// What is kept is the tokens of one proof and the bytes of one block.

import { Harmony4Error, LAST, MIB, equal, need } from "./h4mk.js";
import { sha256, subtle } from "./masking.js";
import { checkProof } from "./proof.js";
import { body } from "./source.js";

const ASK = 64 * MIB; // bytes of the stream that one proof is asked for, at first
const RUN = 4 * MIB; // bytes of one request, if blocks are small
const MOST_PROOF = MIB;
const MOST = 256 * MIB; // bytes of one `read`
const ROUTE = /^(.*\/)(?:video\/(?:range(?:\/(\d{1,5})\.[A-Za-z0-9]+)?|seek|info|proof)|container)$/;

/** The body of a response: up to `most` bytes. */
async function upTo(response, most) {
  const pieces = [];
  let size = 0;
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.length;
      if (size > most) {
        await reader.cancel();
        throw new Harmony4Error("json", "a proof is too long");
      }
      pieces.push(value);
    }
  } catch (error) {
    if (error instanceof Harmony4Error || error.name === "AbortError") throw error;
    throw new Harmony4Error("source", "the connection broke off");
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/** A track's stream, as it is stored: of a masked track the masked bytes. */
export class VerifiedSource {
  #root;
  #name;
  #options;
  #trust;
  #proven = null; // {start, stop, tokens} of the last proof
  #held = null; // {offset, bytes} of the last block

  /**
   * @param {string|URL} url of `/video/range`, or another one of the container's
   * @param {object} options
   * @param {import("./proof.js").Trust} options.trust
   * @param {number} [options.track] else what the address says, else 0
   * @param {typeof fetch} [options.fetch] makes the requests
   * @param {Record<string, string>} [options.headers] sent along, such as `Authorization`
   * @param {AbortSignal} [options.signal] ends all requests
   * @throws {Harmony4Error} `usage`: no address of a container
   */
  constructor(url, { trust, track = null, fetch = globalThis.fetch, headers = {}, signal } = {}) {
    const base = globalThis.document?.baseURI ?? globalThis.location?.href;
    const parts = URL.canParse(url, base) ? new URL(url, base) : null;
    const found = parts && ROUTE.exec(parts.pathname);
    const name = parts?.searchParams.get("name");
    need(found && name, "usage", "that is no address of a container: video/range?name=NAME is one");
    /** Which track, from 0. */
    this.track = Number(track ?? found[2] ?? parts.searchParams.get("track") ?? 0);
    need(Number.isInteger(this.track) && this.track >= 0, "usage", "a track is a number from 0 on");
    this.#root = parts.origin + found[1];
    this.#name = name;
    this.#trust = trust;
    this.#options = { headers, signal, fetch: (...request) => fetch(...request) };
    /** The container's identity, in hex, and the signature that was believed: known after the first proof, and held to. */
    this.head = null;
    this.accepted = null;
  }

  /**
   * Bytes `start` to `stop` (exclusive), verified; fewer only where the stream is proven to end.
   *
   * @param {number} start
   * @param {number} stop
   * @returns {Promise<Uint8Array>} up to 256 MiB
   * @throws {Harmony4Error} `seal`: the proof does not hold, or the bytes of a block, which is named, are not those that were signed;
   *   `source-changed`: another container is there now; `source`, `not-found`: the server; `unsupported`: cannot check here
   */
  async read(start, stop) {
    const pieces = [];
    let size = 0;
    for await (const { token, bytes } of this.blocks(start, stop)) {
      const piece = bytes.subarray(Math.max(0, start - token.offset), Math.max(0, stop - token.offset));
      size += piece.length;
      need(size <= MOST, "limit", "up to 256 MiB are read at once");
      pieces.push(piece);
    }
    const out = new Uint8Array(size);
    let at = 0;
    for (const piece of pieces) {
      out.set(piece, at);
      at += piece.length;
    }
    return out;
  }

  /**
   * The blocks that hold a range, whole, one after the other: `{token, bytes}`, each verified.
   *
   * @param {number} [start]
   * @param {number} [stop] the end of the stream, if left out
   */
  async *blocks(start = 0, stop = Number.MAX_SAFE_INTEGER) {
    subtle("check");
    need(Number.isSafeInteger(start) && Number.isSafeInteger(stop) && 0 <= start && start < stop, "usage", "that is no range of bytes");
    let at = start;
    while (at < stop) {
      const tokens = await this.#tokens(at, stop);
      if (!tokens.length) return; // that the stream ends is proven
      for (let first = 0; first < tokens.length; ) {
        let [next, size] = [first + 1, tokens[first].size];
        for (; next < tokens.length && size + tokens[next].size <= RUN; next += 1) size += tokens[next].size;
        yield* this.#run(tokens.slice(first, next), size);
        first = next;
      }
      const last = tokens.at(-1);
      if (last.flags & LAST) return;
      at = last.offset + last.size;
    }
  }

  /**
   * What answers a time in µs, proven: as `verifySeek`. The server is asked for the proof.
   *
   * @param {number|bigint} pts
   */
  async seek(pts) {
    const document = await this.#ask("video/seek", { pts, proof: 1 }, 4 * MOST_PROOF);
    let proof;
    try {
      proof = JSON.parse(new TextDecoder().decode(document)).proof;
    } catch {
      proof = undefined;
    }
    need(proof, "source", "the server has no proof of that time");
    return (await this.#check(proof)).seek(pts, this.track);
  }

  /** Blocks that follow each other, in one request. */
  async *#run(tokens, size) {
    const { offset } = tokens[0];
    if (tokens.length === 1 && this.#held?.offset === offset) {
      yield { token: tokens[0], bytes: this.#held.bytes };
      return;
    }
    const response = await this.#send("video/range", { masked: 1 }, { Range: `bytes=${offset}-${offset + size - 1}` });
    if (response.status !== 206) {
      response.body?.cancel();
      throw new Harmony4Error("source", `the server answered ${response.status} for ${where(tokens[0])}`);
    }
    const all = await body(response, size);
    for (const token of tokens) {
      const bytes = all.subarray(token.offset - offset, token.offset - offset + token.size);
      need(equal(await sha256(bytes), token.digest), "seal", `the server lied: these are not the bytes that were signed, in ${where(token)}`);
      this.#held = { offset: token.offset, bytes: tokens.length === 1 ? bytes : bytes.slice() };
      yield { token, bytes };
    }
  }

  /** The proven blocks from byte `at` on; not all up to `stop`, where one proof is too short for them. */
  async #tokens(at, stop) {
    const known = this.#proven;
    if (known && known.start <= at && at < known.stop) {
      const found = known.tokens.filter((token) => token.offset + token.size > at && token.offset < stop);
      if (found.length) return found;
    }
    for (let ask = Math.min(ASK, stop - at); ; ask = Math.ceil(ask / 4)) {
      const document = await this.#ask("video/proof", { range: `bytes=${at}-${at + ask - 1}` }, MOST_PROOF, ask > 1);
      if (document === null) continue;
      const checked = await this.#check(document);
      const tokens = checked.range(at, at + ask, this.track);
      const last = tokens.at(-1);
      need(!last || Number.isSafeInteger(last.offset + last.size), "limit", "the stream is too long for this page");
      this.#proven = last ? { start: tokens[0].offset, stop: last.offset + last.size, tokens } : null;
      return tokens;
    }
  }

  /** Check a proof; all are of one container. */
  async #check(document) {
    const checked = await checkProof(document, this.#trust);
    need(checked.final, "seal", "the server proves a beginning of a container only");
    need(this.head === null || this.head === checked.head, "source-changed", `the container was replaced: it was ${this.head}, and is ${checked.head}`);
    this.head = checked.head;
    this.accepted = checked.accepted;
    return checked;
  }

  /** The body of an answer; null where it would be too long and less can be asked for. */
  async #ask(route, query, most, less = false) {
    const response = await this.#send(route, query);
    if (response.status === 200) return upTo(response, most);
    response.body?.cancel();
    if (response.status === 413 && less) return null;
    need(response.status !== 404, "not-found", "there is no such container, or it has no proofs");
    need(response.status !== 410, "source-changed", "the container was replaced");
    throw new Harmony4Error("source", `the server has no proof of that: it answered ${response.status}`);
  }

  async #send(route, query, headers = {}) {
    const { fetch, signal } = this.#options;
    const url = `${this.#root}${route}?${new URLSearchParams({ name: this.#name, track: this.track, ...query })}`;
    try {
      // Kept by nobody: browsers let only one request at a time write into a cached resource.
      return await fetch(url, { headers: { ...this.#options.headers, ...headers }, cache: "no-store", signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Harmony4Error("source", "the server cannot be reached");
    }
  }
}

const where = (token) => `block ${token.index} of track ${token.track}`;

/**
 * A byte range of a track's stream, verified; all of it where `start` and `stop` are left out.
 *
 * @param {string|URL} url as for `VerifiedSource`
 * @param {object} options those of `VerifiedSource`, and `start` and `stop`
 * @returns {Promise<{bytes: Uint8Array, head: string, accepted: object|null}>} up to 256 MiB
 * @throws {Harmony4Error} as `VerifiedSource.read` does
 */
export async function fetchVerified(url, { start = 0, stop = Number.MAX_SAFE_INTEGER, ...options }) {
  const source = new VerifiedSource(url, options);
  const bytes = await source.read(start, stop);
  return { bytes, head: source.head, accepted: source.accepted };
}
