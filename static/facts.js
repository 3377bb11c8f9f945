// What the server says of a container, as tables.

import { element, plain } from "./dom.js";
import { bytes, clock, count, scrubbed } from "./format.js";
import * as seen from "./seen.js";

const mono = (text) => (text ? element("span", { class: "mono" }, text) : null);

export function table(rows) {
  const shown = Object.entries(rows).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element("table", {}, element("tbody", {}, ...shown.map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value)))));
}

/** What is missing of a recovered container, in a few words. */
function lost(holes) {
  if (!holes.length) return null;
  const blocks = holes.reduce((sum, one) => sum + one.count, 0);
  const ends = holes.filter((one) => !one.count).length;
  return [blocks && `${count(blocks, "block")} in ${count(holes.length - ends, "place")}`, ends && (ends > 1 ? `the ends of ${ends} tracks` : "the end")].filter(Boolean).join(", ");
}

/** The panel of facts. */
export function open({ facts }, root) {
  const found = facts.verified;
  const tables = [
    table({
      name: plain(facts.name),
      duration: `${clock(facts.duration, 6)} (${Number(facts.duration).toLocaleString("en")} µs)`,
      size: `${bytes(facts.size)} in ${count(facts.blocks, "block")}`,
      head: mono(facts.head),
      root: mono(facts.root),
      "on the server": found && element("span", { class: found.ok ? null : "bad" }, scrubbed(found)),
      "in this window": facts.head && seen.verified(facts.name, facts.head),
      lost: lost(facts.lost),
      history: facts.history.length ? plain(facts.history.map((one) => one.op).join(" → ")) : null,
    }),
  ];
  facts.tracks.forEach((track, number) => {
    tables.push(
      table({
        [`track ${number}`]: plain([track.kind, track.codec.replaceAll(",", " + "), track.media_type].filter(Boolean).join(" · ")),
        language: track.lang && plain(track.lang),
        title: track.name && plain(track.name),
        stream: `${bytes(track.bytes)}, ${count(track.blocks, "block")}, ${count(track.keyframes, "keyframe")}`,
        times: track.timing === "demux" ? "from the media" : "counted at an assumed frame rate: the media say none that is known here",
        masked: track.masked ? "yes: digest and bytes are those of the masked stream" : null,
        "sha-256": mono(track.sha256),
      }),
    );
  });
  root.replaceChildren(element("div", { class: "facts", id: "facts" }, ...tables));
}
