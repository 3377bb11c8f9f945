"""Check, in Debian's Chromium: right bytes are green, wrong ones red, and a liar is caught."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from harmony4.crypto.signing import SigningKey
from harmony4.h4mk import H4MKReader
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.signing import sign_file
from harmony4.server.exporting.bundling import bundle_files
from lying import lying
from needs import BUNNY, needs_chromium, needs_ffmpeg
from pagelib import (
    BAD_BLOCK,
    FRAME,
    GREEN,
    LISTEN,
    LOST,
    MASTER,
    PEM,
    SHOWN,
    SIGNING,
    TICKS,
    grey,
    jump,
    open_container,
    page_on,
    says,
    violations,
)
from processes import until
from serving import Server, running, write_container

pytestmark = [needs_chromium, needs_ffmpeg]

STROKES = """([from, to]) => {
  const canvas = document.querySelector("#ticks");
  const { width } = canvas;
  const row = canvas.getContext("2d").getImageData(0, Math.round(canvas.height / 2), width, 1).data;
  let found = 0;
  for (let x = Math.round(from * width); x < to * width; x += 1) found += row[4 * x + 3] > 60;
  return found;
}"""
"""How many pixels have something in the middle of the timeline's height, between two parts of its width."""


@pytest.mark.parametrize("key", [True, False])
def test_check(page: Page, server: Server, key: bool) -> None:
    open_container(page, server, "signed.h4mk", "#t=9")
    page.click("#tab-check")
    page.fill("#pem", PEM if key else "")
    page.click("#check-go")
    says(page, "#verdict", "All 11 blocks")
    assert page.get_attribute("#verdict", "class") == "verdict good"
    assert (SIGNING.public.fingerprint[:4].hex() in page.inner_text("#verdict")) == key
    green, red = painted(page)
    assert green > 0.95
    assert red == 0
    if key:
        page.click("#items a[data-name='bigbuckbunny.h4mk']")
        page.reload()
        says(page, "#items a[data-name='signed.h4mk']", "verified")
        # Another file with that head was not checked: this one is damaged.
        assert "verified" not in page.inner_text("#items a[data-name='corrupt.h4mk']")
    assert page.query_selector("#lie") is None  # only a demonstration has such a switch


def test_check_of_a_flipped_bit_on_the_disk(page: Page, server: Server) -> None:
    open_container(page, server, "corrupt.h4mk")
    page.click("#tab-check")
    page.fill("#pem", PEM)
    page.click("#check-go")
    says(page, "#verdict", f"block {BAD_BLOCK}.")
    green, red = painted(page)
    assert 0.8 < green < 0.95
    assert 0.05 < red < 0.15


def test_check_of_a_lying_server(browser: Browser, server: Server) -> None:
    def lie(path: str, at: int, body: bytes) -> bytes:
        place = 2000 - at  # always the same byte of the stream
        if not path.startswith("/video/range") or not 0 <= place < len(body):
            return body
        return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]

    with lying(server.url, lie) as url, page_on(browser, url, LOST) as page:
        page.goto(f"{url}/?name=signed.h4mk")
        page.click("#tab-check")
        page.fill("#pem", PEM)
        page.click("#check-go")
        says(page, "#verdict", "not what the root says")


def test_check_refuses_another_key_and_what_is_none(page: Page, server: Server) -> None:
    open_container(page, server, "signed.h4mk")
    page.click("#tab-check")
    page.fill("#pem", SigningKey.from_number(7).public.pem().decode())
    page.click("#check-go")
    says(page, "#verdict", "by a key that is trusted")
    page.fill("#pem", "a key")
    page.click("#check-go")
    says(page, "#verdict", "no public key")


def checked(page: Page, text: str) -> None:
    page.click("#check-go")
    says(page, "#verdict", text)


def chosen(page: Page, name: str) -> None:
    """Open the Check of a container."""
    page.click(f"#items a[data-name='{name}.h4mk']")
    says(page, "#title", name)
    page.click("#tab-check")
    page.wait_for_selector("#pem")


def test_the_key_is_offered_for_what_is_signed_until_it_is_emptied(page: Page, server: Server) -> None:
    """A container that is not signed is checked without it."""
    open_container(page, server, "signed.h4mk")
    page.click("#tab-check")
    page.fill("#pem", PEM)
    checked(page, "the root is signed by")
    chosen(page, "bigbuckbunny")
    assert page.input_value("#pem") == ""
    says(page, "#pem-help", "The key that is kept is for those that are")
    checked(page, "by the head that the server named")
    chosen(page, "signed")
    assert page.input_value("#pem").strip() == PEM.strip()
    page.fill("#pem", "")
    checked(page, "by the head that the server named")
    page.reload()
    page.click("#tab-check")
    page.wait_for_selector("#pem")
    assert page.input_value("#pem") == ""
    chosen(page, "bigbuckbunny")
    assert "kept" not in page.inner_text("#pem-help")


def test_check_of_several_tracks(browser: Browser, tmp_path: Path) -> None:
    """The mark says which of them were checked, until all were."""
    (tmp_path / "subs.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.500\none")
    bundle_files([BUNNY, tmp_path / "subs.vtt"], tmp_path / "film.h4mk")
    sign_file(tmp_path / "film.h4mk", Signer(SIGNING))
    row = "#items a[data-name='film.h4mk']"

    def one_only(asked: str, _: int, body: bytes) -> bytes:
        if not asked.startswith("/video/info"):
            return body
        facts = json.loads(body)
        return json.dumps(facts | {"tracks": facts["tracks"][:1]}).encode()

    with running(tmp_path) as server, page_on(browser, server.url) as page:
        open_container(page, server, "film.h4mk")
        page.click("#tab-check")
        page.fill("#pem", PEM)
        checked(page, "of track 0 are right")
        says(page, row, "track 0 verified here")
        page.select_option("#track", "1")
        checked(page, "of track 1 are right")
        says(page, row, "verified here")
        assert "track" not in page.inner_text(row)
        page.click("#tab-facts")
        says(page, "#facts", "verified here")
    # A server that says nothing of the second track gains nothing: the root says how many blocks there are.
    with running(tmp_path) as server, lying(server.url, one_only) as url, page_on(browser, url, LOST) as page:
        page.goto(f"{url}/?name=film.h4mk")
        page.click("#tab-check")
        page.fill("#pem", PEM)
        checked(page, "are right")
        says(page, row, "track 0 verified here")


def edition(path: Path, words: bytes, subject: str, *revisions: int) -> None:
    """A container that is signed as these editions of a subject."""
    write_container(path, [words])
    for one in revisions:
        sign_file(path, Signer(SIGNING, subject, one))


def test_check_of_an_old_edition(browser: Browser, tmp_path: Path) -> None:  # H4MK 13.5, 22.6
    """Its signature is good for ever: the page remembers the latest one that it has seen."""
    root = tmp_path / "library"
    root.mkdir()
    for number in (1, 2):
        edition(tmp_path / f"{number}.h4mk", b"the words of %d" % number, "a talk", number)
    edition(tmp_path / "both.h4mk", b"the words of 1", "a talk", 1, 2)
    edition(root / "other.h4mk", b"other words", "another talk", 1)

    with running(root) as server, page_on(browser, server.url) as page:

        def looked_at(name: str, text: str, verdict: str) -> None:
            open_container(page, server, name)
            page.click("#tab-check")
            page.fill("#pem", PEM)
            checked(page, text)
            assert page.get_attribute("#verdict", "class") == f"verdict {verdict}"

        def served(edition: str, text: str, verdict: str) -> None:
            shutil.copy(tmp_path / f"{edition}.h4mk", root / "talk.h4mk")
            with H4MKReader(root / "talk.h4mk") as reader:
                head = reader.head.hex() if reader.head else None
            until(lambda: head in [one["head"] for one in server.get("/media").json["items"]], "a look")
            looked_at("talk.h4mk", text, verdict)

        accept = page.locator("button:text('from now on')")
        old = "old edition: it is signed as revision 1, and revision 2 of the same, by the same key, was seen"
        right = "The only block is right, and the root is signed by"
        served("1", right, "good")
        served("2", right, "good")
        served("1", old, "fault")
        assert "verified here" not in page.inner_text("#items a[data-name='talk.h4mk']")
        assert page.evaluate(GREEN) == []
        assert violations(page) == []
        # Another subject is another thing, and other names are not.
        looked_at("other.h4mk", right, "good")
        shutil.copy(tmp_path / "1.h4mk", root / "moved.h4mk")
        looked_at("moved.h4mk", old, "fault")
        # Whoever knows better says so, and from then on that is the one to compare with.
        assert accept.inner_text() == "Accept revision 1 from now on"
        accept.click()
        says(page, "#verdict", right)
        assert accept.is_hidden()
        served("1", right, "good")
        served("both", right, "good")  # the later one of its signatures counts
        served("1", old, "fault")
        # Without a key nothing is asked of a signature.
        page.fill("#pem", "")
        checked(page, "by the head that the server named")
        assert accept.is_hidden()


def test_check_of_ten_hours(page: Page, server: Server) -> None:
    """It begins where the player is, goes along with it, and can be stopped."""
    open_container(page, server, "ten-hours.h4mk", "#t=18000")
    page.evaluate(SHOWN)
    page.wait_for_selector("#tab-check")
    page.evaluate(TICKS)
    page.click("#tab-check")
    page.fill("#pem", "")
    page.click("#check-go")
    says(page, ".check-panel .live", " blocks, ")
    page.click("button:text('Stop')")
    says(page, "#verdict", "all of them right")
    where = page.evaluate(GREEN)
    assert 0.49 < min(where) < 0.51


def test_check_of_masked_media(page: Page, server: Server) -> None:
    """What is stored can be checked without a key; the player asks for one."""
    open_container(page, server, "masked.h4mk")
    page.click("#tab-check")
    page.fill("#pem", "")
    page.click("#check-go")
    says(page, "#verdict", "All 11 blocks")
    page.fill("#key", MASTER.reveal().hex())
    page.press("#key", "Enter")
    page.wait_for_selector("#stage video")
    page.evaluate(SHOWN)
    jump(page, "13.4s", 13_400_000)
    assert abs(page.evaluate(FRAME)["mean"] - grey(13.4)) < 3


def test_check_of_what_was_recovered(page: Page, server: Server) -> None:
    """What is left is right, what is lost is neither green nor red, and nobody calls it whole."""
    open_container(page, server, "recovered.h4mk")
    page.wait_for_selector("text=Blocks of this track are lost")
    assert "2 blocks in 2 places" in page.inner_text("#facts")
    page.click("#tab-check")
    page.fill("#pem", "")
    page.click("#check-go")
    says(page, "#verdict", "All 9 blocks that are left are right")
    says(page, "#verdict", "Lost before it was sealed: 2 blocks, at 0:06 to 0:08, 0:12 to 0:14.")
    assert page.get_attribute("#verdict", "class") == "verdict holes"
    green, red = painted(page)
    assert 0.75 < green < 0.82
    assert red == 0
    bare = page.evaluate(GREEN)
    assert not any(0.305 < x < 0.395 or 0.605 < x < 0.695 for x in bare)
    # They are drawn: strokes over the whole height, where no tick and nothing that was fetched is.
    strokes = page.evaluate(STROKES, [0.32, 0.38])
    assert strokes >= 8
    assert page.evaluate(STROKES, [0.52, 0.58]) == 0


@pytest.mark.parametrize(
    ("name", "path", "change", "verdict"),
    [
        ("signed", "/video/info", {"bytes": 2000}, "holds back the end"),
        ("signed", "/video/info", {"bytes": 5000}, "goes on"),
        (
            "signed",
            "/video/info",
            {"lost": [{"count": 1, "first": 4, "track": 0}]},
            "All 11 blocks are right",
        ),
        (
            "recovered",
            "/container",
            (b'"count":1,"first":7', b'"count":2,"first":7'),
            "not what the container",
        ),
        ("recovered", "/container", (b'"count":1,"first":4', b'"count":1,"first":5'), "are lost"),
    ],
)
def test_check_of_a_server_that_holds_back(
    browser: Browser, server: Server, name: str, path: str, change: Any, verdict: str
) -> None:
    """What the server says of length and holes is worth what the root says of it."""

    def told(asked: str, _: int, body: bytes) -> bytes:
        if not asked.startswith(path):
            return body
        if isinstance(change, tuple):
            return body.replace(*change)
        facts = json.loads(body)
        facts["tracks"][0] |= change
        return json.dumps(facts | change).encode()

    with lying(server.url, told) as url, page_on(browser, url, LOST) as page:
        page.goto(f"{url}/?name={name}.h4mk")
        page.click("#tab-check")
        page.fill("#pem", "")
        page.click("#check-go")
        says(page, "#verdict", verdict)


def test_check_of_a_demonstration_that_lies(browser: Browser, page_library: Path) -> None:
    """Somebody flips the switch: a bit comes wrong from the server, and the page finds the block."""
    with running(page_library, lying=True) as server, page_on(browser, server.url) as page:
        open_container(page, server, "signed.h4mk")
        page.click("#tab-check")
        page.fill("#pem", PEM)
        page.check("#lie")
        page.click("#check-go")
        says(page, "#verdict", "1 block is not what the root says. First at 0:08: block 5.")
        assert page.get_attribute("#verdict", "class") == "verdict fault"
        green, red = painted(page)
        assert 0.8 < green < 0.95
        assert 0.05 < red < 0.15
        # What is played was right all the time.
        page.uncheck("#lie")
        page.click("#check-go")
        says(page, "#verdict", "All 11 blocks")
        # Masked media are stored bytes, and lied about like any others.
        open_container(page, server, "masked.h4mk")
        page.click("#tab-check")
        page.fill("#pem", "")
        page.check("#lie")
        page.click("#check-go")
        says(page, "#verdict", "1 block is not what the root says")


def test_the_result_is_said_once(page: Page, server: Server) -> None:
    """What screen readers are told while ten hours are checked: nothing until there is something to say."""
    open_container(page, server, "signed.h4mk")
    page.click("#tab-check")
    page.fill("#pem", PEM)
    page.evaluate(LISTEN, "#panel")
    page.click("#check-go")
    says(page, "#verdict", "All 11 blocks")
    said = page.evaluate("window.said")
    assert len(said) == 1, said
    assert said[0].startswith("All 11 blocks are right")


def painted(page: Page) -> tuple[float, float]:
    """Which parts of the timeline's bottom are green, and red."""
    found: list[float] = page.evaluate(
        """() => {
          const canvas = document.querySelector("#ticks");
          const style = getComputedStyle(canvas);
          const wanted = ["--good", "--bad"].map((name) => {
            const one = document.createElement("canvas").getContext("2d");
            one.fillStyle = style.getPropertyValue(name);
            one.fillRect(0, 0, 1, 1);
            return one.getImageData(0, 0, 1, 1).data.slice(0, 3).join();
          });
          const row = canvas.getContext("2d").getImageData(0, canvas.height - 2, canvas.width, 1).data;
          const count = [0, 0];
          for (let at = 0; at < row.length; at += 4) {
            const index = wanted.indexOf(row.slice(at, at + 3).join());
            if (index >= 0) count[index] += 1;
          }
          return count.map((one) => one / canvas.width);
        }"""
    )
    return found[0], found[1]


@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_the_result_is_on_the_screen(browser: Browser, server: Server, size: tuple[int, int]) -> None:
    """Below all that stands above it; unless whoever asked is somewhere else by then."""
    viewport = {"width": size[0], "height": size[1]}
    with page_on(browser, server.url, viewport=viewport) as page:
        open_container(page, server, "signed.h4mk")
        page.evaluate(SHOWN)
        jump(page, "3s", 3_000_000)
        page.click("#tab-check")
        page.click("#check-go")
        says(page, "#verdict", "right")
        box = page.locator("#verdict").bounding_box()
        assert box is not None
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= size[1]
        with page.expect_response("**/video/proof?*"):
            page.focus("#check-go")
            page.keyboard.press("Enter")
            page.focus("#pts")
        place = page.locator("#pts").bounding_box()
        says(page, "#verdict", "right")
        assert page.locator("#pts").bounding_box() == place
