// Masked containers in the page: whoever looks at it types a key or chooses a key file. Keys stay in this module's memory
// until the page is left, or its reader signs out; they are in no request, no address and no storage.

import { element } from "./dom.js";
import { sentence } from "./format.js";
import { Container, Harmony4Error, MasterKey } from "./harmony4.js";
import { publish } from "./unmask.js";

const FILE_LIMIT = 4096; // bytes; a key file is one line
const ring = new Map(); // the keys that opened something here, by id
addEventListener("harmony4-left", () => ring.clear());

/**
 * An address on which a masked track plays: with a key that is known, or one that is asked for in `stage`. `whole` tells whether
 * the key shows that nothing is missing.
 * `failed` is told what goes wrong while it plays. Rejects with a Harmony4Error, or an AbortError.
 */
export async function open(name, track, { stage, signal, failed }) {
  const container = await Container.open(`container?${new URLSearchParams({ name })}`, { signal });
  const known = container.keyIds.find((id) => ring.has(id));
  const unlock = async (key) => {
    await container.unlock(key);
    const published = await publish(container, { track, failed });
    if (!signal.aborted) ring.set(key.id, key);
    return { ...published, whole: container.whole };
  };
  return known ? unlock(ring.get(known)) : asked(stage, signal, async (text) => unlock(await MasterKey.from(text)));
}

/** Show the form until `unlock` has accepted what is entered; resolves to what it gives. */
function asked(stage, signal, unlock) {
  const field = element("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "key-help key-problem" });
  const file = element("input", { type: "file", id: "key-file", class: "aside" });
  const problem = element("p", { class: "problem", id: "key-problem", role: "alert", hidden: true });
  const button = element("button", {}, "Unlock");
  const form = element(
    "form",
    { class: "note unlock", id: "unlock", "aria-labelledby": "unlock-title" },
    element("h2", { class: "lead", id: "unlock-title" }, "This container is masked"),
    element("label", { for: "key" }, "Key"),
    element("div", { class: "entry" }, field, button, element("label", { class: "add outline" }, "Key file", file)),
    problem,
    element("p", { class: "help", id: "key-help" }, "64 hexadecimal digits, or a file that harmony4 keygen made. The key stays in this page: it is not sent, and forgotten when the page is closed."),
  );
  stage.className = "stage locked";
  stage.replaceChildren(form);
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
    const attempt = async (text) => {
      button.disabled = true;
      try {
        resolve(await unlock(text));
        field.value = "";
      } catch (error) {
        if (!(error instanceof Harmony4Error)) {
          reject(error);
          return;
        }
        problem.textContent = sentence(error.message);
        problem.hidden = false;
        field.setAttribute("aria-invalid", "true");
        field.focus();
        field.select();
      } finally {
        button.disabled = false;
      }
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(field.value);
    });
    file.addEventListener("change", async () => {
      const [chosen] = file.files;
      if (chosen) await attempt(chosen.size > FILE_LIMIT ? "" : await chosen.text());
      file.value = "";
    });
  });
}
