// The server's answers. Paths are relative, so the page works below any prefix.

export class Problem extends Error {
  constructor(body, status) {
    super(body?.detail ?? body?.title ?? `the server answered ${status}`);
    this.code = body?.type?.split(":").pop() ?? "http";
    this.status = status;
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
export const seek = (name, pts) => json("video/seek", { name, pts });
export const keyframes = (name, version, signal) => json("video/keyframes", { name, v: version }, { signal });

/** Who we are, and the two ways to become somebody else. */
export const session = () => json("session");
export const signIn = (token) => json("session", {}, { method: "POST", headers: { Authorization: `Bearer ${token}` } });
export const signOut = () => json("session", {}, { method: "DELETE" });

/** Where a file is sent to become the container `name`; the answer is a job. */
export const exportUrl = (name) => `video/export?${new URLSearchParams({ name, job: "1" })}`;
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
