// Which containers were checked here, whole and against a signature: until the browser window is closed. By their names, too: a head
// says what a container should be, and another file with that head can be damaged.

import * as storage from "./storage.js";

const KEPT = "harmony4-verified";
const all = () => {
  const kept = storage.read(KEPT, "sessionStorage");
  return new Set(Array.isArray(kept) ? kept : []);
};
const key = (name, head) => `${head} ${name}`;
const keep = (found) => storage.set(KEPT, JSON.stringify([...found].slice(-1000)), "sessionStorage");

export const remember = (name, head) => keep(all().add(key(name, head)));
export const verified = (name, head) => all().has(key(name, head));

/** It was checked again, and something was wrong. */
export function forget(name, head) {
  const found = all();
  if (found.delete(key(name, head))) keep(found);
}
