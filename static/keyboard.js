// Keys that work wherever one is on the page, but where something else listens to them: fields, lists, the timeline.

import { $ } from "./dom.js";
import * as player from "./player.js";
import * as storage from "./storage.js";

const KEPT = "harmony4-keys";

/** Whoever uses single keys for something else (speech, say) can turn these off (WCAG 2.1.4). `back` goes to the library. */
export function start(back) {
  const box = $("keys-on");
  box.checked = storage.get(KEPT) !== "off";
  box.addEventListener("change", () => storage.set(KEPT, box.checked ? "on" : "off"));
  $("keys-button").addEventListener("click", () => $("keys").showModal());
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest("input, select, textarea")) return;
    if (event.key === "Escape" && event.target.closest("#view")) back();
    if (!box.checked) return;
    if (press(event)) event.preventDefault();
  });
}

function press(event) {
  const { key, shiftKey, target } = event;
  if (key === "/") {
    $("search").focus();
    return true;
  }
  if (key === "?") {
    $("keys").showModal();
    return true;
  }
  if ($("player").hidden) return false;
  if (/^[0-9]$/.test(key)) player.tenth(Number(key));
  else if (key === "j") player.by(-10);
  else if (key === "l") player.by(10);
  else if (key === "," || key === ".") player.step(key === "," ? -1 : 1, event.repeat);
  else if (key === "k" || (key === " " && [document.body, $("view")].includes(target))) toggle();
  // The element's own keys do the rest where it has the focus.
  else if (!target.closest("video, audio, [role=tablist], .items") && ["ArrowLeft", "ArrowRight"].includes(key) && !sideways(target)) {
    const direction = key === "ArrowLeft" ? -1 : 1;
    if (shiftKey) player.keyframe(direction);
    else player.by(5 * direction);
  } else return false;
  return true;
}

/** Whether an element can be scrolled sideways: then the arrows do that. */
const sideways = (one) => one.scrollWidth > one.clientWidth && /auto|scroll/.test(getComputedStyle(one).overflowX);

function toggle() {
  const media = player.media();
  if (media?.paused) media.play().catch(() => null);
  else media?.pause();
}
