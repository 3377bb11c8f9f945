"""A proxy that lies: it passes requests on to a server and changes what comes back."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

Lie = Callable[[str, int, bytes], bytes]
"""(path with query, offset of the first byte, body) -> body."""


@contextmanager
def lying(
    server: str, lie: Lie = lambda _path, _at, body: body, send: Callable[[str], str] = lambda path: path
) -> Iterator[str]:
    """The address of a proxy before `server`; `send` says what is asked for in place of a path."""
    upstream = urlsplit(server)

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._pass_on()

        def do_GET(self) -> None:
            self._pass_on()

        def _pass_on(self) -> None:
            connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port)
            wanted = {
                name: self.headers[name]
                for name in ("Range", "If-Range", "Accept-Encoding")
                if name in self.headers
            }
            try:
                connection.request(self.command, send(self.path), headers=wanted)
                answer = connection.getresponse()
                body = answer.read()
                sent = answer.getheader("Content-Range") or "bytes 0-"
                at = int(sent.removeprefix("bytes ").partition("-")[0] if answer.status == 206 else 0)
                if answer.status in (200, 206) and self.command == "GET":
                    body = lie(self.path, at, body)
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name not in ("Date", "Server", "Connection", "Transfer-Encoding", "Content-Length"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(body)
            finally:
                connection.close()

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        proxy.daemon_threads = True
        thread = Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()
            thread.join()
