// A resumable upload (tus 1.0): bytes that have arrived stay on the server, so a lost connection costs no more than what was
// on its way. Where an upload goes on is kept in this browser, so that the same file can be chosen again after a reload.

import { Problem, jobUrl } from "./api.js";
import * as storage from "./storage.js";

const VERSION = { "Tus-Resumable": "1.0.0" };
const FIRST = 500; // ms until the first try to go on, then twice as long, up to
const LONGEST = 15_000;
const PREFIX = "harmony4-upload:";
const TAB = "harmony4-tab";
const PASSING = [0, 408, 423, 425, 429, 500, 502, 503, 504, 507];
const WAITS = {
  423: "Another page sends this file: going on when it is done",
  429: "The server takes no more at once: going on when it does",
  503: "The server is busy: going on when it is not",
  507: "The server's disk is full: going on when there is room",
};
const OLD = 86_400_000; // ms: unfinished uploads are kept so long, unless the server says otherwise
const ALIVE = 2000; // ms between two signs of life
const SILENT = 20_000; // ms without one: the other tab is gone
let tab = null;
const ENDS = 65_536; // bytes at either end of a file by which it is known again
const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

/**
 * What was not sent to its end before a page was left: `[{key, url, file}]`, the file's name; not what is too old to go on, and not
 * what another tab is sending, as far as that can be known at once.
 */
export function unfinished() {
  const found = storage.keys(PREFIX).map((key) => ({ key, ...kept(key) }));
  for (const { key, begun } of found) if (!(Date.now() - begun < OLD)) storage.remove(key);
  // A tab that was duplicated has the name of the other one: where there are locks, they say who sends (`nobodySends`).
  const silent = ({ tab, alive }) => Boolean(navigator.locks) || tab === tabName() || Date.now() - alive > SILENT;
  const left = (one) => Date.now() - one.begun < OLD && silent(one);
  return found.filter(left).sort((a, b) => a.begun - b.begun);
}

const kept = (key) => storage.read(key) ?? {};

/** Wait until no tab sends it; resolves to whether there is something left of it. */
export async function nobodySends({ key, url }) {
  await navigator.locks?.request(key, () => null).catch(() => null);
  return kept(key).url === url;
}

/** Give one of them up, here and on the server; not if a tab has gone on with it meanwhile. */
export async function giveUp(one) {
  const give = (lock) => lock && forget(one);
  if (navigator.locks) await navigator.locks.request(one.key, { ifAvailable: true }, give).catch(() => give(true));
  else give(true);
}

function forget({ key, url }) {
  storage.remove(key);
  fetch(url, { method: "DELETE", headers: VERSION }).catch(() => null);
}

/** A name of this tab, the same after a reload. */
const tabName = () => (tab ??= storage.get(TAB, "sessionStorage") ?? named());

function named() {
  const name = Math.random().toString(36).slice(2);
  storage.set(TAB, name, "sessionStorage");
  return name;
}

export class Transfer {
  #request = null;
  #stop = new AbortController();
  #begun = 0;
  #print = null;
  #told = 0;
  #wake = () => {};

  /** `progress(bytes)` says how many have gone out, `waits(text)` that something is in the way (null: no longer). */
  constructor(file, name, { replace = false, progress, waits }) {
    Object.assign(this, { file, name, replace, progress, waits });
    this.key = `${PREFIX}${[name, file.name, file.size, file.lastModified].join(" ")}`;
    this.url = null;
  }

  /** Send all of it; resolves to the id of the job that makes a container of it. Rejects with a Problem. */
  async send() {
    let over;
    const sent = new Promise((resolve) => (over = resolve));
    navigator.locks?.request(this.key, () => sent).catch(() => null); // held while this tab sends, or as soon as another does not
    try {
      return await this.#send();
    } finally {
      over();
    }
  }

  async #send() {
    let wait = FIRST;
    let before = -1;
    for (;;) {
      try {
        const { offset, made } = await this.#unless(this.#begin());
        if (offset > before) wait = FIRST; // it goes on, however slowly
        before = offset;
        this.waits(null);
        const job = made ?? (await this.#patch(offset));
        storage.remove(this.key);
        return job;
      } catch (error) {
        if (this.#stop.signal.aborted) throw new Problem({ detail: "cancelled" });
        if (error.status === 0) await this.#readable();
        if (error.status === 404 || error.status === 410) {
          if (!this.url) throw error;
          this.url = null; // it has expired: from the beginning
          storage.remove(this.key);
        } else if (error.status === 409 && error.code === "offset") before = -1; // asked again, it says where it stands
        else if (!PASSING.includes(error.status) || (!this.url && ![0, 429, 503].includes(error.status))) throw error;
        this.waits(WAITS[error.status] ?? "The connection was lost: going on as soon as it is there");
      }
      if (this.url) this.#keep();
      const waits = new AbortController();
      await new Promise((resolve) => {
        this.#wake = resolve;
        addEventListener("online", resolve, { signal: waits.signal });
        setTimeout(resolve, wait);
      });
      waits.abort();
      if (this.#stop.signal.aborted) throw new Problem({ detail: "cancelled" });
      wait = Math.min(LONGEST, wait * 2);
    }
  }

  /** Where nothing was answered, it may be the file that is another one now: it can never be read again. Throws a Problem then. */
  async #readable() {
    try {
      await this.file.slice(0, 1).arrayBuffer();
    } catch {
      storage.remove(this.key);
      this.#drop();
      throw new Problem({ type: "changed", detail: "the file has been changed or moved since it was chosen: choose it again" });
    }
  }

  /** Stop, and let the server forget what it has. Resolves to the job's facts if it is too late: the container is there. */
  cancel() {
    this.#stop.abort();
    storage.remove(this.key);
    this.#request?.abort();
    this.#wake();
    return this.#drop();
  }

  /** As `cancel`. All may have arrived before the connection was cut: then it is the job that there is to be cancelled. */
  async #drop() {
    const { url } = this;
    try {
      for (let tries = 0; url && tries < 3; tries++) {
        const id = (await fetch(url, { method: "HEAD", headers: VERSION })).headers.get("Harmony4-Job");
        if (id) {
          const job = await (await fetch(jobUrl(id), { method: "DELETE" })).json();
          return job.state === "done" ? job : null;
        }
        if ((await fetch(url, { method: "DELETE", headers: VERSION })).status !== 423) break;
      }
    } catch {
      // The server is away: it forgets what nobody goes on with.
    }
    return null;
  }

  /** What `done` resolves to; rejects as soon as it is cancelled. */
  #unless(done) {
    const { signal } = this.#stop;
    return Promise.race([done, new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }))]);
  }

  /** Where to go on: a new upload's 0, or what the server has of an earlier one; `made` is the job, if it has all. */
  async #begin() {
    this.#print ??= await this.#known();
    if (!this.url && !this.replace) this.url = this.#same();
    if (this.url) {
      const answer = await this.#ask("HEAD", this.url, {}, this.#stop.signal);
      this.#stop.signal.throwIfAborted();
      const offset = Number(answer.headers.get("Upload-Offset"));
      this.#begun = kept(this.key).begun ?? Date.now();
      this.#keep();
      this.progress(offset);
      return { offset, made: answer.headers.get("Harmony4-Job") };
    }
    const metadata = Object.entries({ name: this.name, filename: this.file.name }).map(([key, value]) => `${key} ${base64(value)}`);
    const headers = { "Upload-Length": this.file.size, "Upload-Metadata": metadata.join(","), ...(this.replace && { "If-Match": "*" }) };
    // Not stopped on its way: only the answer says what the server is to forget.
    const answer = await this.#ask("POST", "uploads/", headers);
    // The server's paths begin at its root, this page may lie below a prefix.
    this.url = `uploads/${answer.headers.get("Location").split("/").pop()}`;
    if (this.#stop.signal.aborted) {
      this.#drop();
      throw this.#stop.signal.reason;
    }
    this.#begun = Date.now();
    this.#keep();
    return { offset: 0, made: answer.headers.get("Harmony4-Job") }; // an empty file is all there
  }

  /** The SHA-256 of both ends of the file, in hexadecimal digits; "" where the browser has none (pages without TLS). */
  async #known() {
    if (!globalThis.crypto?.subtle) return "";
    try {
      const ends = await new Blob([this.file.slice(0, ENDS), this.file.slice(-ENDS)]).arrayBuffer();
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", ends));
      return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    } catch {
      throw new Problem({ detail: "the file cannot be read" }, 0); // #readable says why
    }
  }

  /** Where an earlier upload of this file goes on; one of another file with its name, size and time is given up. */
  #same() {
    const { url = null, print } = kept(this.key);
    if (!url || !print || !this.#print || print === this.#print) return url;
    forget({ key: this.key, url });
    return null;
  }

  /** Note where to go on, and that somebody does. */
  #keep() {
    this.#told = Date.now();
    // A browser that keeps nothing cannot go on after a reload; everything else works.
    storage.set(this.key, JSON.stringify({ url: this.url, print: this.#print, file: this.file.name, begun: this.#begun, tab: tabName(), alive: this.#told }));
  }

  async #ask(method, url, headers = {}, signal = null) {
    let answer;
    try {
      answer = await fetch(url, { method, headers: { ...VERSION, ...headers }, signal });
    } catch {
      throw new Problem({ detail: "the connection was lost" }, 0);
    }
    if (!answer.ok) throw new Problem(await answer.json().catch(() => null), answer.status);
    return answer;
  }

  /** The rest of the file in one request; fetch does not say how much of a body has gone out. */
  #patch(offset) {
    return new Promise((resolve, reject) => {
      const request = (this.#request = new XMLHttpRequest());
      request.open("PATCH", this.url);
      const headers = { ...VERSION, "Upload-Offset": offset, "Content-Type": "application/offset+octet-stream" };
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.responseType = "json";
      request.upload.addEventListener("progress", (event) => {
        this.progress(offset + event.loaded);
        if (Date.now() - this.#told > ALIVE) this.#keep();
      });
      request.addEventListener("load", () => {
        if (request.status >= 300) reject(new Problem(request.response, request.status));
        else resolve(request.getResponseHeader("Harmony4-Job"));
      });
      for (const event of ["error", "abort"]) request.addEventListener(event, () => reject(new Problem({ detail: "the connection was lost" }, 0)));
      request.send(this.file.slice(offset));
    });
  }
}
