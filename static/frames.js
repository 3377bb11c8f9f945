// One picture back or on: how long a picture stands is what the media say (the decoder knows it), not what somebody assumes.

const NEAR = 500; // µs before a picture another one is shown: none stands for so short a time
const LEAST = 4000; // µs: where nobody says how long a picture stands, the search for the next one begins so far behind it
const MOST = 2e6; // and ends here

/** Whether this browser says so. */
export const steps = "VideoFrame" in globalThis;

/** {pts, duration} (µs) of the picture that a media element shows: `duration` null where it is not known. Null if there is none. */
export function shownBy(media) {
  try {
    const frame = new VideoFrame(media);
    const found = { pts: frame.timestamp, duration: frame.duration || null };
    frame.close();
    return found;
  } catch {
    return null; // no WebCodecs here, or no picture
  }
}

/**
 * The time (µs) of the picture before (-1) or behind (1) the one that is shown; null where there is none, or none is shown.
 *
 * `move(pts)` must show the picture of a time and resolve when it is there, to `{mediaTime}` (s) or null; the picture that is found
 * is shown when this resolves.
 */
export async function neighbour(media, direction, move) {
  const now = shownBy(media);
  if (!now) return null;
  const end = media.duration * 1e6;
  const look = async (pts) => {
    const told = await move(pts);
    return shownBy(media)?.pts ?? (told && Math.round(told.mediaTime * 1e6));
  };
  if (direction < 0) {
    const found = now.pts > 0 ? await look(Math.max(0, now.pts - NEAR)) : now.pts;
    return found !== null && found < now.pts ? found : null;
  }
  // A picture that is reached within twice its distance is the next one, where they stand equally long.
  for (let far = now.duration ?? LEAST; far <= MOST && now.pts + far < end; far *= now.duration ? 1.5 : 2) {
    const found = await look(now.pts + far);
    if (found === null) return null;
    if (found > now.pts) return found;
  }
  return null;
}
