// The server's answers. Paths are relative, so the page works below any prefix.

export class Problem extends Error {
  constructor(body, status) {
    super(body?.detail ?? body?.title ?? `the server answered ${status}`);
    this.code = body?.type?.split(":").pop() ?? "http";
    this.status = status;
    this.expected = body?.expected;
    const { where, expected, found } = body ?? {};
    const seen = [expected && `expected ${expected}`, found && `found ${found}`].filter(Boolean).join(", ");
    /** With all that is known of it, as the list says it. */
    this.whole = `${this.message}${where === undefined ? "" : ` at offset ${where}`}${seen && ` (${seen})`}`;
  }
}

async function json(path, query = {}, options = {}) {
  const filled = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  let response;
  try {
    response = await fetch(filled.length ? `${path}?${new URLSearchParams(filled)}` : path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ detail: "the server cannot be reached" }, 0);
  }
  if (response.status === 204) return null;
  const body = await response.json().catch(() => null);
  if (!response.ok || body === null) throw new Problem(body, response.status);
  return body;
}

export const media = (query, signal) => json("media", query, { signal });
export const info = (name, signal) => json("video/info", { name }, { signal });
/** What tells a container from another one of its name. Those that are not sealed have no head, nor ETags. */
export const version = ({ head, size, tracks }) => head ?? JSON.stringify([size, tracks]);

export const seek = (name, pts, track, v, signal) => json("video/seek", { name, pts, track, v }, { signal });
export const seekMany = (name, times) => json("video/seek", { name, pts: times.join(",") });
export const proof = (name, track, range, signal) => json("video/proof", { name, track, range }, { signal });

/** The times of all keyframes of a track; with `times` (at most 10 000), of those that they lead to. */
export async function keyframes(name, track, v, signal, times) {
  if (times) {
    const asked = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ pts: times }), signal };
    const { results } = await json("video/seek", { name, track, v }, asked);
    return [...new Set(results.filter((one) => !one.error).map((one) => Number(one.pts)))];
  }
  const found = [];
  for (;;) {
    const page = await json("video/keyframes", { name, track, start: found.length, v }, { signal });
    for (const pts of page.pts) found.push(Number(pts));
    if (found.length >= page.count || !page.pts.length) return found;
  }
}

/** Who we are, and the two ways to become somebody else. */
export const session = () => json("session");
export const signIn = (token) => json("session", {}, { method: "POST", headers: { Authorization: `Bearer ${token}` } });
export const signOut = () => json("session", {}, { method: "DELETE" });

/** A part of the page, as it is imported: why it could not be is said in our words. Some browsers remember that until the page is loaded again. */
export const part = (importing) => importing.catch(async () => {
  await session(); // throws where the server is away
  throw new Problem({ type: "part", detail: "a part of the page could not be loaded" }, 0);
});

/** Where the sealed file itself is. */
export const containerUrl = (name) => `container?${new URLSearchParams({ name })}`;

export const jobUrl = (id) => `jobs/${id}`;

/** Milliseconds until it is asked again, where an EventSource would not do so. */
const AGAIN = 5000;

/** What happens to jobs and in the library: events "open", "job", "media", until it is closed. */
class Listening extends EventTarget {
  constructor() {
    super();
    this.open();
  }

  open() {
    const source = (this.source = new EventSource("events"));
    for (const kind of ["open", "job", "media"])
      source.addEventListener(kind, ({ type, data }) => this.dispatchEvent(new MessageEvent(type, { data })));
    // Any answer but 200 is the end for it, that of a proxy too, whose server is only being restarted.
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) this.timer = setTimeout(() => this.open(), AGAIN);
    });
  }

  close() {
    clearTimeout(this.timer);
    this.source.close();
  }
}
export const listen = () => new Listening();

/** An address from the server ("/video/range/…") as one that is relative to this page. */
export const local = (url) => new URL("." + url, document.baseURI).href;
