"""Container integrity, end to end: what is put in comes out, sealed, in one encoding, from any target."""

import io
import os
import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import independent
from harmony4 import h4mk
from harmony4.crypto import EMPTY_ROOT, HarmonyError, NotFoundError, sha256
from harmony4.h4mk import H4MKBuilder, H4MKReader, HistoryEntry, SeekEntry, TrackInfo, verify
from limits import run_python
from make_vectors.parts import framed
from needs import ORIGINAL
from samples import VIDEO, track_of

SOUND = TrackInfo(codec="aac", kind="audio", media_type="audio/mp4")


def fill(builder, blocks=20, size=300):
    with builder:
        for number in range(blocks):
            builder.add_block(number.to_bytes(3) * (size // 3), number * 40_000, key=number % 5 == 0)
        return builder.finish(ends={0: blocks * 40_000}, history=[HistoryEntry("export")])


def test_a_container_is_sound_and_gives_back_what_was_put_in(tmp_path):
    path = tmp_path / "film.h4mk"
    seal = fill(H4MKBuilder.to_path(path, [VIDEO], title="Film"))
    stream = b"".join(number.to_bytes(3) * 100 for number in range(20))
    report = verify(path)
    assert report.ok and (report.head, report.root, report.blocks) == (seal.head, seal.root, 20)
    facts = independent.check(path.read_bytes())
    assert facts["head"] == seal.head
    with H4MKReader(path) as reader:
        assert (reader.state, reader.duration, reader.trak.tracks) == ("sealed", 800_000, (VIDEO,))
        assert reader.meta.title == "Film" and [one.op for one in reader.meta.history] == ["export"]
        assert reader.read(0, reader.stream_size()) == stream
        assert reader.tracks[0].sha256 == sha256(stream)
        assert reader.seek(300_000) == SeekEntry(200_000, 1500)
        tags = [info.tag for info in reader.chunks()]
    assert tags == ["TRAK", *["TOKN", "CORE"] * 20, "SEEK", "RMAP", "META", "MERK", "VERI", "TAIL"]


# ---- one encoding ----------------------------------------------------------------------------------------


def test_same_input_same_bytes_in_another_process_folder_and_time(tmp_path):  # H4MK 2.3
    code = """
import os, sys, time
os.chdir(sys.argv[1])
os.environ["TZ"] = "Asia/Tokyo"
time.tzset()
from harmony4.h4mk import H4MKBuilder, HistoryEntry, TrackInfo
with H4MKBuilder.to_path("x", [TrackInfo(kind="video")], title="T") as builder:
    for number in range(9):
        builder.add_block(bytes([number]) * 100, number * 10, key=number % 2 == 0)
    builder.finish(history=[HistoryEntry("export", {"b": 1, "a": "x"})])
"""
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run_python(code, tmp_path / name)
        made.append((tmp_path / name / "x").read_bytes())
    with H4MKBuilder.in_memory([TrackInfo(kind="video")], title="T") as builder:
        for number in range(9):
            builder.add_block(memoryview(bytes([number]) * 100), number * 10, key=number % 2 == 0)
        builder.finish(history=[HistoryEntry("export", {"a": "x", "b": 1})])
    assert made[0] == made[1] == builder.getvalue()


@pytest.mark.parametrize(
    "change", ["payload", "pts", "key", "end", "title", "name", "block", "order", "origin"]
)
def test_another_content_has_another_head(change):  # H4MK 12.2
    def head(change):
        track = TrackInfo(name="n" if change == "name" else None)
        options = {"title": "t"} if change == "title" else {}
        options |= {"block": 99} if change == "block" else {}
        options |= {"order": "arrival"} if change == "order" else {}
        options |= {"origin": -5} if change == "origin" else {}
        payload, pts = b"b" if change == "payload" else b"a", 4 if change == "pts" else 3
        with H4MKBuilder.in_memory([track], **options) as builder:
            builder.add_block(payload, pts, key=change == "key")
            return builder.finish(ends={0: 9 if change == "end" else 8}).head

    assert head(change) != head(None) == head(None)


# ---- targets ---------------------------------------------------------------------------------------------


def gathered(source, into):
    def run():
        with source:
            into.append(source.read())

    thread = threading.Thread(target=run)
    thread.start()
    return thread


class Greedy(io.BytesIO):
    """Takes a few bytes at a time."""

    def write(self, data):
        return super().write(bytes(data[:7]))


@pytest.mark.parametrize("kind", ["pipe", "raw pipe", "socket", "file", "greedy"])
def test_any_target_gets_the_same_bytes(kind, tmp_path):  # H4MK 17.2
    wanted = io.BytesIO()
    fill(H4MKBuilder(wanted, [VIDEO]), 40, 6000)
    received = []
    if "pipe" in kind:
        reading, writing = os.pipe()
        thread = gathered(os.fdopen(reading, "rb"), received)
        with os.fdopen(writing, "wb", buffering=0 if kind == "raw pipe" else -1) as out:
            fill(H4MKBuilder(out, [VIDEO]), 40, 6000)
        thread.join()
    elif kind == "socket":
        ours, theirs = socket.socketpair()
        thread = gathered(theirs.makefile("rb"), received)
        with ours, ours.makefile("wb") as out:
            fill(H4MKBuilder(out, [VIDEO]), 40, 6000)
        thread.join()
        theirs.close()
    elif kind == "file":
        with (tmp_path / "x").open("wb") as out:
            fill(H4MKBuilder(out, [VIDEO]), 40, 6000)
        received.append((tmp_path / "x").read_bytes())
    else:
        fill(H4MKBuilder(out := Greedy(), [VIDEO]), 40, 6000)
        received.append(out.getvalue())
    assert received == [wanted.getvalue()]


def test_a_pipe_from_builder_to_verify():
    code = """
import sys
from harmony4.h4mk import verify
report = verify(sys.stdin.buffer)
print(report.ok, report.blocks, report.head.hex())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process.stdin as out:
        seal = fill(H4MKBuilder(out, [VIDEO]), 100, 3000)
    with process.stdout:
        assert process.stdout.read().split() == [b"True", b"100", seal.head.hex().encode()]
    assert process.wait() == 0


# ---- shapes ----------------------------------------------------------------------------------------------


def test_no_blocks():
    data = track_of(0)
    assert verify(data).ok and verify(data).root == EMPTY_ROOT
    with H4MKReader(data) as reader:
        assert (reader.block_count, reader.duration, reader.stream_size()) == (0, 0, 0)
        assert (reader.seek(5), reader.locate(5), reader.read(0, 9)) == (None, None, b"")
        assert list(reader.tokens()) == list(reader.blocks()) == list(reader.extents(0, 9)) == []
        assert reader.tracks[0].sha256 == sha256(b"")
        with pytest.raises(NotFoundError):
            reader.token(0)
        with reader.open() as stream:
            assert stream.read() == b""


def test_no_keyframes():
    with H4MKBuilder.in_memory([VIDEO]) as builder:
        builder.add_block(b"header", 0, header=True)
        builder.add_block(b"rest", 5)
        builder.finish()
        with H4MKReader(builder.getvalue()) as reader:
            assert (reader.seek(10**9), reader.locate(10**9), len(reader.seek_table())) == (None, None, 0)
            assert reader.read(0, 99) == b"headerrest"


def test_two_hundred_tracks_one_of_them_empty():
    tracks = [TrackInfo(name=f"track {number}", kind="data") for number in range(200)]
    with H4MKBuilder.in_memory(tracks) as builder:
        for number in range(3):
            for track in range(200):
                if track != 77:
                    builder.add_block(f"{track}/{number} ".encode(), number * 1000, track=track, key=True)
        builder.finish(ends=dict.fromkeys(range(200), 3000))
        data = builder.getvalue()
    assert verify(data).ok
    # Ends ascend in the file, tracks within them (H4MK 17.1).
    order = [(token["end"], token["track"]) for token in independent.check(data)["tokens"]]
    assert order == sorted(order) and len(order) == 3 * 199
    with H4MKReader(data) as reader:
        assert len(reader.tracks) == 200 and reader.block_count == 3 * 199
        for track in (0, 76, 77, 78, 199):
            stream = "".join(f"{track}/{number} " for number in range(3)).encode() if track != 77 else b""
            assert reader.read(0, 10**6, track) == stream
            assert reader.tracks[track].info.name == f"track {track}"
            found = reader.seek(1500, track)
            assert found == (SeekEntry(1000, len(stream) // 3) if stream else None)


def test_sizes_at_the_limits():
    for size in (1, 2**20):
        with H4MKBuilder.in_memory([VIDEO], block=size) as builder:
            builder.add_block(b"\xff" * size, 0, key=True)
            builder.finish()
            assert verify(builder.getvalue()).ok
    with H4MKBuilder.in_memory([VIDEO], block=2**24) as builder:
        builder.add_block(bytes(2**24), 2**62, key=True)
        builder.finish(ends={0: 2**63 - 1})
        data = builder.getvalue()
    report = verify(data)
    assert report.ok and report.duration == 2**63 - 1
    with H4MKReader(data) as reader:
        assert reader.seek(2**62) == SeekEntry(2**62, 0) and reader.seek(2**62 - 1) is None


# ---- integrity -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crc", ["kept", "repaired"])
def test_every_byte_of_every_payload_is_covered(crc):
    """A changed payload is noticed, also with its CRC repaired: token, stream and VERI hold it too."""
    data = track_of(6, 16, gop=2)
    with H4MKReader(data) as reader:
        blocks = [info for info in reader.chunks() if info.tag == "CORE"]
    assert len(blocks) == 6
    for info in blocks:
        for at in range(info.payload, info.end):
            bad = bytearray(data)
            bad[at] ^= 1
            if crc == "repaired":
                bad[info.offset : info.end] = framed(b"CORE", bytes(bad[info.payload : info.end]))
            report = verify(bytes(bad))
            found = {problem.code for problem in report.problems}
            assert found == ({"seal"} if crc == "repaired" else {"checksum", "seal"})
            with H4MKReader(bytes(bad)) as reader, pytest.raises(HarmonyError):
                list(reader.blocks())


def test_chunks_cannot_be_moved_between_containers():
    """Each part of another container, with right CRCs, breaks the seal."""
    one, two = (track_of(6, 16, seed=seed) for seed in (0, 1))
    assert len(one) == len(two) and verify(one).ok and verify(two).ok
    with H4MKReader(one) as reader:
        chunks = list(reader.chunks())
    moved = 0
    for info in chunks:
        mixed = one[: info.offset] + two[info.offset : info.end] + one[info.end :]
        assert verify(mixed).ok == (mixed == one), info
        moved += mixed != one
    assert moved == 6 * 2 + 4  # tokens and payloads, META, MERK, VERI, TAIL


def test_the_public_names():
    assert set(h4mk.__all__) >= {
        *("H4MKBuilder", "H4MKReader", "SeekTable", "SeekEntry", "CoreChunk", "ChunkStream", "ChunkInfo"),
        *("verify", "recover", "VerifyReport", "RecoverReport", "TrackInfo", "Seal", "ReadAt"),
    }
    assert all(hasattr(h4mk, name) for name in h4mk.__all__)
    with H4MKReader(ORIGINAL) as reader:
        assert all(isinstance(block, h4mk.CoreChunk) for block in reader.blocks())


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=2000)), max_size=12), st.data())
def test_any_stream_cut_anywhere_comes_back(blocks, data):
    with H4MKBuilder.in_memory([VIDEO, SOUND], order="arrival", block=2000) as builder:
        for number, (first, payload) in enumerate(blocks):
            builder.add_block(payload, number, track=0 if first else 1, key=True)
        builder.finish()
    streams = [b"".join(payload for first, payload in blocks if first is (track == 0)) for track in (0, 1)]
    with H4MKReader(builder.getvalue()) as reader:
        for track, stream in enumerate(streams):
            start = data.draw(st.integers(0, len(stream) + 5))
            length = data.draw(st.integers(0, len(stream) + 5))
            assert reader.read(start, length, track) == stream[start : start + length]
            assert reader.stream_size(track) == len(stream)
