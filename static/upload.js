// Files that are dropped on the page become containers: a row for each, with what was sent and what is sealed.

import { Problem, jobUrl, listen } from "./api.js";
import { $, element } from "./dom.js";
import { bytes, count, sentence } from "./format.js";
import { href } from "./library.js";
import * as session from "./session.js";
import { Transfer } from "./tus.js";

const AT_ONCE = 2;
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
    take([...event.dataTransfer.files]);
  });
}

function take(files) {
  if (!session.may("write")) {
    session.ask("Adding media needs a token that may write.");
    return;
  }
  for (const file of files) waiting.push(new Upload(file));
  next();
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

class Upload {
  constructor(file) {
    this.file = file;
    this.name = `${file.name}.h4mk`;
    this.job = null;
    this.heardOf = new Map();
    this.over = false;
    this.blocks = 0;
    this.bar = element("progress", { max: Math.max(file.size, 1), value: 0, "aria-label": `Upload of ${file.name}` });
    this.says = element("span", { class: "more-facts" }, "waits");
    this.button = element("button", { type: "button", class: "quiet" }, "Cancel");
    this.button.addEventListener("click", () => this.press());
    this.label = element("span", { class: "name" }, file.name);
    this.row = element("li", { class: "upload" }, this.label, this.button, this.bar, this.says);
    $("uploads").append(this.row);
  }

  async send(replace = false) {
    this.over = false;
    this.says.classList.remove("bad");
    this.says.textContent = "begins";
    this.button.textContent = "Cancel";
    stream ??= listen();
    stream.addEventListener("job", (this.heard = (event) => this.hear(JSON.parse(event.data))));
    stream.addEventListener("open", (this.opened = () => this.ask()));
    if (/\.h4mk$/i.test(this.file.name)) {
      this.fail(new Problem({ detail: "This is a container already: copy it into the library's folder." }));
      return;
    }
    this.transfer = new Transfer(this.file, this.name, {
      replace,
      progress: (sent) => {
        this.bar.value = sent;
        this.show(`${bytes(sent)} of ${bytes(this.file.size)} sent`);
      },
      waits: (why) => {
        this.says.classList.toggle("waits", why !== null);
        if (why !== null) this.says.textContent = why;
      },
    });
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

  finish(job) {
    this.end("Close");
    this.bar.value = this.bar.max;
    this.label.replaceChildren(element("a", { href: href(job.name) }, this.file.name));
    this.says.textContent = `${count(job.blocks, "block")} sealed · ${bytes(job.result.size)}`;
    finished(job.name);
  }

  fail(problem) {
    if (this.over) return;
    this.end(problem.code === "exists" ? "Replace" : "Close");
    this.says.textContent = problem.code === "exists" ? "A container of that name is there already." : sentence(problem.message);
    this.says.classList.add("bad");
  }

  end(label) {
    this.over = true;
    this.button.textContent = label;
    stream?.removeEventListener("job", this.heard);
    stream?.removeEventListener("open", this.opened);
    running -= 1;
    next();
  }

  press() {
    if (!this.over) {
      if (this.job) fetch(jobUrl(this.job.id), { method: "DELETE" });
      else if (this.transfer) this.transfer.cancel();
      else this.drop();
    } else if (this.button.textContent === "Replace") {
      running += 1;
      this.job = null;
      this.heardOf.clear();
      this.send(true);
    } else this.row.remove();
  }

  /** It has not begun, and never will. */
  drop() {
    waiting.splice(waiting.indexOf(this), 1);
    this.row.remove();
  }
}
