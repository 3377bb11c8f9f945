"""Media that become containers by the page, in Debian's Chromium: progress, lost connections, refusals."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.guard.tokens import TokenFile, new_token
from harmony4.server.state import State
from needs import BUNNY, ROOT, needs_chromium
from pagelib import LOST, SHOWN, page_on, says
from processes import until
from serving import Server, running

pytestmark = needs_chromium

UPLOAD = re.compile(r"/uploads/\w+$")


WATCH = """() => {
  window.seen = [[], []];
  new MutationObserver(() => {
    const says = document.querySelector("#uploads .more-facts").innerText;
    const bar = document.querySelector("#uploads progress");
    if (window.seen[0].at(-1) !== says) window.seen[0].push(says);
    if (window.seen[1].at(-1) !== bar.position) window.seen[1].push(bar.position);
  }).observe(document.querySelector("#uploads"), { subtree: true, childList: true, attributes: true });
}"""
"""Note what the first row says, and how full its bar is."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    export(ROOT / "LICENSE", tmp_path / "served" / "licence.h4mk", ExportOptions())
    with running(tmp_path / "served") as one:
        yield one


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    # That a name is taken is an answer like any other to the page, but Chromium logs it as an error.
    with page_on(browser, server.url, ("409 (",)) as one:
        yield one


def test_upload(page: Page, tmp_path_factory: pytest.TempPathFactory, server: Server) -> None:
    """A file that is chosen becomes a container that plays; a name that is taken is said, and replaced."""
    film = tmp_path_factory.mktemp("upload") / "new film.mp4"
    film.write_bytes(BUNNY.read_bytes())
    page.goto(server.url)
    page.wait_for_selector("#items a.item")
    page.set_input_files("#files", film)
    link = page.wait_for_selector("#uploads .upload a")
    assert link is not None
    assert "sealed" in page.inner_text("#uploads .more-facts")
    page.wait_for_selector('#items a[data-name="new film.mp4.h4mk"]')
    link.click()
    page.wait_for_selector("#stage video")
    page.evaluate(SHOWN)
    assert server.get("/video/range?name=new%20film.mp4.h4mk").body == BUNNY.read_bytes()
    assert server.get("/container?name=new%20film.mp4.h4mk").body == exported(BUNNY)
    page.set_input_files("#files", film)
    page.wait_for_selector("#uploads .upload:nth-child(2) .bad")
    page.click("#uploads .upload:nth-child(2) button:text('Replace')")
    page.wait_for_selector("#uploads .upload:nth-child(2) a")
    (old,) = server.get("/media/trash").json["items"]
    assert old["name"] == "new film.mp4.h4mk"


def test_drop_and_cancel(page: Page, server: Server) -> None:
    """A file that is dropped, made in the page: large enough to be cancelled while it is sent."""
    page.goto(server.url)
    page.wait_for_selector("#items a.item")
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(3000)], "small.bin"));
          data.items.add(new File(Array(400).fill(new Uint8Array(2 ** 20)), "large.bin"));
          for (const name of ["dragenter", "dragover", "drop"])
            dispatchEvent(new DragEvent(name, { dataTransfer: data, cancelable: true, bubbles: true }));
        }"""
    )
    large = "#uploads .upload:nth-child(2)"
    page.wait_for_selector(f"{large} .more-facts:text-matches('of 400 MiB sent')")
    assert 0 < page.eval_on_selector(f"{large} progress", "(bar) => bar.value / bar.max") < 1
    page.click(f"{large} button")
    page.wait_for_selector(f"{large} .bad")
    assert "Cancelled" in page.inner_text("#uploads .upload:nth-child(2) .bad")
    page.wait_for_selector("#uploads .upload:nth-child(1) a")
    until(
        lambda: not any(one["state"] == "receiving" for one in server.get("/jobs").json["jobs"]),
        "no job runs",
    )
    names = [one["name"] for one in server.get("/media").json["items"]]
    assert "small.bin.h4mk" in names
    # On a machine that stood still all of it may have been sent and made, and then the page says so.
    late = "It was made before it could be cancelled."
    assert ("large.bin.h4mk" in names) == (page.inner_text(f"{large} .bad") == late)


def test_it_is_too_late_to_cancel(page: Page, server: Server) -> None:
    """All of it is there, and only the answer that says so is still on its way."""

    def half(route: Any) -> None:
        if route.request.method == "PATCH":
            assert route.fetch().status == 204
        else:
            route.continue_()

    page.goto(server.url)
    page.wait_for_selector("#items a.item")
    page.route(UPLOAD, half)
    page.set_input_files("#files", {"name": "late.bin", "mimeType": "", "buffer": b"x" * 1000})
    until(lambda: [one["state"] for one in jobs(page, server)] == ["done"], "the container")
    page.click("#uploads .upload button:text('Cancel')")
    page.wait_for_selector("#uploads .bad:text('It was made before it could be cancelled.')")
    page.wait_for_selector("#uploads .upload a[href*='late.bin.h4mk']")
    assert page.inner_text("#uploads .upload button") == "Close"
    page.wait_for_selector('#items a[data-name="late.bin.h4mk"]')


def jobs(page: Page, server: Server) -> list[dict[str, Any]]:
    """Asked from outside, while the page's own requests are seen to."""
    page.evaluate("0")
    found: list[dict[str, Any]] = server.get("/jobs").json["jobs"]
    return found


def exported(path: Path) -> bytes:
    out = io.BytesIO()
    export(path, out, ExportOptions())
    return out.getvalue()


def test_an_upload_goes_on_after_a_lost_connection(browser: Browser, tmp_path: Path) -> None:
    """The connection breaks twice: the page goes on by itself, and all of the file arrives."""
    with running(tmp_path) as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        cut: list[str] = []

        def once(route: Any) -> None:
            if route.request.method == "PATCH" and len(cut) < 2:
                cut.append(route.request.headers["upload-offset"])
                route.abort("connectionreset")
            else:
                route.continue_()

        page.route(UPLOAD, once)
        page.set_input_files("#files", BUNNY)
        page.wait_for_selector("#uploads .waits")
        page.wait_for_selector("#uploads .upload a")
        assert len(cut) == 2
        assert server.get("/video/range?name=bigbuckbunny.mp4.h4mk").body == BUNNY.read_bytes()


def test_an_upload_goes_on_after_a_reload(browser: Browser, tmp_path: Path) -> None:
    media = tmp_path / "film.mp4"
    media.write_bytes(BUNNY.read_bytes())
    root = tmp_path / "library"
    root.mkdir()
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        page.route(UPLOAD, lambda route: route.abort("connectionreset"))
        page.set_input_files("#files", media)
        page.wait_for_selector("#uploads .waits")
        page.unroute(UPLOAD)
        page.reload()
        page.wait_for_selector("text=The library is empty")
        # The page remembers it; only the person has the file.
        says(page, "#uploads", "film.mp4")
        assert "Choose the same file again" in page.inner_text("#uploads")
        methods: list[str] = []
        page.on("request", lambda one: methods.append(one.method) if "/uploads/" in one.url else None)
        page.set_input_files("#files", media)
        page.wait_for_selector("#uploads .upload a")
        assert methods == ["HEAD", "PATCH"]
        assert page.locator("#uploads li").count() == 1
        page.reload()
        page.wait_for_selector("#items a.item")
        assert page.locator("#uploads li").count() == 0
        assert server.get("/video/range?name=film.mp4.h4mk").body == BUNNY.read_bytes()


def test_cancelled_while_it_is_made(browser: Browser, tmp_path: Path) -> None:
    """Cancel while the request that makes the upload is under way: the server forgets it."""
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        held: list[Any] = []
        page.route(re.compile("/uploads/$"), lambda route: held.append(route))
        asked: list[str] = []
        page.on("request", lambda one: asked.append(one.method) if UPLOAD.search(one.url) else None)
        with page.expect_request(re.compile("/uploads/$")):
            page.set_input_files("#files", BUNNY)
        page.click("#uploads button:text('Cancel')")
        with page.expect_response(lambda one: one.request.method == "DELETE") as answered:
            held[0].continue_()
        assert UPLOAD.search(answered.value.url)
        assert answered.value.status == 204
        page.wait_for_selector("#uploads .bad:text('Cancelled')")
        assert asked == ["HEAD", "DELETE"]
        assert server.get("/media").json["items"] == []
        assert page.evaluate("localStorage.length") == 0


def test_cancelled_without_a_server(browser: Browser, tmp_path: Path) -> None:
    """All of it is sent, and the line is gone when it is cancelled: that is said, and nothing is thrown."""
    with running(tmp_path) as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        page.route(re.compile(r"/(jobs|events)\b"), lambda route: route.abort("connectionreset"))
        page.set_input_files("#files", BUNNY)
        says(page, "#uploads", "all of it sent")
        with page.expect_event("requestfailed", lambda one: one.method == "DELETE"):
            page.click("#uploads button:text('Cancel')")
        says(page, "#uploads", "it is not cancelled")


def test_a_file_that_changes(browser: Browser, tmp_path: Path) -> None:
    """It is not sent for ever: what was sent of it is dropped, and that is said."""
    media = tmp_path / "film.mp4"
    media.write_bytes(BUNNY.read_bytes())
    (tmp_path / "library").mkdir()
    with running(tmp_path / "library") as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")

        def change(route: Any) -> None:
            if route.request.method == "PATCH":
                media.write_bytes(b"another")
                route.abort("connectionreset")
            else:
                route.continue_()

        page.route(UPLOAD, change)
        with page.expect_request(lambda one: one.method == "DELETE"):
            page.set_input_files("#files", media)
        page.wait_for_selector("#uploads .bad:text('has been changed or moved')")
        assert page.inner_text("#uploads button") == "Close"
        assert page.evaluate("localStorage.length") == 0


def test_another_file_of_the_same_name_size_and_time(browser: Browser, tmp_path: Path) -> None:
    """It is sent from its beginning: a container of the ends of two files would be nobody's."""
    media = tmp_path / "film.bin"
    (tmp_path / "library").mkdir()
    with running(tmp_path / "library") as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        page.route(UPLOAD, lambda route: route.abort("connectionreset"))
        methods: list[str] = []
        page.on("request", lambda one: methods.append(one.method) if "/uploads/" in one.url else None)
        for content in (b"a" * 200_000, b"b" * 200_000):
            media.write_bytes(content)
            os.utime(media, (1_700_000_000, 1_700_000_000))
            methods.clear()
            page.set_input_files("#files", media)
            if content[:1] == b"a":
                page.wait_for_selector("#uploads .waits")
                page.unroute(UPLOAD)
                page.reload()
                page.wait_for_selector("text=Choose the same file again")
        page.wait_for_selector("#uploads .upload a")
        assert methods == ["DELETE", "POST", "PATCH"]
        assert server.get("/video/range?name=film.bin.h4mk").body == content


def test_a_duplicated_tab_leaves_the_upload_alone(browser: Browser, tmp_path: Path) -> None:
    """It has the name of the tab that sends: it offers to give the upload up only when that tab is closed."""
    with running(tmp_path) as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        page.route(UPLOAD, lambda route: route.abort("connectionreset"))
        page.set_input_files("#files", BUNNY)
        page.wait_for_selector("#uploads .waits")
        name = page.evaluate("sessionStorage['harmony4-tab']")
        other = page.context.new_page()
        other.add_init_script(f"sessionStorage['harmony4-tab'] = '{name}'")
        other.goto(server.url)
        other.wait_for_selector("text=The library is empty")
        waits = "async () => (await navigator.locks.query()).pending.length"
        until(lambda: other.evaluate(waits) == 1, "the other tab waits for the upload")
        assert other.locator("#uploads li").count() == 0
        page.close()
        other.wait_for_selector("#uploads button:text('Give up')")
        with other.expect_response(UPLOAD) as given:
            other.click("#uploads button:text('Give up')")
        assert given.value.request.method == "DELETE"
        assert given.value.status == 204


# -- what is refused


def test_a_container_is_no_media(browser: Browser, tmp_path: Path) -> None:
    """What never works is not offered again."""
    (tmp_path / "served").mkdir()
    (tmp_path / "film.h4mk").write_bytes(b"H4MK")
    with running(tmp_path / "served") as server, page_on(browser, server.url) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        page.set_input_files("#files", tmp_path / "film.h4mk")
        page.wait_for_selector("#uploads .bad:text('container already')")
        assert page.inner_text("#uploads button") == "Close"


def choose(page: Page, *files: Path) -> str:
    """Choose files as a person would; gives back what the last one's row says once it is refused."""
    page.set_input_files("#files", files)
    row = "#uploads .upload:last-child .more-facts.bad"
    page.wait_for_selector(row)
    return page.inner_text(row)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(BUNNY.read_bytes())
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "library").mkdir()
    return tmp_path / "library"


@pytest.mark.parametrize(
    ("settings", "status", "text"),
    [
        ({"max_upload": 1000}, 413, "It is larger than the server takes"),
        ({"min_free": 2**62}, 507, "The server has no room for it."),
        ({"quota": 1}, 507, "The server has no room for it."),
    ],
)
def test_what_the_server_does_not_take(
    browser: Browser, root: Path, film: Path, settings: dict[str, int], status: int, text: str
) -> None:
    with running(root, **settings) as server, page_on(browser, server.url, LOST) as page:
        answers: list[int] = []
        page.on("response", lambda one: answers.append(one.status) if "/uploads/" in one.url else None)
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        assert choose(page, film).startswith(text)
        assert answers == [status]
        assert page.query_selector("#uploads progress:not([hidden])") is None
        page.click("#uploads button")
        if status == 413:  # that does not change
            page.wait_for_selector("#uploads:empty", state="attached")
            assert page.evaluate("document.activeElement.id") == "files"
        else:
            page.wait_for_selector("#uploads .bad")
            assert server.get("/media").json["items"] == []


def test_room_that_comes_back(browser: Browser, root: Path, film: Path) -> None:
    """What stood in the way is gone: the same row goes on, and nobody has to choose the file again."""
    with running(root, quota=2**23) as server, page_on(browser, server.url, LOST) as page:
        filler = root / "filler.h4mk"
        filler.write_bytes(bytes(2**23))
        page.goto(server.url)
        page.wait_for_selector("#items li")
        assert choose(page, film) == "The server has no room for it."
        filler.unlink()
        page.click("#uploads button:text('Try again')")
        page.wait_for_selector("#uploads .upload a")
        assert server.get("/video/range?name=film.mp4.h4mk").body == BUNNY.read_bytes()


def test_media_that_are_none(browser: Browser, root: Path, tmp_path: Path) -> None:
    """A film that ends too early, and a container: each row says what is wrong."""
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(BUNNY.read_bytes()[:5000])
    ready = tmp_path / "film.h4mk"
    ready.write_bytes(b"H4MK")
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        said = choose(page, cut)
        assert "sealed" not in said
        assert "may be cut off or damaged" in said
        assert "--raw" not in said
        assert "a container already" in choose(page, ready)
        assert server.get("/media").json["items"] == []
        assert not any(one["state"] == "receiving" for one in server.get("/jobs").json["jobs"])


def test_without_the_right_to_it(browser: Browser, root: Path, film: Path) -> None:
    """The token is revoked while the page is open: the page says so and asks for another one."""
    tokens = TokenFile(State(root / ".harmony4"))
    made, text = new_token("writer", ("write",), 0)
    tokens.add(made)
    with running(root, auth=True) as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.fill("#token", text)
        page.press("#token", "Enter")
        page.wait_for_selector("text=The library is empty")
        tokens.revoke(made.id)
        until(lambda: server.get("/media", Authorization=f"Bearer {text}").status == 401, "it is revoked")
        assert choose(page, film) == "Adding media needs a token that may write: sign in."
        page.wait_for_selector("#sign-in[open]")
        made, text = new_token("another", ("write",), 0)
        tokens.add(made)
        until(lambda: server.get("/media", Authorization=f"Bearer {text}").status == 200, "the new one holds")
        page.fill("#token", text)
        page.press("#token", "Enter")
        page.click("#uploads button:text('Try again')")
        page.wait_for_selector("#uploads .upload a")


def test_what_the_progress_says(browser: Browser, root: Path, tmp_path: Path) -> None:
    """Bytes are counted by the upload, as they go out on a slow line; blocks as the job says."""
    large = tmp_path / "large.bin"
    large.write_bytes(os.urandom(3 * 2**20))
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        page.evaluate(WATCH)
        line = page.context.new_cdp_session(page)
        line.send("Network.enable")
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 2**20}
        line.send("Network.emulateNetworkConditions", slow)
        page.set_input_files("#files", large)
        says(page, "#uploads", "of 3.00 MiB sent")
        # Another tab does not take it for one that nobody sends any more.
        other = page.context.new_page()
        other.goto(server.url)
        other.wait_for_selector("text=The library is empty")
        assert other.locator("#uploads li").count() == 0
        other.close()
        page.wait_for_selector("#uploads .upload a")
        said, bars = page.evaluate("window.seen")
        sent = [one for one in said if " of 3.00 MiB sent" in one]
        assert len(sent) > 2, said
        assert bars == sorted(bars)
        assert len([one for one in bars if 0 < one < 1]) > 1
        assert re.fullmatch(r"3 blocks sealed · 3\.\d\d MiB", page.inner_text("#uploads .more-facts"))
