// What the server says of a container, as tables.

import { element } from "./dom.js";
import { bytes, clock, count } from "./format.js";

const mono = (text) => (text ? element("span", { class: "mono" }, text) : null);

export function table(rows) {
  const shown = Object.entries(rows).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element("table", {}, element("tbody", {}, ...shown.map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value)))));
}

/** The panel of facts. */
export function open({ facts }, root) {
  const tables = [
    table({
      name: facts.name,
      duration: `${clock(facts.duration, 6)} (${Number(facts.duration).toLocaleString("en")} µs)`,
      size: `${bytes(facts.size)} in ${count(facts.blocks, "block")}`,
      head: mono(facts.head),
      root: mono(facts.root),
      lost: facts.lost.length ? count(facts.lost.length, "hole") : null,
      history: facts.history.length ? facts.history.map((one) => one.op).join(" → ") : null,
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
  root.replaceChildren(element("div", { class: "facts", id: "facts" }, ...tables));
}
