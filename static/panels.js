// The tabs below the player. Each panel is a module with open(context, root), loaded when it is looked at; what open
// starts ends with context.signal.

import * as api from "./api.js";
import { $, element } from "./dom.js";
import * as facts from "./facts.js";
import * as session from "./session.js";
import { unshown } from "./unshown.js";

const MODULES = {
  facts: async () => facts,
  tokens: () => import("./tokens.js"),
  container: () => import("./container.js"),
  check: () => import("./check.js"),
};
let chosen = "facts";
let context = null;
let running = null;
let failed = false;

for (const tab of $("tabs").children) {
  tab.addEventListener("click", () => choose(tab.id.slice(4)));
}
$("tabs").addEventListener("keydown", (event) => {
  const names = Object.keys(MODULES);
  const at = names.indexOf(chosen);
  const target = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: names.length - 1 }[event.key];
  if (target === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  choose(names.at(target % names.length));
  $(`tab-${chosen}`).focus();
});

/** Show the chosen panel for a container. */
export function show(next) {
  close();
  context = next;
  fill();
}

export function close() {
  running?.abort();
  running = null;
  context = null;
  $("panel").replaceChildren();
}

function choose(name) {
  if (name === chosen && !failed) return;
  chosen = name;
  for (const tab of $("tabs").children) {
    const selected = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
  }
  $("panel").setAttribute("aria-labelledby", `tab-${name}`);
  fill();
}

async function fill() {
  running?.abort();
  failed = false;
  if (!context) return;
  const mine = (running = new AbortController());
  const root = element("div", { class: `inside ${chosen}-panel` });
  if (chosen !== "facts") root.append(element("p", { class: "waiting", role: "status" }, "Loading"));
  $("panel").replaceChildren(root);
  try {
    const panel = await api.part(MODULES[chosen]());
    if (!mine.signal.aborted) await panel.open({ ...context, signal: mine.signal }, root);
  } catch (error) {
    if (mine.signal.aborted || error.name === "AbortError") return;
    session.refused(error.code);
    failed = true;
    root.replaceChildren(
      unshown(error, () => {
        fill();
        $(`tab-${chosen}`).focus(); // the button is no more
      }),
    );
  }
}
