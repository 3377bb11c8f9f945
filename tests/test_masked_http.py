"""Masked containers over real sockets: stored and unmasked bytes, who gets them, and what is said of them."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import hashlib
import http.client
import logging
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from harmony4.crypto.mask import MaskSpec
from harmony4.h4mk import H4MKReader
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.guard import signing
from harmony4.server.guard.secret import load_secret
from harmony4.server.guard.tokens import TokenFile, new_token
from harmony4.server.keys import BUFFERS, EXPRESS, LIBRARY
from harmony4.server.state import State
from masking import ONE, STRANGE, TWO, keyring, masked_container, plain_container
from media_factory import media
from needs import needs_ffmpeg, needs_nginx
from processes import until
from programs import documented, nginx
from serving import LOOPS, VIDEO, Answer, Server, running, settle

BLOCKS = [
    random.Random(n).randbytes(size) for n, size in enumerate([70_000, 1, 300_000, 5, 5_000_000, 80_000, 9])
]
HEADER = b"header bytes" * 100
STREAM = HEADER + b"".join(BLOCKS)
SIZE = len(STREAM)
INFO = replace(VIDEO, self_framing=True)
URL = "/video/range?name=a.h4mk"
SECRETS = tuple(
    text
    for key in (ONE, TWO, STRANGE)
    for text in (key.reveal().hex(), key.reveal().hex().upper(), repr(key.reveal())[2:-1])
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    plain_container(root / "plain.h4mk", BLOCKS, INFO, header=HEADER)
    masked_container(root / "a.h4mk", root / "plain.h4mk", MaskSpec((ONE, TWO)))
    masked_container(root / "beside.h4mk", root / "plain.h4mk", MaskSpec((ONE,), "random", True))
    masked_container(root / "strange.h4mk", root / "plain.h4mk", MaskSpec((STRANGE,)))
    return root


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keyring(tmp_path_factory.mktemp("ring"), films=ONE)


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest, root: Path, ring: Path) -> Iterator[Server]:
    with running(root, loop=request.param, keyring=ring) as one:
        yield one


@pytest.fixture(scope="module")
def stored(root: Path) -> bytes:
    """What the SAFE blocks hold, in one."""
    with H4MKReader(root / "a.h4mk") as reader:
        return b"".join(block.payload for block in reader.blocks())


def reveals_nothing(answer: Answer) -> None:
    text = answer.body.decode("latin-1") + str(answer.headers)
    assert not [one for one in SECRETS if one in text]


# -- bytes


def test_the_whole(server: Server, stored: bytes) -> None:
    answer = server.get(URL)
    assert (answer.status, answer.body) == (200, STREAM)
    assert answer.headers["Content-Length"] == str(SIZE)
    assert answer.headers["Content-Type"] == "video/mp4"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert "Repr-Digest" not in answer.headers  # META has that of the masked stream
    masked = server.get(f"{URL}&masked=1")
    assert (masked.status, masked.body) == (200, stored)
    assert masked.headers["Cache-Control"] == "no-cache"
    assert masked.headers["ETag"] != answer.headers["ETag"]
    assert server.get(f"{URL}&masked=0").body == STREAM
    with H4MKReader(server.app[LIBRARY].root / "a.h4mk") as reader:
        assert answer.headers["ETag"] == f'"{reader.etag(0, unmasked=True)}"'
        assert masked.headers["ETag"] == f'"{reader.etag(0)}"'
    assert server.get(f"{URL}&masked=2").problem == "usage"


def test_random_ranges_on_one_connection(server: Server, stored: bytes) -> None:
    """The same requests again and again: what goes the express way must not be the wrong bytes."""
    rng = random.Random(7)
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    for number in range(240):
        start = rng.randrange(SIZE)
        stop = min(SIZE, start + rng.choice([1, 15, 1000, 70_000, 2_000_000]))
        form, whole = (f"{URL}&masked=1", stored) if number % 2 else (URL, STREAM)
        connection.request("GET", form, headers={"Range": f"bytes={start}-{stop - 1}"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (206, whole[start:stop])
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    connection.close()


def test_each_block_is_digested_once(server: Server) -> None:
    """The same object serves all requests as long as the container stays open."""
    assert server.get(URL, Range="bytes=0-9").status == 206
    containers = server.app[LIBRARY]._containers
    first = containers["a.h4mk"].unmasked
    assert server.get(URL, Range="bytes=0-9").status == 206
    assert first is not None
    assert containers["a.h4mk"].unmasked is first


def test_conditions_and_ends(server: Server) -> None:
    etag = server.request("HEAD", URL).headers["ETag"]
    masked = server.request("HEAD", f"{URL}&masked=1").headers["ETag"]
    assert server.get(URL, If_None_Match=etag).status == 304
    assert server.get(URL, If_None_Match=masked).status == 200
    assert server.get(URL, If_Match=masked).status == 412
    assert server.get(URL, Range="bytes=5-9", If_Range=etag).body == STREAM[5:10]
    assert server.get(URL, Range="bytes=5-9", If_Range=masked).body == STREAM
    assert server.get(URL, Range=f"bytes={SIZE}-").status == 416
    assert server.get(URL, Range="bytes=-7").body == STREAM[-7:]
    head = server.request("HEAD", URL, {"Range": "bytes=5-9"})
    assert (head.status, head.body) == (200, b"")
    assert server.get(f"{URL}&download=1").headers["Content-Disposition"] == 'attachment; filename="a.mp4"'


def test_several_ranges_and_a_digest(server: Server) -> None:
    answer = server.get(URL, Range="bytes=3-9,70000-72000,-5")
    assert answer.status == 206
    kind = answer.headers["Content-Type"]
    text = b"Content-Type: " + kind.encode() + b"\r\n\r\n" + answer.body
    parts = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(text).get_payload()
    assert [one.get_payload(decode=True) for one in parts] == [STREAM[3:10], STREAM[70000:72001], STREAM[-5:]]
    asked = server.get(URL, Range="bytes=3-80000", Want_Content_Digest="sha-256=1")
    digest = hashlib.sha256(STREAM[3:80001]).digest()
    assert asked.headers["Content-Digest"] == f"sha-256=:{base64.b64encode(digest).decode()}:"
    assert asked.headers["Cache-Control"] == "no-store"


def test_times(server: Server, stored: bytes) -> None:
    """The blocks of a time, with the header bytes in front, and a range of them."""
    start = len(HEADER) + sum(map(len, BLOCKS[:2]))
    stop = start + sum(map(len, BLOCKS[2:4]))
    for form, whole, mark in (("", STREAM, "masked=0"), ("&masked=1", stored, "masked=1")):
        url = f"{URL}&pts=2500000&end_pts=3500000&init=1{form}"
        expected = whole[: len(HEADER)] + whole[start:stop]
        answer = server.get(url)
        assert (answer.status, answer.body) == (200, expected)
        assert mark in answer.headers["Content-Location"]
        again = server.get(answer.headers["Content-Location"])
        assert (again.body, again.headers["ETag"]) == (expected, answer.headers["ETag"])
        assert server.get(url, Range="bytes=1000-2000").body == expected[1000:2001]


def test_tracks_that_are_plain_beside_masked_ones(server: Server) -> None:
    for form in ("", "&masked=0", "&masked=1"):
        answer = server.get(f"/video/range?name=beside.h4mk&track=1{form}")
        assert (answer.status, answer.body) == (200, STREAM)
        assert answer.headers["Cache-Control"] == "no-cache"
    assert server.get("/video/range?name=beside.h4mk&track=0").body == STREAM
    assert server.get("/video/range?name=beside.h4mk&track=0&masked=1").body != STREAM


def test_what_is_stored_is_seekable_and_its_tokens_are_public(server: Server) -> None:
    found = server.get("/video/seek?name=strange.h4mk&pts=2500000").json
    assert (found["pts"], found["block_index"]) == (2_000_000, 3)
    assert "masked=1" in found["range_url"]
    assert server.get(found["range_url"]).status == 200
    assert server.get("/video/stream?name=strange.h4mk").body.count(b"event: token") == len(BLOCKS) + 1
    assert server.get("/video/keyframes?name=strange.h4mk").json["count"] == 4
    for url in ("/video/hls?name=a.h4mk", "/video/dash?name=a.h4mk", "/video/hls/0.m3u8?name=a.h4mk"):
        assert server.get(url).status == 409


@needs_ffmpeg
def test_sound_is_heard_with_the_key(tmp_path: Path, ring: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    for name, mask in (("p", None), ("m", MaskSpec((ONE,))), ("s", MaskSpec((STRANGE,)))):
        export(media("fragmented.mp4"), library / f"{name}.h4mk", ExportOptions(mask=mask))
    with running(library, keyring=ring) as server:
        kind = {"Accept": "application/octet-stream"}
        plain = server.request("GET", "/audio/stream?name=p.h4mk", kind)
        masked = server.request("GET", "/audio/stream?name=m.h4mk", kind)
        assert plain.status == 200
        assert masked.body == plain.body != b""
        assert server.get("/audio/stream?name=s.h4mk").problem == "key"


# -- who gets them


def test_a_key_that_is_not_here(server: Server) -> None:
    for method in ("GET", "HEAD"):
        answer = server.request(method, "/video/range?name=strange.h4mk")
        assert answer.status == 403
    refused = server.get("/video/range?name=strange.h4mk", Range="bytes=0-9")
    assert refused.problem == "key"
    assert refused.headers["Cache-Control"] == "no-store"
    assert "no key" in refused.json["detail"]
    reveals_nothing(refused)
    assert server.get("/video/range?name=strange.h4mk&masked=1").status == 200


def test_what_is_said(server: Server) -> None:
    info = server.get("/video/info?name=a.h4mk")
    ids = sorted([ONE.id.hex(), TWO.id.hex()])
    assert info.json["mask"] == {"mode": "deterministic", "keys": ids, "unmaskable": True}
    assert info.headers["Cache-Control"] == "no-cache"
    url = info.json["tracks"][0]["range_url"]
    answer = server.get(url)
    assert answer.body == STREAM
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert server.get("/video/seek?name=a.h4mk&pts=1").json["range_url"] == url
    assert server.get("/video/seek?name=a.h4mk&pts=2").json["range_url"] == url  # the express way
    strange = server.get("/video/info?name=strange.h4mk").json
    assert strange["mask"]["unmaskable"] is False
    assert server.get(strange["tracks"][0]["range_url"]).headers["Cache-Control"].startswith("public, ")
    assert server.get("/video/info?name=plain.h4mk").json["mask"] is None
    items = {one["name"]: one for one in server.get("/media").json["items"]}
    assert items["a.h4mk"]["mask"] == info.json["mask"]
    assert items["a.h4mk"]["range_url"] == url
    assert items["strange.h4mk"]["mask"] == strange["mask"]
    assert items["strange.h4mk"]["range_url"] == strange["tracks"][0]["range_url"]
    assert items["plain.h4mk"]["mask"] is None
    # Whoever unmasks by themselves asks for addresses of what is stored.
    stored = url.replace("masked=0", "masked=1").split("&v=")[0]
    for target in ("/video/info?name=a.h4mk", "/video/seek?name=a.h4mk&pts=1", "/media?q=a.h4mk"):
        found = server.get(f"{target}&masked=1").json
        one = found if "range_url" in found else (found.get("tracks") or found["items"])[0]
        assert one["range_url"].split("&v=")[0] == stored.split("&masked")[0]
        assert one["range_url"].endswith("&masked=1")
        assert server.get(f"{target}&masked=x").problem == "usage"
    for one in (info, server.get("/media"), answer):
        reveals_nothing(one)


def test_both_versions_of_an_address(server: Server) -> None:
    """Whoever has one form's version may ask for the other form; another version is gone."""
    with H4MKReader(server.app[LIBRARY].root / "a.h4mk") as reader:
        versions = [str(reader.etag(0, unmasked=form))[:16] for form in (False, True)]
    for version in versions:
        assert server.get(f"{URL}&v={version}").status == 200
        assert server.get(f"{URL}&v={version}&masked=1").status == 200
        assert server.get(f"{URL}&v={version}&pts=0").status == 200
        assert server.get(f"/video/seek?name=a.h4mk&pts=0&v={version}").status == 200
        assert server.get(f"/video/info?name=a.h4mk&v={version}").status == 200
    assert server.get(f"{URL}&v={'0' * 16}").status == 410
    assert server.get(f"{URL}&v={'0' * 16}&masked=1").status == 410


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@pytest.mark.parametrize("loop", LOOPS)
def test_tokens(root: Path, ring: Path, tmp_path: Path, loop: str) -> None:
    state = State(tmp_path / "state")

    def token(*scopes: str) -> dict[str, str]:
        made, text = new_token("test", scopes, time.time(), None)
        TokenFile(state).add(made)
        return bearer(text)

    read, mask, both, admin = token("read"), token("mask"), token("read", "mask"), token("admin")
    with running(root, loop=loop, keyring=ring, auth=True, state=state.path) as server:
        assert server.get(URL).status == 401
        assert server.request("GET", URL, mask).status == 403  # `mask` is not `read`
        for number in range(3):  # the second time the same bytes might go the express way
            form = {"Range": f"bytes={number}-9"}
            assert server.request("GET", URL, read | form).problem == "key"
            assert server.request("GET", f"{URL}&masked=1", read | form).status == 206
            assert server.request("GET", URL, both | form).body == STREAM[number:10]
            assert server.request("GET", URL, admin | form).body == STREAM[number:10]
        answer = server.request("GET", URL, both)
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert "Authorization" in answer.headers["Vary"]
        for who, allowed in ((read, False), (both, True)):
            info = server.request("GET", "/video/info?name=a.h4mk", who).json
            assert info["mask"]["unmaskable"] is allowed
            url = info["tracks"][0]["range_url"]
            assert server.request("GET", url, who).status == 200
            assert server.request("GET", "/video/seek?name=a.h4mk&pts=0", who).json["range_url"] == url
            assert server.request("GET", "/video/seek?name=a.h4mk&pts=9", who).json["range_url"] == url
            assert server.request("GET", "/media?q=a.h4mk", who).json["items"][0]["range_url"] == url
    with running(root, loop=loop, keyring=ring, public_read=True, state=state.path) as server:
        assert server.get(URL).problem == "key"
        assert server.get(f"{URL}&masked=1").status == 200
        assert server.request("GET", URL, both).body == STREAM
        assert server.request("GET", URL, read).problem == "key"


def test_signed_addresses(root: Path, ring: Path, tmp_path: Path) -> None:
    """A signature opens unmasked bytes only where it was made for them, and none grows out of another."""
    state = State(tmp_path / "state")
    with running(root, keyring=ring, auth=True, state=state.path) as server:

        def signed(target: str) -> str:
            key = signing.key_of(load_secret(state))
            return signing.signed_url(key, target, signing.Signature(int(time.time()) + 600))

        assert server.get(signed(URL)).problem == "key"
        assert server.get(signed(f"{URL}&masked=1")).status == 200
        assert server.get(signed(f"{URL}&masked=0")).body == STREAM
        assert server.get(signed(URL) + "&masked=0").status == 401
        for route in ("/video/info?name=a.h4mk", "/video/seek?name=a.h4mk&pts=0", "/media?q=a.h4mk"):
            found = server.get(signed(route)).json
            url = found.get("range_url") or (found.get("tracks") or found.get("items"))[0]["range_url"]
            assert "masked=1" in url
            assert server.get(url).body != STREAM
            found = server.get(signed(f"{route}&masked=0")).json
            url = found.get("range_url") or (found.get("tracks") or found.get("items"))[0]["range_url"]
            assert server.get(url).body == STREAM
        timed = server.get(signed(f"{URL}&masked=0&pts=0&end_pts=1"))
        assert server.get(timed.headers["Content-Location"]).body == timed.body
        assert server.get(signed(f"{URL}&pts=0&end_pts=1")).problem == "key"


def test_keys_that_come_and_go(root: Path, tmp_path: Path) -> None:
    ring = keyring(tmp_path / "ring", other=STRANGE)
    seek = "/video/seek?name=a.h4mk&pts=0"
    with running(root, keyring=ring) as server:
        assert server.get(URL).problem == "key"
        for _ in range(2):
            assert "masked=1" in server.get(seek).json["range_url"]
        keyring(ring, films=TWO)
        until(lambda: server.get(URL).status == 200, "the key is known")
        assert server.get(URL).body == STREAM
        answered = server.app[EXPRESS].answered
        assert [server.get(URL, Range="bytes=0-9").status for _ in range(3)] == [206] * 3
        assert server.app[EXPRESS].answered > answered
        until(lambda: "masked=0" in server.get(seek).json["range_url"], "the express way says it, too")
        (ring / "films.key").unlink()
        until(lambda: server.get(URL, Range="bytes=0-9").status == 403, "the key is forgotten")
        assert server.get(URL).status == 403
        assert server.get(f"{URL}&masked=1").status == 200


# -- what is wrong


def spoiled(root: Path, path: Path, block: int, at: int, *, seal: bool = False) -> Path:
    """A copy of a.h4mk with one bit of a block flipped; `seal`: of its tag."""
    data = bytearray((root / "a.h4mk").read_bytes())
    with H4MKReader(root / "a.h4mk") as reader:
        position = reader.range_map()[block].position
    where = position - 12 - 128 - 12 + 12 + 96 if seal else position + at
    data[where] ^= 1
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("loop", LOOPS)
def test_a_block_that_was_altered(root: Path, ring: Path, tmp_path: Path, loop: str) -> None:
    """Nothing of it goes out: a problem where it comes first, else the answer breaks off before it."""
    library = tmp_path / "library"
    spoiled(root, library / "payload.h4mk", 5, 4_000_000)
    before = len(HEADER) + sum(map(len, BLOCKS[:4]))
    with running(library, loop=loop, keyring=ring) as server:
        url = "/video/range?name=payload.h4mk"
        refused = server.get(url, Range=f"bytes={before}-{before}")
        assert (refused.status, refused.problem) == (500, "checksum")
        reveals_nothing(refused)
        assert server.get(url, Range=f"bytes=0-{before - 1}").body == STREAM[:before]
        with socket.create_connection(server.address, timeout=30) as connection:
            connection.sendall(f"GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            got = bytearray()
            try:
                while piece := connection.recv(2**16):
                    got += piece
            except ConnectionResetError:
                pass
        head, _, body = bytes(got).partition(b"\r\n\r\n")
        assert f"Content-Length: {SIZE}".encode() in head
        assert STREAM[:before].startswith(body)
        # What is stored is given as it is stored.
        assert server.get(f"{url}&masked=1").status == 200


def test_a_tag_of_another_key(root: Path, ring: Path, tmp_path: Path) -> None:
    """With everything that anybody can compute put right: CRC and digest of the token."""
    from harmony4.crypto.digest import crc32

    library = tmp_path / "library"
    path = spoiled(root, library / "tag.h4mk", 1, 0, seal=True)
    data = bytearray(path.read_bytes())
    with H4MKReader(root / "a.h4mk") as reader:
        token = reader.range_map()[1].position - 12 - 128
    data[token - 4 : token] = crc32(data[token : token + 128]).to_bytes(4)
    path.write_bytes(data)
    with running(library, keyring=ring) as server:
        answer = server.get("/video/range?name=tag.h4mk", Range=f"bytes={len(HEADER)}-{len(HEADER) + 9}")
        assert (answer.status, answer.problem) == (500, "seal")
        assert "tag" in answer.json["detail"]
        assert server.get("/video/range?name=tag.h4mk", Range="bytes=0-9").body == STREAM[:10]


def test_a_slot_that_was_altered(root: Path, ring: Path, tmp_path: Path) -> None:
    from harmony4.crypto.digest import crc32

    data = bytearray((root / "a.h4mk").read_bytes())
    at = data.index(b"KEYS") + 12
    slot = data.index(ONE.id, at)
    data[slot + 20] ^= 1
    data[at - 4 : at] = crc32(data[at : at + 520]).to_bytes(4)
    library = tmp_path / "library"
    library.mkdir()
    (library / "slot.h4mk").write_bytes(data)
    data[slot + 20] ^= 2
    (library / "damaged.h4mk").write_bytes(data)
    with running(library, keyring=ring) as server:
        answer = server.get("/video/range?name=slot.h4mk")
        assert (answer.status, answer.problem) == (403, "key")
        reveals_nothing(answer)
        assert server.get("/video/range?name=damaged.h4mk").problem == "key"
        assert server.get("/video/range?name=damaged.h4mk&masked=1").status == 200
        assert server.get("/video/info?name=damaged.h4mk").json["mask"]["keys"] is None


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_leaves(root: Path, ring: Path, loop: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with running(root, loop=loop, keyring=ring) as server:
        for _ in range(5):
            with socket.create_connection(server.address, timeout=30) as connection:
                connection.sendall(f"GET {URL} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                connection.recv(1000)
        library = server.app[LIBRARY]
        until(lambda: library._containers["a.h4mk"].users == 0, "every lease is given back")
        assert server.get(URL).body == STREAM
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert not [one for one in SECRETS if one in caplog.text]


@pytest.mark.parametrize("loop", LOOPS)
def test_many_who_take_nothing(root: Path, ring: Path, tmp_path: Path, loop: str) -> None:
    """They hold a few large buffers and small ones, which all come back; others get their bytes."""
    library = tmp_path / "library"
    plain_container(library / "p.h4mk", [bytes(2**20)] * 24, INFO)
    masked_container(library / "big.h4mk", library / "p.h4mk", MaskSpec((ONE,)))
    with running(library, loop=loop, keyring=ring, stop_timeout=0.1) as server:
        stuck = []
        for _ in range(30):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
            one.settimeout(30)
            one.connect(server.address)
            one.sendall(b"GET /video/range?name=big.h4mk HTTP/1.1\r\nHost: localhost\r\n\r\n")
            stuck.append(one)
        assert all(one.recv(12) == b"HTTP/1.1 200" for one in stuck)
        buffers = server.app[BUFFERS]
        until(lambda: not buffers.plenty, "all large buffers are in use")
        answer = server.get("/video/range?name=big.h4mk", Range="bytes=5000000-9999999")
        assert answer.body == bytes(5_000_000)
        for one in stuck:
            one.close()
        until(lambda: buffers._used == 0, "all of them are back")
        assert server.get("/video/range?name=big.h4mk").body == bytes(24 * 2**20)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_express_lane(root: Path, ring: Path, loop: str) -> None:
    """Blocks go the ordinary way once, where their digests are checked, and the express way from then on."""
    offsets = [0, len(HEADER)]
    for block in BLOCKS[:-1]:
        offsets.append(offsets[-1] + len(block))
    with running(root, loop=loop, keyring=ring) as server:
        express = server.app[EXPRESS]

        def ask(start: int, stop: int) -> bool:
            """Whether that went the express way."""
            before = express.answered
            answer = server.get(URL, Range=f"bytes={start}-{stop - 1}")
            assert (answer.status, answer.body) == (206, STREAM[start:stop])
            assert answer.headers["Cache-Control"] == "private, no-cache"
            settle(server)
            return express.answered > before

        assert not ask(0, 1)
        assert ask(0, 1)
        assert [ask(offset, offset + 1) for offset in offsets[1:]] == [False] * (len(offsets) - 1)
        assert [ask(offset, offset + 1) for offset in offsets] == [True] * len(offsets)
        assert ask(offsets[1] - 5, offsets[5] + 20_000)  # five blocks
        assert not ask(0, SIZE)  # too much to be made at once
        assert ask(offsets[5], offsets[5] + 2**20)
        assert not ask(offsets[5], offsets[5] + 2**20 + 1)
    # Nor what has to be checked each time.
    with running(root, loop=loop, keyring=ring, verify_on_read=True) as server:
        express = server.app[EXPRESS]
        assert [ask(0, 1) for _ in range(3)] == [False] * 3


@pytest.mark.parametrize("loop", LOOPS)
def test_many_who_take_nothing_of_the_express_lane(root: Path, ring: Path, tmp_path: Path, loop: str) -> None:
    """What is made for them and waits has a bound; what they leave is given back."""
    library = tmp_path / "library"
    plain_container(library / "p.h4mk", [bytes(2**20)] * 4, INFO)
    masked_container(library / "big.h4mk", library / "p.h4mk", MaskSpec((ONE,)))
    url, most = "/video/range?name=big.h4mk", 2**20
    with running(library, loop=loop, keyring=ring, stop_timeout=0.1) as server, ExitStack() as stack:
        express = server.app[EXPRESS]
        assert server.get(url).status == 200
        asking = f"GET {url} HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-{most - 1}\r\n\r\n".encode()

        got = b""

        def stuck() -> socket.socket:
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.settimeout(30)
            one.connect(server.address)
            return one

        with socket.create_connection(server.address, timeout=30) as first:
            first.sendall(asking)
            while not got.endswith(bytes(most)):
                got += first.recv(2**16)
            settle(server)  # it has learnt what to say
        for _ in range(60):
            one = stuck()
            for _ in range(8):  # the kernel takes some of them
                one.sendall(asking)
                settle(server)
            assert one.recv(12) == b"HTTP/1.1 206"
            if express.kept > 2**24 - most:
                break
        assert 2**22 < express.kept <= 2**24 + most
        # Others get their bytes, from here or from elsewhere.
        assert server.get(url, Range=f"bytes=0-{most - 1}").body == bytes(most)
        stack.close()
        until(lambda: express.kept == 0, "all of it is given back")
        containers = server.app[LIBRARY]._containers
        until(lambda: containers["big.h4mk"].users == 0, "every lease is given back")
        assert server.get(url).body == bytes(4 * most)


# -- nginx

EXAMPLE = "".join(documented("## Behind nginx")[1:])


@needs_nginx
def test_behind_a_proxy_that_keeps(root: Path, ring: Path, stored: bytes, tmp_path: Path) -> None:
    """Masked bytes are kept by the proxy, unmasked ones never; ranges and entity tags pass."""
    with (
        running(root, keyring=ring) as server,
        nginx(tmp_path / "nginx", EXAMPLE, server.address) as proxy,
    ):
        open_url = server.get("/video/info?name=a.h4mk").json["tracks"][0]["range_url"]
        shut_url = open_url.replace("masked=0", "masked=1")
        statuses = {}
        for url, whole in ((open_url, STREAM), (shut_url, stored)):
            etag = server.request("HEAD", url).headers["ETag"]
            for _ in range(2):
                connection = http.client.HTTPConnection(*proxy.address, timeout=30)
                connection.request("GET", url, headers={"Range": "bytes=100000-2200000"})
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (206, whole[100_000:2_200_001])
                assert answer.headers["ETag"] == etag
                statuses[url] = answer.headers["X-Cache-Status"]
                connection.close()
        assert statuses == {open_url: "BYPASS", shut_url: "HIT"}
