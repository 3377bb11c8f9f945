"""Bundles: every source comes out as it went in, and times, steps and history say how (H4MK 14.3, 17.4)."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import here, refused
from harmony4.crypto.digest import crc32
from harmony4.crypto.errors import (
    ChecksumError,
    FormatError,
    MediaError,
    SealError,
    SourceError,
    StorageError,
    TruncatedError,
    UsageError,
)
from harmony4.crypto.token import TOKEN_SIZE
from harmony4.h4mk import H4MKBuilder, H4MKReader, HistoryEntry, Meta, Step, TrackInfo, recover, verify
from harmony4.h4mk.edits.bundle import PART, ContainerInput, Part, bundle, parts, split
from harmony4.server.exporting.bundling import bundle_files
from harmony4.server.exporting.ingest import ExportOptions, export
from make_vectors.parts import TWO, TWO_BLOCKS, TWO_ENDS, container
from media_factory import media
from needs import BUNNY, ORIGINAL
from samples import VIDEO, track_of

AUDIO = TrackInfo(codec="flac", kind="audio", media_type="audio/flac", self_framing=True, timing="demux")


def made(
    *tracks: tuple[TrackInfo, list[bytes]], step: int = 1_000_000, origin: int = 0, block: int = 2**20
) -> bytes:
    """A sealed container: block i of a track begins at i·`step` µs."""
    with H4MKBuilder.in_memory([info for info, _ in tracks], origin=origin, block=block) as builder:
        every = [
            (number * step, track, payload)
            for track, (_, payloads) in enumerate(tracks)
            for number, payload in enumerate([*payloads, b""])
        ]
        for pts, track, payload in sorted(every):
            if payload:
                builder.add_block(payload, pts, track=track, key=True)
            elif pts:
                builder.end_track(track, pts)
        builder.finish()
        return builder.getvalue()


def bundled(*sources: bytes, title: str | None = None) -> bytes:
    out = io.BytesIO()
    with ExitStack() as stack:
        bundle([ContainerInput(stack.enter_context(H4MKReader(one))) for one in sources], out, title=title)
    assert verify(out.getvalue()).ok
    return out.getvalue()


def apart(data: bytes) -> Iterator[bytes]:
    with H4MKReader(data) as reader:
        for part in parts(reader):
            out = io.BytesIO()
            seal = split(reader, part, out)
            assert seal.head == part.head
            yield out.getvalue()


FILM = made((VIDEO, [b"a0", b"a1" * 9, b"a2"]), step=700_000)
SOUND = made((AUDIO, [b"b0", b"b1", b"b2", b"b3"]), step=500_000)
BOTH = container(trak=TWO, blocks=TWO_BLOCKS, ends=TWO_ENDS)
"""Made by hand, of two tracks, with an origin, a title and a history."""
EMPTY = made((VIDEO, []))


@pytest.mark.parametrize(
    "sources",
    [
        [FILM],
        [FILM, SOUND],
        [SOUND, FILM, SOUND],
        [BOTH, FILM, BOTH],
        [EMPTY, SOUND, EMPTY],
        [track_of(30)],
        [container(steps=[{"pts": 5, "shift": 3, "track": 0}], ancillary=[(b"post", b"x")]), FILM],
    ],
)
def test_what_goes_in_comes_out(sources: list[bytes]) -> None:
    assert list(apart(bundled(*sources))) == sources


def test_the_same_sources_give_the_same_bundle() -> None:
    assert bundled(FILM, SOUND, title="Ø") == bundled(FILM, SOUND, title="Ø")
    assert bundled(FILM, SOUND) != bundled(SOUND, FILM)


def test_tracks_and_order() -> None:
    with H4MKReader(bundled(FILM, BOTH, SOUND, title="all")) as reader:
        assert reader.meta is not None
        assert reader.meta.title == "all"
        assert [one.info.media_type for one in reader.tracks] == [
            "video/mp4",
            "video/mp4",
            "audio/mp4",
            "audio/flac",
        ]
        with H4MKReader(BOTH) as two:
            for track in range(2):
                assert reader.tracks[1 + track].sha256 == two.tracks[track].sha256
                assert reader.seek(550_000, 1 + track) == two.seek(550_000, track)
                before = [(one.pts, one.end, one.offset, one.digest) for one in two.tokens(track)]
                after = [(one.pts, one.end, one.offset, one.digest) for one in reader.tokens(1 + track)]
                assert after == before
        places = sorted(
            (token.end, token.track, token.index) for track in range(4) for token in reader.tokens(track)
        )
        leaves = [
            (row.leaf, track) for track in range(4) for row in (reader.range_map(track)[i] for i in range(2))
        ]
        assert places == sorted(places)
        assert len(leaves) == len(set(leaves))
        assert reader.seek(0, 3) is not None


def test_beginnings_are_told_by_steps() -> None:
    """Each source begins at 0; TRAK.origin and steps say what its own clock said then."""
    early, late = made((VIDEO, [b"x"] * 2), origin=-40_000), made((AUDIO, [b"y"] * 2), origin=1_400_000)
    data = bundled(early, late)
    with H4MKReader(data) as reader:
        assert reader.trak.origin == 1_400_000
        assert reader.meta is not None
        assert reader.meta.steps == (Step(0, 1_440_000, 0),)
        assert [next(reader.tokens(track)).pts for track in (0, 1)] == [0, 0]
    assert list(apart(data)) == [early, late]


def test_history() -> None:
    with H4MKReader(bundled(BOTH, FILM)) as reader, H4MKReader(BOTH) as two, H4MKReader(FILM) as film:
        assert reader.meta is not None
        assert two.meta is not None
        assert two.head is not None
        assert film.head is not None
        inputs = tuple({"head": one.head.hex()} for one in (two, film))
        assert reader.meta.history == (*two.meta.history, HistoryEntry("bundle", {}, inputs))


def test_a_bundle_in_a_bundle() -> None:
    inner = bundled(FILM, SOUND)
    outer = bundled(inner, BOTH)
    assert list(apart(outer)) == [inner, BOTH]
    assert list(apart(next(apart(outer)))) == [FILM, SOUND]


def test_many_tracks() -> None:
    sources = [made((AUDIO, [b"%d" % number] * 2), step=1000 + number) for number in range(200)]
    data = bundled(*sources)
    with H4MKReader(data) as reader:
        assert len(reader.tracks) == 200
    assert list(apart(data)) == sources


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(1, 10**6), st.lists(st.binary(min_size=1, max_size=40), max_size=8)),
            min_size=1,
            max_size=3,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_sources(sources: list[list[tuple[int, list[bytes]]]]) -> None:
    containers = []
    for tracks in sources:
        step = tracks[0][0]
        containers.append(made(*((VIDEO, payloads) for _, payloads in tracks), step=step, origin=step))
    assert list(apart(bundled(*containers))) == containers


def test_a_recovered_container() -> None:
    """Holes stay holes."""
    damaged = bytearray(track_of(40))
    with H4MKReader(bytes(damaged)) as reader:
        damaged[reader.range_map()[7].position] ^= 1
    out = io.BytesIO()
    recover(bytes(damaged), out)
    holed = out.getvalue()
    data = bundled(FILM, holed)
    with H4MKReader(data) as reader:
        assert [(one.track, one.first, one.count) for one in reader.lost] == [(1, 7, 1)]
    assert list(apart(data)) == [FILM, holed]


# -- what is refused


def test_what_cannot_be_bundled() -> None:
    arrival = track_of(4, tracks=(VIDEO, AUDIO))
    for data, words in (
        (FILM[:-1], "sealed"),
        (ORIGINAL.read_bytes(), "sealed"),
        (arrival, "arrival"),
    ):
        with H4MKReader(data) as reader, pytest.raises(UsageError, match=words):
            ContainerInput(reader)
    with pytest.raises(UsageError, match="at least one"):
        bundle([], io.BytesIO())


@pytest.mark.parametrize(
    ("name", "words"),
    [("ok-signed", "signed"), ("ok-two-signatures", "signed"), ("ok-masked", "masked")],
)
def test_signed_and_masked_ones_are_not_bundled(name: str, words: str) -> None:
    path = Path(__file__).parent / "vectors" / f"{name}.h4mk"
    with H4MKReader(path) as reader, pytest.raises(UsageError, match=words):
        ContainerInput(reader)


def test_a_checkpoint_is_noticed() -> None:
    """It stands between blocks, where no directory names it."""
    data = container(checkpoints={1: bytes([2, 1]) + bytes(142)})
    with H4MKReader(data) as reader:
        assert not reader.is_plain()
        with pytest.raises(UsageError, match="signed"):
            ContainerInput(reader)


def test_damage_does_not_get_through() -> None:
    with H4MKReader(FILM) as reader:
        at = reader.range_map()[1].position
    broken = FILM[:at] + b"?" + FILM[at + 1 :]
    out = io.BytesIO()
    with H4MKReader(broken) as reader, pytest.raises(ChecksumError):
        bundle([ContainerInput(reader)], out)


def test_forgery_does_not_get_through(tmp_path: Path) -> None:
    """Payload, and token, each with a CRC that fits: the stream's digest and the tree tell (H4MK 17.4)."""
    with H4MKReader(SOUND) as reader:
        at = reader.range_map()[1].position
    forged = rewritten(SOUND, at, b"b?")
    token = bytearray(SOUND[at - 12 - TOKEN_SIZE : at - 12])
    token[64] ^= 1  # its digest
    for data in (forged, rewritten(SOUND, at - 12 - TOKEN_SIZE, bytes(token))):
        with H4MKReader(FILM) as film, H4MKReader(data) as reader, pytest.raises(SealError):
            bundle([ContainerInput(film), ContainerInput(reader)], tmp_path / "out.h4mk")
        with H4MKReader(SOUND) as reader:
            (part,) = [ContainerInput(reader).part()]
        with H4MKReader(data) as reader, pytest.raises(SealError):
            split(reader, part, tmp_path / "out.h4mk")
    assert list(tmp_path.iterdir()) == []
    with H4MKReader(forged) as reader, pytest.raises(SealError):
        list(ContainerInput(reader).blocks(0))


def rewritten(data: bytes, at: int, payload: bytes) -> bytes:
    """A chunk with another payload of the same length, and its CRC."""
    crc = struct.pack(">I", crc32(payload))
    return data[: at - 4] + crc + payload + data[at + len(payload) :]


def test_a_part_that_lies(tmp_path: Path) -> None:
    """Whatever a bundle says of its parts: what comes out has the head that it should have, or does not."""
    with H4MKReader(bundled(FILM, SOUND)) as reader:
        first, second = parts(reader)
        path = tmp_path / "out.h4mk"
        meta = Meta.unpack(first.meta)
        other = replace(meta, tracks=tuple(replace(one, sha256=bytes(32)) for one in meta.tracks))
        lies = (
            replace(first, head=bytes(32)),
            replace(first, veri=bytes(32)),
            replace(first, trak=second.trak),
            replace(first, meta=other.pack()),
            replace(first, meta=replace(meta, tracks=meta.tracks * 2).pack()),
            replace(first, ancillary=(("post", b"x"),)),
            replace(first, first=1),
        )
        for lie in lies:
            with pytest.raises((SealError, FormatError)):
                split(reader, lie, path)
            assert list(tmp_path.iterdir()) == []
        split(reader, first, path)
        assert path.read_bytes() == FILM


def test_the_digest_of_the_file() -> None:
    with H4MKReader(FILM) as reader:
        assert reader.veri() in FILM
    with H4MKReader(FILM[:-200]) as reader, pytest.raises(SealError):
        reader.veri()
    with pytest.raises(UsageError):
        H4MKBuilder(io.BytesIO(), [VIDEO], streams=[])


def lying(*payloads: bytes) -> bytes:
    with H4MKBuilder.in_memory([VIDEO]) as builder:
        builder.add_block(b"x", 0, key=True)
        builder.finish(ancillary=[(PART, payload) for payload in payloads])
        return builder.getvalue()


def test_parts_that_are_none() -> None:
    with H4MKReader(bundled(FILM)) as reader:
        (good,) = (payload for _, payload in reader.ancillary())
    assert Part.unpack(good).pack() == good
    for size in range(len(good)):
        with pytest.raises(TruncatedError):
            Part.unpack(good[:size])
    for bad in (good + b"x", good[:4] + b"\1" + good[5:]):
        with pytest.raises(FormatError):
            Part.unpack(bad)
    twice = struct.pack(">H", 1) + good[2:]
    elsewhere = good[:2] + struct.pack(">H", 1) + good[4:]
    for payloads in ((good, twice), (elsewhere,)):
        with H4MKReader(lying(*payloads)) as reader, pytest.raises(FormatError):
            parts(reader)
    with H4MKReader(lying()) as reader:
        assert parts(reader) == ()


def test_ancillary_chunks_are_what_meta_lists() -> None:
    data = lying(b"some bytes")
    at = data.index(b"some bytes")
    for bad in (
        data[:at] + b"same" + data[at + 4 :],
        data[: at - 12] + b"post" + data[at - 8 :],
        data[: at - 8] + struct.pack(">I", 9) + data[at - 4 :],
    ):
        with H4MKReader(bad) as reader, pytest.raises((SealError, ChecksumError)):
            list(reader.ancillary())
    with H4MKReader(data) as reader:
        assert list(reader.ancillary()) == [(PART, b"some bytes")]
    with H4MKReader(data[:-1]) as reader:
        assert list(reader.ancillary()) == []
        assert not reader.is_plain()


# -- files


def test_media_and_containers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound, film, out = media("tone.flac"), tmp_path / "film.h4mk", tmp_path / "all.h4mk"
    export(BUNNY, film, ExportOptions(title="Bunny"))
    told = here(capsys, "bundle", sound, film, BUNNY, "-o", out, "--title", "All", "--json")
    assert told.status == 0, told.err
    assert '"inputs": 3' in told.text
    assert verify(out).ok
    with H4MKReader(out) as reader:
        assert reader.meta is not None
        assert [one.op for one in reader.meta.history] == ["export", "bundle"]
        assert [one.info.kind for one in reader.tracks] == ["audio", "video", "video"]
    again = tmp_path / "apart"
    assert here(capsys, "split", out, "-o", again, "-q").status == 0
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        "00.flac": sound.read_bytes(),
        "01.h4mk": film.read_bytes(),
        "02.mp4": BUNNY.read_bytes(),
    }
    assert here(capsys, "verify", out).status == 0
    refused(here(capsys, "split", out, "-o", again), "it is there already")
    assert len(list(again.iterdir())) == 3


def test_bundling_the_same_twice(tmp_path: Path) -> None:
    heads = {bundle_files([BUNNY, media("plain.ts")], tmp_path / f"{n}.h4mk").head for n in range(2)}
    assert len(heads) == 1
    with H4MKReader(tmp_path / "0.h4mk") as reader:
        assert [next(reader.tokens(track)).pts for track in range(2)] == [0, 0]
        assert reader.meta is not None
        assert reader.trak.origin > 0
        assert reader.meta.steps[0].track == 0


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("none.mp4", SourceError),
        ("broken.mp4", MediaError),
        ("cut.h4mk", UsageError),
        ("media.H4MK", SourceError),
        ("empty.h4mk", SourceError),
    ],
)
def test_a_source_that_is_none(tmp_path: Path, name: str, error: type[Exception]) -> None:
    data = BUNNY.read_bytes()
    (tmp_path / "broken.mp4").write_bytes(data[:40] + bytes(len(data) - 40))
    (tmp_path / "cut.h4mk").write_bytes(FILM[:-1])
    (tmp_path / "media.H4MK").write_bytes(data)
    (tmp_path / "empty.h4mk").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error):
        bundle_files([BUNNY, tmp_path / name], tmp_path / "out.h4mk")
    assert sorted(tmp_path.iterdir()) == before


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film, out = tmp_path / "film.h4mk", tmp_path / "out.h4mk"
    film.write_bytes(FILM)
    refused(here(capsys, "bundle", "-", "-o", out), "files with names")
    refused(here(capsys, "bundle", film, "-o", film), "the same file")
    refused(here(capsys, "bundle", tmp_path / "none", "-o", out), "cannot open")
    (tmp_path / "text.h4mk").write_bytes(b"no container")
    refused(
        here(capsys, "bundle", film, tmp_path / "text.h4mk", "-o", out), "text.h4mk is called a container"
    )
    assert here(capsys, "bundle", "-o", out).status == 2
    assert film.read_bytes() == FILM
    told = here(capsys, "bundle", film, film, "-o", out)
    assert (told.status, "2 inputs" in told.text) == (0, True)
    (tmp_path / "cut.h4mk").write_bytes(FILM[:-1])
    refused(here(capsys, "split", tmp_path / "cut.h4mk", "-o", tmp_path / "x"), "sealed")
    assert not (tmp_path / "x").exists()
    refused(here(capsys, "split", out, "-o", film), "cannot make the folder")
    told = here(capsys, "split", out, "-o", tmp_path / "y" / "z", "--json")
    assert told.text.count('"head"') == 2
    assert (tmp_path / "y" / "z" / "01.h4mk").read_bytes() == FILM


def test_no_room(tmp_path: Path) -> None:
    with H4MKReader(FILM) as reader, pytest.raises(StorageError):
        bundle([ContainerInput(reader)], tmp_path / "none" / "out.h4mk")
