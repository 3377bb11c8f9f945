// What a browser keeps for this page, where it does: where storage is blocked, even to look at it throws, and what is kept may be
// no JSON, or somebody else's. Then there is nothing kept, and everything else works.

/** The text that is kept under `key`, null where there is none. `area`: "localStorage", or "sessionStorage" for this tab alone. */
export function get(key, area = "localStorage") {
  try {
    return globalThis[area].getItem(key);
  } catch {
    return null;
  }
}

/** Keep it; false where nothing can be kept. */
export function set(key, text, area = "localStorage") {
  try {
    globalThis[area].setItem(key, text);
    return true;
  } catch {
    return false;
  }
}

export function remove(key) {
  try {
    localStorage.removeItem(key);
  } catch {
    // There is nothing.
  }
}

/** What the JSON that is kept says, null where there is none. */
export function read(key, area = "localStorage") {
  try {
    return JSON.parse(get(key, area));
  } catch {
    return null;
  }
}

/** All keys that begin with `prefix`. */
export function keys(prefix) {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(prefix));
  } catch {
    return [];
  }
}
