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

/** A message of the server's, or of ours, as a sentence. */
export function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

/** What somebody typed as microseconds: "3500000", "3.5s", "0:03.5", "1:02:03". Null if it is no time. */
export function parseTime(text) {
  const trimmed = text.trim();
  if (/^\d{1,16}$/.test(trimmed)) return Number(trimmed);
  const seconds = /^(\d{1,9}(?:\.\d+)?)\s*s$/.exec(trimmed);
  if (seconds) return Math.round(Number(seconds[1]) * 1e6);
  const parts = /^(?:(\d+):)?(\d+):(\d{1,2}(?:\.\d+)?)$/.exec(trimmed);
  if (!parts) return null;
  return Math.round((Number(parts[1] ?? 0) * 3600 + Number(parts[2]) * 60 + Number(parts[3])) * 1e6);
}
