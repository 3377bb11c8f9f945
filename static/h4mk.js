// The bytes of an H4MK container (docs/H4MK.md): chunks, canonical JSON, tokens, the range map. Nothing here reads a file
// or knows a key. Integers are Numbers up to 2^53 - 1 and BigInts beyond, so equal values have one form.

/**
 * Every refusal of these modules. `code` is a class of H4MK 24.2 (format, truncated, version, checksum, order, critical,
 * json, seal, limit), or key, locked, not-found, usage, source, source-changed, unsupported.
 */
export class Harmony4Error extends Error {
  constructor(code, message) {
    super(message);
    this.name = "Harmony4Error";
    this.code = code;
  }
}

/** Throw a Harmony4Error unless `condition` holds. */
export function need(condition, code, message) {
  if (!condition) throw new Harmony4Error(code, message);
}

export const MIB = 2 ** 20;
export const CHUNK = 12; // bytes of a chunk's header
export const TAIL_SIZE = 140; // with its header
export const TOKN_SIZE = 128;
export const KEYS_SIZE = 520;
export const FIRST_READ = 65536;
export const TABLE_LIMIT = 8 * MIB;
export const ENTRY = 40; // bytes of an entry of RMAP
export const MAP_HEAD = 16;
export const KEY = 1;
export const MASKED = 2;
export const LAST = 4;
export const HEADER = 8;
export const WIDEST = 2n ** 63n - 1n;
const NONE = 2n ** 64n - 1n;
export const MOST_BLOCKS = 2 ** 26 - 1;

export const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
export const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
export const unhex = (text) => Uint8Array.from(text.match(/../g) ?? [], (digits) => parseInt(digits, 16));
export const equal = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);
const blank = (bytes) => bytes.every((byte) => byte === 0);
const ascii = (bytes) => String.fromCharCode(...bytes);

/** A u64 of this format. */
function u64(data, at) {
  const high = data.getUint32(at);
  if (high < 2 ** 21) return high * 2 ** 32 + data.getUint32(at + 4);
  const value = data.getBigUint64(at);
  need(value <= WIDEST, "format", "an integer is 2^63 or more");
  return value;
}

const noneOr64 = (data, at) => (data.getBigUint64(at) === NONE ? null : u64(data, at));

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** CRC-32 as in zlib (H4MK 3.1). */
export function crc32(bytes) {
  let value = 0xffffffff;
  for (let at = 0; at < bytes.length; at += 1) value = (value >>> 8) ^ CRC[(value ^ bytes[at]) & 255];
  return (value ^ 0xffffffff) >>> 0;
}

/** The header of the chunk at `at` in `bytes` (H4MK 3.1): its tag, size and CRC. */
export function chunkHeader(bytes, at = 0) {
  need(bytes.length - at >= CHUNK, "truncated", "the file ends inside a chunk's header");
  const data = view(bytes);
  return { tag: ascii(bytes.subarray(at, at + 4)), size: data.getUint32(at + 4), crc: data.getUint32(at + 8) };
}

/** The payload of a chunk, its tag, size and CRC checked; `code` is for another size. */
export function payloadOf(bytes, at, tag, size, code = "order") {
  const found = chunkHeader(bytes, at);
  need(found.tag === tag, "order", `${tag} is not where it belongs`);
  need(found.size === size, code, `${tag} has another size than it must`);
  need(bytes.length - at >= CHUNK + size, "truncated", `the file ends inside ${tag}`);
  const payload = bytes.subarray(at + CHUNK, at + CHUNK + size);
  need(crc32(payload) === found.crc, "checksum", `${tag} fails its CRC`);
  return payload;
}

/** TAIL from the last 140 bytes of a file of `length` bytes (H4MK 14.1); null if they are none. */
export function parseTail(bytes, length) {
  let payload;
  try {
    payload = payloadOf(bytes, 0, "TAIL", TAIL_SIZE - CHUNK);
    const data = view(payload);
    const [stated, index, meta, merk, veri, blocks, duration] = [0, 8, 16, 24, 32, 40, 48].map((at) => u64(data, at));
    const tail = { index, meta, merk, veri, blocks, duration, tracks: data.getUint16(56), root: payload.slice(64, 96), head: payload.slice(96) };
    const room = 8 < index && index < meta && meta + CHUNK <= merk && merk + CHUNK + 8 <= veri && veri + CHUNK + 32 <= length - TAIL_SIZE;
    return stated === length && room && data.getUint16(58) === 0 ? tail : null;
  } catch (error) {
    if (error instanceof Harmony4Error) return null;
    throw error;
  }
}

/** HEAD (H4MK 12.1), 128 bytes, from TAIL and the digests of TRAK and META. */
export function headBytes(tail, trak, meta) {
  const bytes = new Uint8Array(128);
  bytes.set(new TextEncoder().encode("H4MK head v1"));
  view(bytes).setBigUint64(16, BigInt(tail.blocks));
  view(bytes).setBigUint64(24, BigInt(tail.duration));
  bytes.set(tail.root, 32);
  bytes.set(trak, 64);
  bytes.set(meta, 96);
  return bytes;
}

/** The used slots of KEYS (H4MK 7): key ids in hex, and the wrapped keys. */
export function parseKeys(payload) {
  const count = payload[0];
  need(count >= 1 && count <= 8 && blank(payload.subarray(1, 8)), "format", "KEYS has a wrong head");
  const all = Array.from({ length: 8 }, (_, number) => payload.subarray(8 + 64 * number, 72 + 64 * number));
  const slots = all.slice(0, count).map((slot) => {
    need(blank(slot.subarray(56)), "format", "KEYS has something in its padding");
    return { id: hex(slot.subarray(0, 16)), wrapped: slot.slice(16, 56) };
  });
  need(all.slice(count).every(blank), "format", "KEYS has something in an unused slot");
  need(slots.every((slot, number) => !number || slots[number - 1].id < slot.id), "order", "KEYS is not sorted");
  return slots;
}

/** A token (H4MK 6.1) and the rules it keeps by itself (6.2). `where` names the block in errors. */
export function parseToken(bytes, where) {
  const data = view(bytes);
  const [track, flags, size] = [data.getUint16(0), data.getUint16(2), data.getUint32(4)];
  need(flags < 16, "critical", `${where} has an unknown flag`);
  need(size >= 1 && size <= 16 * MIB, "limit", `${where} has an impossible size`);
  const [index, pts, end, offset, minPts] = [8, 16, 24, 32, 56].map((at) => u64(data, at));
  need(index < MOST_BLOCKS, "limit", `${where} has an impossible number`);
  need(end >= pts, "order", `${where} ends before it begins`);
  const [pair, own] = [[40, 48].map((at) => data.getBigUint64(at)), [BigInt(pts), BigInt(offset)]];
  if (flags & KEY) need(!(flags & HEADER) && pair[0] === own[0] && pair[1] === own[1], "order", `${where} is not its own keyframe`);
  need((pair[0] === NONE) === (pair[1] === NONE), "format", `${where} has half a keyframe`);
  const [keyPts, keyOffset] = [noneOr64(data, 40), noneOr64(data, 48)];
  if (keyPts !== null) need(keyPts <= pts && (flags & KEY || keyOffset < offset), "order", `${where} has a keyframe behind it`);
  if (flags & HEADER) need(pts === 0 && keyPts === null, "order", `${where} is a header with a time`);
  const [digest, tag] = [bytes.slice(64, 96), bytes.slice(96, 128)];
  need(flags & MASKED || blank(tag), "format", `${where} is plain and has a tag`);
  return { track, flags, size, index, pts, end, offset, keyPts, keyOffset, minPts, digest, tag };
}

/** The head of RMAP (H4MK 9): how many entries a chunk of `size` bytes has. */
export function mapCount(payload, size, track) {
  const data = view(payload);
  const count = u64(data, 8);
  need(data.getUint16(0) === track, "order", `RMAP of track ${track} is one of another`);
  need(data.getUint16(2) === ENTRY && data.getUint32(4) === 0 && count <= MOST_BLOCKS && size === MAP_HEAD + ENTRY * count, "format", `RMAP of track ${track} has a wrong head`);
  return count;
}

/** An entry of RMAP (H4MK 9). */
export function mapEntry(data, at) {
  need(data.getUint16(at + 38) === 0, "format", "RMAP has something in its padding");
  return {
    pts: u64(data, at), offset: u64(data, at + 8), position: u64(data, at + 16), leaf: u64(data, at + 24),
    size: data.getUint32(at + 32), flags: data.getUint16(at + 36),
  };
}

// ---- JSON (H4MK 4): a part of a schema takes a value and gives it back with wide integers as BigInts -------------------

const known = (condition, path) => need(condition, "json", `${path} is not as its schema asks`);

export function integer(least = 0, most = WIDEST) {
  return (value, path) => {
    let number = value;
    if (typeof value === "string" && /^-?[1-9][0-9]{15,18}$/.test(value)) {
      number = BigInt(value);
      known(number > Number.MAX_SAFE_INTEGER || number < Number.MIN_SAFE_INTEGER, path);
    } else known(typeof value === "number", path);
    known(number >= least && number <= most, path);
    return number;
  };
}

export const text = (pattern) => (value, path) => {
  known(typeof value === "string" && pattern.test(value), path);
  return value;
};
export const choice = (...choices) => (value, path) => {
  need(choices.includes(value), "critical", `${path} is unknown`);
  return value;
};
const flag = (value, path) => {
  known(typeof value === "boolean", path);
  return value;
};
export const list = (part, least = 0) => (value, path) => {
  known(Array.isArray(value) && value.length >= least, path);
  return value.map((item, number) => part(item, `${path}[${number}]`));
};
const isObject = (value) => typeof value === "object" && !Array.isArray(value); // null does not occur
export const record = (parts) => (value, path) => {
  known(isObject(value), path);
  const names = Object.keys(parts).map((key) => key.replace("?", ""));
  need(Object.keys(value).every((key) => names.includes(key)), "critical", `${path} has an unknown key`);
  const found = {};
  for (const [key, part] of Object.entries(parts)) {
    const name = key.replace("?", "");
    if (Object.hasOwn(value, name)) found[name] = part(value[name], `${path}.${name}`);
    else known(key !== name, `${path}.${name}`);
  }
  return found;
};
const args = (value, path) => {
  known(isObject(value) && Object.values(value).every((item) => typeof item !== "object"), path);
  return value;
};

const some = text(/./s);
export const digest = text(/^[0-9a-f]{64}$/);
const ticks = integer(-WIDEST);
const blocks = integer(0, MOST_BLOCKS);
const number16 = integer(0, 65535);

export const TRAK = record({
  cut: record({ block: integer(1, 16 * MIB), order: choice("end", "arrival"), rule: choice(1) }),
  "mask?": record({ commit: digest, mode: choice("deterministic", "random") }),
  origin: text(/^(?:0|-?[1-9][0-9]{0,18})$/),
  tracks: list(
    record({
      codec: text(/^/), kind: choice("video", "audio", "text", "tokens", "data"), "lang?": some, masked: flag, media_type: some, "name?": some,
      self_framing: flag, span: integer(), start: record({ den: integer(1), num: integer(1), ticks }), stream: number16,
      timing: choice("demux", "hint"),
    }),
    1,
  ),
});
export const META = record({
  ancillary: list(record({ sha256: digest, size: integer(0, 2 ** 32 - 1), tag: text(/^(?!time)[a-z][A-Za-z]{3}$/) })),
  blocks,
  duration: integer(),
  history: list(record({ args, inputs: list(record({ head: digest, "sign?": digest })), op: text(/^[a-z][a-z0-9-]*$/) })),
  "lost?": list(record({ count: blocks, first: blocks, track: number16 }), 1),
  steps: list(record({ pts: integer(), shift: ticks, track: number16 })),
  structure_only: flag,
  "title?": some,
  tracks: list(record({ blocks, bytes: integer(), keyframes: blocks, rmap: integer(), seek: integer(), sha256: digest }), 1),
});

function depth(bytes) {
  let [now, most, quoted] = [0, 0, false];
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at];
    if (quoted && byte === 0x5c) at += 1;
    else if (byte === 0x22) quoted = !quoted;
    else if (!quoted && (byte === 0x7b || byte === 0x5b)) most = Math.max(most, (now += 1));
    else if (!quoted && (byte === 0x7d || byte === 0x5d)) now -= 1;
  }
  return most;
}

const LONE = /[\ud800-\udfff]/u; // half of a pair

/** RFC 8785, for values of safe integers, strings, booleans, arrays and objects, 8 deep at most. */
export function canonical(value, level = 1) {
  if (typeof value === "object" && value !== null) {
    need(level <= 8, "json", "a JSON value nests too deep");
    if (Array.isArray(value)) return `[${value.map((item) => canonical(item, level + 1)).join(",")}]`;
    const members = Object.keys(value).sort().map((key) => `${canonical(key)}:${canonical(value[key], level + 1)}`);
    return `{${members.join(",")}}`;
  }
  const allowed = typeof value === "string" ? !LONE.test(value) : typeof value === "boolean" || Number.isSafeInteger(value);
  need(allowed, "json", "a JSON chunk holds what it must not");
  return JSON.stringify(value);
}

/** Parse a JSON chunk: canonical form and schema (`TRAK` or `META`) are checked. */
export function parseJSON(payload, schema, name) {
  need(depth(payload) <= 8, "json", `${name} nests too deep`);
  let value;
  let source;
  try {
    source = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(payload);
    value = JSON.parse(source);
  } catch {
    throw new Harmony4Error("json", `${name} is no JSON`);
  }
  need(canonical(value) === source, "json", `${name} is not canonical`);
  return schema(value, name);
}

/** The holes of META (H4MK 10.2): sorted, apart from each other, of tracks that exist. */
export function checkLost(lost, tracks) {
  lost.forEach((hole, number) => {
    const before = lost[number - 1];
    const behind = !before || before.track < hole.track || (before.track === hole.track && before.count > 0 && before.first + before.count < hole.first);
    need(hole.track < tracks && behind, "order", "META.lost is not sorted, or names a track that is not there");
  });
}
