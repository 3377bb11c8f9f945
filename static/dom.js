// Elements without HTML: everything that comes from a file or a request is text.

export const $ = (id) => document.getElementById(id);

/** element("a", {href, class}, child, …): children are elements or text. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/**
 * A name for people: characters that would turn what stands behind them around (so that "gnp.mp4" is read as "4pm.png"), and those
 * that do not show at all, are written out. The joiners U+200C and U+200D stay: scripts, and signs that are made of several, need them.
 */
export const plain = (text) => text.replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]/g, (one) => `⟨U+${one.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

/** Say something to those who hear the page. */
export function tell(text) {
  $("told").textContent = text;
}

/** A note with a headline and lines below it. */
export function note(lead, ...lines) {
  const nodes = lines.map((line) => element("p", {}, ...(Array.isArray(line) ? line : [line])));
  return [element("p", { class: "lead" }, lead), ...nodes];
}
