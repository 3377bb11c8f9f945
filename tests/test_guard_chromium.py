"""What pages of other origins can do through Debian's Chromium: nothing, unless they are allowed."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.sync_api import Browser, BrowserContext, Page

from chromium import chromium
from harmony4.server import app as server_app
from harmony4.server.config import Config
from harmony4.server.guard.sessions import COOKIE
from harmony4.server.guard.tokens import TokenFile, new_token
from harmony4.server.state import State
from needs import needs_chromium
from processes import until
from serving import Server, running, write_container

pytestmark = needs_chromium

ARGUMENTS = [
    # A name of the attacker's that leads to this machine, as DNS rebinding makes it.
    "--host-resolver-rules=MAP *.evil.test 127.0.0.1, MAP evil.test 127.0.0.1",
    # Chromium's own defence against pages that look into local networks would hide ours.
    "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
]
UPLOAD = "/test/upload"
"""A route that says who has come through to it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(*ARGUMENTS) as one:
        yield one


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    one = browser.new_context()
    yield one
    one.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A web server of somebody else on this machine, with an empty page at every path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<!doctype html><title>other</title>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        yield other.server_address[1]
        other.shutdown()
        thread.join()


@contextmanager
def spied(root: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[tuple[Server, list[str]]]:
    """A server with a route for uploads; the list says which requests came through to it."""
    reached: list[str] = []
    make = server_app.create_app

    async def upload(request: web.Request) -> web.Response:
        reached.append(f"{request.method} {request.query.get('how')}")
        return web.json_response({"done": True}, status=201)

    def create(config: Config, *, lying: bool = False) -> web.Application:
        app = make(config, lying=lying)
        app.router.add_route("*", UPLOAD, upload)
        return app

    write_container(root / "a.h4mk", [b"secret" * 100] * 3)
    monkeypatch.setattr(server_app, "create_app", create)
    with running(root, **settings) as server:
        yield server, reached


def token(root: Path, *scopes: str) -> str:
    made, text = new_token("test", scopes, 0)
    TokenFile(State(root / ".harmony4")).add(made)
    return text


# Everything that a page can send without being asked, and everything that it has to ask for first.
ATTACK = """async ({url, headers}) => {
  const done = {};
  const attempt = async (how, work) => {
    try { done[how] = await work(); } catch (error) { done[how] = error.name; }
  };
  const to = (how) => `${url}/test/upload?how=${encodeURIComponent(how)}`;
  const form = () => {
    const data = new FormData();
    data.append("file", new Blob(["x"]), "x.mp4");
    return data;
  };
  const send = (how, init) => attempt(how, async () => {
    const answer = await fetch(to(how), {credentials: "include", ...init});
    return `${answer.type} ${answer.status}`;
  });
  await send("no-cors multipart", {method: "POST", mode: "no-cors", body: form()});
  await send("no-cors text", {method: "POST", mode: "no-cors", body: "x"});
  await send("cors multipart", {method: "POST", body: form()});
  await send("cors put", {method: "PUT", body: "x"});
  await send("cors delete", {method: "DELETE"});
  await send("cors json", {method: "POST", body: "{}", headers: {"Content-Type": "application/json"}});
  await attempt("beacon", async () => navigator.sendBeacon(to("beacon"), form()));
  await attempt("xhr", () => new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open("POST", to("xhr"));
    request.withCredentials = true;
    request.onload = () => resolve(`read ${request.status}`);
    request.onerror = () => resolve("refused");
    request.send(form());
  }));
  const submit = (how, target) => attempt(how, () => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.name = how;
    document.body.append(frame);
    const element = document.createElement("form");
    Object.assign(element, {method: "post", enctype: target, action: to(how), target: how});
    const field = document.createElement("input");
    Object.assign(field, {name: "file", value: "x"});
    element.append(field);
    document.body.append(element);
    frame.onload = () => resolve("loaded");
    setTimeout(() => resolve("no load"), 3000);
    element.submit();
  }));
  await submit("form multipart", "multipart/form-data");
  await submit("form text", "text/plain");
  return done;
}"""
READ = """async ({url}) => {
  const done = {};
  const video = "/video/range?name=a.h4mk";
  for (const path of ["/video/seek?name=a.h4mk&pts=0", "/media", "/session", video]) {
    for (const credentials of ["omit", "include"]) {
      try {
        const answer = await fetch(url + path, {credentials});
        done[`${credentials} ${path}`] = await answer.text();
      } catch (error) { done[`${credentials} ${path}`] = error.name; }
    }
    try {
      const answer = await fetch(url + path, {mode: "no-cors", credentials: "include"});
      done[`no-cors ${path}`] = `${answer.type} ${(await answer.text()).length}`;
    } catch (error) { done[`no-cors ${path}`] = error.name; }
  }
  for (const tag of ["img", "video", "script"]) {
    done[tag] = await new Promise((resolve) => {
      const element = document.createElement(tag);
      element.onerror = () => resolve("refused");
      element.onload = element.onloadedmetadata = () => resolve("shown");
      element.src = `${url}/video/range?name=a.h4mk`;
      document.body.append(element);
    });
  }
  return done;
}"""


def sign_in(page: Page, server: Server, text: str) -> dict[str, Any]:
    """As the server's own page does it."""
    page.goto(server.url)
    answer: dict[str, Any] = page.evaluate(
        """async (token) => {
          const headers = {Authorization: `Bearer ${token}`};
          const answer = await fetch("session", {method: "POST", headers});
          return {status: answer.status, body: await answer.json(), cookie: document.cookie};
        }""",
        text,
    )
    return answer


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1"])
@pytest.mark.parametrize("mode", ["open", "public_read", "auth"])
def test_a_hostile_page(
    context: BrowserContext, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, mode: str
) -> None:
    """Of another site, and of the same site on another port, where the browser sends the cookie along."""
    text = token(tmp_path, "admin")
    settings = {} if mode == "open" else {mode: True}
    with spied(tmp_path, monkeypatch, **settings) as (server, reached):
        page = context.new_page()
        if mode != "open":
            assert sign_in(page, server, text)["status"] == 200
        page.goto(f"http://{host}:{port}/")
        done = page.evaluate(ATTACK, {"url": server.url})
        assert len(done) == 10
        assert not any("201" in str(value) or "read" in str(value) for value in done.values()), done
        for how in ("cors multipart", "cors put", "cors delete", "cors json"):
            assert done[how] == "TypeError"
        seen = page.evaluate(READ, {"url": server.url})
        for how, value in seen.items():
            assert value in ("TypeError", "refused", "opaque 0"), (how, value)
        if mode != "public_read":
            assert seen["no-cors /video/range?name=a.h4mk"] == "TypeError"
        # Forms reach for the server as well when they take the whole window.
        page.evaluate(
            """(action) => {
              const form = document.createElement("form");
              Object.assign(form, {method: "post", enctype: "multipart/form-data", action});
              document.body.append(form);
              form.submit();
            }""",
            f"{server.url}{UPLOAD}?how=top",
        )
        page.wait_for_url(f"{server.url}{UPLOAD}?how=top")
        assert '"status": 403' in page.content()
        assert reached == []
        assert context.cookies(server.url) if mode != "open" else not context.cookies(server.url)


def test_the_attack_would_work(
    context: BrowserContext, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the origin an allowed one: what stops the page is the server, and not the browser or the test."""
    origin = f"http://evil.test:{port}"
    with spied(tmp_path, monkeypatch, cors_origins=(origin,)) as (server, reached):
        page = context.new_page()
        page.goto(f"{origin}/")
        done = page.evaluate(ATTACK, {"url": server.url})
        # With the cookie sent along the answers cannot be read, but everything simple has come through.
        simple = {
            "no-cors multipart",
            "no-cors text",
            "cors multipart",
            "beacon",
            "form multipart",
            "form text",
        }
        assert {how.partition(" ")[2] for how in reached} >= simple, (reached, done)


# -- the routes that bring media in, change the library, and tell what is in it

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}
CHUNK = {**BYTES, "Upload-Offset": "3"}
NEW = {**BYTES, "Upload-Length": "1", "Upload-Metadata": "name dHVzLmg0bWs="}
STRIKES: list[tuple[str, str, dict[str, str]]] = [
    ("POST", "/video/export?name=evil-HOW.h4mk&raw=1", {}),
    ("POST", "/video/export?name=job-HOW.h4mk&raw=1&job=1", {}),
    ("POST", "/media/rename?name=b.h4mk&to=c-HOW.h4mk", {}),
    ("POST", "/media/restore?id=FIRST&to=back-HOW.h4mk", {}),
    ("DELETE", "/media/trash?id=SECOND", {}),
    ("DELETE", "/media?name=a.h4mk", {}),
    ("POST", "/uploads/?title=HOW", NEW),
    ("POST", "/uploads/PENDING?title=HOW", {"X-HTTP-Method-Override": "DELETE"}),
    ("PATCH", "/uploads/PENDING?title=HOW", CHUNK),
    ("DELETE", "/uploads/PENDING?title=HOW", TUS),
    ("DELETE", "/jobs/00000000000000000000000000000000", {}),
]
"""HOW is another word for each request, so that each can be told from the others."""
LOOKS = ("/container?name=a.h4mk", "/events", "/jobs", "/media/trash", "/video/info?name=a.h4mk")

STRIKE = """async ({url, strikes}) => {
  const said = [];
  const simple = [];  // what a page sends without being asked: all of it must arrive
  let number = 0;
  const to = (path, list) => {
    const target = path.replaceAll("HOW", `n${number++}`);
    if (list) list.push(target);
    return url + target;
  };
  const attempt = async (how, work) => {
    try { said.push([how, String(await work())]); } catch (error) { said.push([how, error.name]); }
  };
  const form = () => {
    const data = new FormData();
    data.append("file", new Blob(["x"]), "x.mp4");
    return data;
  };
  const bodies = {form, text: () => "x", pairs: () => new URLSearchParams({x: "y"}), none: () => undefined};
  const submit = (path, enctype) => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.name = `frame${number}`;
    document.body.append(frame);
    const element = document.createElement("form");
    Object.assign(element, {method: "post", enctype, action: to(path, simple), target: frame.name});
    element.append(Object.assign(document.createElement("input"), {name: "file", value: "x"}));
    document.body.append(element);
    frame.onload = () => resolve("loaded");
    setTimeout(() => resolve("loaded"), 3000);
    element.submit();
  });
  const submitted = [];
  for (const [method, path, headers] of strikes) {
    const what = `${method} ${path}`;
    if (method === "POST") {
      for (const [kind, body] of Object.entries(bodies)) {
        await attempt(`no-cors ${kind} ${what}`, async () => {
          const init = {method, mode: "no-cors", credentials: "include", body: body()};
          const answer = await fetch(to(path, simple), init);
          return `${answer.type} ${answer.status}`;
        });
      }
      await attempt(`beacon ${what}`, async () => navigator.sendBeacon(to(path, simple), form()));
      for (const kind of ["multipart/form-data", "text/plain"]) {
        submitted.push(attempt(`${kind} ${what}`, () => submit(path, kind)));
      }
    }
    for (const credentials of ["include", "omit"]) {
      await attempt(`${credentials} ${what}`, async () => {
        const body = method === "DELETE" ? null : "x";
        const answer = await fetch(to(path), {method, headers, credentials, body});
        return `${answer.type} ${answer.status} ${await answer.text()}`;
      });
    }
    await attempt(`xhr ${what}`, () => new Promise((resolve) => {
      const request = new XMLHttpRequest();
      request.open(method, to(path));
      request.withCredentials = true;
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.onload = () => resolve(`read ${request.status} ${request.responseText}`);
      request.onerror = () => resolve("refused");
      request.send(method === "DELETE" ? null : "x");
    }));
  }
  await Promise.all(submitted);
  return [said, simple];
}"""
LOOK = """async ({url, paths}) => {
  const seen = {};
  for (const path of paths) {
    for (const mode of ["cors", "no-cors"]) {
      for (const credentials of ["omit", "include"]) {
        const stop = new AbortController();
        let word;
        try {
          const answer = await fetch(url + path, {mode, credentials, signal: stop.signal});
          if (answer.type === "opaque") word = `opaque ${(await answer.text()).length}`;
          else word = new TextDecoder().decode((await answer.body.getReader().read()).value);
        } catch (error) { word = error.name; }
        stop.abort();
        seen[`${mode} ${credentials} ${path}`] = word;
      }
    }
    for (const tag of ["img", "script", "link"]) {
      seen[`${tag} ${path}`] = path === "/events" ? "refused" : await new Promise((resolve) => {
        const element = document.createElement(tag);
        element.onerror = () => resolve("refused");
        element.onload = () => resolve("shown");
        if (tag === "link") Object.assign(element, {rel: "stylesheet", href: url + path});
        else element.src = url + path;
        document.body.append(element);
      });
    }
  }
  for (const withCredentials of [false, true]) {
    seen[`EventSource ${withCredentials}`] = await new Promise((resolve) => {
      const source = new EventSource(`${url}/events`, {withCredentials});
      const end = (word) => { source.close(); resolve(word); };
      source.onopen = () => end("open");
      source.onerror = () => end("refused");
    });
  }
  return seen;
}"""


@contextmanager
def answering(
    root: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> Iterator[tuple[Server, list[tuple[str, str, int]]]]:
    """A server as it is; the list says what it has answered: method, path and query, status."""
    answers: list[tuple[str, str, int]] = []
    make = server_app.create_app

    async def note(request: web.Request, response: web.StreamResponse) -> None:
        answers.append((request.method, request.raw_path, response.status))

    def create(config: Config, *, lying: bool = False) -> web.Application:
        app = make(config, lying=lying)
        app.on_response_prepare.append(note)
        return app

    monkeypatch.setattr(server_app, "create_app", create)
    with running(root, min_free=0, **settings) as server:
        yield server, answers


def furnished(server: Server, root: Path, owner: dict[str, str]) -> list[tuple[str, str, dict[str, str]]]:
    """Give the library what there is to lose; the strikes that are meant for it."""

    def ask(method: str, target: str, more: dict[str, str] | None = None, body: bytes | None = None) -> Any:
        answer = server.request(method, target, owner | (more or {}), body)
        assert answer.status < 300, answer
        return answer

    for name in ("a", "b", "first", "second"):
        write_container(root / f"{name}.h4mk", [b"secret" * 100] * 3)
    trashed = [ask("DELETE", f"/media?name={name}.h4mk").json["id"] for name in ("first", "second")]
    more = TUS | {"Upload-Length": "10", "Upload-Metadata": "name cGVuZGluZy5oNG1r"}
    pending = ask("POST", "/uploads/", more).headers["Location"].rpartition("/")[2]
    ask("PATCH", f"/uploads/{pending}", CHUNK | {"Upload-Offset": "0"}, b"abc")
    words = {"FIRST": trashed[0], "SECOND": trashed[1], "PENDING": pending}
    strikes = []
    for method, path, headers in STRIKES:
        for word, value in words.items():
            path = path.replace(word, value)
        strikes.append((method, path, headers))
    return strikes


def contents(root: Path) -> dict[str, bytes]:
    """All files of a library and of the server's own folder, but for locks, which hold nothing."""
    found = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in found.items() if "locks" not in name.parts}


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1"])
@pytest.mark.parametrize("mode", ["open", "public_read", "auth"])
def test_a_hostile_page_and_the_library(
    context: BrowserContext, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, mode: str
) -> None:
    """Of another site, and of the same site on another port: nothing comes in, changes, or is read."""
    text = token(tmp_path, "admin")
    settings = {} if mode == "open" else {mode: True}
    owner = {} if mode == "open" else {"Authorization": f"Bearer {text}"}
    with answering(tmp_path, monkeypatch, **settings) as (server, answers):
        page = context.new_page()
        if mode != "open":
            assert sign_in(page, server, text)["status"] == 200
        strikes = furnished(server, tmp_path, owner)
        before = contents(tmp_path)
        page.goto(f"http://{host}:{port}/")
        answers.clear()
        said, simple = page.evaluate(STRIKE, {"url": server.url, "strikes": strikes})
        assert len(said) > 60
        for how, word in said:
            assert word in ("TypeError", "opaque 0", "refused", "loaded", "true"), (how, word)
        until(lambda: {target for _, target, _ in answers} >= set(simple), "the arrival of all requests")
        assert {method for method, _, _ in answers} == {"POST", "OPTIONS"}  # the others were not even sent
        assert {status for _, _, status in answers} == {403}
        seen = page.evaluate(LOOK, {"url": server.url, "paths": LOOKS})
        for how, word in seen.items():
            assert word in ("TypeError", "opaque 0", "refused"), (how, word)
        assert contents(tmp_path) == before
        assert server.request("GET", "/jobs", owner).json["jobs"] == []


def test_the_strikes_would_hit(
    context: BrowserContext, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the page's origin an allowed one: each of them does what it is meant to do."""
    origin = f"http://evil.test:{port}"
    with answering(tmp_path, monkeypatch, cors_origins=(origin,)) as (server, answers):
        strikes = furnished(server, tmp_path, {})
        page = context.new_page()
        page.goto(f"{origin}/")
        answers.clear()
        _, simple = page.evaluate(STRIKE, {"url": server.url, "strikes": strikes})
        until(lambda: {target for _, target, _ in answers} >= set(simple), "the arrival of all requests")
        done = {
            (method, target.partition("?")[0])
            for method, target, status in answers
            if status < 300 and method != "OPTIONS"
        }
        wanted = {(method, target.partition("?")[0]) for method, target, _ in strikes}
        (pending,) = {target for method, target in wanted if method == "PATCH"}
        # There is no such job, and CORS lets no page put another method into a header.
        assert wanted - done == {("DELETE", f"/jobs/{'0' * 32}"), ("POST", pending)}
        assert {name for name in contents(tmp_path) if name.startswith("evil-")}
        write_container(tmp_path / "a.h4mk", [b"secret" * 100] * 3)
        seen = page.evaluate(LOOK, {"url": server.url, "paths": LOOKS})
        assert seen["cors omit /container?name=a.h4mk"] not in ("TypeError", "opaque 0")
        assert seen["EventSource false"] == "open"


def test_an_upload_from_an_allowed_origin(context: BrowserContext, port: int, tmp_path: Path) -> None:
    """Such a page sees all that it needs to go on: where the upload is, how far, and its job."""
    origin = f"http://app.evil.test:{port}"
    with running(tmp_path, min_free=0, cors_origins=(origin,)) as server:
        page = context.new_page()
        page.goto(f"{origin}/")
        seen = page.evaluate(
            """async (url) => {
              const version = {"Tus-Resumable": "1.0.0"};
              const about = {"Upload-Length": "1", "Upload-Metadata": "name YS5oNG1r,raw MQ=="};
              const made = await fetch(`${url}/uploads/`, {method: "POST", headers: {...version, ...about}});
              const place = url + made.headers.get("Location");
              const chunk = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"};
              const sent = await fetch(place, {method: "PATCH", body: "x", headers: {...version, ...chunk}});
              const found = await fetch(place, {method: "HEAD", headers: version});
              const job = await fetch(`${url}/jobs/${sent.headers.get("Harmony4-Job")}`);
              return [made.status, sent.status, sent.headers.get("Upload-Offset"), job.status,
                found.headers.get("Upload-Metadata")];
            }""",
            server.url,
        )
        assert seen == [201, 204, "1", 200, "name YS5oNG1r,raw MQ=="]
        until(lambda: (tmp_path / "a.h4mk").exists(), "the container")


def test_a_page_without_an_origin(
    context: BrowserContext, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandboxed frame's origin is `null`."""
    with spied(tmp_path, monkeypatch) as (server, reached):
        page = context.new_page()
        page.goto(f"http://evil.test:{port}/")
        page.evaluate(
            """(url) => new Promise((resolve) => {
              const frame = document.createElement("iframe");
              frame.sandbox = "allow-scripts allow-forms";
              frame.srcdoc = `<script>
                fetch("${url}/test/upload?how=null", {method: "POST", mode: "no-cors", body: "x"})
                  .finally(() => parent.postMessage("sent", "*"));
              </script>`;
              window.onmessage = resolve;
              document.body.append(frame);
            })""",
            server.url,
        )
        assert reached == []


@pytest.mark.parametrize("mode", ["open", "public_read", "auth"])
def test_a_rebound_name(
    context: BrowserContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The attacker's name leads to the server itself: to the browser its page is the attacker's."""
    settings = {} if mode == "open" else {mode: True}
    with spied(tmp_path, monkeypatch, **settings) as (server, reached):
        page = context.new_page()
        rebound = f"http://evil.test:{server.address[1]}"
        for path in ("/", "/media", "/video/seek?name=a.h4mk&pts=0", "/health"):
            answer = page.goto(f"{rebound}{path}")
            assert answer is not None
            assert answer.status == 421
            assert "secret" not in page.content()
        # The attacker's own page came from the same name before it led here.
        page.route(f"{rebound}/attack", lambda route: route.fulfill(content_type="text/html", body="<p>hi"))
        page.goto(f"{rebound}/attack")
        done = page.evaluate(
            """async () => {
              const read = await fetch("/video/range?name=a.h4mk");
              const send = await fetch("/test/upload", {method: "POST", body: "x"});
              return [read.status, (await read.json()).type, send.status];
            }"""
        )
        assert done == [421, "urn:harmony4:problem:host", 421]
        assert reached == []


def test_the_servers_own_page(
    context: BrowserContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs in, reads and writes; its scripts do not see the cookie."""
    text = token(tmp_path, "write")
    with spied(tmp_path, monkeypatch, auth=True) as (server, reached):
        page = context.new_page()
        signed_in = sign_in(page, server, text)
        assert (signed_in["status"], signed_in["cookie"]) == (200, "")
        assert signed_in["body"]["scopes"] == ["read", "write"]
        (cookie,) = context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == (COOKIE, True, "Strict")
        done = page.evaluate(
            """async () => {
              const read = await fetch("video/range?name=a.h4mk");
              const text = await read.text();
              const send = await fetch("test/upload?how=own", {method: "POST", body: new FormData()});
              const out = await fetch("session", {method: "DELETE"});
              const gone = await fetch("media");
              return [read.status, text.length, send.status, out.status, gone.status];
            }"""
        )
        assert done == [200, 1800, 201, 204, 401]
        assert reached == ["POST own"]
        assert context.cookies() == []


def test_a_page_of_an_allowed_origin(
    context: BrowserContext, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = token(tmp_path, "write")
    origin = f"http://app.evil.test:{port}"
    with spied(tmp_path, monkeypatch, auth=True, cors_origins=(origin,)) as (server, reached):
        page = context.new_page()
        page.goto(f"{origin}/")
        done = page.evaluate(
            """async ({url, token}) => {
              const headers = {Authorization: `Bearer ${token}`};
              const range = {...headers, Range: "bytes=0-5"};
              const part = await fetch(`${url}/video/range?name=a.h4mk`, {headers: range});
              const patch = await fetch(`${url}/test/upload?how=tus`, {
                method: "PATCH", body: "x",
                headers: {
                  ...headers, "Tus-Resumable": "1.0.0", "Upload-Offset": "0",
                  "Content-Type": "application/offset+octet-stream",
                },
              });
              const refused = await fetch(`${url}/media`);
              const seen = part.headers;
              return [part.status, await part.text(), seen.get("Content-Range"), seen.get("ETag") !== null,
                patch.status, refused.status, (await refused.json()).type];
            }""",
            {"url": server.url, "token": text},
        )
        assert done == [
            206,
            "secret",
            "bytes 0-5/1800",
            True,
            201,
            401,
            "urn:harmony4:problem:unauthorized",
        ]
        assert reached == ["PATCH tus"]
        page.goto(f"http://evil.test:{port}/")
        assert page.evaluate(READ, {"url": server.url})["include /media"] == "TypeError"
