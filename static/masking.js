// Keys and the mask (H4MK 21), by WebCrypto. Keys are held as CryptoKeys that cannot be exported; the bytes of a master
// key are not kept.

import { Harmony4Error, hex, need, unhex } from "./h4mk.js";

const encoder = new TextEncoder();
const HMAC = { name: "HMAC", hash: "SHA-256" };

/** Bytes behind each other; strings count as ASCII. */
export function join(...parts) {
  const pieces = parts.map((part) => (typeof part === "string" ? encoder.encode(part) : part));
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** WebCrypto. Throws `unsupported` where the browser gives none: on plain http, but for this machine's own. */
export function subtle(what = "unmask") {
  const found = globalThis.crypto?.subtle;
  need(found, "unsupported", `cannot ${what} here: browsers give their cryptography only to https pages, and to localhost`);
  return found;
}

/** SHA-256, 32 bytes. */
export async function sha256(bytes) {
  return new Uint8Array(await subtle().digest("SHA-256", bytes));
}

/** An HMAC-SHA256 key of these bytes that cannot be exported. */
export function hmacKey(bytes) {
  return subtle().importKey("raw", bytes, HMAC, false, ["sign", "verify"]);
}

/** HMAC-SHA256, 32 bytes. */
export async function hmac(key, bytes) {
  return new Uint8Array(await subtle().sign("HMAC", key, bytes));
}

/** HKDF-Expand of RFC 5869 with SHA-256 under an `hmacKey`, up to 32 bytes: all that H4MK 21.2 derives is one block. */
export async function expand(key, info, length = 32) {
  need(length <= 32, "usage", "one block of HKDF-Expand has 32 bytes");
  return (await hmac(key, join(info, Uint8Array.of(1)))).subarray(0, length);
}

/** XOR with the AES-256-CTR keystream of a block's key (H4MK 21.4); `bytes` begin at byte `offset` of the block. */
export async function xorMask(key, bytes, offset) {
  const skip = offset & 15;
  const counter = new Uint8Array(16);
  new DataView(counter.buffer).setBigUint64(8, BigInt(Math.floor(offset / 16)));
  const whole = skip ? join(new Uint8Array(skip), bytes) : bytes;
  return new Uint8Array(await subtle().decrypt({ name: "AES-CTR", counter, length: 64 }, key, whole)).subarray(skip);
}

/**
 * The 32 bytes of a key as people have it: 64 hexadecimal digits, or a key file's line `h4mk-key-v1:<64 digits>`.
 * White space around it does not count. Throws `key`.
 */
export function parseKey(text) {
  const trimmed = text.trim();
  need(!trimmed.startsWith("h4mk-key-v1-scrypt:"), "key", "this key file is locked by a passphrase, which only the command line can open");
  const found = /^(?:h4mk-key-v1:)?([0-9a-f]{64})$/i.exec(trimmed);
  need(found, "key", "this is no key: it must be 64 hexadecimal digits, or a file that harmony4 keygen made");
  return unhex(found[1]);
}

/** A master key: what opens its slot in KEYS, and nothing else of it. */
export class MasterKey {
  #kek;

  constructor(id, kek) {
    /** The key id, 32 hexadecimal digits. It is public. */
    this.id = id;
    this.#kek = kek;
  }

  /** From 32 bytes or a text as for `parseKey`. Throws `key`, `unsupported`. */
  static async from(secret) {
    const bytes = typeof secret === "string" ? parseKey(secret) : secret;
    need(bytes instanceof Uint8Array && bytes.length === 32, "key", "a key has 32 bytes");
    const master = await hmacKey(bytes);
    const kek = await subtle().importKey("raw", await expand(master, "h4mk/1 kek"), "AES-KW", false, ["unwrapKey"]);
    return new MasterKey(hex(await expand(master, "h4mk/1 id", 16)), kek);
  }

  /** The file key in a slot's 40 bytes. Throws `key` unless `commit` (hexadecimal, from TRAK) is made of it. */
  async unwrap(wrapped, commit) {
    let key;
    try {
      key = await subtle().unwrapKey("raw", wrapped, this.#kek, "AES-KW", HMAC, false, ["sign"]);
    } catch {
      throw new Harmony4Error("key", "the key does not open its slot");
    }
    need(hex(await expand(key, "h4mk/1 commit")) === commit, "key", "the key opens its slot to another file's key");
    return new FileKey(key, await hmacKey(await expand(key, "h4mk/1 mac")));
  }
}

/** The key of one masked file, out of `MasterKey.unwrap`. */
export class FileKey {
  #key;
  #mac;

  constructor(key, mac) {
    this.#key = key;
    this.#mac = mac;
  }

  /** The AES-CTR key of one block. */
  async blockKey(track, index) {
    const number = new DataView(new ArrayBuffer(10));
    number.setUint16(0, track);
    number.setBigUint64(2, BigInt(index));
    const bytes = await expand(this.#key, join("h4mk/1 enc", new Uint8Array(number.buffer)));
    return subtle().importKey("raw", bytes, "AES-CTR", false, ["decrypt"]);
  }

  /**
   * Whether the file has the blocks that were masked, all of them (H4MK 21.6): `trak` is H(TRAK), `count` their number, `root`
   * that of the tree over their tokens, `whole` the 32 bytes in the history.
   */
  async isWhole(trak, count, root, whole) {
    const number = new DataView(new ArrayBuffer(8));
    number.setBigUint64(0, BigInt(count));
    return subtle().verify("HMAC", this.#mac, whole, join("h4mk/1 whole\0", trak, new Uint8Array(number.buffer), root));
  }

  /** Whether a block's tag is one of this key (H4MK 21.5): `trak` is H(TRAK), `token` the 128 bytes of TOKN. */
  async fits(trak, token) {
    const signed = join("h4mk/1 tag\0", trak, token.subarray(0, 96));
    return subtle().verify("HMAC", this.#mac, token.slice(96, 128), signed);
  }
}
