// Server-sent events by fetch: unlike EventSource's, they are read no faster than somebody wants them, so a stream of a
// long container waits where the reader waits.

import { Problem } from "./api.js";

const FIRST = 500; // ms until the first try to come back, then twice as long, up to
const LONGEST = 10_000;

/** Cuts text, as it comes, into events: {type, id, data}. */
export class EventParser {
  #rest = "";

  *feed(text) {
    const parts = (this.#rest + text).replaceAll("\r\n", "\n").split("\n\n");
    this.#rest = parts.pop();
    for (const part of parts) {
      const event = { type: "message", id: null, data: "" };
      for (const line of part.split("\n")) {
        const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (name === "data") event.data += (event.data ? "\n" : "") + value;
        else if (name === "event") event.type = value;
        else if (name === "id") event.id = value;
      }
      if (event.data || event.id) yield event;
    }
  }
}

/**
 * Read the stream of events at `url` (with a query) to its end; lost connections are taken up behind the last event.
 *
 * `event(type, data)` gets each one, `room()` is awaited before the next is read, `state(text)` says how it goes. Rejects
 * with a Problem where the server has one, or with an AbortError.
 */
export async function follow(url, { signal, event, room = async () => {}, state = () => {} }) {
  let last = null;
  let wait = FIRST;
  for (;;) {
    try {
      const behind = last ? `${url}&${new URLSearchParams({ last_event_id: last })}` : url;
      const response = await fetch(behind, { headers: { Accept: "text/event-stream" }, signal, cache: "no-store" });
      if (response.status === 204) return; // there is nothing behind the last one
      if (!response.ok) throw new Problem(await response.json().catch(() => null), response.status);
      state("live");
      const parser = new EventParser();
      const decoder = new TextDecoder();
      const reader = response.body.getReader();
      try {
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          for (const one of parser.feed(decoder.decode(value, { stream: true }))) {
            wait = FIRST;
            if (one.id) last = one.id;
            if (one.type === "problem") throw new Problem(JSON.parse(one.data), 422);
            event(one.type, JSON.parse(one.data || "null"));
            if (one.type === "done") return;
            await room();
            signal.throwIfAborted();
          }
        }
      } finally {
        reader.cancel().catch(() => null);
      }
    } catch (error) {
      signal.throwIfAborted();
      const passing = !(error instanceof Problem) || [429, 502, 503, 504].includes(error.status);
      if (!passing) throw error;
    }
    state("waiting for the server");
    await pause(wait, signal);
    wait = Math.min(LONGEST, wait * 2);
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => (clearTimeout(timer), reject(signal.reason));
    const timer = setTimeout(() => (signal.removeEventListener("abort", stop), resolve()), ms);
    signal.addEventListener("abort", stop, { once: true });
  });
}
