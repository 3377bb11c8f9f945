// The service worker that lets <video> play what a page unmasks. It holds no key and no media: it passes a request for an
// address below unmasked/ on to the page that made it (unmask.js), and the page's answer back. All else goes to the network.

const PLACE = new URL("unmasked/", self.registration.scope).href;

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("message", (event) => event.waitUntil(self.clients.claim())); // a page asks to be taken over
self.addEventListener("fetch", (event) => {
  if (event.request.url.startsWith(PLACE)) event.respondWith(answer(event));
});

/** Ask a page: {url, range} with the value of a Range header, or {url, start, stop} for what follows of an answer. */
function ask(page, question) {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = (event) => {
      port1.close();
      resolve(event.data);
    };
    page.postMessage({ harmony4: "unmask", ...question }, [port2]);
  });
}

async function answer(event) {
  const { request, clientId } = event;
  const page = clientId ? await self.clients.get(clientId) : null;
  // Somebody who opens the address by itself has no page that could answer.
  if (!page || request.mode === "navigate" || request.method !== "GET") return new Response("not here", { status: 404 });
  const first = await ask(page, { url: request.url, range: request.headers.get("Range") });
  return new Response(first.at < first.stop ? rest(page, request.url, first) : first.body, first);
}

/** A body that asks for one piece after the other, when the last one is wanted. */
function rest(page, url, { body, at, stop }) {
  let next = body;
  let start = at;
  return new ReadableStream(
    {
      async pull(controller) {
        if (next === null) {
          const piece = await ask(page, { url, start, stop });
          if (!piece.body) {
            controller.error(new TypeError("the page could not unmask this"));
            return;
          }
          next = piece.body;
          start = piece.at;
        }
        controller.enqueue(new Uint8Array(next));
        next = null;
        if (start >= stop) controller.close();
      },
    },
    { highWaterMark: 0 },
  );
}
