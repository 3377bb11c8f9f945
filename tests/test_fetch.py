"""fetch: nothing but what was signed, from servers that lie, in parallel, and again where it broke off."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import Done, here, refused, run
from harmony4.crypto import (
    HarmonyError,
    SealError,
    SourceError,
    StorageError,
    TokenRecord,
    UsageError,
    sha256,
)
from harmony4.crypto.mask import MaskSpec
from harmony4.crypto.merkle import inclusion_root, leaf_hash
from harmony4.crypto.signing import SigningKey
from harmony4.h4mk import H4MKBuilder, H4MKReader, recover
from harmony4.h4mk.layout import head_bytes
from harmony4.h4mk.proofs.proof import Proof, verify_seek
from harmony4.h4mk.proofs.signature import FINAL, Signature, Signer
from harmony4.h4mk.proofs.signing import sign_file
from harmony4.h4mk.proofs.trust import Trust
from harmony4.server.upstream import fetching
from harmony4.server.upstream.fetching import LyingServerError, fetch_container, fetch_stream
from lying import lying
from masking import ONE, keyring, masked_container
from needs import ORIGINAL
from samples import track_of
from serving import VIDEO, Server, running

KEY = SigningKey.from_number(5)
TRUST = Trust((KEY.public,), subject="talk", revision=3)
SIZE = 1000
COUNT = 40
BLOCKS = [bytes([n]) * (SIZE + n % 7) for n in range(1, COUNT)]


def write(path: Path, blocks: list[bytes], revision: int = 3, **more: Any) -> None:
    signer = Signer(KEY, "talk", revision) if revision else None
    with H4MKBuilder.to_path(path, [VIDEO, VIDEO, VIDEO], signer=signer, **more) as builder:
        for number, payload in enumerate(blocks):
            builder.add_block(payload, number * 1_000_000, key=number % 3 == 0)
            builder.add_block(payload[:40], number * 1_000_000, track=1, key=True)
        builder.finish(ends={0: COUNT * 1_000_000})


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    write(root / "a.h4mk", BLOCKS, sign_every=7)
    write(root / "old.h4mk", [b"old" * 300, *BLOCKS[1:]], 2)
    write(root / "other.h4mk", [b"other" * 200, *BLOCKS[1:]])
    write(root / "plain.h4mk", BLOCKS, 0)
    (root / "original.h4mk").write_bytes(ORIGINAL.read_bytes())
    data = (root / "plain.h4mk").read_bytes()
    at = data.index(BLOCKS[5])
    recover(data[:at] + b"?" + data[at + 1 :], root / "hole.h4mk")
    return root


@pytest.fixture(scope="module")
def server(library: Path) -> Iterator[Server]:
    with running(library) as one:
        yield one


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests and proofs for a small file."""
    monkeypatch.setattr(fetching, "_PIECE", 3 * SIZE)
    monkeypatch.setattr(fetching, "_ASK", 11 * SIZE)


STREAM = "/video/range?name=a.h4mk"
CONTAINER = "/container?name=a.h4mk"


@pytest.mark.parametrize("jobs", [1, 4])
@pytest.mark.parametrize(
    "url", [STREAM, "/video/range/0.mp4?name=a.h4mk&v=12", "/video/seek?name=a.h4mk&pts=1", CONTAINER]
)
def test_a_stream(server: Server, tmp_path: Path, url: str, jobs: int) -> None:
    seen: list[tuple[int, int | None]] = []
    found = fetch_stream(
        server.url + url, tmp_path / "f", TRUST, jobs=jobs, progress=lambda *one: seen.append(one)
    )
    data = b"".join(BLOCKS)
    assert (tmp_path / "f").read_bytes() == data
    assert (found.size, found.blocks, found.received) == (len(data), COUNT - 1, len(data))
    assert found.accepted and found.accepted.revision == 3
    assert seen[-1] == (len(data), len(data))
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_other_tracks(server: Server, tmp_path: Path) -> None:
    found = fetch_stream(f"{server.url}{STREAM}&track=1", tmp_path / "f", TRUST)
    assert (tmp_path / "f").read_bytes() == b"".join(one[:40] for one in BLOCKS)
    found = fetch_stream(f"{server.url}/video/range/2.mp4?name=a.h4mk", tmp_path / "e", TRUST)
    assert found.size == 0 and (tmp_path / "e").read_bytes() == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "f"]


@pytest.mark.parametrize("jobs", [1, 4])
def test_the_container(server: Server, library: Path, tmp_path: Path, jobs: int) -> None:
    found = fetch_container(server.url + CONTAINER, tmp_path / "f", TRUST, jobs=jobs)
    assert (tmp_path / "f").read_bytes() == (library / "a.h4mk").read_bytes()
    assert found.size == found.received and found.blocks == 2 * (COUNT - 1)
    pinned = Trust(head=found.head)
    assert fetch_container(server.url + STREAM, tmp_path / "g", pinned).accepted is None
    with H4MKReader(library / "plain.h4mk") as reader:
        pinned = Trust(head=reader.head)
    fetch_stream(f"{server.url}/video/range?name=plain.h4mk", tmp_path / "h", pinned)
    assert (tmp_path / "h").read_bytes() == b"".join(BLOCKS)


@pytest.mark.parametrize("has_key", [True, False])
def test_masked_media(tmp_path: Path, has_key: bool) -> None:
    """What is stored is what was signed, whether the server could unmask it or not."""
    library = tmp_path / "library"
    library.mkdir()
    write(tmp_path / "plain.h4mk", BLOCKS, 0)
    masked_container(library / "m.h4mk", tmp_path / "plain.h4mk", MaskSpec((ONE,)))
    sign_file(library / "m.h4mk", Signer(KEY, "talk", 3))
    with H4MKReader(library / "m.h4mk") as reader:
        stored = reader.read(0, reader.stream_size(0))
    assert len(stored) == len(b"".join(BLOCKS)) and stored != b"".join(BLOCKS)
    more = {"keyring": keyring(tmp_path / "ring", films=ONE)} if has_key else {}
    with running(library, **more) as one:
        for query in ("", "&masked=1"):
            url = f"{one.url}/video/range?name=m.h4mk{query}"
            assert fetch_stream(url, tmp_path / "f", TRUST).size == len(stored)
            assert (tmp_path / "f").read_bytes() == stored
        fetch_container(url, tmp_path / "g", TRUST)
    assert (tmp_path / "g").read_bytes() == (library / "m.h4mk").read_bytes()


# ---- servers that lie ------------------------------------------------------------------------------------


def flip(place: int, route: str = "/video/range") -> Any:
    """One bit of a file is another one."""

    def lie(path: str, at: int, body: bytes) -> bytes:
        if path.startswith(route) and at <= place < at + len(body):
            spoilt = bytearray(body)
            spoilt[place - at] ^= 4
            return bytes(spoilt)
        return body

    return lie


def swap(first: int, second: int, size: int) -> Any:
    """Two blocks have changed places."""
    data = bytearray(b"".join(BLOCKS))
    one, other = data[first : first + size], data[second : second + size]
    data[first : first + size], data[second : second + size] = other, one

    def lie(path: str, at: int, body: bytes) -> bytes:
        return bytes(data[at : at + len(body)]) if path.startswith("/video/range") else body

    return lie


def offset(number: int) -> int:
    return sum(map(len, BLOCKS[:number]))


@pytest.mark.parametrize("block", [0, 17, COUNT - 2])
def test_one_bit(server: Server, tmp_path: Path, block: int) -> None:
    place = offset(block) + len(BLOCKS[block]) - 1
    with (
        lying(server.url, flip(place)) as proxy,
        pytest.raises(LyingServerError, match=f"block {block} of track 0: bytes {offset(block)} to {place} "),
    ):
        fetch_stream(proxy + STREAM, tmp_path / "f", TRUST, jobs=1)
    assert [path.name for path in tmp_path.iterdir()] in (["f.part"], [])
    # What came before is good, and the honest server gives the rest.
    found = fetch_stream(server.url + STREAM, tmp_path / "f", TRUST)
    assert (tmp_path / "f").read_bytes() == b"".join(BLOCKS)
    assert found.received < found.size or block == 0


def test_two_blocks_that_changed_places(server: Server, tmp_path: Path) -> None:
    first, second = (n for n, one in enumerate(BLOCKS) if len(one) == SIZE + 3 and n < 12)
    named = pytest.raises(LyingServerError, match=f"block {first} of track 0")
    with lying(server.url, swap(offset(first), offset(second), SIZE + 3)) as proxy, named:
        fetch_stream(proxy + STREAM, tmp_path / "f", TRUST, jobs=1)
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("bring", [fetch_stream, fetch_container])
def test_an_older_version_is_replayed(server: Server, tmp_path: Path, bring: Any) -> None:
    with lying(server.url, send=lambda path: path.replace("a.h4mk", "old.h4mk")) as proxy:
        with pytest.raises(SealError, match="old edition"):
            bring(proxy + STREAM, tmp_path / "f", TRUST)
        assert list(tmp_path.iterdir()) == []
        bring(proxy + STREAM, tmp_path / "f", Trust((KEY.public,)))  # who does not ask, takes it


def test_another_container_in_the_middle(server: Server, tmp_path: Path) -> None:
    """The bytes, or the later proofs, of another container that the same key signed as the same edition."""

    def bytes_of_other(path: str) -> str:
        return path.replace("a.h4mk", "other.h4mk") if path.startswith("/video/range") else path

    with lying(server.url, send=bytes_of_other) as proxy, pytest.raises(LyingServerError, match="block 0"):
        fetch_stream(proxy + STREAM, tmp_path / "f", TRUST, jobs=1)

    def later_proofs_of_other(path: str) -> str:
        first = "bytes=0-" in path or path.startswith("/video/range")
        return path if first else path.replace("a.h4mk", "other.h4mk")

    with lying(server.url, send=later_proofs_of_other) as proxy, pytest.raises(SealError, match="pinned"):
        fetch_stream(proxy + STREAM, tmp_path / "f", TRUST)


def test_another_edition_once_it_is_opened(tmp_path: Path) -> None:
    """What is reported is what is on disk: an edition with the same blocks is another one."""
    library = tmp_path / "library"
    library.mkdir()
    write(library / "a.h4mk", BLOCKS, 7, title="new")
    write(tmp_path / "b.h4mk", BLOCKS, 3, title="old")
    new, old = (library / "a.h4mk").read_bytes(), (tmp_path / "b.h4mk").read_bytes()
    assert len(new) == len(old)
    opened = False

    def lie(path: str, at: int, body: bytes) -> bytes:
        nonlocal opened
        opened = opened or (at == 0 and len(body) <= fetching._PIECE)  # the first piece of the file
        return old[at : at + len(body)] if opened else body

    with running(library) as one:
        with lying(one.url, lie) as proxy, pytest.raises(LyingServerError, match="pinned"):
            fetch_container(proxy + CONTAINER, tmp_path / "f", TRUST, jobs=1)
        found = fetch_container(one.url + CONTAINER, tmp_path / "f", TRUST)
    assert opened and found.accepted and found.accepted.revision == 7
    with H4MKReader(tmp_path / "f") as reader:
        assert found.head == reader.head and reader.meta and reader.meta.title == "new"


def test_a_seek_is_answered_with_the_neighbouring_keyframe(server: Server) -> None:
    def neighbour(path: str) -> str:
        return path.replace("pts=10000000", "pts=7000000")

    with lying(server.url, send=neighbour) as proxy:
        import urllib.request

        url = f"{proxy}/video/seek?name=a.h4mk&pts=10000000&proof=1"
        with urllib.request.urlopen(url) as answer:
            proof = Proof.of(json.load(answer)["proof"])
    with pytest.raises(SealError, match="does not answer"):
        verify_seek(proof, 10_000_000, 0, TRUST)
    assert verify_seek(proof, 7_000_000, 0, TRUST).keyframe


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body[:-1],
        lambda body: body.replace(b'"blocks":78', b'"blocks":77'),
        lambda body: b"{}",
        lambda body: body.replace(b'"revision":3', b'"revision":4'),
        lambda body: b"[" * 10**5,
        lambda body: b"1" * 3 * 2**20,
    ],
)
def test_proofs_that_are_none(server: Server, tmp_path: Path, change: Any) -> None:
    def lie(path: str, at: int, body: bytes) -> bytes:
        return change(body) if path.startswith("/video/proof") else body

    with lying(server.url, lie) as proxy, pytest.raises(HarmonyError):
        fetch_stream(proxy + STREAM, tmp_path / "f", TRUST)
    assert list(tmp_path.iterdir()) == []


def test_proofs_that_lead_nowhere(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signer whose blocks overlap: the second proof brings nothing new, and nor would the next."""
    monkeypatch.setattr(fetching, "_ASK", 10)
    tokens = [
        TokenRecord(
            0, 1, size, index, 10 * index, 10 * index + 10, at, 10 * index, at, 10 * index, sha256(b"")
        )
        for index, (at, size) in enumerate([(0, 10), (5, 15)])
    ]
    hashes = [leaf_hash(one.pack()) for one in tokens]
    head = head_bytes(2, 20, inclusion_root(dict(enumerate(hashes)), 2, []), b"t", b"m")
    signature = Signature.unpack(Signer(KEY, "talk", 3)(FINAL, head), FINAL)
    proofs = [
        Proof(2, 20, sha256(b"t"), sha256(b"m"), (signature,), (n,), (tokens[n],), (hashes[1 - n],)).pack()
        for n in (0, 1)
    ]
    asked: list[str] = []

    def lie(path: str, at: int, body: bytes) -> bytes:
        if not path.startswith("/video/proof"):
            return body
        asked.append(path)
        return proofs[min(len(asked), 2) - 1]

    with lying(server.url, lie) as proxy, pytest.raises(SealError, match="contradict"):
        fetch_stream(proxy + STREAM, tmp_path / "f", TRUST)
    assert len(asked) == 2


def test_a_stream_that_is_cut_short(server: Server, tmp_path: Path) -> None:
    """A proof of what is behind the end, in place of the one that was asked for."""
    behind = f"range=bytes={offset(COUNT - 1)}-{offset(COUNT)}"

    def send(path: str) -> str:
        start = path.partition("range=")[2]
        return path.replace(f"range={start}", behind) if start and "bytes=0-" not in start else path

    with lying(server.url, send=send) as proxy, pytest.raises(SealError, match=r"lacks|contradict"):
        fetch_stream(proxy + STREAM, tmp_path / "f", TRUST)


@pytest.mark.parametrize("part", ["block", "token", "checkpoint", "table", "tree", "seal"])
def test_containers_with_one_bit_changed(server: Server, library: Path, tmp_path: Path, part: str) -> None:
    with H4MKReader(library / "a.h4mk") as reader:
        position = reader.range_map(0)[7].position
        tail, meta = reader.tail, reader.meta
        assert tail and meta
        checkpoint = next(chunk.payload for chunk in reader.chunks() if chunk.tag == "SIGN")
    places = {
        "block": position + 20,
        "token": position - 30,
        "checkpoint": checkpoint + 100,
        "table": meta.tracks[0].seek + 20,
        "tree": tail.merk + 50,
        "seal": tail.veri + 20,
    }
    with lying(server.url, flip(places[part], "/container")) as proxy, pytest.raises(SealError) as error:
        fetch_container(proxy + CONTAINER, tmp_path / "f", TRUST, jobs=1)
    assert part not in ("block", "token") or "block 7 of track 0" in str(error.value)
    assert not (tmp_path / "f").exists()
    found = fetch_container(server.url + CONTAINER, tmp_path / "f", TRUST)
    assert (tmp_path / "f").read_bytes() == (library / "a.h4mk").read_bytes()
    assert found.size == (library / "a.h4mk").stat().st_size


# ---- going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bring", [fetch_stream, fetch_container])
def test_going_on(server: Server, tmp_path: Path, bring: Any) -> None:
    bring(server.url + STREAM, tmp_path / "f", TRUST)
    data = (tmp_path / "f").read_bytes()
    part = tmp_path / "g.part"
    for there in (data[: len(data) // 2], b"x" + data[1:], data + b"more", data):
        part.write_bytes(there)
        found = bring(server.url + STREAM, tmp_path / "g", TRUST)
        assert (tmp_path / "g").read_bytes() == data and not part.exists()
        assert found.received < found.size


def test_a_connection_that_breaks_off(server: Server, tmp_path: Path) -> None:
    def lie(path: str, at: int, body: bytes) -> bytes:
        if path.startswith("/video/range") and at > offset(20):
            raise ConnectionResetError
        return body

    with lying(server.url, lie) as proxy, pytest.raises(SourceError, match="remote"):
        fetch_stream(proxy + STREAM, tmp_path / "f", TRUST)
    assert (tmp_path / "f.part").stat().st_size
    found = fetch_stream(server.url + STREAM, tmp_path / "f", TRUST)
    assert 0 < found.received < found.size


def test_only_one_at_a_time(server: Server, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "f.part").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another fetch"):
            fetch_stream(server.url + STREAM, tmp_path / "f", TRUST)


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "fifo"])
def test_an_unfinished_file_that_leads_elsewhere(server: Server, tmp_path: Path, kind: str) -> None:
    precious, part = tmp_path / "precious", tmp_path / "f.part"
    precious.write_bytes(b"precious " * 1000)
    match kind:
        case "link":
            part.symlink_to(precious)
        case "dangling":
            part.symlink_to(tmp_path / "new")
        case "hard link":
            part.hardlink_to(precious)
        case _:
            os.mkfifo(part)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StorageError, match="the unfinished file"):
        fetch_stream(server.url + STREAM, tmp_path / "f", TRUST)
    assert precious.read_bytes() == b"precious " * 1000 and sorted(tmp_path.iterdir()) == before


def test_an_unfinished_file_of_somebody_else(server: Server, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    part = tmp_path / "f.part"
    part.write_bytes(b"")
    os.chown(part, 12345, -1)
    with pytest.raises(StorageError, match="the unfinished file"):
        fetch_stream(server.url + STREAM, tmp_path / "f", TRUST)
    assert list(tmp_path.iterdir()) == [part]


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("/video/range?name=none.h4mk", SourceError, "404"),
        ("/video/range?name=original.h4mk", SourceError, "404"),
        ("/video/range?name=hole.h4mk", SourceError, "404"),
        ("/video/range?name=plain.h4mk", SealError, "missing"),
    ],
)
def test_what_has_no_proof(server: Server, tmp_path: Path, url: str, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        fetch_stream(server.url + url, tmp_path / "f", TRUST)
    assert list(tmp_path.iterdir()) == []


def test_containers_that_are_not_sealed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SealError, match="sealed"):
        fetch_container(f"{server.url}/container?name=original.h4mk", tmp_path / "f", TRUST)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "film.mp4",
        "ftp://h/video/range?name=a",
        "http://h/video/range",
        "http://h/x?name=a",
        "http://[/?name=a",
    ],
)
def test_addresses_that_are_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="not an address"):
        fetch_stream(url, tmp_path / "f", TRUST)


def test_files_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="folder"):
        fetch_stream(server.url + STREAM, tmp_path, TRUST)
    with pytest.raises(StorageError, match="cannot write"):
        fetch_stream(server.url + STREAM, tmp_path / "no" / "f", TRUST)


# ---- the command -----------------------------------------------------------------------------------------


def test_the_command(
    server: Server, library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public, out = tmp_path / "k.pub.pem", tmp_path / "f"
    public.write_bytes(KEY.public.pem())
    fetch = ("fetch", server.url + STREAM, "-o", out, "--trust", public)
    done = here(capsys, *fetch)
    assert done.status == 0 and "proven" in done.text and "revision 3" in done.text and "note:" in done.text
    assert out.read_bytes() == b"".join(BLOCKS)
    known = json.loads(here(capsys, *fetch, "--container", "--json", "-j", 2, "--subject", "talk").out)
    assert known["size"] == (library / "a.h4mk").stat().st_size and known["signature"]["revision"] == 3
    assert here(capsys, *fetch, "-q").out == b""
    pinned: Done = here(capsys, "fetch", server.url + STREAM, "-o", out, "--head", known["head"])
    assert pinned.status == 0 and "signed by" not in pinned.text
    before = out.read_bytes()
    old = here(capsys, *fetch, "--subject", "talk", "--revision", 4)
    assert old.status == 3 and old.err.startswith("error: ") and "old edition" in old.err
    with lying(server.url, flip(5)) as proxy:
        lied = here(capsys, "fetch", proxy + STREAM, "-o", out, "--trust", public)
        assert lied.status == 3 and "the server lied about block 0 of track 0" in lied.err
    assert out.read_bytes() == before
    refused(here(capsys, "fetch", server.url + STREAM, "-o", out), "--trust")
    refused(here(capsys, *fetch[:3], "-", *fetch[4:]), "-o FILE")
    refused(run("fetch", "http://127.0.0.1:1/video/range?name=a", "-o", out, "--trust", public), "remote")


def test_a_server_that_asks_for_a_token(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    public, out, file, root = tmp_path / "k.pub.pem", tmp_path / "f", tmp_path / "token", tmp_path / "library"
    public.write_bytes(KEY.public.pem())
    root.mkdir()
    (root / "a.h4mk").write_bytes((library / "a.h4mk").read_bytes())
    token = json.loads(here(capsys, "token", "add", "reader", "--scope", "read", "-l", root, "--json").out)[
        "token"
    ]
    with running(root, auth=True) as one:
        fetch = ("fetch", one.url + STREAM, "-o", out, "--trust", public)
        refused(here(capsys, *fetch), "401")
        file.write_text(token + "\n")
        assert here(capsys, *fetch, "--token-file", file).status == 0
        monkeypatch.setenv("HARMONY4_TOKEN", token)
        assert here(capsys, *fetch, "--container").status == 0
        monkeypatch.setenv("HARMONY4_TOKEN", token[:-1])
        wrong = here(capsys, *fetch)
        refused(wrong, "401")
        assert token[:-1] not in wrong.err
        file.write_bytes(b"\xff")
        refused(here(capsys, *fetch, "--token-file", file), "no token")
    assert out.read_bytes() == (library / "a.h4mk").read_bytes()


def test_memory_follows_the_leaves_alone() -> None:
    """The tree's leaves, 32 bytes for each block; of the map of the file one row of each track."""
    count = 20_000
    with H4MKReader(track_of(count, size=1)) as reader:
        for entry in reader.range_map(0):
            assert entry.size == 1
        tracemalloc.start()
        try:
            leaves = fetching._leaves(reader)
            found = sum(block.size > 1 for block in fetching._file_blocks(reader, leaves))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert found == count and peak < 48 * count
