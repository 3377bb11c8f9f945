"""Shared by all tests.

How tests import each other's helpers: pytest runs with `--import-mode=importlib`, and
`pythonpath = ["tests"]` (pyproject.toml) puts this folder, and only this folder, on `sys.path`. A helper
module `tests/media_factory.py` is imported as `import media_factory`; nothing is imported from `conftest`.
Never put the repository's root on `sys.path`: its folders are called `crypto`, `server`, `static` and
`tokenize`, and are imported as `harmony4.…`.

Outside programs: mark a test with `needs_ffmpeg`, `needs_chromium`, `needs_nginx`, `needs_espeak`,
`needs_wrk`, `needs_aria2`, `needs_mpv`, `needs_openssl`, `needs_node`, `needs_npm`, `needs_systemd` or
`needs_curl` from `needs.py`; it is skipped, with the reason below, where the program is missing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from needs import PACKAGES, PROGRAMS, program

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from serving import Server

# A test that is slow once, on a machine with other work, is not wrong.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

HELPERS = ("independent", "media_factory", "nodejs", "pagelib", "programs", "sandboxes", "serving")
for _helper in HELPERS:  # their assert statements explain themselves as those in test modules do
    pytest.register_assert_rewrite(_helper)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {marker: names[0] for marker, names in PROGRAMS.items() if program(marker) is None}
    for item in items:
        for marker in missing.keys() & {mark.name for mark in item.iter_markers()}:
            name = missing[marker]
            package = PACKAGES.get(name, name)
            item.add_marker(pytest.mark.skip(reason=f"needs the program {name} (apt-get install {package})"))


@pytest.fixture(scope="module", autouse=True)
def few_objects() -> Iterator[None]:
    """What a module has left is looked at no more: in the end collecting all of it took a second, which a
    test that watches an event loop takes for work on it.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium for one module: while Playwright runs in a thread, no other event loop may begin there."""
    from chromium import chromium

    with chromium("--autoplay-policy=no-user-gesture-required") as one:
        yield one


@pytest.fixture(scope="session")
def page_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A container of each kind (`pagelib.library`), for tests that change none."""
    from pagelib import library

    return library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def server(page_library: Path) -> Iterator[Server]:
    """Those containers, served; modules that want others have a `server` of their own."""
    from serving import running

    with running(page_library) as one:
        yield one


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """A page of it, which is not loaded yet."""
    from pagelib import page_on

    with page_on(browser, server.url) as one:
        yield one


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A film of each of `pagelib.CLIPS`."""
    from pagelib import make_clips

    return make_clips(tmp_path_factory.mktemp("clips"))
