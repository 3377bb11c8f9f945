// Files that are dropped on the page become containers: a row for each, with what was sent and what is sealed.

import { Problem, info, jobUrl, listen, local } from "./api.js";
import { $, element, plain, tell } from "./dom.js";
import { bytes, clock, count, sentence } from "./format.js";
import { href } from "./library.js";
import { attempt, untried } from "./plays.js";
import * as session from "./session.js";
import { Transfer, giveUp, nobodySends, unfinished } from "./tus.js";

const AT_ONCE = 2;
const REFUSED = {
  exists: "A container of that name is there already.",
  full: "The server has no room for it.",
  storage: "The server has no room for it, or cannot write.",
  forbidden: "Your token may not add media.",
  unauthorized: "Adding media needs a token that may write: sign in.",
  limit: "It is larger than the server takes",
  interrupted: "The server was restarted while it made the container.",
  folder: "This is a folder: drop the files that are in it.",
};
const PART = 255; // bytes of a name, with its ending
const AGAIN = ["full", "storage", "forbidden", "unauthorized", "interrupted", "busy", "too-many", "http"]; // what may have changed since
const waiting = [];
let running = 0;
let stream = null;
let finished = () => {};

/** Take files by drop and by the button; `done` is called after each one that has become a container. */
export function start(done) {
  finished = done;
  $("files").addEventListener("change", (event) => {
    take([...event.target.files]);
    event.target.value = ""; // the same file can be chosen again
  });
  let depth = 0; // dragenter and dragleave come for every element on the way
  const holds = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => holds(event) && (depth++, $("drop").hidden = false));
  addEventListener("dragleave", (event) => holds(event) && (depth--, $("drop").hidden = depth > 0 ? false : true));
  addEventListener("dragover", (event) => holds(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!holds(event)) return;
    event.preventDefault();
    depth = 0;
    $("drop").hidden = true;
    // A folder comes as a file that cannot be read. Only now, and not later, can one be told from the other.
    const entries = [...event.dataTransfer.items].filter((one) => one.kind === "file").map((one) => one.webkitGetAsEntry?.());
    take([...event.dataTransfer.files], entries);
  });
  $("close-all").addEventListener("click", closeAll);
  for (const one of unfinished()) nobodySends(one).then((left) => left && $("uploads").append(remains(one)));
}

function take(files, entries = []) {
  if (!session.may("write")) {
    session.ask("Adding media needs a token that may write.");
    return;
  }
  for (const [at, file] of files.entries()) waiting.push(new Upload(file, entries[at]?.isDirectory));
  next();
}

/** Rows that are over, also where something could be done about it. */
const closed = () => [...$("uploads").children].filter((row) => [...row.querySelectorAll("button:not([hidden])")].some((one) => one.textContent === "Close"));

function closeAll() {
  for (const row of closed()) row.remove();
  ($("uploads").querySelector("button") ?? $("files")).focus(); // what had the focus is no more
  tidy();
}

/** Many rows that are over can be closed at once. */
function tidy() {
  const over = closed().length;
  $("closing").hidden = over < 2;
  $("closing").firstElementChild.textContent = `${count(over, "upload")} over`;
}

/** Why the server does not take a name, as far as it can be said of a file's own name. */
function unfit(name) {
  const size = new TextEncoder().encode(name).length;
  if (name.startsWith(".")) return "Its name begins with a dot: such names are hidden. Rename it.";
  if (/[\\\u0000-\u001f\u007f-\u009f]/.test(name)) return "Its name holds a backslash or a control character. Rename it.";
  if (size > PART) return `Its name is too long: ${size} bytes with its ending, of ${PART}. Rename it.`;
  return null;
}

/** A row for what was not sent to its end before the page was left: a browser gives the file only to who chooses it again. */
function remains(one) {
  const again = element("button", { type: "button", class: "quiet" }, "Choose it");
  const away = element("button", { type: "button", class: "quiet" }, "Give up");
  const row = element("li", { class: "upload", "data-key": one.key }, element("span", { class: "name" }, plain(one.file)), element("span", { class: "choices" }, again, away), element("span", { class: "more-facts" }, "Not all of it was sent. Choose the same file again, and the rest of it follows."));
  again.addEventListener("click", () => $("files").click());
  away.addEventListener("click", () => {
    giveUp(one);
    row.remove();
    $("add").querySelector("input").focus();
  });
  return row;
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    waiting.shift().send();
  }
  if (!running && !waiting.length) {
    stream?.close();
    stream = null;
  }
}

/** Why what the player begins with, a container's first track, does not play; null if it does. */
async function unplayed(name) {
  const [track] = (await info(name)).tracks;
  const why = untried(track) ?? (await attempt(track, local(track.range_url)));
  if (why) await info(name); // else it is the server that is not there
  return why;
}

class Upload {
  constructor(file, folder = false) {
    this.file = file;
    this.folder = folder;
    this.shown = plain(file.name);
    this.name = `${file.name}.h4mk`;
    this.job = null;
    this.heardOf = new Map();
    this.over = false;
    this.blocks = 0;
    this.bar = element("progress", { max: Math.max(file.size, 1), value: 0, "aria-label": `Upload of ${this.shown}` });
    this.says = element("span", { class: "more-facts" }, "waits");
    this.button = element("button", { type: "button", class: "quiet" }, "Cancel");
    this.button.addEventListener("click", () => this.press());
    this.away = element("button", { type: "button", class: "quiet", hidden: true }, "Close"); // beside what else can be done
    this.away.addEventListener("click", () => this.leave());
    this.label = element("span", { class: "name", title: this.shown }, this.shown);
    this.warns = element("span", { class: "more-facts waits", hidden: true });
    this.row = element("li", { class: "upload" }, this.label, element("span", { class: "choices" }, this.button, this.away), this.bar, this.says, this.warns);
    $("uploads").append(this.row);
  }

  async send(replace = false) {
    this.over = false;
    this.says.classList.remove("bad");
    this.says.textContent = "begins";
    this.bar.hidden = false;
    this.bar.value = 0;
    this.button.textContent = "Cancel";
    this.away.hidden = true;
    stream ??= listen();
    stream.addEventListener("job", (this.heard = (event) => this.hear(JSON.parse(event.data))));
    stream.addEventListener("open", (this.opened = () => this.ask()));
    if (this.folder) {
      this.fail(new Problem({ type: "folder" }));
      return;
    }
    if (/\.h4mk$/i.test(this.file.name)) {
      this.fail(new Problem({ type: "container", detail: "This is a container already: copy it into the library's folder." }));
      return;
    }
    const transfer = (this.transfer = new Transfer(this.file, this.name, {
      replace,
      progress: (sent) => {
        this.bar.value = sent;
        this.show(`${bytes(sent)} of ${bytes(this.file.size)} sent`);
      },
      waits: (why) => {
        this.says.classList.toggle("waits", why !== null);
        if (why !== null) this.says.textContent = why;
      },
    }));
    for (const one of $("uploads").children) if (one.dataset.key === transfer.key) one.remove();
    try {
      const id = await this.transfer.send();
      this.bar.value = this.bar.max;
      this.job = { id };
      this.show("all of it sent");
      if (this.heardOf.has(id)) this.hear(this.heardOf.get(id)); // an event may have been faster than the answer
      this.ask(); // or have come before anybody listened
    } catch (error) {
      this.fail(error);
    }
  }

  /** What has become of the job, for what was told while nobody listened. */
  async ask() {
    if (!this.job || this.over) return;
    const answer = await fetch(jobUrl(this.job.id)).catch(() => null);
    if (answer?.ok) this.hear(await answer.json());
    else if (answer?.status === 404) this.fail(new Problem({ detail: "the server has forgotten this upload: look whether the container is there" }));
  }

  /** A job's facts; until the server has said which one is ours, those of its name are kept. */
  hear(job) {
    if (this.over || (this.job ? job.id !== this.job.id : job.name !== this.name)) return;
    this.heardOf.set(job.id, job);
    if (!this.job) return;
    this.blocks = job.blocks;
    if (job.state === "done") this.finish(job);
    else if (job.state === "failed" || job.state === "cancelled") this.fail(new Problem(job.problem));
    else this.show(`all ${bytes(this.file.size)} sent`);
  }

  show(text) {
    this.says.textContent = this.blocks ? `${text} · ${count(this.blocks, "block")} sealed` : text;
  }

  async finish(job) {
    this.end("Close");
    this.bar.value = this.bar.max;
    this.label.replaceChildren(element("a", { href: href(job.name) }, this.shown));
    const { size, duration, timing } = job.result;
    const known = timing === "demux"; // else there are no times in it, and the duration is a guess
    const facts = [`${count(job.blocks, "block")} sealed`, known ? clock(duration, 1) : null, bytes(size)];
    this.says.textContent = this.file.size ? facts.filter(Boolean).join(" · ") : "This file is empty.";
    finished(job.name);
    const warning = await this.warning(job);
    this.warns.hidden = !warning;
    this.warns.textContent = warning;
    tell(`${this.shown}: ${this.says.textContent}${warning ? `. ${warning}` : ""}`);
  }

  /** What is to be known of a container that was made, above all that it does not play. */
  async warning({ name, result: { timing, note } }) {
    if (!this.file.size) return "";
    if (timing !== "demux") return "No film or sound that is known here: the bytes are kept as they are, and nothing of it plays.";
    const silent = await unplayed(name).catch(() => null); // who opens it will see
    return [silent && `${silent}. The bytes are kept as they are.`, note && sentence(note)].filter(Boolean).join(" ");
  }

  fail(problem) {
    if (this.over) return;
    this.end(problem.code === "exists" ? "Replace" : AGAIN.includes(problem.code) ? "Try again" : "Close");
    this.says.textContent = problem.code === "limit" ? `${REFUSED.limit}: ${problem.message}.` : (REFUSED[problem.code] ?? this.why(problem));
    this.says.classList.remove("waits");
    this.says.classList.add("bad");
    this.bar.hidden = true; // nothing goes on
    tell(`${this.shown}: ${this.says.textContent}`);
    session.refused(problem.code, REFUSED.unauthorized);
  }

  why({ code, message, expected }) {
    // What it says of options is for who runs a command.
    if (code === "media") return sentence(`It cannot be read, and may be cut off or damaged: ${message.replace(/ \(--raw[^)]*\)/, "")}`);
    const fault = code === "usage" ? unfit(this.name) : null;
    return fault ?? sentence(expected ? `${message}: expected ${expected}` : message);
  }

  end(label) {
    this.over = true;
    this.button.textContent = label;
    this.away.hidden = label === "Close";
    stream?.removeEventListener("job", this.heard);
    stream?.removeEventListener("open", this.opened);
    running -= 1;
    next();
    tidy();
  }

  /** It was cancelled, and was made all the same. */
  late(job) {
    if (this.job) return; // it is being sent again
    this.button.textContent = "Close";
    this.away.hidden = true;
    this.label.replaceChildren(element("a", { href: href(job.name) }, this.shown));
    this.says.textContent = "It was made before it could be cancelled.";
    tell(`${this.shown}: ${this.says.textContent}`);
    finished(job.name);
    tidy();
  }

  press() {
    if (!this.over) {
      if (this.job) fetch(jobUrl(this.job.id), { method: "DELETE" }).catch(() => (this.says.textContent = "The server cannot be reached: it is not cancelled"));
      else if (this.transfer) this.transfer.cancel().then((job) => job && this.late(job));
      else this.drop();
    } else if (this.button.textContent !== "Close") {
      running += 1;
      this.job = null;
      this.blocks = 0;
      this.heardOf.clear();
      this.send(this.button.textContent === "Replace");
    } else this.leave();
  }

  leave() {
    const next = this.row.nextElementSibling ?? this.row.previousElementSibling;
    (next?.querySelector("button") ?? $("files")).focus(); // what had the focus is no more
    this.row.remove();
    tidy();
  }

  /** It has not begun, and never will. */
  drop() {
    waiting.splice(waiting.indexOf(this), 1);
    this.leave();
  }
}
