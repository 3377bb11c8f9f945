// One container: the media element on its range URL, the seek's numbers, and the panels below.

import * as api from "./api.js";
import { $, element, note, plain, tell } from "./dom.js";
import { bytes, clock, parseTime, sentence } from "./format.js";
import { neighbour, shownBy, steps } from "./frames.js";
import { href, refresh } from "./library.js";
import * as panels from "./panels.js";
import { refused, untried } from "./plays.js";
import * as session from "./session.js";
import { Timeline, before } from "./timeline.js";

const timeline = new Timeline((pts) => jump(pts), (pts) => scrub(pts), (pts) => lookUp(pts).then((found) => found && Number(found.pts)));
const MANY = 100_000; // keyframes: of more than that only some are fetched
const TICKS = 2000; // of those
const SETTLED = 300; // ms until the address says the new position
const PATIENCE = 1000; // ms that a picture may take until there are controls without it
const LATE = 150; // ms in which a picture that was sought is told of
const STRAY = 0.05; // s: players move by less on their own
const INCOMPLETE = ", may be incomplete";
let open = null;

/** µs that a medium's own clock is ahead of its container's: browsers play by the medium's, which they let begin at 0 at the least. */
const origin = (mine) => Math.max(0, Number(mine.facts?.origin ?? 0));
/** The same in seconds. */
const base = (mine) => origin(mine) / 1e6;

/** Where one is, in seconds. */
export const position = () => (open?.media?.readyState ? Math.max(0, open.media.currentTime - base(open)) : (open?.wanted ?? 0) / 1e6);
export const media = () => open?.media ?? null;

/** Where one is, in µs that a link says: whole milliseconds of a clock, or what was asked for. */
export const place = () => (open?.media?.readyState ? Math.round(position() * 1000) * 1000 : (open?.wanted ?? 0));

/** What the server said of the container that is open. */
export const facts = () => open?.facts ?? null;

/** Show a container from a time (µs) on. Resolves when its facts are there. */
export async function show(name, start) {
  close();
  const mine = (open = { name, media: null, abort: new AbortController(), wanted: start, listeners: new Set() });
  $("view-note").hidden = true;
  $("player").hidden = false;
  $("player").setAttribute("aria-busy", "true");
  $("title").textContent = plain(name);
  $("view").setAttribute("aria-label", plain(name));
  $("stage").className = "stage";
  $("stage").replaceChildren(element("div", { class: "opening" }, element("p", { role: "status" }, "Opening")));
  document.title = `${plain(name)} · HarmonyØ4`;
  let facts;
  try {
    facts = await api.info(name, mine.abort.signal);
  } catch (error) {
    if (error.name === "AbortError" || open !== mine) return;
    session.refused(error.code);
    close();
    $("player").hidden = true;
    $("view-note").hidden = false;
    $("view-note").classList.remove("idle");
    const missing = error.code === "not-found";
    const what = missing ? "There is no such container" : "This container cannot be opened";
    const again = element("button", { type: "button", class: "quiet", hidden: ![0, 429, 502, 503, 504].includes(error.status) }, "Try again");
    again.addEventListener("click", () => show(name, mine.wanted));
    $("view-note").replaceChildren(...note(what, missing ? plain(name) : `${plain(name)}: ${sentence(error.whole)}`), again);
    tell(what);
    return;
  } finally {
    if (!open || open === mine) $("player").removeAttribute("aria-busy"); // else another one is being opened
  }
  mine.facts = facts;
  $("title").textContent = plain(facts.title ?? name.split("/").pop().replace(/\.h4mk$/, ""));
  $("view").setAttribute("aria-label", $("title").textContent);
  const signers = facts.signed?.length ? `signed by ${facts.signed.join(", ")}` : null;
  const masked = facts.mask ? "masked" : null;
  const lost = facts.lost.length ? "parts are lost" : null;
  const damage = facts.verified?.ok === false ? "damaged" : null;
  $("state").textContent = [facts.state, damage, lost, signers, masked].filter(Boolean).join(" · ");
  $("state").className = facts.state === "sealed" && !lost && !damage ? "state" : "state warn";
  $("track").replaceChildren(...facts.tracks.map((one) => element("option", { value: one.track }, plain(`${one.track} · ${one.name ?? one.lang ?? one.kind} ${one.codec.replaceAll(",", " + ")}`))));
  $("track").hidden = facts.tracks.length < 2;
  await choose(mine, 0, mine.wanted); // another time may be asked for meanwhile
}

$("track").addEventListener("change", () => open?.facts && choose(open, Number($("track").value), here()));

/** Where one is, in whole µs. */
const here = () => Math.round(position() * 1e6);

/** Play a track from a time (µs) on, with its keyframes on the timeline and the panels below. */
async function choose(mine, number, start) {
  stop(mine);
  mine.wanted = start; // a track that is not played has no clock
  mine.turn = (mine.turn ?? 0) + 1; // numbers that are on their way are another track's
  $("numbers").hidden = true;
  $("seek-problem").hidden = true;
  const { facts, name } = mine;
  const track = (mine.track = facts.tracks[number]);
  const version = (mine.version = track.etag?.slice(0, 16));
  timeline.reset();
  timeline.position = start; // media say where they are when they know it
  stage(mine, track, start);
  timeline.show(facts.duration, null);
  panels.show({
    name, facts, track, timeline, jump,
    position: () => position() * 1e6,
    playing: () => Boolean(mine.media && !mine.media.paused),
    moved: (listener, signal) => {
      mine.listeners.add(listener);
      signal.addEventListener("abort", () => mine.listeners.delete(listener));
    },
  });
  if (!track.keyframes) return;
  const times = Array.from({ length: TICKS }, (_, at) => Math.floor((at * facts.duration) / (TICKS - 1)));
  const some = Number(track.keyframes) > MANY ? times : null;
  const table = await api.keyframes(name, number, version, mine.abort.signal, some).catch(() => null);
  if (table && open === mine && mine.track === track) timeline.show(facts.duration, table, Number(track.keyframes));
}

function stop(mine) {
  mine.published?.close();
  mine.published = null;
  if (mine.media) {
    mine.media.removeAttribute("src"); // else the browser goes on fetching
    mine.media.load();
  }
  mine.media = null;
}

export function close() {
  if (open) {
    open.abort.abort();
    clearTimeout(open.settling);
    stop(open);
  }
  open = null;
  timeline.reset();
  panels.close();
  for (const id of ["numbers", "seek-problem", "track"]) $(id).hidden = true;
  $("stage").replaceChildren();
  $("state").textContent = "";
  $("pts").value = "";
}

/** What the server says of the keyframe of a time (µs), null where there is none so early. */
async function lookUp(pts) {
  const { name, track, version, abort } = open;
  try {
    return await api.seek(name, pts, track.track, version, abort.signal);
  } catch (error) {
    if (error.code === "not-found") return null;
    throw error;
  }
}

function moved(mine) {
  for (const listener of mine.listeners) listener();
}

/** Show another place without asking anybody about it: while somebody drags. */
function scrub(pts) {
  if (open?.media && !open.media.seeking) move(open, pts);
}

/** Move the media element to a time (µs) of the container, and not before it. */
function move(mine, pts) {
  const at = Math.round(origin(mine) + pts);
  // Browsers round down to whole µs, and Chromium what comes of that once more: 1.041 s is a little less than 1041000 µs.
  mine.media.currentTime = (at + ((at / 1e6) * 1e6 < at ? 1.5 : 0.5)) / 1e6;
  mine.sent = mine.media.currentTime; // not behind the end
}

/** The element's own controls have moved it: numbers, and what was wrong with a time, are those of another place. */
function strayed(mine) {
  if (Math.abs(mine.media.currentTime - (mine.sent ?? 0)) < STRAY) return;
  forget();
  mine.turn = (mine.turn ?? 0) + 1;
  $("numbers").hidden = true;
  if (!mine.away && !mine.gone) $("seek-problem").hidden = true;
}

/** One goes elsewhere (to `pts`, µs, if it is known): a time that was asked for before is no longer meant, unless somebody types it now. */
function forget(pts = null) {
  const field = $("pts");
  if (document.activeElement === field) return;
  try {
    if (parseTime(field.value) === pts) return;
  } catch {
    // it is none
  }
  field.value = "";
}

/**
 * Go to a time (µs): ask the server for the keyframe, show its numbers, move the player, if it is not `there` already. Times until a picture
 * is shown are counted from `began`.
 */
export async function jump(pts, there = null, began = performance.now()) {
  const mine = open;
  if (!mine) return;
  mine.wanted = pts;
  forget(pts);
  if (!mine.track) return; // it is being opened, and begins there
  const turn = (mine.turn = (mine.turn ?? 0) + 1); // of two quick jumps the later one's numbers stay
  const asked = performance.now();
  const shown = there ?? (mine.media ? picture(mine, pts) : null);
  if (!mine.media) {
    timeline.position = pts;
    timeline.say();
    timeline.draw();
    moved(mine);
  }
  let found;
  try {
    found = await api.seek(mine.name, pts, mine.track.track, mine.version);
  } catch (error) {
    if (open !== mine || mine.turn !== turn) return;
    fail(error.message);
    mine.away = error.status === 0;
    session.refused(error.code);
    if (["stale", "not-found"].includes(error.code)) await gone(mine);
    return;
  }
  const took = performance.now() - asked;
  if (open !== mine || mine.turn !== turn) return;
  mine.away = false;
  $("seek-problem").hidden = true;
  const rows = {
    asked: clock(found.asked, 6),
    "keyframe found": clock(found.pts, 6),
    offset: Number(found.offset).toLocaleString("en"),
    "group size": bytes(found.size),
    block: Number(found.block_index).toLocaleString("en"),
    took: `${took.toFixed(1)} ms`,
  };
  if (mine.track.kind === "video" && shown) Object.assign(rows, { "picture shown": "…", "picture after": "…" });
  $("numbers").replaceChildren(
    ...Object.entries(rows).map(([name, value]) => element("div", { "data-fact": name }, element("dt", {}, name), element("dd", {}, value))),
  );
  if (document.activeElement?.closest("#jump")) tell(`At ${rows.asked}, from the keyframe at ${rows["keyframe found"]}.`);
  $("numbers").dataset.asked = found.asked;
  $("numbers").hidden = false;
  const cells = $("numbers").querySelectorAll('[data-fact^="picture"] dd');
  const frame = cells.length ? await shown : null;
  if (!cells.length || open !== mine || mine.turn !== turn) return;
  if (!frame) {
    for (const cell of cells) cell.textContent = "not drawn"; // as it is the one that was there
    return;
  }
  cells[0].textContent = clock(frame.mediaTime * 1e6, 6);
  cells[1].textContent = `${(frame.now - began).toFixed(0)} ms`;
  $("numbers").dataset.shown = frame.mediaTime;
  $("numbers").dataset.ms = frame.now - began;
}

/** One picture back (-1) or on (1). Key repeats wait for nobody: what comes while a step is under way is left out. */
export function step(direction, repeated = false) {
  const mine = open;
  if (mine?.track?.kind !== "video" || !mine.media || (repeated && mine.stepping)) return;
  const { media } = mine;
  const began = performance.now();
  media.pause();
  if (!steps) {
    fail("This browser does not say where a picture begins and ends, so that there are no steps from one to the next");
    return;
  }
  const current = () => open === mine && mine.media === media;
  const stepped = (async () => {
    await mine.stepping;
    const pts = current() ? await neighbour(media, direction, (time) => picture(mine, time - origin(mine))) : null;
    if (pts === null || !current()) return;
    // Going back ends at the picture's end, and its own time is its beginning.
    const there = pts - origin(mine);
    await jump(there, direction > 0 ? { mediaTime: there / 1e6, now: performance.now() } : null, began);
  })().catch((error) => current() && fail(error.message)).finally(() => mine.stepping === stepped && (mine.stepping = null));
  mine.stepping = stepped;
}

/** Move the media element; resolves to the picture that it shows then: {mediaTime, now}, or null. */
function picture(mine, pts) {
  const { media } = mine;
  move(mine, pts);
  if (!media.requestVideoFrameCallback) return null;
  return new Promise((resolve) => {
    const drawn = (_, { mediaTime }) => {
      // One that was on its way already is none of this seek.
      if (media.seeking && Math.abs(mediaTime - media.currentTime) > 1) media.requestVideoFrameCallback(drawn);
      else resolve({ mediaTime: mediaTime - base(mine), now: performance.now() });
    };
    media.requestVideoFrameCallback(drawn);
    // A picture that was drawn while nobody was registered for it is not told of: then it is looked at.
    media.addEventListener("seeked", () => {
      const now = performance.now();
      setTimeout(() => resolve(looked(mine, media, now)), LATE);
    }, { once: true });
    setTimeout(() => resolve(null), 5000);
  });
}

function looked(mine, media, now) {
  const picture = shownBy(media);
  return picture && { mediaTime: picture.pts / 1e6 - base(mine), now };
}

/** The keyframe before (-1) or behind (1) the position. */
export async function keyframe(direction) {
  const { keyframes, some } = timeline;
  const now = position() * 1e6;
  if (some) {
    const mine = open;
    const turn = mine.turn;
    const found = await lookUp(Math.max(0, Math.round(now + 2 * direction))).catch(() => null);
    const pts = direction < 0 ? found?.pts : found?.next_pts;
    if (open === mine && mine.turn === turn && pts !== undefined && pts !== null) jump(Number(pts));
    return;
  }
  // Going back from a keyframe itself means the one before it.
  const at = before(keyframes, direction < 0 ? now - 2 : now + 2) + (direction > 0 ? 1 : 0);
  if (at >= 0 && at < keyframes.length) jump(keyframes[at]);
}

/** Go so many seconds on. */
export function by(seconds) {
  const end = timeline.duration / 1e6;
  jump(Math.round(Math.min(end, Math.max(0, position() + seconds)) * 1e6));
}

export const tenth = (digit) => jump(Math.round((timeline.duration * digit) / 10));

export function fail(message, ...more) {
  $("numbers").hidden = true;
  $("seek-problem").replaceChildren(sentence(message), ...more);
  $("seek-problem").hidden = false;
}

/** Whether the container that is open is there no more, or another one; then that is said. */
async function gone(mine) {
  let now;
  try {
    now = await api.info(mine.name, mine.abort.signal);
  } catch (error) {
    now = error;
  }
  const missing = now.code === "not-found";
  if (open !== mine || now.name === "AbortError" || (!missing && (now.status !== undefined || !another(mine, now)))) return false;
  mine.gone = true;
  const again = element("button", { type: "button", class: "quiet" }, "Open it again");
  again.addEventListener("click", () => {
    show(mine.name, here()).then(() => $("view").focus({ preventScroll: true }));
  });
  if (missing) fail("The container was deleted or moved meanwhile");
  else fail("The container was replaced by another one meanwhile", again);
  refresh();
  return true;
}

function stage(mine, track, start) {
  const why = untried(track);
  if (start) $("pts").value = String(start);
  if (why) unplayable(mine, track, why);
  else if (holes(mine, track)) unplayable(mine, track, "Blocks of this track are lost");
  else if (hidden(mine, track)) unlock(mine, track, start);
  else play(mine, track, api.local(track.range_url), start);
}

/** Whether bytes are missing inside of a track's stream: browsers ask for all that follows, which nobody has. */
const holes = (mine, track) => mine.facts.lost.some((one) => one.track === track.track && one.count);

/** Whether the server gives us a track's masked bytes only. */
const hidden = (mine, track) => track.masked && !mine.facts.mask?.unmaskable;

/** Play a masked track, when there is a key. */
async function unlock(mine, track, start) {
  $("stage").className = "stage locked";
  const current = () => open === mine && mine.track === track;
  const failed = (error) => current() && unplayable(mine, track, error.message);
  try {
    const keys = await api.part(import("./keys.js"));
    const published = await keys.open(mine.name, track.track, { stage: $("stage"), signal: mine.abort.signal, failed });
    if (!current()) {
      published.close();
      return;
    }
    mine.published = published;
    if (!published.whole) {
      if (!$("state").textContent.endsWith(INCOMPLETE)) $("state").textContent += INCOMPLETE;
      $("state").className = "state warn";
    }
    play(mine, track, published.url, start);
  } catch (error) {
    failed(error);
  }
}

function play(mine, track, url, start) {
  const kind = track.kind === "audio" ? "audio" : "video";
  $("stage").className = kind === "audio" ? "stage plain" : "stage";
  const label = `${kind} of ${$("title").textContent}`;
  // Until there is a picture, Chromium's own controls are a spinner on grey. Sound has no place at all without them.
  const media = element(kind, { controls: kind === "audio", preload: "metadata", playsinline: kind === "video", src: url, "aria-label": label });
  for (const one of mine.facts.tracks) {
    if (kind !== "video" || one.media_type !== "text/vtt" || one.masked) continue;
    media.append(element("track", { kind: "subtitles", src: api.local(one.range_url), srclang: one.lang, label: plain(one.name ?? one.lang ?? `track ${one.track}`) }));
  }
  mine.media = media;
  const current = () => open === mine && mine.media === media;
  for (const event of ["timeupdate", "progress", "seeking", "seeked", "loadedmetadata", "play", "pause"]) {
    media.addEventListener(event, () => {
      if (!current()) return;
      timeline.follow(media, base(mine));
      moved(mine);
    });
  }
  const control = () => (media.controls = true);
  for (const event of ["loadeddata", "play"]) media.addEventListener(event, control, { once: true });
  // Browsers that save data load no picture until somebody plays. All suspend for a moment when they know the length.
  media.addEventListener("suspend", () => setTimeout(control, PATIENCE), { once: true });
  for (const event of ["seeked", "pause"]) media.addEventListener(event, () => current() && settle(mine));
  media.addEventListener("error", () => current() && failed(mine, track, media));
  for (const event of ["playing", "seeked"]) media.addEventListener(event, () => current() && mine.away && ask(mine));
  // Where one wants to be by then: times that are typed meanwhile count, too.
  media.addEventListener("loadedmetadata", () => (mine.wanted || base(mine)) && move(mine, mine.wanted), { once: true });
  media.addEventListener("seeking", () => current() && strayed(mine));
  $("stage").replaceChildren(media);
  if (kind === "video") awaited(media);
}

/** Say that a picture is on its way, until it is there: on a slow line there is nothing but black for long. */
function awaited(media) {
  const sign = element("p", { class: "loading", role: "status" }, "Loading");
  const shown = new AbortController();
  const look = () => {
    if (media.readyState >= media.HAVE_CURRENT_DATA) shown.abort();
    // Browsers that save data rest until somebody plays.
    const comes = !shown.signal.aborted && (media.networkState === media.NETWORK_LOADING || !media.paused);
    if (!comes) sign.remove();
    else if (!sign.isConnected) media.after(sign);
  };
  // A seek that began with the first picture takes it away again: then it is the one that is sought.
  for (const event of ["loadstart", "loadeddata", "canplay", "seeked", "play", "progress"]) media.addEventListener(event, look, { signal: shown.signal });
  media.addEventListener("suspend", () => setTimeout(look, PATIENCE), { signal: shown.signal });
}

/** Whether these facts are those of another container of that name. */
const another = (mine, now) => api.version(now) !== api.version(mine.facts);

/** What a media element could not do is the fault of the file, or of the way to it: the server is asked which. */
async function failed(mine, track, media) {
  const place = media.currentTime ? here() : mine.wanted;
  const there = await api.info(mine.name, mine.abort.signal).catch((error) => error);
  if (open !== mine || mine.media !== media) return;
  const other = there.status === undefined && another(mine, there);
  if (there.status === undefined && !other && media.error?.code !== MediaError.MEDIA_ERR_NETWORK) {
    unplayable(mine, track, refused(track));
    return;
  }
  const again = element("button", { type: "button" }, "Try again");
  again.addEventListener("click", async () => {
    const now = await api.info(mine.name, mine.abort.signal).catch(() => null); // it may have been replaced since
    if (open !== mine) return;
    if (now && another(mine, now)) show(mine.name, place);
    else choose(mine, track.track, place);
  });
  session.refused(there.code);
  stop(mine);
  mine.wanted = place;
  const why = there.code === "not-found" ? "It was deleted or moved meanwhile." : other ? "It was replaced by another one meanwhile." : there.status ? `The server says: ${sentence(there.message)}` : "The connection to the server was lost.";
  $("stage").className = "stage";
  $("stage").replaceChildren(element("div", { class: "note" }, ...note("Playing was interrupted", why), again));
  tell(`Playing was interrupted. ${why}`);
}

/** Whether what was said of a server that could not be reached still holds: media play and seek in what they have, too, so it is asked. */
async function ask(mine) {
  const there = await api.session().then(() => true, ({ status }) => status !== 0);
  if (!there || open !== mine || !mine.away) return;
  mine.away = false;
  $("seek-problem").hidden = true;
}

/** The address says where one is, so that it can be copied, kept and come back to. */
function settle(mine) {
  clearTimeout(mine.settling);
  mine.settling = setTimeout(() => {
    if (open !== mine || !mine.media?.readyState) return;
    history.replaceState(null, "", href(mine.name, place()));
  }, SETTLED);
}

function unplayable(mine, track, lead) {
  stop(mine);
  $("stage").className = "stage";
  const [masked, broken] = [hidden(mine, track), holes(mine, track)];
  const address = masked || broken ? `${api.containerUrl(mine.name)}&download=1` : api.local(track.range_url);
  const link = element("a", { href: address, download: true }, masked || broken ? "Download the container" : "Download them");
  const line = broken ? ["There are no bytes in their place, and browsers play no stream with holes. ", link, "."] : masked ? [link, " and unmask it with ", element("code", {}, "harmony4 unmask"), "."] : ["The bytes are all there. ", link, "."];
  $("stage").replaceChildren(element("div", { class: "note" }, ...note(lead[0].toUpperCase() + lead.slice(1), line)));
}
