// Proofs (H4MK 22): what a block of a container is, shown without the container. Everything is given in bytes and nothing is fetched.
// What does not hold is a Harmony4Error: a promise that resolves has proven something.

import * as h4mk from "./h4mk.js";
import { need } from "./h4mk.js";
import { sha256, subtle } from "./masking.js";
import { inclusionRoot, leafHash } from "./merkle.js";
import { MOST_SIGNATURES, Trust } from "./trust.js";

export { leafHash, verifyInclusion } from "./merkle.js";
export { Trust, verifySign } from "./trust.js";

const EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"; // root of a tree without leaves
const ZERO = "00".repeat(32);
const digits = (...sizes) => h4mk.text(new RegExp(`^(?:${sizes.map((size) => `[0-9a-f]{${2 * size}}`).join("|")})$`));
const named = h4mk.text(/^(?!0{64})[0-9a-f]{64}$/); // a digest of something: of nothing it is left out, so that a proof has one form
const SCHEMA = h4mk.record({
  blocks: h4mk.integer(0, h4mk.MOST_BLOCKS),
  "directory?": h4mk.text(/^/),
  duration: h4mk.integer(),
  format: h4mk.choice("h4mk proof 1"),
  "leaves?": h4mk.list(h4mk.integer(0, h4mk.MOST_BLOCKS - 1), 1),
  "meta?": named,
  "path?": h4mk.list(h4mk.digest),
  "root?": h4mk.digest,
  signatures: h4mk.list(h4mk.record({ key: digits(4), revision: h4mk.integer(), "subject?": named, value: digits(64) })),
  "tokens?": h4mk.list(digits(96, 128), 1),
  trak: h4mk.digest,
});

const encoder = new TextEncoder();

/** An integer in the form that equal values have here: a BigInt beyond 2^53 - 1 only. */
function whole(value, what) {
  need(typeof value === "bigint" || Number.isSafeInteger(value), "usage", `${what} must be an integer`);
  return typeof value === "bigint" && value >= -Number.MAX_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

const plus = (one, other) => whole(BigInt(one) + BigInt(other));
const endOf = (token) => plus(token.offset, token.size);

/** A document's bytes: from these, from its text, or from what a JSON parser made of it. */
function bytesOf(document) {
  if (document instanceof Uint8Array || typeof document === "string") {
    need(document.length <= h4mk.MIB, "json", "a proof is too long"); // text has no more characters than bytes
    const bytes = typeof document === "string" ? encoder.encode(document) : document;
    need(bytes.length <= h4mk.MIB, "json", "a proof is too long");
    return bytes;
  }
  const bytes = encoder.encode(h4mk.canonical(document));
  need(bytes.length <= h4mk.MIB, "limit", "a proof is too large");
  return bytes;
}

/** Parse a document (H4MK 22.5); says nothing of its truth. */
function parse(document) {
  const found = h4mk.parseJSON(bytesOf(document), SCHEMA, "proof");
  const { tokens = [], leaves = [], path = [], directory = null } = found;
  need(found.signatures.length <= MOST_SIGNATURES, "json", "a proof has too many signatures");
  const parts = ["leaves", "path", "root", "tokens"].filter((name) => found[name] !== undefined).join();
  need(["root", "leaves,path,tokens"].includes(parts), "json", "a proof has either tokens, leaves and path, or root");
  need(directory === null || (parts === "root" && found.meta === undefined), "json", "directory goes with root, and in place of meta");
  need(leaves.length === tokens.length, "json", "there must be one leaf for each token");
  const packed = tokens.map((text, number) => {
    need(text.length < 256 || !text.endsWith(ZERO), "json", `proof.tokens[${number}]: a tag of zeros is left out`);
    return h4mk.unhex(text.padEnd(256, "0"));
  });
  return { ...found, leaves, path, directory, packed, tokens: packed.map((bytes, number) => h4mk.parseToken(bytes, `proof.tokens[${number}]`)) };
}

/** HEAD, 128 bytes, of the container that a document's blocks are in (H4MK 22.5). */
async function headOf(proof) {
  let root = h4mk.unhex(proof.root ?? EMPTY);
  if (proof.tokens.length) {
    need(proof.leaves.every((leaf, at) => !at || proof.leaves[at - 1] < leaf), "seal", "the leaves of a proof must increase");
    const hashes = await Promise.all(proof.packed.map(leafHash));
    root = await inclusionRoot(new Map(proof.leaves.map((leaf, at) => [leaf, hashes[at]])), proof.blocks, proof.path.map(h4mk.unhex));
  }
  return h4mk.headBytes({ ...proof, root }, h4mk.unhex(proof.trak), h4mk.unhex(proof.meta));
}

/** SIGN as a signature of a document would have it, by the key with this fingerprint. */
function signOf(one, final, fingerprint) {
  const sign = new Uint8Array(144);
  sign.set([final ? 1 : 2, 1]);
  h4mk.view(sign).setBigUint64(8, BigInt(one.revision));
  sign.set(h4mk.unhex((one.subject ?? ZERO) + fingerprint + one.value), 16);
  return sign;
}

/** A proof that was checked: its blocks are in a container that is trusted. Out of `checkProof`. */
class CheckedProof {
  #tokens;
  #directory;

  constructor(proof, head, accepted) {
    this.#tokens = proof.tokens;
    this.#directory = proof.directory;
    /** SHA-256 of HEAD, in hex: the container's identity, or the checkpoint's. */
    this.head = head;
    /** The signature that was believed, `{key, kind, revision, subject}`; null where only a head was asked for. */
    this.accepted = accepted;
    /** Whether it is about a whole container, and not about its beginning (a checkpoint). */
    this.final = proof.meta !== ZERO;
    /** SHA-256 of META, in hex: its directory, what is lost. Zeros for a checkpoint. */
    this.meta = proof.meta;
    /** Of the container: how many blocks, and µs. */
    this.blocks = proof.blocks;
    this.duration = proof.duration;
  }

  /**
   * What is proven of a time in µs.
   *
   * @param {number|bigint} pts
   * @param {number} [track]
   * @returns {{pts: number|bigint, place: "inside"|"before"|"after"|"empty", token: object|null, keyframe: {pts, offset}|null, final: boolean}}
   *   `token` is the block that holds the time; the first one, or the last one; null in an empty track. `final`: of a whole container
   * @throws {Harmony4Error} `seal`: nothing is proven; `usage`: no time
   */
  seek(pts, track = 0) {
    const time = whole(pts, "a time");
    need(time >= 0 && time <= h4mk.WIDEST, "usage", "a time is out of range");
    if (this.#directory !== null) {
      this.#checkEmpty(track);
      return { pts: time, place: "empty", token: null, keyframe: null, final: this.final };
    }
    const found = this.tokens(track).flatMap((token) => places(token, time).map((place) => ({ pts: time, place, token })));
    need(found.length, "seal", `the proof does not answer the time ${time} of track ${track}`);
    need(found.length === 1, "seal", `the proof contradicts itself at the time ${time} of track ${track}`);
    const { place, token } = found[0];
    const keyed = place !== "before" && token.keyPts !== null;
    return { ...found[0], keyframe: keyed ? { pts: token.keyPts, offset: token.keyOffset } : null, final: this.final };
  }

  /**
   * The blocks that bytes `start` to `stop` (exclusive) of a track's stream are in, all of them up to its end: fewer bytes are
   * proven only where the last one is LAST.
   *
   * @returns {object[]} tokens
   * @throws {Harmony4Error} `seal`: the proof lacks one; `usage`: no range
   */
  range(start, stop, track = 0) {
    const [from, to] = [whole(start, "a range"), whole(stop, "a range")];
    need(0 <= from && from < to, "usage", "that is no range of bytes");
    if (this.#directory !== null) {
      this.#checkEmpty(track);
      return [];
    }
    const tokens = this.tokens(track);
    const last = tokens.at(-1);
    if (last && last.flags & h4mk.LAST && endOf(last) <= from) return [];
    const found = [];
    let at = from;
    for (const token of tokens) {
      const end = endOf(token);
      if (end <= at || at >= to) continue;
      if (token.offset > at) break;
      found.push(token);
      at = end;
    }
    need(at >= to || (found.length && found.at(-1).flags & h4mk.LAST), "seal", `the proof lacks a block of that range: byte ${at} of track ${track}`);
    return found;
  }

  /** The proven blocks of a track. Throws `seal` where they cannot follow each other (H4MK 22.2). */
  tokens(track = 0) {
    const found = this.#tokens.filter((token) => token.track === track);
    found.slice(1).forEach((after, number) => {
      const one = found[number];
      const gap = after.index - one.index - 1;
      const apart = plus(after.offset, -BigInt(endOf(one)));
      const follows = gap === 0 ? apart === 0 && after.pts === one.end : gap > 0 && apart >= gap && after.pts >= one.end;
      need(follows, "seal", `the blocks of a proof do not follow each other: track ${track}`);
    });
    return found;
  }

  #checkEmpty(track) {
    const meta = h4mk.parseJSON(encoder.encode(this.#directory), h4mk.META, "META");
    const lost = meta.lost ?? [];
    h4mk.checkLost(lost, meta.tracks.length);
    const empty = Number.isInteger(track) && meta.tracks[track]?.blocks === 0 && !lost.some((hole) => hole.track === track);
    need(empty, "seal", `the proof does not say that track ${track} is empty`);
  }
}

/** In what ways a token answers a time. */
function places(token, pts) {
  const found = [];
  if (token.index === 0 && pts < token.pts) found.push("before");
  if (token.pts <= pts && pts < token.end) found.push("inside");
  if (token.flags & h4mk.LAST && token.end <= pts) found.push("after");
  return found;
}

/**
 * Check everything in a proof but what it answers.
 *
 * @param {Uint8Array|string|object} document as `/video/proof` sends it, or the `proof` of an answer of `/video/seek`
 * @param {Trust} trust
 * @returns {Promise<CheckedProof>}
 * @throws {Harmony4Error} `seal`: something does not hold; `json`, `format`, …: no such document can be; `unsupported`: cannot check here
 */
export async function checkProof(document, trust) {
  subtle("check");
  need(trust instanceof Trust, "usage", "whom to trust must be said: a Trust");
  const proof = parse(document);
  proof.meta ??= proof.directory === null ? ZERO : h4mk.hex(await sha256(encoder.encode(proof.directory)));
  const head = await headOf(proof);
  const keys = (await trust.keys()).map(([name]) => name);
  const candidates = proof.signatures.flatMap((one) =>
    keys.filter((name) => name.startsWith(one.key)).map((name) => signOf(one, proof.meta !== ZERO, name)),
  );
  if (proof.signatures.length && !candidates.length && trust.signed) {
    await trust.checkHead(head);
    const names = proof.signatures.map((one) => one.key).join(", ");
    need(false, "seal", `no signature of the proof is by a key that is trusted: ${names}`);
  }
  const accepted = await trust.check(head, candidates);
  return new CheckedProof(proof, h4mk.hex(await sha256(head)), accepted);
}

/** What answers a time (µs) in a track, proven (H4MK 22.2). As `checkProof`, and then `.seek`. */
export async function verifySeek(document, pts, track, trust) {
  return (await checkProof(document, trust)).seek(pts, track);
}

/**
 * The blocks (tokens) that a byte range of a track's stream is in, proven (H4MK 22.3): their `digest`, `offset` and `size` say
 * what the bytes are. As `checkProof`, and then `.range`.
 */
export async function verifyRange(document, start, stop, track, trust) {
  return (await checkProof(document, trust)).range(start, stop, track);
}
