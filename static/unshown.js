// What stands where something could not be shown.

import { element, note } from "./dom.js";
import { sentence } from "./format.js";

/** Why, and a button: `again` tries it again, but where a module of the page is missing, which needs the page anew. */
export function unshown(error, again) {
  const lost = error.code === "part";
  const button = element("button", { type: "button", class: "quiet" }, lost ? "Load the page again" : "Try again");
  button.addEventListener("click", () => (lost ? location.reload() : again()));
  return element("div", { class: "note", role: "alert" }, ...note("This cannot be shown", sentence(error.message)), button);
}
