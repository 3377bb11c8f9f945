// Whether a browser plays a track: the player says so when one is opened, an upload's row before that.

import { element } from "./dom.js";

const named = (track) => `${track.media_type} (${track.codec.replaceAll(",", " + ") || "codec unknown"})`;

/** Why a track is not even tried; null if it is. */
export function untried(track) {
  if (!track.blocks) return "This track is empty";
  return track.kind === "audio" || track.kind === "video" ? null : "These bytes are no audio or video";
}

/** What is said of a track that a media element has refused. */
export const refused = (track) => `This browser cannot play ${named(track)}`;

/**
 * Let a media element that nobody sees read the beginning of a track: why it does not play, null if it does. `canPlayType` is no help: of
 * HEVC in MP4 it says "maybe", and nothing at all of a codec's name.
 */
export async function attempt(track, url) {
  const media = element(track.kind, { preload: "metadata", src: url });
  const heard = (event) => new Promise((resolve) => media.addEventListener(event, () => resolve(event), { once: true }));
  const first = await Promise.race([heard("loadedmetadata"), heard("error")]);
  const [sound, { error }] = [track.kind === "video" && !media.videoWidth, media];
  media.removeAttribute("src"); // else the browser goes on fetching
  media.load();
  if (first === "error") return error.code === MediaError.MEDIA_ERR_NETWORK ? null : refused(track);
  return sound ? `This browser plays the sound of ${named(track)}, and shows no picture` : null;
}
