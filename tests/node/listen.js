// Read a stream of tokens with npm's EventSource until it closes by itself; say what was heard, as JSON.
import { EventSource } from "eventsource";

const seen = { ids: [], kinds: [], opened: 0, status: null };
const source = new EventSource(process.argv[2]);
source.addEventListener("open", () => (seen.opened += 1));
source.addEventListener("token", (event) => seen.ids.push(event.lastEventId));
for (const kind of ["meta", "done", "problem", "reset", "restart"])
  source.addEventListener(kind, () => seen.kinds.push(kind));
source.addEventListener("error", (event) => {
  seen.status = event.code ?? null;
  if (source.readyState === EventSource.CLOSED) console.log(JSON.stringify(seen));
});
