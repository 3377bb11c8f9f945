// The panel that checks what is played, here and block by block: a proof says which bytes a block must have, and leads to a root
// that is signed with a key the reader trusts, or that is pinned. Nothing the server says is believed, and a demonstration's server
// can be told to lie.

import * as api from "./api.js";
import { Chunks } from "./chunks.js";
import { element } from "./dom.js";
import { bytes, clock, count, sentence } from "./format.js";
import { Harmony4Error, LAST, equal, hex, need } from "./h4mk.js";
import { sha256 } from "./masking.js";
import { Trust, checkProof } from "./proof.js";
import { renew } from "./library.js";
import * as seen from "./seen.js";
import * as session from "./session.js";
import * as storage from "./storage.js";
import { before } from "./timeline.js";

const BATCH = 4 * 2 ** 20; // bytes of the stream that one proof is asked for, at most
const BLOCKS = 500; // about so many blocks; the server proves 1024 at once
const SAY = 60; // ms between two looks at how far it is
const KEY = "harmony4-trust"; // the public key that was trusted last; it is no secret

export async function open(context, root) {
  const { facts, track, signal, timeline } = context;
  if (facts.state !== "sealed") {
    root.replaceChildren(element("p", { class: "verdict fault" }, "This container is not sealed: there is no root to check it against. ", element("code", {}, "harmony4 recover"), " makes a sealed one of what is there."));
    return;
  }
  const lost = facts.lost.filter((one) => one.track === track.track);
  if (!track.blocks) {
    root.replaceChildren(element("p", { class: "verdict" }, lost.length ? "All of this track is lost: there is nothing to check." : "This track is empty: there is nothing to check."));
    return;
  }
  const pem = element("textarea", { id: "pem", rows: 5, spellcheck: "false", autocomplete: "off", placeholder: "-----BEGIN PUBLIC KEY-----", "aria-describedby": "pem-help" });
  const signers = facts.signed ?? [];
  const kept = storage.get(KEY);
  if (kept && signers.length) pem.value = kept; // what is not signed is not signed with it either
  let filled = Boolean(pem.value);
  const file = element("input", { type: "file", class: "aside", accept: ".pem" });
  const lies = await session.lies();
  if (signal.aborted) return;
  const lie = element("input", { type: "checkbox", id: "lie", "aria-describedby": "lie-help" });
  const go = element("button", { id: "check-go" }, "Check what is played");
  const stop = element("button", { type: "button", class: "quiet", hidden: true }, "Stop");
  const accept = element("button", { type: "button", class: "quiet", hidden: true }); // an old edition
  let old = null; // its signature
  const bar = element("progress", { max: Math.max(1, Number(track.bytes)), value: 0, "aria-label": "Checked" });
  const says = element("p", { class: "live" }); // not to be read out: it changes with every block
  const verdict = element("p", { class: "verdict", id: "verdict", hidden: true });
  const unsigned = `The container is not signed: without a key, its bytes are checked against the head the server named when it was opened${kept ? ". The key that is kept is for those that are" : ""}`;
  const form = element("form", {},
    element("div", { class: "field" },
      element("label", { for: "pem" }, "Public key of whom you trust"),
      pem,
      element("span", { class: "help", id: "pem-help" }, signers.length ? `The container says that it is signed by ${signers.join(", ")}` : unsigned)),
    element("label", { class: "add outline" }, "Key file", file),
    stop, go);
  const parts = [
    form,
    lies && element("label", { class: "check" }, lie, "Let the server lie"),
    lies && element("p", { class: "help", id: "lie-help" }, "This demonstration sends the same stream at ", element("code", {}, lies.slice(1)), " with one bit wrong. Nothing here knows which one."),
    bar,
    says,
    element("div", { role: "status" }, verdict),
    accept,
    element("p", { class: "legend" }, element("span", { class: "good" }, "checked, on the timeline"), element("span", { class: "fault" }, "not what was signed"), lost.length ? element("span", { class: "lost" }, "lost before it was sealed") : null),
  ];
  root.replaceChildren(...parts.filter(Boolean));
  file.addEventListener("change", async () => {
    if (file.files[0]?.size < 65536) pem.value = await file.files[0].text();
    file.value = "";
  });
  let running = null;
  stop.addEventListener("click", () => running?.abort());
  accept.addEventListener("click", () => {
    seen.accept(old);
    go.focus(); // the button is no more
    form.requestSubmit();
  });
  signal.addEventListener("abort", () => {
    running?.abort();
    timeline.checked = [];
    timeline.draw();
  });
  const tell = (text, kind) => {
    verdict.hidden = false;
    verdict.className = `verdict ${kind}`;
    verdict.textContent = text;
    // Whoever went on to something else is not called back.
    if (root.contains(document.activeElement)) verdict.scrollIntoView({ block: "nearest" });
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    running?.abort();
    const mine = (running = new AbortController());
    verdict.hidden = accept.hidden = true;
    stop.hidden = false;
    const found = { checked: timeline.checked = [], faults: 0, bytes: 0, blocks: 0, holes: [] };
    const lying = Boolean(lies && lie.checked);
    let began = false; // else the key is none, which says nothing of the container
    try {
      const typed = pem.value.trim();
      const trust = new Trust({ keys: typed ? [typed] : [], head: facts.head });
      if (typed) storage.set(KEY, typed);
      else if (filled) storage.remove(KEY); // it was emptied
      filled = Boolean(typed);
      const print = typed ? (await trust.keys())[0][0].slice(0, 8) : null;
      const say = () => {
        if (running !== mine) return;
        bar.value = found.bytes;
        says.textContent = `${count(found.blocks, "block")}, ${bytes(found.bytes)} of ${bytes(track.bytes)} checked`;
        timeline.draw();
      };
      began = true;
      const proven = await check(context, trust, typed ? [typed] : [], source(track, lying && lies, context.name), found, AbortSignal.any([mine.signal, signal]), say);
      if (running !== mine) return;
      say();
      const whom = print ? `and the root is signed by ${print}` : "by the head that the server named";
      if (found.faults && !lying) seen.forget(context.name, facts.head);
      if (found.faults) tell(`${count(found.faults, "block is", "blocks are")} not what the root says. First at ${clock(found.first.pts)}: block ${found.first.index}.`, "fault");
      else {
        const of = facts.tracks.length > 1 ? ` of track ${track.track}` : "";
        const right = found.blocks === 1 ? `The only block${of} is right` : `All ${count(found.blocks, "block")}${of}${found.holes.length ? " that are left" : ""} are right`;
        tell(`${right}, ${whom}.${gone(found.holes, facts.duration)}`, found.holes.length ? "holes" : "good");
        if (print && !lying) seen.remember(context.name, proven.head, track.track, found.blocks, proven.blocks);
      }
    } catch (error) {
      if (signal.aborted || running !== mine) return;
      if (began && !lying && error instanceof Harmony4Error) seen.forget(context.name, facts.head);
      if (mine.signal.aborted) tell(`Stopped. ${count(found.blocks, "block")} checked, ${found.faults ? `${found.faults} wrong` : "all of them right"}.`, found.faults ? "fault" : "");
      else tell(sentence(error.message), "fault");
      if (error.edition) {
        old = error.edition;
        accept.textContent = `Accept revision ${old.revision} from now on`;
        accept.hidden = false;
      }
      session.refused(error.code);
    } finally {
      if (running === mine) {
        renew(context.name);
        stop.hidden = true;
      }
    }
  });
}

/** Where the bytes of a track are: where the player has them, or where the server lies about them. */
function source(track, lies, name) {
  if (lies) return new URL(`${api.local(lies)}?${new URLSearchParams({ name, track: track.track })}`);
  const url = new URL(api.local(track.range_url), location);
  if (track.masked) url.searchParams.set("masked", "1"); // what is signed are the stored bytes
  return url;
}

/** What is said of holes, with their times; nothing where there are none. */
function gone(holes, duration) {
  if (!holes.length) return "";
  const blocks = holes.reduce((sum, one) => sum + one.count, 0);
  const places = holes.slice(0, 4).map(({ from, to }) => `${clock(from)} to ${to === null ? clock(duration) : clock(to)}`);
  const more = holes.length > places.length ? ` and ${holes.length - places.length} more` : "";
  const what = [blocks && count(blocks, "block"), holes.some((one) => !one.count) && "the end"].filter(Boolean).join(" and ");
  return ` Lost before it was sealed: ${what}, at ${places.join(", ")}${more}.`;
}

/**
 * Check all blocks of a track at `url`, from the position on and then from the beginning; goes along where the player jumps.
 *
 * Ends only where all of the track is checked: its last block says that it is the last one, and what is missing before it is what
 * the container itself, by its root, says is lost. Resolves to what was proven last: all of it is of one head.
 */
async function check(context, trust, keys, url, found, signal, say) {
  const { name, track, position } = context;
  const lost = context.facts.lost.some((one) => one.track === track.track);
  const chunks = lost ? await Chunks.open(api.containerUrl(name), signal) : null;
  const { holes, length } = chunks ? await chunks.holes(track.track) : { holes: [], length: Number(track.bytes) };
  const known = new Map(); // index → token
  const done = holes.filter((one) => one.count).map((one) => [one.start, one.stop]); // of the stream, in order
  let at = await offsetAt(context);
  let place = position();
  let batch = Math.min(BATCH, Math.ceil((BLOCKS * length) / Math.max(1, track.blocks)));
  let told = 0;
  let proven = null;
  while ((at = gap(done, at, length)) < length) {
    if (Math.abs(position() - place) > 10e6) at = gap(done, await offsetAt(context), length);
    place = position();
    const until = Math.min(length, at + batch, ...holes.filter((one) => one.start > at).map((one) => one.start));
    let document;
    try {
      document = await api.proof(name, track.track, `bytes=${at}-${until - 1}`, signal);
    } catch (error) {
      if (error.code !== "limit" || batch < 2) throw error;
      batch = Math.ceil(batch / 2); // blocks are smaller here than elsewhere
      continue;
    }
    // A signature for the latest edition is as good in the last place as in the first.
    document.signatures?.sort?.((one, other) => other?.revision - one?.revision);
    proven = await checkProof(document, trust);
    const later = proven.accepted && seen.later(proven.accepted);
    if (later) throw outdated(proven.accepted, later);
    trust = new Trust({ keys, head: proven.head }); // of all proofs the same container
    const tokens = proven.range(at, until, track.track);
    need(tokens.length, "seal", `the stream ends before byte ${at}, and the server says that it goes on`);
    const run = await payloads(url, tokens, signal);
    for (const [number, token] of tokens.entries()) {
      if (known.has(token.index)) continue;
      const good = equal(await sha256(run[number]), token.digest);
      known.set(token.index, { pts: Number(token.pts), end: Number(token.end), last: Boolean(token.flags & LAST) });
      found.blocks += 1;
      found.bytes += token.size;
      if (!good) {
        found.faults += 1;
        found.first ??= token;
      }
      paint(found.checked, Number(token.pts), Number(token.end), good ? "good" : "bad");
      if (performance.now() - told > SAY) {
        say();
        told = performance.now();
        signal.throwIfAborted();
      }
    }
    const [first, last] = [tokens[0], tokens.at(-1)];
    done.push([first.offset, last.offset + last.size]);
    at = last.offset + last.size;
  }
  if (chunks) need(hex(await sha256(chunks.metaBytes)) === proven.meta, "seal", "what the server says is lost is not what the container says");
  complete(known, holes);
  for (const hole of holes) {
    const next = known.get(hole.first + hole.count);
    const [from, to] = [known.get(hole.first - 1)?.end ?? 0, hole.count ? next.pts : null];
    found.holes.push({ ...hole, from, to });
    found.checked.push({ start: from, end: to ?? Number(context.facts.duration), kind: "lost" });
  }
  return proven;
}

/** A good signature, but of an edition before one that was seen here (H4MK 13.5, 22.6). */
function outdated(signature, later) {
  const message = `this is an old edition: it is signed as revision ${signature.revision}, and revision ${later} of the same, by the same key, was seen in this browser`;
  return Object.assign(new Harmony4Error("seal", message), { edition: signature });
}

/** Throws `seal` unless these blocks are all of a track's, but for its holes. */
function complete(known, holes) {
  const final = [...known.keys()].reduce((most, one) => Math.max(most, one), -1);
  const missing = holes.reduce((sum, one) => sum + one.count, 0);
  const ended = known.get(final)?.last ?? false;
  need(ended !== holes.some((one) => !one.count), "seal", `block ${final} is not the last one: the server holds back the end`);
  need(known.size + missing === final + 1 && holes.every((one) => !one.count || known.has(one.first + one.count)), "seal", "the server holds blocks back");
}

/** The bytes of blocks that follow each other, from where the player has them. */
async function payloads(url, tokens, signal) {
  const start = tokens[0].offset;
  const end = tokens.at(-1).offset + tokens.at(-1).size;
  const response = await fetch(url, { headers: { Range: `bytes=${start}-${end - 1}` }, signal });
  if (response.status !== 206) throw new api.Problem(await response.json().catch(() => null), response.status);
  const bytes = new Uint8Array(await response.arrayBuffer());
  return tokens.map(({ offset, size }) => bytes.subarray(offset - start, offset - start + size));
}

/** Where the block of the position's keyframe begins, 0 where there is none. */
async function offsetAt({ name, track, position, timeline }) {
  if (before(timeline.keyframes, position()) < 0) return 0; // the server would say 404
  const answer = await api.seek(name, Math.floor(position()), track.track).catch(() => null);
  return answer ? Number(answer.offset) : 0;
}

/** The first byte at or behind `at` that is in no [from, to) of `done`, else the first of all. */
function gap(done, at, length) {
  done.sort((a, b) => a[0] - b[0]);
  const from = (start) => done.reduce((place, [first, end]) => (first <= place && place < end ? end : place), start);
  const place = from(at);
  return place < length ? place : from(0);
}

/** Add a block's time to what is painted; neighbours of one kind become one. */
function paint(checked, start, end, kind) {
  const last = checked.at(-1);
  if (last && last.kind === kind && last.end === start) last.end = end;
  else checked.push({ start, end, kind });
}
