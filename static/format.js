// Numbers for people, and times from people. All times are microseconds.

/** "0:03.5", "1:02:03" — as many digits behind the point as it takes, at most `digits`. */
export function clock(us, digits = 3) {
  const unit = 10 ** (6 - digits);
  let rest = Math.round(Number(us) / unit);
  const fraction = String(rest % 10 ** digits).padStart(digits, "0").replace(/0+$/, "");
  rest = Math.floor(rest / 10 ** digits);
  const seconds = String(rest % 60).padStart(2, "0");
  const minutes = Math.floor(rest / 60) % 60;
  const hours = Math.floor(rest / 3600);
  const front = hours ? `${hours}:${String(minutes).padStart(2, "0")}` : String(minutes);
  return `${front}:${seconds}${fraction ? "." + fraction : ""}`;
}

export function bytes(count) {
  let value = Number(count);
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit ? `${value.toPrecision(3)} ${units[unit]}` : `${value} B`;
}

export function count(number, one, many = one + "s") {
  return `${Number(number).toLocaleString("en")} ${Number(number) === 1 ? one : many}`;
}

/** What the server found when it read all of a container. */
export function scrubbed({ ok, at, problem }) {
  const when = new Date(at * 1000).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });
  return `${ok ? "verified" : `damaged: ${problem}`}; read by the server ${when}`;
}

/** A message of the server's, or of ours, as a sentence. */
export function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

const LATEST = Number.MAX_SAFE_INTEGER; // µs: beyond it a time is not told from its neighbours
const LONGEST = 64; // characters of a time

/**
 * What somebody typed as microseconds: "3500000", "3.5s", "0:03.5", "1:02:03". Digits beyond the microsecond are cut off. Throws a RangeError
 * that says what is wrong.
 */
export function parseTime(text) {
  const trimmed = text.trim();
  const wrong = "Type microseconds (3500000), seconds (3.5s) or a time (1:02:03.5).";
  if (trimmed.length > LONGEST) throw new RangeError(wrong);
  if (/^\d+$/.test(trimmed)) return whole(BigInt(trimmed));
  const parts = /^(\d+)(?:\.(\d+))?\s*s$/.exec(trimmed);
  if (parts) return micros(parts[1], parts[2]);
  const found = /^(?:(\d+):)?(\d+):(\d{1,2})(?:\.(\d+))?$/.exec(trimmed);
  if (!found) throw new RangeError(wrong);
  const [, hours = 0, minutes, seconds, fraction] = found;
  return micros(BigInt(hours) * 3600n + BigInt(minutes) * 60n + BigInt(seconds), fraction);
}

/** The microseconds of a link's "#t=3.5", in seconds; throws as `parseTime` does. */
export function parseLink(text) {
  const parts = /^(\d+)(?:\.(\d+))?$/.exec(text);
  if (!parts || text.length > LONGEST) throw new RangeError("The time in the address is not valid: #t= takes seconds, as in #t=3.5.");
  return micros(parts[1], parts[2]);
}

/** Microseconds as seconds for a link, to the last digit: "3.5". */
export function linkTime(us) {
  const digits = String(us).padStart(7, "0");
  return `${digits.slice(0, -6)}.${digits.slice(-6)}`.replace(/\.?0+$/, "");
}

const micros = (seconds, fraction = "") => whole(BigInt(seconds) * 1000000n + BigInt(fraction.slice(0, 6).padEnd(6, "0")));

function whole(us) {
  if (us > LATEST) throw new RangeError(`There is no time that late: the last one is ${LATEST} µs.`);
  return Number(us);
}
