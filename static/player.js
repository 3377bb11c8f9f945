// One container: the media element on its range URL, the seek's numbers, its facts.

import * as api from "./api.js";
import { $, element, note } from "./dom.js";
import { bytes, clock, count } from "./format.js";
import * as keys from "./keys.js";
import { Timeline } from "./timeline.js";

const timeline = new Timeline((pts) => jump(pts));
let open = null;

export const position = () => open?.media?.currentTime ?? 0;

/** Show a container; `start` in seconds. Resolves when its facts are there. */
export async function show(name, start) {
  close();
  const mine = (open = { name, media: null, abort: new AbortController() });
  $("view-note").hidden = true;
  $("player").hidden = false;
  $("title").textContent = name;
  document.title = `${name} · HarmonyØ4`;
  let facts;
  try {
    facts = await api.info(name, mine.abort.signal);
  } catch (error) {
    if (error.name === "AbortError" || open !== mine) return;
    close();
    $("player").hidden = true;
    $("view-note").hidden = false;
    $("view-note").classList.remove("idle");
    const missing = error.code === "not-found";
    $("view-note").replaceChildren(...note(missing ? "There is no such container" : "This container cannot be opened", missing ? name : `${name}: ${error.message}`));
    return;
  }
  mine.facts = facts;
  const track = facts.tracks[0];
  $("title").textContent = facts.title ?? name.split("/").pop().replace(/\.h4mk$/, "");
  $("state").textContent = facts.state;
  $("state").className = facts.state === "sealed" ? "state" : "state warn";
  describe(facts);
  stage(mine, track, start);
  timeline.show(facts.duration, []);
  if (track.keyframes) {
    const version = track.etag?.slice(0, 16);
    const table = await api.keyframes(name, version, mine.abort.signal).catch(() => null);
    if (table && open === mine) timeline.show(facts.duration, table.pts.map(Number));
  }
}

export function close() {
  open?.abort.abort();
  open?.published?.close();
  if (open?.media) {
    open.media.removeAttribute("src"); // else the browser goes on fetching
    open.media.load();
  }
  open = null;
  timeline.reset();
  for (const id of ["numbers", "seek-problem"]) $(id).hidden = true;
  for (const id of ["stage", "facts"]) $(id).replaceChildren();
  $("state").textContent = "";
}

/** Go to a time (µs): ask the server for the keyframe, show its numbers, move the player. */
export async function jump(pts) {
  const mine = open;
  if (!mine?.facts) return;
  const turn = (mine.turn = (mine.turn ?? 0) + 1); // of two quick jumps the later one's numbers stay
  if (mine.media) mine.media.currentTime = pts / 1e6;
  const began = performance.now();
  let found;
  try {
    found = await api.seek(mine.name, pts);
  } catch (error) {
    if (open === mine && mine.turn === turn) fail(error.message);
    return;
  }
  const took = performance.now() - began;
  if (open !== mine || mine.turn !== turn) return;
  $("seek-problem").hidden = true;
  const rows = {
    asked: clock(found.asked, 6),
    "keyframe found": clock(found.pts, 6),
    offset: Number(found.offset).toLocaleString("en"),
    "group size": bytes(found.size),
    block: Number(found.block_index).toLocaleString("en"),
    took: `${took.toFixed(1)} ms`,
  };
  $("numbers").replaceChildren(
    ...Object.entries(rows).map(([name, value]) =>
      element("div", { "data-fact": name }, element("dt", {}, name), element("dd", {}, value)),
    ),
  );
  $("numbers").dataset.asked = found.asked;
  $("numbers").hidden = false;
}

export function fail(message) {
  $("numbers").hidden = true;
  $("seek-problem").textContent = message;
  $("seek-problem").hidden = false;
}

function stage(mine, track, start) {
  const playable = track.kind === "audio" || track.kind === "video";
  if (start) $("pts").value = String(Math.round(start * 1e6));
  if (!playable || !track.blocks) unplayable(mine, track, track.blocks ? "These bytes are no audio or video" : "This track is empty");
  else if (hidden(mine, track)) unlock(mine, track, start);
  else play(mine, track, api.local(track.range_url), start);
}

/** Whether the server gives us a track's masked bytes only. */
const hidden = (mine, track) => track.masked && !mine.facts.mask?.unmaskable;

/** Play a masked track, when there is a key. */
async function unlock(mine, track, start) {
  $("stage").className = "stage locked";
  const failed = (error) => open === mine && unplayable(mine, track, error.message);
  try {
    mine.published = await keys.open(mine.name, track.track, { stage: $("stage"), signal: mine.abort.signal, failed });
    if (open !== mine) {
      mine.published.close();
      return;
    }
    if (!mine.published.whole) {
      $("state").textContent = `${mine.facts.state}, may be incomplete`;
      $("state").className = "state warn";
    }
    play(mine, track, mine.published.url, start);
  } catch (error) {
    failed(error);
  }
}

function play(mine, track, url, start) {
  const kind = track.kind === "audio" ? "audio" : "video";
  $("stage").className = kind === "audio" ? "stage plain" : "stage";
  const media = element(kind, { controls: true, preload: "metadata", playsinline: kind === "video", src: url });
  mine.media = media;
  for (const event of ["timeupdate", "progress", "seeking", "seeked", "loadedmetadata"]) {
    media.addEventListener(event, () => open === mine && timeline.follow(media));
  }
  media.addEventListener("error", () => {
    if (open !== mine || mine.media !== media) return;
    unplayable(mine, track, `This browser cannot play ${track.media_type} (${track.codec.replaceAll(",", " + ") || "codec unknown"})`);
  });
  if (start) media.addEventListener("loadedmetadata", () => (media.currentTime = start), { once: true });
  $("stage").replaceChildren(media);
}

function unplayable(mine, track, lead) {
  mine.media = null;
  mine.published?.close();
  $("stage").className = "stage";
  const masked = hidden(mine, track);
  const address = masked ? `container?${new URLSearchParams({ name: mine.name, download: "1" })}` : api.local(track.range_url);
  const link = element("a", { href: address, download: true }, masked ? "Download the container" : "Download them");
  const line = masked ? [link, " and unmask it with ", element("code", {}, "harmony4 unmask"), "."] : ["The bytes are all there. ", link, "."];
  $("stage").replaceChildren(element("div", { class: "note" }, ...note(lead[0].toUpperCase() + lead.slice(1), line)));
}

function describe(facts) {
  const table = (rows) =>
    element(
      "table",
      {},
      ...Object.entries(rows)
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value))),
    );
  const mono = (text) => (text ? element("span", { class: "mono" }, text) : null);
  const tables = [
    table({
      name: facts.name,
      duration: `${clock(facts.duration, 6)} (${Number(facts.duration).toLocaleString("en")} µs)`,
      size: `${bytes(facts.size)} in ${count(facts.blocks, "block")}`,
      head: mono(facts.head),
      root: mono(facts.root),
      lost: facts.lost.length ? count(facts.lost.length, "hole") : null,
    }),
  ];
  facts.tracks.forEach((track, number) => {
    tables.push(
      table({
        [`track ${number}`]: [track.kind, track.codec.replaceAll(",", " + "), track.media_type].filter(Boolean).join(" · "),
        language: track.lang,
        title: track.name,
        stream: `${bytes(track.bytes)}, ${count(track.blocks, "block")}, ${count(track.keyframes, "keyframe")}`,
        times: track.timing === "demux" ? "from the media" : "from a frame rate that was given",
        masked: track.masked ? "yes: digest and bytes are those of the masked stream" : null,
        "sha-256": mono(track.sha256),
      }),
    );
  });
  $("facts").replaceChildren(...tables);
}
