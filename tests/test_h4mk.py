"""A container's life through the public names of `harmony4.h4mk`: built, read, checked, damaged, recovered.

The modules have tests of their own (test_builder.py, test_reader.py, test_verify.py, …); this one tells the
story that a user of the library lives through.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import harmony4.h4mk
from harmony4.crypto import HarmonyError
from harmony4.h4mk import H4MKBuilder, H4MKReader, Seal, TrackInfo, recover, verify

SECOND = 1_000_000
FILM = TrackInfo(codec="h264,aac", kind="video", media_type="video/mp4")
NOTES = TrackInfo(codec="", kind="data", media_type="application/octet-stream", timing="hint", name="notes")


def film(number: int) -> bytes:
    return b"picture %d, " % number * (number % 7 + 1)


def note(number: int) -> bytes:
    return b"note %d; " % number


def fill(builder: H4MKBuilder) -> Seal:
    """Forty seconds: a film with a keyframe every fourth block, and a note every ten seconds."""
    for number in range(40):
        builder.add_block(film(number), number * SECOND, key=number % 4 == 0)
        if number % 10 == 0:
            builder.add_block(note(number), number * SECOND, track=1, key=True)
    return builder.finish(ends={0: 40 * SECOND, 1: 40 * SECOND})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with H4MKBuilder.to_path(tmp_path / "film.h4mk", [FILM, NOTES], title="A film") as builder:
        fill(builder)
    return tmp_path / "film.h4mk"


def test_file_memory_and_pipe_get_the_same_container(path: Path, tmp_path: Path) -> None:
    with H4MKBuilder.in_memory([FILM, NOTES], title="A film") as builder:
        seal = fill(builder)
    assert builder.getvalue() == path.read_bytes()
    assert seal.length == path.stat().st_size
    assert seal.blocks == 44
    with (tmp_path / "other").open("wb") as file:
        assert fill(H4MKBuilder(file, [FILM, NOTES], title="A film")) == seal
    assert (tmp_path / "other").read_bytes() == path.read_bytes()


def test_every_track_comes_back(path: Path) -> None:
    with H4MKReader(path) as reader:
        assert (reader.state, reader.duration, len(reader.tracks)) == ("sealed", 40 * SECOND, 2)
        assert reader.open(0).read() == b"".join(map(film, range(40)))
        assert reader.open(1).read() == b"".join(map(note, range(0, 40, 10)))
        assert reader.meta is not None
        assert reader.meta.title == "A film"


def test_each_time_finds_its_keyframe(path: Path) -> None:
    with H4MKReader(path) as reader:
        for second in range(45):
            found = reader.locate(second * SECOND + 999_999)
            assert found is not None
            key = min(second, 39) // 4 * 4
            assert found.pts == key * SECOND
            group = b"".join(map(film, range(key, key + 4)))
            assert found.size == len(group)
            assert reader.read(found.offset, found.size, 0) == group
        assert [entry.pts // SECOND for entry in reader.seek_table(1)] == [0, 10, 20, 30]


def test_tokens_tell_everything_but_the_bytes(path: Path) -> None:
    with H4MKReader(path) as reader:
        table = reader.token_array()
        assert np.array_equal(table["pts"], np.arange(40) * SECOND)
        assert table["size"].sum() == reader.stream_size()
        assert [token.offset for token in reader.tokens()] == list(table["offset"])


def test_damage_never_passes(path: Path) -> None:
    """Any byte changed, any number of them cut off: noticed, as an error of our own family."""
    sound = path.read_bytes()
    assert verify(sound).ok
    for place in range(0, len(sound), 11):
        report = verify(sound[:place] + bytes([sound[place] ^ 0x10]) + sound[place + 1 :])
        assert not report.ok
        assert all(isinstance(problem, HarmonyError) for problem in report.problems)
        assert not verify(sound[:place]).ok


def test_what_is_left_can_be_sealed_again(path: Path, tmp_path: Path) -> None:
    sound = path.read_bytes()
    for size in range(2000, len(sound), 997):
        report = recover(sound[:size], tmp_path / "saved.h4mk")
        assert verify(tmp_path / "saved.h4mk").ok
        with H4MKReader(tmp_path / "saved.h4mk") as reader:
            kept = sum(track.blocks for track in reader.tracks)
            assert kept == report.kept
            whole = b"".join(map(film, range(40)))
            assert whole.startswith(reader.open(0).read())


def test_public_names_exist() -> None:
    for name in harmony4.h4mk.__all__:
        assert getattr(harmony4.h4mk, name) is not None
