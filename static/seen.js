// What was found here. Which tracks were checked, whole and against a signature: until the browser window is closed. By the names of
// containers, too: a head says what a container should be, and another file with that head can be damaged. And the latest edition of each
// subject (H4MK 13.5), for as long as the browser keeps it: an old one has a good signature for ever.

import * as storage from "./storage.js";

const KEPT = "harmony4-verified";
const EDITIONS = "harmony4-editions";
const record = (value) => (value && typeof value === "object" && !Array.isArray(value) ? value : {});
const all = () => record(storage.read(KEPT, "sessionStorage"));
const key = (name, head) => `${head} ${name}`;
const keep = (found) => storage.set(KEPT, JSON.stringify(Object.fromEntries(Object.entries(found).slice(-1000))), "sessionStorage");

/** All `blocks` of a track are right; the container has `of` of them, as its root says. */
export function remember(name, head, track, blocks, of) {
  const { [key(name, head)]: old, ...others } = all();
  keep({ ...others, [key(name, head)]: { of, tracks: { ...record(old?.tracks), [track]: blocks } } });
}

/** What was verified here of a container, in words; null where nothing was. */
export function verified(name, head) {
  const one = record(all()[key(name, head)]);
  const tracks = Object.entries(record(one.tracks));
  if (!tracks.length) return null;
  const whole = tracks.reduce((sum, [, blocks]) => sum + blocks, 0) === one.of;
  return `${whole ? "" : `${tracks.length > 1 ? "tracks" : "track"} ${tracks.map(([track]) => track).join(", ")} `}verified here`;
}

/** It was checked again, and something was wrong. */
export function forget(name, head) {
  const { [key(name, head)]: old, ...others } = all();
  if (old) keep(others);
}

/** The latest revision that was seen of what a signature is for, if that is a later one; else this one is it from now on, and null. */
export function later(signature) {
  if (signature.subject === null) return null;
  const known = record(storage.read(EDITIONS))[`${signature.key} ${signature.subject}`];
  if (/^\d{1,19}$/.test(known) && BigInt(known) > BigInt(signature.revision)) return known;
  if (known !== String(signature.revision)) accept(signature);
  return null;
}

/** Take this edition for the latest one. */
export function accept({ key, subject, revision }) {
  storage.set(EDITIONS, JSON.stringify({ ...record(storage.read(EDITIONS)), [`${key} ${subject}`]: String(revision) }));
}
