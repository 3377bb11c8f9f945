// Any 4 KiB of the container, as hexadecimal digits and as text.

import { PAGE } from "./chunks.js";
import { element } from "./dom.js";
import { sentence } from "./format.js";

const LINE = 16;
const hex = (value, digits) => value.toString(16).padStart(digits, "0");

/** {root, show(offset, chunk)}: the view and what moves it; `chunk` is the one whose header and payload are told apart. */
export function hexdump(chunks, signal) {
  const field = element("input", { id: "offset", inputmode: "numeric", autocomplete: "off", spellcheck: "false", "aria-describedby": "offset-help" });
  const back = element("button", { type: "button", class: "quiet" }, "Back 4 KiB");
  const on = element("button", { type: "button", class: "quiet" }, "On 4 KiB");
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const text = element("pre", { class: "hex", id: "hex", tabindex: 0, role: "region", "aria-label": "Bytes of the container" });
  const form = element("form", { class: "jump" }, element("label", { for: "offset" }, "Bytes at"), field, element("button", {}, "Show"), element("span", { class: "help", id: "offset-help" }, "decimal, or 0x…"), element("span", { class: "spread" }), back, on);
  const root = element("section", { "aria-label": "Bytes" }, form, problem, text);
  let at = 0;
  let turn = 0;

  async function show(offset, chunk = null) {
    const mine = (turn += 1);
    at = Math.max(0, Math.min(offset, Math.max(0, chunks.length - 1)));
    field.value = String(at);
    back.disabled = at === 0;
    on.disabled = at + PAGE >= chunks.length;
    try {
      const bytes = await chunks.bytes(at, PAGE);
      if (mine !== turn || signal.aborted) return;
      text.replaceChildren(...lines(bytes, at, chunk));
      text.scrollTop = 0;
      problem.hidden = true;
    } catch (error) {
      if (signal.aborted) return;
      problem.textContent = sentence(error.message);
      problem.hidden = false;
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = field.value.trim().replaceAll(",", "");
    if (/^(?:\d+|0x[0-9a-f]+)$/i.test(typed) && Number(typed) < chunks.length) show(Number(typed));
    else {
      problem.textContent = `Type an offset below ${chunks.length.toLocaleString("en")}.`;
      problem.hidden = false;
    }
  });
  back.addEventListener("click", () => show(at - PAGE));
  on.addEventListener("click", () => show(at + PAGE));
  return { root, show };
}

function* lines(bytes, start, chunk) {
  const digits = Math.max(8, hex(start + bytes.length, 0).length);
  const payload = chunk ? chunk.offset + 12 : 0;
  const end = chunk ? payload + chunk.size : 0;
  for (let line = 0; line < bytes.length; line += LINE) {
    yield element("span", { class: "soft" }, `${hex(start + line, digits)}  `);
    const row = [...bytes.subarray(line, line + LINE)];
    // Runs of bytes of one kind: the chunk's header, its payload, what is none of it.
    const kind = (at) => (!chunk || at < chunk.offset || at >= end ? "none" : at < payload ? "header" : "payload");
    let run = "";
    let of = kind(start + line);
    for (const [column, byte] of row.entries()) {
      const now = kind(start + line + column);
      if (now !== of) {
        yield element("span", { class: of }, run);
        [run, of] = ["", now];
      }
      run += hex(byte, 2) + (column === 7 ? "  " : " ");
    }
    yield element("span", { class: of }, run.padEnd(run.length + 3 * (LINE - row.length) + (row.length < 8 ? 1 : 0)));
    yield ` ${row.map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "·")).join("")}\n`;
  }
}
