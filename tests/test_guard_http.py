"""The guard over real sockets: modes, Host, Origin, tokens, sessions, signatures, CORS, express lane."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.cookies import SimpleCookie
from pathlib import Path
from xml.sax.saxutils import unescape

import pytest
from aiohttp import web
from yarl import URL

from harmony4.crypto.errors import HarmonyError, UsageError
from harmony4.server.app import run
from harmony4.server.config import Config
from harmony4.server.guard import signing
from harmony4.server.guard.cors import EXPOSE
from harmony4.server.guard.guard import LOOKS
from harmony4.server.guard.secret import load_secret, secret_path
from harmony4.server.guard.sessions import COOKIE
from harmony4.server.guard.throttle import FREE
from harmony4.server.guard.tokens import TokenFile, new_token
from harmony4.server.keys import EXPRESS, GUARD
from harmony4.server.state import State
from processes import until
from serving import LOOPS, VIDEO, Answer, Server, running, write_container

DATA = [b"one" * 100, b"two" * 100, b"three" * 100]
STREAM = b"".join(DATA)
SEEK = "/video/seek?name=a.h4mk&pts=1500000"
RANGE = "/video/range?name=a.h4mk"
INFO = "/video/info?name=a.h4mk"
OPEN = ("/", "/static/app.js", "/openapi.json", "/health", "/ready", "/session")
GUARDED = (SEEK, RANGE, INFO, "/media", "/container?name=a.h4mk", "/video/keyframes?name=a.h4mk", "/nothing")
APP = "https://app.example.org"
SENT = {
    "Range",
    "If-Range",
    "If-None-Match",
    "If-Match",
    "Authorization",
    "Last-Event-ID",
    "Content-Type",
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Checksum",
    "Upload-Defer-Length",
    "Upload-Concat",
}
"""Headers that pages of allowed origins may send."""


class Place:
    """A library with a container, and its tokens."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = State(root / ".harmony4")
        self.file = TokenFile(self.state)
        write_container(root / "a.h4mk", DATA, info=replace(VIDEO, self_framing=True))

    def token(self, *scopes: str, expires: int | None = None, now: float | None = None) -> str:
        made, text = new_token("test", scopes or ("read",), time.time() if now is None else now, expires)
        self.file.add(made)
        return text

    def signed(self, target: str, exp: int | None = None, ip: str | None = None) -> str:
        ends = int(time.time()) + 600 if exp is None else exp
        key = signing.key_of(load_secret(self.state))
        return signing.signed_url(key, target, signing.Signature(ends, ip))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def ask(server: Server, target: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
    return server.request(method, target, headers or {})


# -- modes


def test_open_needs_nothing_and_keeps_nothing(place: Place) -> None:
    with running(place.root) as server:
        for target in (*OPEN, *GUARDED[:-1]):
            answer = server.get(target)
            assert answer.status == 200, target
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "Cookie" not in answer.headers.get("Vary", "")
        assert server.get("/session").json == {
            "mode": "open",
            "name": None,
            "scopes": ["read", "write", "mask", "admin", "metrics"],
            "expires": None,
            "lies": None,
        }
        signed_in = ask(server, "/session", method="POST")
        assert (signed_in.status, signed_in.headers["Set-Cookie"]) == (200, None)
        version = server.get(INFO).json["tracks"][0]["range_url"]
        assert server.get(version).headers["Cache-Control"].startswith("public, ")
    assert not place.state.path.exists()


def test_auth_asks_for_a_token(place: Place) -> None:
    text = place.token("read")
    with running(place.root, auth=True) as server:
        for target in OPEN:
            assert server.get(target).status == 200, target
        for target in GUARDED:
            answer = server.get(target)
            assert (answer.status, answer.problem) == (401, "unauthorized"), target
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.headers["Cache-Control"] == "no-store"
            assert "Authorization, Cookie" in answer.headers["Vary"]
            assert ask(server, target, bearer(text)).status == (404 if target == "/nothing" else 200), target
            assert ask(server, target, {"Authorization": f"bEARER  {text}"}).status != 401
            assert ask(server, target, method="HEAD").status == 401
        found = ask(server, SEEK, bearer(text))
        assert found.headers["Cache-Control"] == "private, no-cache"
        assert found.headers["Vary"] == "Authorization, Cookie"
        kept = ask(server, found.json["range_url"], bearer(text))
        assert kept.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        assert "sig=" not in found.json["range_url"]


def test_public_read(place: Place) -> None:
    reader, writer = place.token("read"), place.token("write")
    with running(place.root, public_read=True) as server:
        for target in GUARDED[:-1]:
            answer = server.get(target)
            assert answer.status == 200
            assert "Vary" not in answer.headers
            assert "Cross-Origin-Resource-Policy" not in answer.headers
        versioned = server.get(SEEK).json["range_url"]
        assert server.get(versioned).headers["Cache-Control"].startswith("public, ")
        mine = ask(server, versioned, bearer(reader))
        assert mine.headers["Cache-Control"].startswith("private, ")
        assert mine.headers["Vary"] == "Authorization, Cookie"
        assert server.get("/session").json["scopes"] == ["read"]
        # What comes behind the guard says that the name is missing.
        for headers, status in (({}, 401), (bearer(reader), 403), (bearer(writer), 400)):
            answer = ask(server, "/media", headers, "DELETE")
            assert answer.status == status
        refused = ask(server, "/media", bearer(reader), "DELETE")
        assert refused.problem == "forbidden"
        assert "scope write" in refused.json["detail"]
        assert refused.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="write"'
        # What is shown has to be right even where nobody asks for it.
        assert ask(server, SEEK, bearer(reader[:-1])).status == 401


def test_what_is_not_for_everybody_where_reading_is_free(place: Place) -> None:
    """Names of what is not there yet, failures, and what was deleted; and what cannot be reversed."""
    reader, writer, admin = (place.token(scope) for scope in ("read", "write", "admin"))
    with running(place.root, public_read=True) as server:
        for target in ("/jobs", f"/jobs/{'0' * 32}", "/media/trash", "/events"):
            for method in ("GET", "HEAD") if target != "/events" else ("GET",):
                assert ask(server, target, method=method).status == 401
                assert ask(server, target, bearer(reader), method).status == 403
        assert ask(server, "/jobs", bearer(writer)).status == 200
        trashed = ask(server, "/media?name=a.h4mk", bearer(writer), "DELETE").json["id"]
        purge = f"/media/trash?id={trashed}"
        assert ask(server, purge, bearer(writer), "DELETE").status == 403
        assert ask(server, purge, bearer(admin), "DELETE").status == 204


def test_scopes(place: Place) -> None:
    texts = {scope: place.token(scope) for scope in ("read", "write", "mask", "admin")}
    body = b'{"pts": [0]}'
    json_type = {"Content-Type": "application/json"}
    with running(place.root, auth=True) as server:
        for scope, text in texts.items():
            reads = scope != "mask"
            assert ask(server, SEEK, bearer(text)).status == (200 if reads else 403)
            many = server.request("POST", "/video/seek?name=a.h4mk", bearer(text) | json_type, body)
            assert many.status == (200 if reads else 403)
            writes = scope in ("write", "admin")
            assert ask(server, "/media", bearer(text), "DELETE").status == (400 if writes else 403)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"),
        lambda text: text[:3] + "0" * 16 + text[19:],
        lambda text: text + " x",
        lambda text: "é" * 20,
    ],
)
def test_wrong_tokens(place: Place, change: Callable[[str], str]) -> None:
    text = place.token("admin")
    with running(place.root, auth=True) as server:
        answer = ask(server, SEEK, {"Authorization": f"Bearer {change(text)}".encode().decode("latin-1")})
        assert (answer.status, answer.problem) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
        assert ask(server, SEEK, {"Authorization": f"Basic {text}"}).headers["WWW-Authenticate"] == "Bearer"


def test_expired_tokens(place: Place) -> None:
    past = place.token("read", expires=1000, now=500)
    soon = place.token("read", expires=int(time.time()) + 1000)
    with running(place.root, auth=True) as server:
        answer = ask(server, SEEK, bearer(past))
        assert (answer.status, answer.json["detail"]) == (401, "the token has expired")
        assert ask(server, SEEK, bearer(soon)).status == 200


def test_tokens_come_and_go_without_a_restart(place: Place) -> None:
    with running(place.root, auth=True) as server:
        text, other = place.token("read"), place.token("read")
        # Not by asking again and again: that is what a guesser does.
        until(lambda: len(server.app[GUARD].tokens) == 2, "the guard's look at its files")
        assert ask(server, SEEK, bearer(text)).status == ask(server, SEEK, bearer(other)).status == 200
        place.file.revoke(text.split("_")[1])
        until(lambda: ask(server, SEEK, bearer(text)).status == 401, "the guard's look at its files")
        assert ask(server, SEEK, bearer(other)).status == 200


def test_a_file_that_is_damaged_lets_nobody_in(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    text = place.token("read")
    whole = place.file.path.read_bytes()
    with running(place.root, auth=True) as server:
        url = place.signed(SEEK)
        assert ask(server, SEEK, bearer(text)).status == ask(server, url).status == 200
        place.file.path.write_bytes(b"{")
        until(lambda: ask(server, SEEK, bearer(text)).status == 401, "the guard's look at its files")
        assert ask(server, url).status == 401
        assert sum("no token is accepted" in one.message for one in caplog.records) == 1
        place.file.path.write_bytes(whole)
        until(lambda: ask(server, SEEK, bearer(text)).status == 200, "the guard's look at its files")
        assert ask(server, url).status == 200
        secret_path(place.state).unlink()  # a new one is made, and what the old one signed is void
        until(lambda: ask(server, url).status == 401, "the guard's look at its files")
        assert ask(server, place.signed(SEEK)).status == 200
        assert ask(server, SEEK, bearer(text)).status == 200


def test_a_server_that_cannot_know_its_tokens_does_not_start(place: Place) -> None:
    place.token("read")
    place.file.path.write_bytes(b"{")
    with pytest.raises(HarmonyError, match="tokens"), running(place.root, auth=True):
        pass


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_open_is_for_this_machine_alone(place: Place, host: str, workers: int) -> None:
    with pytest.raises(UsageError, match="--public-read") as caught:
        run(Config(library=place.root, host=host, port=0, workers=workers))
    assert "--auth" in str(caught.value)
    assert "\n" not in str(caught.value)


# -- Host and Origin


@pytest.mark.parametrize("mode", ["open", "public_read", "auth"])
@pytest.mark.parametrize("target", ["/", "/health", "/session", SEEK])
def test_a_rebound_host_is_refused(place: Place, mode: str, target: str) -> None:
    settings = {} if mode == "open" else {mode: True}
    with running(place.root, allowed_hosts=("media.example.org",), **settings) as server:
        for host in ("evil.test", "evil.test:80", "", "localhost.evil.test", "media.example.org.evil.test"):
            for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
                received = server.raw(request(method, target, f"Host: {host}"))
                assert received.startswith(b"HTTP/1.1 421 "), (host, method)
                assert method == "HEAD" or b"urn:harmony4:problem:host" in received
        for host in ("media.example.org", "localhost:1", "127.0.0.1", "[::1]", "10.0.0.1", "a.localhost"):
            assert not server.raw(request("GET", target, f"Host: {host}")).startswith(b"HTTP/1.1 421 ")


def request(method: str, target: str, *lines: str, version: str = "1.1") -> bytes:
    head = [f"{method} {target} HTTP/{version}", *lines, "Connection: close", "", ""]
    return "\r\n".join(head).encode()


def test_without_a_host(place: Place) -> None:
    with running(place.root) as server:
        received = server.raw(request("GET", SEEK))
        assert received.split()[1] == b"400"
        assert server.raw(request("GET", SEEK, version="1.0")).startswith(b"HTTP/1.0 200 ")


SITES = [
    ({"Origin": "http://evil.test"}, False),
    ({"Origin": "http://evil.test", "Sec-Fetch-Site": "cross-site"}, False),
    ({"Origin": "null"}, False),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Origin": "http://app.example.org"}, False),
    ({"Origin": APP, "Sec-Fetch-Site": "cross-site"}, True),
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({}, True),
]


@pytest.mark.parametrize(("headers", "passes"), SITES)
@pytest.mark.parametrize("mode", ["open", "auth"])
def test_whose_page_may_change_something(
    place: Place, mode: str, headers: dict[str, str], passes: bool
) -> None:
    text = place.token("admin")
    more = bearer(text) if mode == "auth" else {}
    with running(place.root, cors_origins=(APP,), auth=mode == "auth") as server:
        for method, target, fine in (
            ("POST", "/session", 200),
            ("DELETE", "/session", 204),
            ("DELETE", "/media", 400),
            ("PUT", "/nothing", 404),
            ("POST", "/video/seek?name=a.h4mk", 415),
        ):
            answer = ask(server, target, headers | more, method)
            assert answer.status == (fine if passes else 403), (method, target)
            if not passes:
                assert answer.problem == "origin"
                assert "Access-Control-Allow-Origin" not in answer.headers
        assert ask(server, SEEK, headers | more).status == 200  # who may see it is the browser's business
        own = server.url
        assert ask(server, "/session", {"Origin": own} | more, "POST").status == 200


# -- CORS


def test_preflights(place: Place) -> None:
    asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "tus-resumable"}
    with running(place.root, auth=True, cors_origins=(APP,)) as server:
        for target in (SEEK, "/session", "/uploads/", "/nothing"):
            answer = ask(server, target, {"Origin": APP} | asked, "OPTIONS")
            assert (answer.status, answer.body) == (204, b"")
            assert answer.headers["Access-Control-Allow-Origin"] == APP
            assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
            assert set(answer.headers["Access-Control-Allow-Headers"].split(", ")) >= SENT
            assert "Origin" in answer.headers["Vary"]
            assert "Access-Control-Allow-Credentials" not in answer.headers
            refused = ask(server, target, {"Origin": "https://evil.test"} | asked, "OPTIONS")
            assert (refused.status, refused.problem) == (403, "origin")
            assert "Access-Control-Allow-Origin" not in refused.headers
        # No preflight: the route's business, without a token.
        assert ask(server, SEEK, {"Origin": APP}, "OPTIONS").status == 405
        assert ask(server, SEEK, {}, "OPTIONS").status == 405


def test_preflights_where_no_origin_is_allowed(place: Place) -> None:
    with running(place.root) as server:
        headers = {"Origin": APP, "Access-Control-Request-Method": "POST"}
        assert ask(server, SEEK, headers, "OPTIONS").problem == "origin"
        answer = ask(server, SEEK, {"Origin": APP})
        assert answer.status == 200
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Vary" not in answer.headers


def test_answers_to_pages_of_allowed_origins(place: Place) -> None:
    text = place.token("read")
    with running(place.root, auth=True, cors_origins=(APP, "http://other.example")) as server:
        for target, headers, status in (
            (SEEK, bearer(text), 200),
            (RANGE, bearer(text) | {"Range": "bytes=0-5"}, 206),
            (RANGE, bearer(text) | {"Range": "bytes=99999-"}, 416),
            (SEEK, {}, 401),
            ("/nothing", bearer(text), 404),
            ("/", {}, 200),
            ("/health", {}, 200),
        ):
            answer = ask(server, target, headers | {"Origin": APP})
            assert answer.status == status
            assert answer.headers["Access-Control-Allow-Origin"] == APP
            assert answer.headers["Access-Control-Expose-Headers"] == EXPOSE
            for other in ("https://evil.test", "null", None):
                answer = ask(server, target, headers | ({} if other is None else {"Origin": other}))
                assert answer.status == status
                assert "Access-Control-Allow-Origin" not in answer.headers
                assert "Origin" in answer.headers["Vary"].split(", ")
        answer = server.raw(request("GET", SEEK, "Host: evil.test", f"Origin: {APP}"))
        assert b"Vary: Origin" in answer


# -- sessions


def sign_in(server: Server, text: str, **headers: str) -> tuple[Answer, str]:
    answer = ask(server, "/session", bearer(text) | headers, "POST")
    return answer, str(answer.headers["Set-Cookie"])


def test_a_session(place: Place) -> None:
    text = place.token("write")
    with running(place.root, auth=True) as server:
        answer, cookie = sign_in(server, text)
        assert answer.status == 200
        assert answer.json["scopes"] == ["read", "write"]
        assert answer.json["name"] == "test"
        assert answer.headers["Cache-Control"] == "no-store"
        found = SimpleCookie(cookie)[COOKIE]
        assert (found["path"], found["samesite"], found["httponly"]) == ("/", "Strict", True)
        assert not found["secure"]
        assert text.split("_")[2] not in cookie
        ends = answer.json["expires"]
        assert abs(time.time() + int(found["max-age"]) - ends) < 60
        headers = {"Cookie": f"other=1; {COOKIE}={found.value}"}
        seek = ask(server, SEEK, headers)
        assert seek.status == 200
        assert seek.headers["Cache-Control"] == "private, no-cache"
        assert seek.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        session = ask(server, "/session", headers)
        assert session.json == {
            "mode": "auth",
            "name": "test",
            "scopes": ["read", "write"],
            "expires": ends,
            "lies": None,
        }
        assert ask(server, "/media", headers, "DELETE").status == 400
        # A session makes no session, so that a copied cookie ends.
        assert ask(server, "/session", headers, "POST").status == 401
        gone = ask(server, "/session", headers, "DELETE")
        assert gone.status == 204
        assert SimpleCookie(gone.headers["Set-Cookie"])[COOKIE]["max-age"] == "0"
        place.file.revoke(text.split("_")[1])
        until(lambda: ask(server, SEEK, headers).status == 401, "the guard's look at its files")
        assert ask(server, "/session", headers).json["scopes"] == []


def test_events_end_with_what_opened_them(place: Place) -> None:
    """A stream that has no end is no answer that has begun."""
    text, other = place.token("write"), place.token("write")
    with running(place.root, auth=True) as server:
        _, cookie = sign_in(server, text)
        mine = (f"Authorization: Bearer {text}", f"Cookie: {cookie.partition(';')[0]}")
        with ExitStack() as stack:
            streams = []
            for line in (*mine, f"Authorization: Bearer {other}"):
                one = stack.enter_context(socket.create_connection(server.address, timeout=30))
                head = f"GET /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{line}"
                one.sendall(f"{head}\r\n\r\n".encode())
                assert one.recv(12) == b"HTTP/1.1 200"
                streams.append(one)
            place.file.revoke(text.split("_")[1])
            for one in streams[:2]:
                while data := one.recv(2**16):
                    last = data
                assert last.endswith(b"0\r\n\r\n")
            streams[2].settimeout(0.1)
            with pytest.raises(TimeoutError):
                while streams[2].recv(2**16):
                    pass
        assert ask(server, "/events", bearer(other), "HEAD").status == 405


def test_a_session_is_for_our_own_page_alone(place: Place) -> None:
    """Pages of allowed origins may be of the same site, so that the browser sends them the cookie."""
    text = place.token("write")
    with running(place.root, auth=True, cors_origins=[APP]) as server:
        _, cookie = sign_in(server, text)
        mine = {"Cookie": cookie.partition(";")[0]}
        for more in (
            {"Origin": APP, "Sec-Fetch-Site": "same-site"},
            {"Origin": APP},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            assert ask(server, SEEK, mine | more).status == 401
            if "Origin" in more:
                move = "/media/rename?name=a.h4mk&to=b.h4mk"
                assert ask(server, move, mine | more, "POST").status == 401
                assert ask(server, "/media?name=a.h4mk", mine | more, "DELETE").status == 401
        own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
        assert ask(server, SEEK, mine | own).status == 200
        assert ask(server, SEEK, mine).status == 200
        assert ask(server, SEEK, bearer(text) | {"Origin": APP}).status == 200


def test_a_signature_does_not_outlive_its_key(place: Place) -> None:
    """What a request asked for under the old secret is answered when there is a new one."""
    with running(place.root, auth=True) as server:
        guard = server.app[GUARD]
        url = place.signed(INFO)
        inherited = guard.inherited

        def late(request: web.Request, one: str) -> str:
            secret_path(place.state).unlink()
            load_secret(place.state)
            guard._known = guard._load()
            return inherited(request, one)

        guard.inherited = late  # type: ignore[method-assign]
        answer = server.get(url)
        guard.inherited = inherited  # type: ignore[method-assign]
        assert answer.status == 200
        assert server.get(answer.json["tracks"][0]["range_url"]).status == 401


def test_sessions_over_https(place: Place) -> None:
    with running(place.root, auth=True) as server:
        text = place.token("read", expires=int(time.time()) + 100)
        until(lambda: bool(server.app[GUARD].tokens), "the guard's look at its files")
        answer, cookie = sign_in(server, text, **{"X-Forwarded-Proto": "https"})
        assert "Secure" in cookie
        assert answer.json["expires"] <= time.time() + 100


def test_forged_sessions_are_nobody(place: Place) -> None:
    text = place.token("read")
    with running(place.root, auth=True) as server:
        value = SimpleCookie(sign_in(server, text)[1])[COOKIE].value
        for wrong in (value[:-1], value[:-43] + "A" * 43, value.replace(".", ".9", 1), "", "x"):
            assert ask(server, SEEK, {"Cookie": f"{COOKIE}={wrong}"}).status == 401
        for _ in range(2 * FREE):  # and count for nothing: browsers go on sending them
            ask(server, SEEK, {"Cookie": f"{COOKIE}=x"})
        assert ask(server, SEEK, bearer(text)).status == 200
        assert ask(server, "/session", method="POST").status == 401
        assert ask(server, "/session", {"Authorization": "Bearer x"}).status == 401


# -- signed URLs


def test_a_signed_url_opens_one_thing(place: Place) -> None:
    with running(place.root, auth=True) as server:
        for target in GUARDED[:-1]:
            url = place.signed(target)
            answer = server.get(url)
            assert answer.status == 200, target
            assert answer.headers["Cache-Control"].startswith("private")
            assert ask(server, url, method="HEAD").status == 200
            assert ask(server, url, method="DELETE").status == 401
        many = server.request("POST", place.signed("/video/seek?name=a.h4mk"), {}, b"{}")
        assert many.status == 401
        assert server.get(place.signed("/nothing")).status == 404


@pytest.mark.parametrize("mode", ["auth", "public_read"])
def test_signatures_that_do_not_hold(place: Place, mode: str) -> None:
    text = place.token("read")
    with running(place.root, **{mode: True}) as server:
        url = place.signed(RANGE)
        for wrong, says in (
            (url[:-1], "not whole"),
            (url[:-43] + "A" * 43, "not of this"),
            (url.replace("a.h4mk", "b.h4mk"), "not of this"),
            (url.replace("/video/range", "/container"), "not of this"),
            (url.replace("exp=", "exp=9"), "not of this"),
            (url + "&download=1", "not of this"),
            (url + "&name=b.h4mk", "twice"),
            (place.signed(RANGE, exp=1000), "expired"),
            (place.signed(RANGE, ip="192.0.2.1"), "another client"),
        ):
            answer = server.get(wrong)
            assert (answer.status, answer.problem) == (401, "unauthorized"), wrong
            assert says in answer.json["detail"]
            assert ask(server, wrong, bearer(text)).status != 401  # a token decides before it
        assert server.get(place.signed(RANGE, ip="127.0.0.1")).status == 200
        assert server.get(place.signed(RANGE, ip="::ffff:127.0.0.1")).status == 200


def test_what_the_server_makes_inherits_the_signature(place: Place) -> None:
    ends = int(time.time()) + 500
    with running(place.root, auth=True) as server:

        def follow(url: str, kept: str = "private, max-age=31536000, immutable") -> bytes:
            query = URL(url, encoded=True).query
            assert (query["exp"], query["ip"]) == (str(ends), "127.0.0.1")
            assert server.get(url.replace("sig=", "sig=x")).status == 401
            answer = server.get(url)
            assert answer.status == 200
            assert answer.headers["Cache-Control"] == kept
            return answer.body

        def signed(target: str) -> Answer:
            return server.get(place.signed(target, ends, "127.0.0.1"))

        assert follow(signed(SEEK).json["range_url"]) == STREAM
        many = signed("/video/seek?name=a.h4mk&pts=0,1500000").json["results"]
        assert [follow(one["range_url"]) for one in many] == [STREAM, STREAM]
        assert follow(signed(INFO).json["tracks"][0]["range_url"]) == STREAM
        assert follow(signed("/media").json["items"][0]["range_url"]) == STREAM
        assert (
            follow(signed("/video/seek?name=a.h4mk&pts=0&track=*").json["tracks"][0]["range_url"]) == STREAM
        )
        info = signed(INFO).json
        # From the playlist of playlists to the bytes, with what stands in them.
        private = "private, no-cache"
        (listed,) = re.findall(r"^/.*$", follow(info["hls_url"], private).decode(), re.MULTILINE)
        media_urls = re.findall(r"^/.*$", follow(listed, private).decode(), re.MULTILINE)
        assert {follow(url) for url in media_urls} == {STREAM}
        (base,) = re.findall("<BaseURL>(.*)</BaseURL>", follow(info["dash_url"], private).decode())
        assert follow(unescape(base)) == STREAM
        # Nobody is given another's: neither signatures nor plain addresses are kept for the next caller.
        token = bearer(place.token("read"))
        for url in ("/video/hls/0.m3u8?name=a.h4mk", "/video/dash?name=a.h4mk"):
            assert b"sig=" not in ask(server, url, token).body
            assert b"sig=" in signed(url).body
            assert b"sig=" not in ask(server, url, token).body
        timed = signed("/video/range?name=a.h4mk&pts=1000000&end_pts=2000000")
        assert timed.body == DATA[1]
        assert follow(timed.headers["Content-Location"]) == DATA[1]
        assert signed(f"{RANGE}&pts=1000000&track=0").status == 200


def test_signed_requests_leave_nothing_behind(place: Place) -> None:
    """Neither in the cards that all requests share, nor in the catalogue, nor in the express lane."""
    text = place.token("read")
    with running(place.root, auth=True) as server:
        for target, url in (
            (SEEK, lambda answer: answer.json["range_url"]),
            (INFO, lambda answer: answer.json["tracks"][0]["range_url"]),
            ("/media", lambda answer: answer.json["items"][0]["range_url"]),
            (f"{RANGE}&pts=0", lambda answer: answer.headers["Content-Location"]),
        ):
            before = url(ask(server, target, bearer(text)))
            one, other = (url(server.get(place.signed(target, int(time.time()) + n))) for n in (100, 200))
            assert one != other
            assert "sig=" not in before
            assert url(ask(server, target, bearer(text))) == before


def test_signatures_stay_out_of_the_log(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    """In the express lane as well, and where a page with a signed address is what led to a request."""
    text = place.token("read")
    with running(place.root, auth=True, access_log=True) as server:
        url = place.signed(RANGE)
        for name in ("sig", "%73ig", "s%69g", "si%67"):
            assert server.get(url.replace("&sig=", f"&{name}=")).status == 200
        with kept(server) as one:
            for _ in range(5):
                status, _, _ = one(
                    url, f"Authorization: Bearer {text}", f"Referer: {server.url}{url}", "Range: bytes=0-1"
                )
                assert status == 206
                settle(server)
            assert server.app[EXPRESS].answered > 0
    logged = capfd.readouterr().err
    signature = url.rpartition("=")[2]
    assert logged.count("=... HTTP/1.1") == 9
    assert logged.count('=..." ') == 5
    assert signature not in logged


# -- guessing


def test_guessing_is_slowed(place: Place) -> None:
    known, other, new = place.token("read"), place.token("read"), place.token("read")
    with running(place.root, auth=True) as server:
        now = [1000.0]
        server.app[GUARD].throttle._clock = lambda: now[0]
        assert ask(server, SEEK, bearer(known)).status == 200
        wrong = bearer(new[:-4] + "AAAA")
        answers = [ask(server, SEEK, wrong) for _ in range(FREE + 5)]
        assert [answer.status for answer in answers] == [401] * FREE + [429] * 5
        assert answers[-1].problem == "throttled"
        assert answers[-1].headers["Retry-After"] == "1"
        assert ask(server, "/session", wrong, "POST").status == 429
        # Not even the right one is looked at, but others are, and were they never seen before.
        assert ask(server, SEEK, bearer(new)).status == 429
        assert ask(server, SEEK, bearer(known)).status == 200
        unknown = bearer(f"h4_{'0' * 16}_{'A' * 43}")
        assert [ask(server, SEEK, unknown).status for _ in range(FREE + 2)] == [401] * FREE + [429] * 2
        assert ask(server, SEEK, bearer(other)).status == 200
        assert server.get(place.signed(SEEK)).status == 200
        assert server.get("/health").status == 200
        now[0] += 1
        assert ask(server, SEEK, wrong).status == 401
        refused = ask(server, SEEK, bearer(new))
        assert (refused.status, refused.headers["Retry-After"]) == (429, "2")
        now[0] += 2
        assert ask(server, SEEK, bearer(new)).status == 200


# -- the express lane


def settle(server: Server) -> None:
    async def turns() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run_coroutine_threadsafe(turns(), server.loop).result(30)


@contextmanager
def kept(server: Server) -> Iterator[Callable[..., tuple[int, bytes, bytes]]]:
    """One connection; the function asks on it and gives status, head and body."""
    with socket.create_connection(server.address, timeout=30) as connection:

        def ask_raw(target: str, *lines: str) -> tuple[int, bytes, bytes]:
            head = [f"GET {target} HTTP/1.1", "Host: localhost", *lines, "", ""]
            connection.sendall("\r\n".join(head).encode())
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(2**16)
            found, _, body = received.partition(b"\r\n\r\n")
            length = int(re.search(rb"Content-Length: (\d+)", found)[1])  # type: ignore[index]
            while len(body) < length:
                body += connection.recv(2**16)
            settle(server)
            return int(found.split()[1]), re.sub(rb"\r\nDate: [^\r]*", b"", found), body

        yield ask_raw


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("target", "line"), [(RANGE, "Range: bytes=5-9"), (SEEK, "Accept: */*")], ids=["range", "seek"]
)
def test_the_express_lane_ends_with_the_token(place: Place, loop: str, target: str, line: str) -> None:
    text = place.token("read")
    with running(place.root, auth=True, cors_origins=(APP,), loop=loop) as server, kept(server) as one:
        lane = server.app[EXPRESS]
        lines = (line, f"Authorization: Bearer {text}", f"Origin: {APP}")
        first = one(target, *lines)
        assert first[0] in (200, 206)
        before = lane.answered
        again = one(target, *lines)
        assert lane.answered == before + 1
        assert sorted(again[1].split(b"\r\n")) == sorted(first[1].split(b"\r\n"))
        assert again[2] == first[2]
        for header in (
            b"private, no-cache",
            b"Access-Control-Allow-Origin: https://app",
            b"Vary: Origin, Auth",
        ):
            assert header in again[1]
        # Another origin and no token are other bytes, and so the ordinary way's business.
        assert b"Access-Control-Allow" not in one(target, line, lines[1], "Origin: https://evil.test")[1]
        assert one(target, line, f"Origin: {APP}")[0] == 401
        place.file.revoke(text.split("_")[1])
        until(lambda: one(target, *lines)[0] == 401, "the guard's look at its files")
        assert not lane._plans


def test_what_ends_by_itself_is_not_learned(place: Place) -> None:
    text = place.token("read", expires=int(time.time()) + 100)
    lasting = place.token("read")
    with running(place.root, auth=True) as server, kept(server) as one:
        lane = server.app[EXPRESS]
        cookie = SimpleCookie(sign_in(server, lasting)[1])[COOKIE].value
        for target, line in (
            (SEEK, f"Authorization: Bearer {text}"),
            (SEEK, f"Cookie: {COOKIE}={cookie}"),
            (place.signed(SEEK), "Accept: */*"),
        ):
            for _ in range(3):
                assert one(target, line)[0] == 200
                assert (
                    one(RANGE if target == SEEK else place.signed(RANGE), line, "Range: bytes=0-1")[0] == 206
                )
        assert lane.answered == 0
        assert not lane._plans


def test_tokens_that_change_while_an_answer_is_on_its_way(place: Place) -> None:
    """What was let in by the old tokens is not learned by the new ones."""
    text = place.token("read")
    with running(place.root, auth=True) as server, kept(server) as one:
        lane = server.app[EXPRESS]
        vouch = lane.vouch

        def late(request: object) -> None:
            vouch(request)  # type: ignore[arg-type]
            lane.drop()

        lane.vouch = late  # type: ignore[method-assign]
        for _ in range(3):
            assert one(SEEK, f"Authorization: Bearer {text}")[0] == 200
        assert (lane.answered, len(lane._plans)) == (0, 0)


@pytest.mark.parametrize("settings", [{}, {"public_read": True}])
def test_reading_for_everybody_takes_the_lane(place: Place, settings: dict[str, bool]) -> None:
    with running(place.root, **settings) as server, kept(server) as one:
        for _ in range(3):
            assert one(SEEK)[0] == 200
        assert server.app[EXPRESS].answered == 2


def test_the_lane_is_not_taken_by_a_rebound_host(place: Place) -> None:
    with running(place.root) as server:
        with kept(server) as one:
            one(SEEK)
            one(SEEK)
        raw = server.raw(request("GET", SEEK, "Host: evil.test"))
        assert raw.startswith(b"HTTP/1.1 421 ")


def test_looks_are_often_enough() -> None:
    assert LOOKS <= 0.5
