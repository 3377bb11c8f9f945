// Inclusion proofs and signatures (H4MK 13, 22), by WebCrypto. Everything is given in bytes and nothing is fetched. What does not hold
// is a Harmony4Error: a promise that resolves has proven something.

import { equal, hex, need, view } from "./h4mk.js";
import { join, sha256, subtle } from "./masking.js";

const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n; // q of P-256
const SIGN = 144; // bytes before the certificates
const SIGNED = 80;
const CURVE = { name: "ECDSA", namedCurve: "P-256" };

/**
 * The leaf of a token: SHA-256 over a zero byte and the 128 bytes of TOKN (H4MK 11.1).
 *
 * @param {Uint8Array} token
 * @returns {Promise<Uint8Array>} 32 bytes
 */
export function leafHash(token) {
  return sha256(join(Uint8Array.of(0), token));
}

/**
 * Prove that a leaf stands in a tree (RFC 9162 2.1.3.2). The root must be one that is trusted.
 *
 * @param {Uint8Array} leaf the leaf's hash, 32 bytes
 * @param {number} index its place, from 0
 * @param {number} size leaves in the tree
 * @param {Uint8Array[]} path hashes from the leaf's neighbour upwards
 * @param {Uint8Array} root 32 bytes
 * @throws {Harmony4Error} `usage`: an index that is none; `seal`: it does not stand there, or the path has another length than it must
 */
export async function verifyInclusion(leaf, index, size, path, root) {
  need(Number.isSafeInteger(size) && Number.isSafeInteger(index) && 0 <= index && index < size, "usage", "the leaf is not one of the tree");
  need([leaf, root, ...path].every((one) => one instanceof Uint8Array && one.length === 32), "usage", "a hash has 32 bytes");
  let [from, last, node] = [index, size - 1, leaf];
  for (const other of path) {
    need(last > 0, "seal", "the proof is too long");
    if (from % 2 || from === last) {
      node = await sha256(join(Uint8Array.of(1), other, node));
      while (from % 2 === 0 && from !== 0) {
        from /= 2;
        last = Math.floor(last / 2);
      }
    } else node = await sha256(join(Uint8Array.of(1), node, other));
    from = Math.floor(from / 2);
    last = Math.floor(last / 2);
  }
  need(last === 0, "seal", "the proof is too short");
  need(equal(node, root), "seal", "the leaf does not stand in this tree");
}

const number = (bytes) => BigInt(`0x${hex(bytes)}`);

/**
 * Prove that a signature is one of a key over a HEAD (H4MK 13.2, 13.3).
 *
 * @param {Uint8Array} head HEAD, 128 bytes
 * @param {Uint8Array} sign the payload of SIGN. Certificates behind the signature are not looked into
 * @param {Uint8Array} spki the trusted key: SubjectPublicKeyInfo in DER, P-256
 * @returns {Promise<{kind: "final"|"checkpoint", revision: number|bigint, subject: string|null}>} what was signed; `subject` is its
 *   SHA-256 in hexadecimal. A checkpoint says nothing about what follows it
 * @throws {Harmony4Error} `format`, `critical`: no such signature can be; `seal`: it is not one of this key over this HEAD
 */
export async function verifySign(head, sign, spki) {
  need(head.length === 128 && hex(head.subarray(0, 16)) === hex(join("H4MK head v1", new Uint8Array(4))), "format", "this is no HEAD");
  need(sign.length >= SIGN && sign.subarray(2, 8).every((byte) => byte === 0), "format", "this is no SIGN");
  need([1, 2].includes(sign[0]) && sign[1] === 1, "critical", "SIGN has an unknown kind or algorithm");
  const revision = view(sign).getBigUint64(8);
  need(revision < 2n ** 63n, "format", "an integer is 2^63 or more");
  const meta = head.subarray(96).some((byte) => byte !== 0);
  need(meta === (sign[0] === 1), "seal", "the HEAD is not of the signature's kind");
  need(equal(await sha256(spki), sign.subarray(48, SIGNED)), "seal", "the signature is one of another key");
  const [r, s] = [number(sign.subarray(SIGNED, 112)), number(sign.subarray(112, SIGN))];
  // WebCrypto takes both s and q - s; one signature must have one form.
  need(r > 0n && r < ORDER && s > 0n && s <= ORDER / 2n, "seal", "r or s is out of range");
  const key = await subtle().importKey("spki", spki, CURVE, false, ["verify"]).catch(() => null);
  need(key, "seal", "the key is none of P-256");
  const message = join(head, sign.subarray(0, SIGNED));
  const good = await subtle().verify({ name: "ECDSA", hash: "SHA-256" }, key, sign.slice(SIGNED, SIGN), message);
  need(good, "seal", "the signature does not fit");
  const subject = sign.subarray(16, 48);
  return {
    kind: sign[0] === 1 ? "final" : "checkpoint",
    revision: revision <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(revision) : revision,
    subject: subject.some((byte) => byte !== 0) ? hex(subject) : null,
  };
}
