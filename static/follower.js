// Tokens around the position: a stream that begins before it, runs ahead of it for a while, and waits there.

import { follow } from "./events.js";
import * as session from "./session.js";

const ENOUGH = 200; // tokens ahead are enough, however short the time is that they cover
const AWAY = 1e6; // µs from where a stream broke: there it is tried again, and then twice as far from there, up to
const FAR = 8e6;
const LASTING = [401, 403, 404, 410]; // these will be answered again and again
const MANY = 2000; // however long the time is that is asked for
const MOST = 4000; // tokens that are kept, but for those that are still to come

export class Follower {
  /**
   * `path` and `query` name the stream, `ahead` and `behind` are how many µs around the position it has. `changed()` is called when tokens
   * have come, `state(text)` when the stream's state is another one.
   */
  constructor(path, query, { ahead, behind, position, signal, changed, state }) {
    Object.assign(this, { path, query, ahead, behind, position, signal, changed, state });
    this.tokens = [];
    this.meta = null;
    this.received = 0;
    this.complete = false; // the last token is there
    this.#start();
  }
  #run = null;
  #wake = () => {};
  #far = AWAY;
  #last = null; // the position when it was moved last

  /** The position is another one. */
  move() {
    const now = this.position();
    const { tokens } = this;
    if (this.#last !== null && Math.abs(now - this.#last) > AWAY) this.#far = AWAY; // somebody went there, it is not only played
    this.#last = now;
    if (this.over) return;
    const before = now < this.from || (this.dropped && now < tokens[0].pts);
    const behind = tokens.length && !this.complete && now > tokens.at(-1).end + this.ahead;
    const failed = this.failed !== null && Math.abs(now - this.failed) > this.#far;
    if (failed) this.#far = Math.min(FAR, 2 * this.#far);
    if (before || behind || failed) this.#start();
    else this.#wake();
  }

  async #start() {
    this.#run?.abort();
    const run = (this.#run = new AbortController());
    const signal = AbortSignal.any([run.signal, this.signal]);
    signal.addEventListener("abort", () => this.#wake(), { once: true });
    this.tokens = [];
    this.complete = false;
    this.failed = null; // the position at which the stream broke
    this.dropped = false; // some that were there are no more
    this.from = Math.max(0, Math.floor(this.position() - this.behind));
    const url = `${this.path}?${new URLSearchParams({ ...this.query, from: this.from })}`;
    this.state("connecting");
    try {
      await follow(url, {
        signal,
        state: this.state,
        event: (type, data) => this.#take(type, data),
        room: async () => {
          while (this.#full() && !signal.aborted) {
            this.state("live, ahead of the player");
            await new Promise((resolve) => (this.#wake = resolve));
          }
        },
      });
      this.complete = true;
      this.state("all of them are here");
    } catch (error) {
      if (!signal.aborted) {
        this.failed = this.position();
        this.over = LASTING.includes(error.status);
        this.state(error.message, true);
        session.refused(error.code);
      }
    }
    this.changed();
  }

  #full() {
    const { tokens } = this;
    if (!tokens.length) return false;
    const now = this.position();
    if (tokens.at(-MANY)?.pts > now) return true;
    const enough = tokens.length > 2 && tokens.at(-1).pts > now + this.ahead;
    return enough && (tokens.at(-1).pts > now + 4 * this.ahead || tokens.length > ENOUGH);
  }

  #take(type, data) {
    if (type === "reset") {
      this.tokens = [];
      this.dropped = false;
    } else if (type === "meta") this.meta = data;
    else if (type === "token") {
      for (const name of ["pts", "end"]) data[name] = Number(data[name]);
      this.tokens.push(data);
      this.received += 1;
      const now = this.position();
      const old = now - 2 * this.behind;
      // What plays and what comes stays: the stream waits instead.
      while (this.tokens.length > 2 && this.tokens[1].pts < (this.tokens.length > MOST ? now : old)) {
        this.tokens.shift();
        this.dropped = true;
      }
      this.changed();
    }
  }
}
