"""Signing in on the page, in Debian's Chromium: what a token opens, and what is seen without one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.guard.tokens import TokenFile, new_token
from harmony4.server.state import State
from needs import BUNNY, needs_chromium
from pagelib import LOST, SCREENSHOTS, SHOWN, page_on, violations
from processes import until
from serving import Server, running

pytestmark = needs_chromium


@pytest.fixture
def root(tmp_path: Path) -> Path:
    export(BUNNY, tmp_path / "bunny.h4mk", ExportOptions())
    return tmp_path


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    one = context.new_page()
    one.set_default_timeout(20_000)
    thrown: list[str] = []
    one.on("pageerror", lambda error: thrown.append(str(error)))
    yield one
    context.close()
    assert thrown == []


def token(root: Path, name: str, *scopes: str) -> tuple[str, str]:
    """Id and text of a new token."""
    made, text = new_token(name, scopes, 0)
    TokenFile(State(root / ".harmony4")).add(made)
    return made.id, text


def sign_in(page: Page, text: str) -> None:
    page.fill("#token", text)
    page.press("#token", "Enter")


def test_a_token_opens_the_library_until_one_signs_out(root: Path, page: Page) -> None:
    _, text = token(root, "Ada", "write")
    with running(root, auth=True) as server:
        page.goto(f"{server.url}/?name=bunny.h4mk")
        page.wait_for_selector("#sign-in[open]")
        page.wait_for_selector("text=Sign in to see the library")
        assert not page.is_visible("#add")
        sign_in(page, "h4_0123456789abcdef_" + "A" * 43)
        page.wait_for_selector("#sign-in-problem:not([hidden])")
        assert page.inner_text("#sign-in-problem") == "The token is not valid."
        sign_in(page, text)
        page.wait_for_selector("#sign-in:not([open])", state="attached")
        page.wait_for_selector('#items a[data-name="bunny.h4mk"]')
        page.wait_for_selector("#stage video")
        assert page.input_value("#token") == ""  # it stays nowhere
        page.evaluate(
            """() => new Promise((resolve, reject) => {
              const video = document.querySelector("video");
              video.onloadeddata = resolve;
              video.onerror = () => reject(new Error(video.error.message));
              if (video.readyState >= 2) resolve();
            })"""
        )
        assert page.is_visible("#add")
        page.set_input_files("#files", BUNNY)
        page.wait_for_selector("#uploads .upload a")
        page.reload()  # the cookie holds
        page.wait_for_selector('#items a[data-name="bigbuckbunny.mp4.h4mk"]')
        page.click("#session:text('Sign out Ada')")
        page.wait_for_selector("text=Sign in to see the library")
        assert page.query_selector_all("#items a") == []
        assert page.evaluate("fetch('media').then((answer) => answer.status)") == 401


def test_keys_are_forgotten_with_the_session(tmp_path: Path, page_library: Path, page: Page) -> None:
    """Who signs in after somebody else has to have the key of a masked container."""
    shutil.copy(page_library / "masked.h4mk", tmp_path)
    _, text = token(tmp_path, "reader", "read")
    with running(tmp_path, auth=True) as server:
        page.goto(f"{server.url}/?name=masked.h4mk")
        page.wait_for_selector("#sign-in[open]")
        sign_in(page, text)
        page.fill("#key", bytes(range(60, 92)).hex())
        page.press("#key", "Enter")
        page.wait_for_selector("#stage video, #stage audio")
        page.click("#session")
        page.wait_for_selector("text=Sign in to see the library")
        page.evaluate("document.querySelector('#session').click()")  # it may ask by itself
        page.wait_for_selector("#sign-in[open]")
        sign_in(page, text)
        page.wait_for_selector("#key")


def test_reading_alone(root: Path, page: Page) -> None:
    """Everybody may look; whoever may not write is asked for a token that may."""
    number, text = token(root, "reader", "read")
    with running(root, public_read=True) as server:
        page.goto(server.url)
        page.wait_for_selector('#items a[data-name="bunny.h4mk"]')
        page.wait_for_selector("#session:text('Sign in')")
        assert not page.is_visible("#sign-in")
        assert not page.is_visible("#add")
        drop(page)
        page.wait_for_selector("#sign-in[open]")
        assert "may write" in page.inner_text("#sign-in-why")
        sign_in(page, text)
        page.wait_for_selector("#session:text('Sign out reader')")
        assert not page.is_visible("#add")
        drop(page)
        page.wait_for_selector("#sign-in[open]")
        page.click("#sign-in-cancel")
        assert page.query_selector_all("#uploads li") == []
        TokenFile(State(root / ".harmony4")).revoke(number)
        revoked(page, server)
        page.reload()
        page.wait_for_selector("#session:text-is('Sign in')")


def test_open_servers_ask_nothing(root: Path, page: Page) -> None:
    with running(root) as server:
        page.goto(server.url)
        page.wait_for_selector('#items a[data-name="bunny.h4mk"]')
        assert not page.is_visible("#session")
        assert page.is_visible("#add")


HEADER = """() => {
  const boxes = [...document.querySelectorAll(".bar > *")].map((one) => one.getBoundingClientRect());
  const session = document.querySelector("#session");
  return {
    page: document.documentElement.scrollWidth,
    right: Math.max(...boxes.map((one) => one.right)),
    apart: boxes.slice(1).every((one, at) => one.left >= boxes[at].right),
    height: session.getBoundingClientRect().height,
    cut: session.scrollWidth > session.clientWidth,
    shown: session.innerText,
  };
}"""


@pytest.mark.parametrize("name", ["laptop", "the laptop in the kitchen " * 4])
@pytest.mark.parametrize("width", [320, 390, 480, 760, 1280])
def test_the_header_has_room_for_any_name(root: Path, browser: Browser, width: int, name: str) -> None:
    """WCAG 1.4.10: nothing is wider than a phone's screen, and no word is cut there."""
    name = name.strip()
    _, text = token(root, name, "write")
    size = {"width": width, "height": 800}
    SCREENSHOTS.mkdir(exist_ok=True)
    with running(root, auth=True) as server, page_on(browser, server.url, LOST, viewport=size) as page:
        page.goto(server.url)
        page.wait_for_selector("#sign-in[open]")
        sign_in(page, text)
        page.get_by_role("button", name=f"Sign out {name}", exact=True).wait_for()
        page.wait_for_selector("#items a")
        found = page.evaluate(HEADER)
        assert found["page"] == width
        assert found["right"] <= width
        assert found["apart"]
        assert found["height"] == 32
        if width <= 480:
            assert found["shown"] == "Sign out"
        assert found["cut"] == (width == 760 and len(name) > 10)
        page.screenshot(path=SCREENSHOTS / f"header-{len(name)}-{width}.png")
        assert violations(page) == []


PRESS = "#timeline"
"""Where a click goes to another time."""


@pytest.mark.parametrize("pressed", [PRESS, "#tab-tokens", "#tab-container", "#check-go"])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_session_that_ends_while_a_film_is_open(
    root: Path, page: Page, pressed: str, elsewhere: bool
) -> None:
    """With its token, or as somebody signs out in another tab: what is asked next says so."""
    number, text = token(root, "Ada", "write")
    with running(root, auth=True) as server:
        page.goto(f"{server.url}/?name=bunny.h4mk")
        page.wait_for_selector("#sign-in[open]")
        sign_in(page, text)
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)
        page.wait_for_selector("#session:text('Sign out Ada')")
        if pressed == "#check-go":
            page.click("#tab-check")
            page.wait_for_selector(pressed)
        if elsewhere:
            other = page.context.new_page()
            other.goto(server.url)
            other.click("#session:text('Sign out Ada')")
            other.wait_for_selector("text=Sign in to see the library")
            other.close()
        else:
            TokenFile(State(root / ".harmony4")).revoke(number)
            revoked(page, server)
        page.click(pressed)
        page.wait_for_selector("#sign-in[open]")
        assert page.inner_text("#sign-in-why") == "Your session has ended: sign in again."
        page.wait_for_selector("#session:text-is('Sign in')")
        _, text = token(root, "Eve", "write")
        until(lambda: server.get("/media", Authorization=f"Bearer {text}").status == 200, "it holds")
        sign_in(page, text)
        page.wait_for_selector("#session:text('Sign out Eve')")
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)
        assert page.is_hidden("#seek-problem")


def drop(page: Page) -> None:
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(["x"], "small.bin"));
          for (const name of ["dragenter", "dragover", "drop"])
            dispatchEvent(new DragEvent(name, { dataTransfer: data, cancelable: true, bubbles: true }));
        }"""
    )


def revoked(page: Page, server: Server) -> None:
    """The server has seen that the page's token is no more."""
    page.evaluate(
        """() => new Promise((resolve) => {
          const ask = async () => {
            const session = await (await fetch("session")).json();
            if (session.name === null) resolve();
            else setTimeout(ask, 20);
          };
          ask();
        })"""
    )
