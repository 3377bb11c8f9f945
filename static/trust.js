// Signatures (H4MK 13), and whom to believe (22.6). No clock here: whoever gives keys an end says what time it is.

import { CHUNK, Harmony4Error, MIB, TAIL_SIZE, WIDEST, chunkHeader, equal, hex, need, payloadOf, unhex, view } from "./h4mk.js";
import { join, sha256, subtle } from "./masking.js";

const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n; // q of P-256
const SIGN = 144; // bytes before the certificates
const SIGNED = 80;
export const MOST_SIGNATURES = 16; // that are looked at
const CURVE = { name: "ECDSA", namedCurve: "P-256" };
const SPKI = "3059301306072a8648ce3d020106082a8648ce3d03010703420004"; // how a key of P-256 begins in DER
const NOT_TRUSTED = "the signature is by a key that is not trusted";

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
  subtle("check");
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

/** The payloads of the first final SIGN chunks behind VERI (H4MK 14.2): 16 at most, and those in the first MiB. */
export async function finalSigns(source, tail) {
  const start = tail.veri + CHUNK + 32;
  const stop = source.length - TAIL_SIZE;
  const bytes = await source.read(start, Math.min(stop, start + MIB));
  const found = [];
  for (let at = 0; at + CHUNK <= bytes.length && found.length < MOST_SIGNATURES; ) {
    const { tag, size } = chunkHeader(bytes, at);
    need(tag === "SIGN" || (tag === "time" && found.length), "order", "something else stands where signatures belong");
    need(size <= stop - start - at - CHUNK, "truncated", `${tag} reaches into TAIL`);
    if (at + CHUNK + size > bytes.length) break;
    if (tag === "SIGN") found.push(payloadOf(bytes, at, tag, size));
    at += CHUNK + size;
  }
  return found;
}

/** The DER bytes of a public key on P-256, from PEM or DER. */
function spkiOf(key) {
  let bytes = key;
  if (typeof key === "string") {
    const found = /^\s*-----BEGIN PUBLIC KEY-----\s+([A-Za-z0-9+/=\s]{1,400}?)\s*-----END PUBLIC KEY-----\s*$/.exec(key);
    try {
      bytes = Uint8Array.from(atob(found[1].replace(/\s/g, "")), (letter) => letter.charCodeAt(0));
    } catch {
      bytes = null;
    }
  }
  const good = bytes instanceof Uint8Array && bytes.length === 91 && hex(bytes.subarray(0, 27)) === SPKI;
  need(good, "usage", "this is no public key: it must be one of P-256, such as harmony4 keygen --signing writes (PUBLIC KEY)");
  return bytes.slice();
}

/** 32 bytes, from these or from 64 hexadecimal digits. */
function hash(value, what) {
  const bytes = typeof value === "string" && /^[0-9a-f]{64}$/i.test(value) ? unhex(value) : value;
  need(bytes instanceof Uint8Array && bytes.length === 32, "usage", `${what} must be a SHA-256: 64 hexadecimal digits, or 32 bytes`);
  return hex(bytes);
}

/**
 * What must hold of a container before it is believed: all that is given here. Keys alone accept every container that they ever
 * signed, old editions too.
 */
export class Trust {
  #keys; // [{spki, since, until}]
  #revoked;
  #named = null;

  /**
   * @param {object} wanted at least `keys` or `head`
   * @param {(string|Uint8Array|{key: string|Uint8Array, since?: number, until?: number})[]} [wanted.keys] public keys, PEM or DER, and
   *   when they may be believed (seconds since 1970): a signature by one of them is needed
   * @param {string|Uint8Array} [wanted.head] the one container that is meant, by its head
   * @param {string} [wanted.subject] what the signature must be for
   * @param {number|bigint} [wanted.revision] and its lowest edition. 0
   * @param {(string|Uint8Array)[]} [wanted.revoked] fingerprints of keys that are not believed any more: SHA-256 of the DER
   * @param {number} [wanted.now] seconds since 1970; needed where a key has a bound
   * @throws {Harmony4Error} `usage`: nothing that could be checked, or no public key of P-256
   */
  constructor({ keys = [], head = null, subject = null, revision = 0, revoked = [], now = null } = {}) {
    need(keys.length || head !== null, "usage", "trust needs a key, or a head to compare with");
    need(subject === null || keys.length, "usage", "a subject is named by a signature, and there is no key to check one with");
    need(typeof revision === "bigint" || Number.isSafeInteger(revision), "usage", "a revision is an integer");
    need(revision >= 0 && revision <= WIDEST, "usage", "a revision is out of range");
    need(!revision || subject !== null, "usage", "a revision counts the editions of a subject, and there is none");
    need(subject === null || (typeof subject === "string" && subject && !/[\ud800-\udfff]/u.test(subject)), "usage", "a subject must be text, and not empty");
    this.#keys = keys.map((one) => {
      const { key, since = null, until = null } = typeof one === "string" || one instanceof Uint8Array ? { key: one } : one;
      need(now !== null || (since === null && until === null), "usage", "a key has a bound in time, and nobody says what time it is");
      return { spki: spkiOf(key), since, until };
    });
    this.#revoked = new Set(revoked.map((one) => hash(one, "what is revoked")));
    /** 64 hexadecimal digits, or null. */
    this.head = head === null ? null : hash(head, "a head");
    this.subject = subject;
    this.revision = revision;
    this.now = now;
  }

  /** Whether a signature is asked for. */
  get signed() {
    return this.#keys.length > 0;
  }

  /** The keys that are trusted, by fingerprint: `[fingerprint in hex, {spki, since, until}]`. */
  async keys() {
    subtle("check");
    this.#named ??= Promise.all(this.#keys.map(async (one) => [hex(await sha256(one.spki)), one])).then((all) => new Map(all));
    return [...(await this.#named)];
  }

  /** Throws `seal` where another container is pinned than the one with this HEAD. */
  async checkHead(head) {
    subtle("check");
    const found = hex(await sha256(head));
    need(this.head === null || found === this.head, "seal", `this is not the container that is pinned: its head is ${found}`);
  }

  /**
   * Throws `seal` unless all that is wanted holds of the container with this HEAD (128 bytes).
   *
   * @param {Uint8Array} head
   * @param {Uint8Array[]} signatures payloads of SIGN
   * @returns {Promise<object|null>} `{key, kind, revision, subject}` of the first one that is accepted, `key` and `subject` in hex;
   *   null where no keys are given
   */
  async check(head, signatures) {
    await this.checkHead(head);
    if (!this.signed) return null;
    let reason = new Harmony4Error("seal", "a required signature is missing");
    for (const [number, sign] of signatures.entries()) {
      try {
        return await this.#accept(head, sign);
      } catch (error) {
        if (error.code !== "seal") throw error;
        if (!number || error.message !== NOT_TRUSTED) reason = error;
      }
    }
    throw reason;
  }

  async #accept(head, sign) {
    const name = hex(sign.subarray(48, SIGNED));
    const known = new Map(await this.keys()).get(name);
    need(known, "seal", NOT_TRUSTED);
    const found = await verifySign(head, sign, known.spki);
    need(!this.#revoked.has(name), "seal", "the signature is by a key that was revoked");
    const early = known.since !== null && this.now < known.since;
    need(!early && (known.until === null || this.now <= known.until), "seal", "the signature is by a key that is not valid now");
    if (this.subject !== null) {
      const subject = hex(await sha256(new TextEncoder().encode(this.subject)));
      need(found.subject === subject, "seal", "the signature is for another subject");
      need(found.revision >= this.revision, "seal", `the signature is of an old edition: ${found.revision}, and ${this.revision} is wanted`);
    }
    return { key: name, ...found };
  }
}
