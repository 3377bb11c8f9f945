// Proof documents (H4MK 22.5): the tokens of some blocks, and what leads from them to a root that is signed or pinned.

import { Harmony4Error, TOKN_SIZE, headBytes, hex, need, parseToken, view } from "./h4mk.js";
import { join, sha256 } from "./masking.js";
import { leafHash, verifySign } from "./proof.js";

const MEMBERS = ["format", "blocks", "duration", "trak", "meta", "signatures", "leaves", "tokens", "path"];
const MOST = 2 ** 26 - 1;

function unhex(text) {
  need(typeof text === "string" && /^(?:[0-9a-f]{2})+$/.test(text), "format", "the proof has something in place of hexadecimal digits");
  return Uint8Array.from(text.match(/../g), (two) => Number.parseInt(two, 16));
}

/** A public key in PEM as SubjectPublicKeyInfo in DER. */
export function parsePem(text) {
  const found = /-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----/.exec(text);
  need(found, "usage", "this is no public key in PEM (-----BEGIN PUBLIC KEY-----)");
  try {
    return Uint8Array.from(atob(found[1].replace(/\s/g, "")), (one) => one.charCodeAt(0));
  } catch {
    throw new Harmony4Error("usage", "the public key is cut off or changed");
  }
}

/** The root that a path leads to from the leaves of some blocks (H4MK 22.1). */
async function rootOf(count, numbers, hashes, path) {
  let level = new Map(numbers.map((number, at) => [number, hashes[at]]));
  let [width, used] = [count, 0];
  while (width > 1) {
    const above = new Map();
    for (const number of [...level.keys()].sort((a, b) => a - b)) {
      const parent = Math.floor(number / 2);
      if (above.has(parent)) continue;
      const other = number % 2 ? number - 1 : number + 1;
      const own = level.get(number);
      if (other >= width) {
        above.set(parent, own);
        continue;
      }
      const beside = level.get(other) ?? path[used++];
      need(beside, "seal", "the proof is too short");
      const [left, right] = number % 2 ? [beside, own] : [own, beside];
      above.set(parent, await sha256(join(Uint8Array.of(1), left, right)));
    }
    level = above;
    width = Math.ceil(width / 2);
  }
  need(used === path.length, "seal", "the proof is too long");
  return level.get(0);
}

/**
 * Check a proof of a byte range. `trust` is {head} (64 hexadecimal digits, pinned) or {spki} (a public key in DER), or both.
 *
 * Resolves to {head, tokens, signature}: tokens of blocks that follow each other without a gap, in order, with `leaf`. Rejects
 * with a Harmony4Error; what resolves is proven.
 */
export async function checkProof(document, track, trust) {
  need(document && typeof document === "object" && document.format === "h4mk proof 1", "format", "this is no proof");
  need(Object.keys(document).every((key) => MEMBERS.includes(key)), "critical", "the proof has an unknown member");
  const { blocks, duration, leaves, tokens: texts, signatures } = document;
  const sound = Number.isSafeInteger(blocks) && blocks > 0 && blocks <= MOST && [leaves, texts, signatures, document.path].every(Array.isArray) && leaves.length === texts.length && leaves.length > 0;
  need(sound, "format", "the proof is not as it must be");
  need(leaves.every((leaf, at) => Number.isSafeInteger(leaf) && leaf >= 0 && leaf < blocks && (at === 0 || leaf > leaves[at - 1])), "order", "the leaves of the proof are not in order");
  const records = texts.map((text) => {
    const bytes = unhex(text);
    need(bytes.length === TOKN_SIZE || bytes.length === 96, "format", "a token has a wrong length");
    return join(bytes, new Uint8Array(TOKN_SIZE - bytes.length));
  });
  const root = await rootOf(blocks, leaves, await Promise.all(records.map(leafHash)), document.path.map(unhex));
  const head = headBytes({ blocks, duration: BigInt(duration), root }, unhex(document.trak), document.meta ? unhex(document.meta) : new Uint8Array(32));
  const digest = await sha256(head);
  if (trust.head) need(hex(digest) === trust.head, "seal", "the proof is one of another container");
  const signature = trust.spki ? await signed(head, signatures, Boolean(document.meta), trust.spki) : null;

  const tokens = records.map((record, at) => ({ ...parseToken(record, `block of leaf ${leaves[at]}`), leaf: leaves[at] }));
  for (const [at, token] of tokens.entries()) {
    const last = tokens[at - 1];
    const follows = !last || (token.index === last.index + 1 && token.offset === last.offset + last.size && token.pts === last.end);
    need(token.track === track && follows, "order", `block ${token.index} of the proof does not follow the one before`);
  }
  return { head: hex(digest), tokens, signature };
}

async function signed(head, signatures, final, spki) {
  const print = await sha256(spki);
  need(signatures.length, "seal", "the container is not signed");
  for (const one of signatures) {
    if (one.key !== hex(print.subarray(0, 4))) continue;
    const sign = new Uint8Array(144);
    sign[0] = final ? 1 : 2;
    sign[1] = 1;
    view(sign).setBigUint64(8, BigInt(one.revision));
    if (one.subject) sign.set(unhex(one.subject), 16);
    sign.set(print, 48);
    sign.set(unhex(one.value), 80);
    return verifySign(head, sign, spki);
  }
  throw new Harmony4Error("seal", `the container is signed by another key (${signatures.map((one) => one.key).join(", ")})`);
}
