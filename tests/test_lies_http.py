"""A demonstration that lies: where it does, what of it anybody could keep, and that no other server can."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from commands import ROOM, refused, run, started
from harmony4.crypto.errors import UsageError
from harmony4.server.config import Config, load_config
from serving import running, write_container

PAYLOADS = [b"a" * 100, b"b" * 100, b"c" * 101]
STREAM = b"".join(PAYLOADS)
PLACE = 150
"""In the middle of the block in the middle."""
WRONG = STREAM[:PLACE] + bytes([STREAM[PLACE] ^ 1]) + STREAM[PLACE + 1 :]
LIES = "/demo/lies?name=a.h4mk"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_container(tmp_path / "a.h4mk", PAYLOADS)
    return tmp_path


def test_one_bit_is_wrong_whatever_is_asked_for(root: Path) -> None:
    with running(root, lying=True) as server:
        assert server.get("/session").json["lies"] == "/demo/lies"
        assert server.get(LIES).body == WRONG
        for first, last in [(0, 300), (150, 150), (0, 149), (151, 300), (120, 180)]:
            answer = server.get(LIES, Range=f"bytes={first}-{last}")
            assert (answer.status, answer.body) == (206, WRONG[first : last + 1])
            assert answer.headers["Content-Range"] == f"bytes {first}-{last}/301"
        assert server.get(LIES, Range="bytes=301-").problem == "range"
        assert server.get("/demo/lies?name=b.h4mk").problem == "not-found"
        assert server.get(f"{LIES}&track=1").problem == "not-found"


@pytest.mark.parametrize("check", [False, True])
def test_nobody_keeps_a_lie_and_the_truth_stays_true(root: Path, check: bool) -> None:
    """No validator, no store; what is known of the stream itself is right before, between and after."""
    with running(root, lying=True, verify_on_read=check) as server:
        for _ in range(3):
            truth = server.get("/video/range?name=a.h4mk", Range="bytes=100-199")
            lie = server.get(LIES, Range="bytes=100-199", If_None_Match=truth.headers["ETag"])
            assert truth.body == STREAM[100:200]
            assert (lie.status, lie.body) == (206, WRONG[100:200])
            assert lie.headers["Cache-Control"] == "no-store"
            for name in ("ETag", "Last-Modified", "Repr-Digest", "Age", "Expires"):
                assert lie.headers[name] is None
            # With the validator of the truth there is no part of a lie.
            mixed = server.get(LIES, Range="bytes=100-199", If_Range=truth.headers["ETag"])
            assert (mixed.status, mixed.body) == (200, WRONG)
            whole = server.get("/video/range?name=a.h4mk")
            assert (whole.body, whole.headers["ETag"]) == (STREAM, truth.headers["ETag"])
            assert server.get("/container?name=a.h4mk").body == (root / "a.h4mk").read_bytes()


def test_no_other_server_has_such_a_route(root: Path) -> None:
    with running(root) as server:
        assert server.get("/session").json["lies"] is None
        for target in (LIES, "/video/range?name=a.h4mk&lies=1&demo=1&lying=1"):
            answer = server.get(target, Harmony4_Lies="1", X_Demo="1")
            assert answer.status == 404 or answer.body == STREAM
        assert server.get(LIES).problem == "no-route"


def test_no_setting_is_a_switch_for_it(root: Path) -> None:
    words = {word for name in Config.__dataclass_fields__ for word in name.split("_")}
    assert not words & {"demo", "lie", "lies", "lying"}
    for key in ("lies", "lying", "demo"):
        with pytest.raises(UsageError):
            load_config(environ={f"HARMONY4_{key.upper()}": "1"})


@pytest.mark.parametrize(
    ("arguments", "lies"),
    [(("demo", "-l"), True), (("demo", "--public-read", "-l"), False), (("serve",), False)],
)
def test_the_commands(root: Path, arguments: tuple[str, ...], lies: bool) -> None:
    """`demo` lies when it is asked to, where this machine alone can ask; `serve` never does."""
    with started(*arguments, root, "--port", "0", "--json") as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"].rstrip("/")
        try:
            with urllib.request.urlopen(f"{url}{LIES}", timeout=ROOM) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            body = None
            assert error.code == 404
        assert body == (WRONG if lies else None)


def test_serve_has_no_option_for_it(root: Path) -> None:
    refused(run("serve", root, "--lies"), "lies", status=2)
