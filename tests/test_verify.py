"""verify: every single bit and every cut is noticed; file, bytes, stream and pipe agree (H4MK 19)."""

import io
import os
import threading
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fuzzing
import independent
from harmony4.crypto import (
    ChecksumError,
    HarmonyError,
    OrderError,
    SealError,
    SourceError,
    StorageError,
    VersionError,
)
from harmony4.h4mk import H4MKBuilder, H4MKReader, Step, verify
from harmony4.h4mk import checks as checks_module
from harmony4.h4mk.tables import Tables
from limits import file_size_limit, needs_rlimit, run_python
from make_vectors.parts import TRACK, TRAK, TWO, TWO_BLOCKS, TWO_ENDS, container, framed
from needs import ORIGINAL
from samples import VIDEO, Counting, Trickle, track_of

GOOD = container()
EVERYTHING = container(
    TWO,
    TWO_BLOCKS,
    TWO_ENDS,
    ancillary=[(b"aaaa", b""), (b"post", b"picture")],
    checkpoints={2: b"\2\1" + bytes(142)},
    finals=[framed(b"SIGN", b"\1\1" + bytes(142)), framed(b"time", b"t")],
)
OLD = ORIGINAL.read_bytes()


def codes(report):
    return {problem.code for problem in report.problems}


@pytest.mark.parametrize("data", [GOOD, EVERYTHING, OLD, track_of(0), track_of(700)])
def test_good_containers(data):
    report = verify(data)
    assert report.ok and report.problems == ()
    assert report.bytes == len(data)
    with H4MKReader(data) as reader:
        assert (report.state, report.head, report.root) == (reader.state, reader.head, reader.root)
        assert (report.blocks, report.duration) == (
            reader.block_count,
            reader.duration,
        )
        assert report.chunks == len(list(reader.chunks()))
        assert report.signatures == sum(info.tag == "SIGN" for info in reader.chunks())


@pytest.mark.parametrize("data", [GOOD, OLD], ids=["sealed", "original"])
def test_every_flipped_bit_is_noticed(data):  # H4MK 19
    """Every byte, one bit of it, a different one for each byte; the test below takes all eight."""
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 1 << (at % 8)
        report = verify(bytes(bad))
        assert not report.ok and report.problems, at


def test_every_bit_of_every_byte_is_noticed():  # H4MK 19
    """All eight bits, on the smallest container: no blocks, one track."""
    data = track_of(0)
    assert verify(data).ok
    for at in range(len(data)):
        for bit in range(8):
            bad = bytearray(data)
            bad[at] ^= 1 << bit
            assert not verify(bytes(bad)).ok, (at, bit)


@pytest.mark.parametrize("data", [GOOD, OLD], ids=["sealed", "original"])
def test_every_cut_is_noticed(data):
    for length in range(len(data)):
        report = verify(data[:length])
        assert not report.ok and codes(report) == {"truncated"}, length
        assert report.state in ("incomplete", "unreadable", "original")
        assert report.bytes == length


@pytest.mark.parametrize("tail", [b"\0", b"more", framed(b"post", b""), GOOD[8:]])
def test_nothing_follows(tail):  # check V3
    for data in (GOOD, OLD):
        assert not verify(data + tail).ok
    assert verify(GOOD + tail).state == "incomplete"


def shown(report):
    return (
        report.state,
        [(type(one), str(one)) for one in report.problems],
        report.blocks,
        report.bytes,
        report.root,
    )


def test_a_block_that_the_end_cuts_does_not_count():
    """A reader of the same file has one block less than there are tokens."""
    with H4MKReader(GOOD) as reader:
        last = reader.range_map()[reader.block_count - 1]
    for size in range(last.position, last.position + last.size):
        report = verify(GOOD[:size])
        with H4MKReader(GOOD[:size]) as reader:
            assert (report.blocks, report.duration) == (reader.block_count, reader.duration)


def damaged():
    yield GOOD
    yield OLD
    yield EVERYTHING
    yield b""
    for at in (3, 30, 300, 450, 700, 1000, 1200, 1500, 1700):
        bad = bytearray(GOOD)
        bad[at] ^= 4
        yield bytes(bad)
        yield GOOD[:at]


@pytest.mark.parametrize("data", list(damaged()))
def test_file_bytes_stream_and_pipe_agree(data, tmp_path):
    path = tmp_path / "x.h4mk"
    path.write_bytes(data)
    report = verify(data)
    wanted = shown(report)
    assert shown(verify(path)) == wanted == shown(verify(str(path)))
    assert shown(verify(Counting(data))) == wanted

    def streamed(source):
        """Of a stream the length is not known: that it is cut is seen later, and said in other words."""
        found = verify(source)
        assert found.bytes == len(data) or found.problems
        return found.state, [type(one) for one in found.problems], found.blocks, found.root

    wanted = (report.state, [type(one) for one in report.problems], report.blocks, report.root)
    with path.open("rb") as file:
        assert streamed(file) == wanted
    for most in (1, 13, 100_000):
        assert streamed(Trickle(data, most)) == wanted
    reading, writing = os.pipe()

    def feed():
        with os.fdopen(writing, "wb") as out:
            out.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(reading, "rb") as pipe:
        assert streamed(pipe) == wanted
    thread.join()


def test_progress_says_how_far(tmp_path):
    data = track_of(30, 2**17)
    seen = []
    assert verify(data, progress=seen.append).ok
    assert seen == sorted(seen) and seen[-1] == len(data) and len(seen) >= 3

    class StopError(Exception):
        pass

    def stop(_):
        raise StopError

    threads = threading.active_count()
    with pytest.raises(StopError):
        verify(data, progress=stop)
    assert threading.active_count() == threads


def test_sources_that_cannot_be_read(tmp_path):
    with pytest.raises(SourceError):
        verify(tmp_path)
    with pytest.raises(SourceError):
        verify(tmp_path / "none")
    closed = (tmp_path / "x").open("wb+")
    closed.close()
    with pytest.raises(SourceError):
        verify(closed)
    with (tmp_path / "x").open("wb") as unreadable, pytest.raises(SourceError):
        verify(unreadable)


# ---- the checks, one by one; the vectors (test_vectors.py) go further -------------------------------------


def with_track(**change):
    return {**TRAK, "tracks": [{**TRACK, **change}]}


def swap(raws):
    return [*raws[4:6], *raws[2:4], *raws[0:2], *raws[6:]]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"H4MK\0\0\0\2" + GOOD[8:], "version"),
        (
            container(emit=lambda tag, raw: b"c0de" + raw[4:] if tag == "KEYS" else raw, keys=bytes(520)),
            "format",
        ),
        (container(index=lambda raws: [framed(b"XTRA", b""), *raws]), "critical"),
        (container(emit=lambda tag, raw: framed(b"VERI", bytes(31)) if tag == "VERI" else raw), "limit"),
        (container(index=lambda raws: raws[::-1]), "order"),
        (container(keys=b"\1" + bytes(519)), "order"),  # KEYS without a mask
        (container(trak_json=lambda data: data + b" "), "json"),
        (container(change_meta=lambda meta: meta.update(more=1)), "critical"),
        (container(change_tokens=lambda tokens: tokens[2].update(flags=16)), "critical"),
        (container(change_tokens=lambda tokens: tokens[2].update(end=1)), "order"),
        (container(change_tokens=lambda tokens: tokens[2].update(size=5)), "order"),
        (container(change_tokens=lambda tokens: tokens[2].update(digest=bytes(32))), "seal"),
        (container(body=swap), "order"),
        (container(change_tokens=lambda tokens: tokens[3].update(flags=1)), "order"),  # no LAST
        (container(change_tokens=lambda tokens: tokens[3].update(track=1)), "order"),
        (container(trak={**TRAK, "cut": {**TRAK["cut"], "block": 15}}), "limit"),
        (container(lost=[{"count": 1, "first": 9, "track": 0}]), "order"),
        (container(lost=[{"count": 0, "first": 0, "track": 0}]), "order"),
        (container(lost=[{"count": 0, "first": 0, "track": 1}]), "order"),
        (container(seek=lambda tables: [tables[0][:-1] + b"\x1b"]), "seal"),
        (container(rmap=lambda tables: [tables[0][:-1] + b"\1"]), "seal"),
        (container(seek=lambda tables: tables * 2), "order"),
        (container(rmap=lambda tables: tables * 3), "order"),
        (container(change_meta=lambda meta: meta.update(duration=5)), "seal"),
        (container(change_meta=lambda meta: meta["tracks"][0].update(keyframes=1)), "seal"),
        (container(change_meta=lambda meta: meta["tracks"][0].update(sha256="0" * 64)), "seal"),
        (container(change_meta=lambda meta: meta["tracks"][0].update(seek=5)), "seal"),
        (container(steps=[{"pts": 5, "shift": 1, "track": 0}, {"pts": 4, "shift": 1, "track": 0}]), "seal"),
        (
            container(
                TWO,
                TWO_BLOCKS,
                TWO_ENDS,
                steps=[{"pts": 5, "shift": 1, "track": 1}, {"pts": 5, "shift": 1, "track": 0}],
            ),
            "seal",
        ),
        (container(steps=[{"pts": 5, "shift": 1, "track": 1}]), "seal"),
        (container(ancillary=[(b"post", b""), (b"aaaa", b"")]), "order"),
        (container(ancillary=[(b"post", b""), (b"post", b"")]), "order"),
        (container(merk=lambda data: data[:-1] + b"x"), "seal"),
        (container(merk=lambda data: data + bytes(32)), "seal"),
        (container(merk=lambda data: data[:-32]), "seal"),
        (container(veri=lambda data: bytes(32)), "seal"),
        (container(finals=[framed(b"SIGN", b"\2\1" + bytes(142))]), "order"),
        (container(finals=[framed(b"SIGN", b"\3\1" + bytes(142))]), "critical"),
        (container(finals=[framed(b"SIGN", b"\1\2" + bytes(142))]), "critical"),
        (container(finals=[framed(b"SIGN", b"\1\1\1" + bytes(141))]), "format"),
        (container(finals=[framed(b"SIGN", b"\1\1" + bytes(6) + b"\x80" + bytes(135))]), "format"),
        (container(finals=[framed(b"SIGN", b"\1\1" + bytes(142) + bytes(4))]), "format"),
        (container(finals=[framed(b"SIGN", b"\1\1" + bytes(142) + b"\0\0\0\2x")]), "format"),
        (container(finals=[framed(b"time", b"x")]), "order"),
        (container(checkpoints={1: b"\1\1" + bytes(142)}), "order"),
        (container(tail={9: 1}), "seal"),
        (container(tail={1: 400}), "seal"),
        (container(tail={7: 2}), "seal"),
        (container(tail={3: 5}), "seal"),
        (container(tail={8: 1}), "seal"),
        (container(tail={6: 5}), "seal"),
    ],
)
def test_one_thing_is_wrong(data, code):  # H4MK 19, 24.2
    report = verify(data)
    assert not report.ok and codes(report) == {code}
    with pytest.raises(ValueError, match=r"."):  # the independent reader refuses it as well
        independent.check(data)


def test_certificates_fill_their_chunk():  # H4MK 13.1
    certificates = b"\0\0\0\2ab\0\0\0\1c"
    assert verify(container(finals=[framed(b"SIGN", b"\1\1" + bytes(142) + certificates)])).ok


def keys(*ids, count=None, last=bytes(8), unused=b""):
    slots = b"".join(one + bytes(40) + last for one in ids)
    return (bytes([count or len(ids)]) + bytes(7) + slots + unused).ljust(520, b"\0")


A, B = b"a" * 16, b"b" * 16
MASKED = {**with_track(masked=True), "mask": {"commit": "0a" * 32, "mode": "random"}}


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (keys(A, B), None),
        (keys(*(bytes([number]) * 16 for number in range(1, 9))), None),
        (keys(B, A), "order"),
        (keys(A, A), "order"),
        (keys(A, count=9), "format"),
        (keys(A, B, count=1), "format"),
        (keys(A, last=b"\1" + bytes(7)), "format"),
        (keys(A)[:3] + b"\1" + keys(A)[4:], "format"),
    ],
)
def test_key_slots(payload, code):  # H4MK 7, check V13
    report = verify(container(MASKED, keys=payload))
    assert codes(report) == ({code} if code else set())
    assert codes(verify(container(MASKED))) == {"order"}  # a mask without KEYS


def test_all_that_is_wrong_is_told_in_file_order():
    """Several causes at once: each is named, with its place."""
    bad = bytearray(GOOD)
    places = {}
    with H4MKReader(GOOD) as reader:
        for info in reader.chunks():
            places.setdefault(info.tag, []).append(info)
    for info in (places["CORE"][1], places["SEEK"][0], places["MERK"][0]):
        bad[info.payload + 5 if info.tag != "CORE" else info.payload] ^= 1
    report = verify(bytes(bad))
    found = [one.where for one in report.problems]
    wanted = [
        places[tag][number].offset for tag, number in (("CORE", 1), ("CORE", 1), ("SEEK", 0), ("META", 0))
    ]
    assert found[:4] == wanted and places["MERK"][0].offset in found
    assert {type(one) for one in report.problems[:2]} == {ChecksumError, SealError}
    assert "VERI" in str(report.problems[-1])


def test_damage_behind_a_broken_token_is_still_found():  # check V10
    bad = bytearray(GOOD)
    with H4MKReader(GOOD) as reader:
        tokens = [info for info in reader.chunks() if info.tag == "TOKN"]
        cores = [info for info in reader.chunks() if info.tag == "CORE"]
    bad[tokens[1].payload] ^= 1
    core = cores[2]
    payload = bytes([bad[core.payload] ^ 1]) + bytes(bad[core.payload + 1 : core.end])
    bad[core.offset : core.end] = framed(b"CORE", payload)
    report = verify(bytes(bad))
    assert {core.offset, tokens[1].offset} <= {problem.where for problem in report.problems}
    assert cores[1].offset not in {problem.where for problem in report.problems}


def test_a_file_that_is_damaged_everywhere_is_not_told_about_forever():
    bad = bytearray(track_of(400, 8))
    with H4MKReader(bytes(bad)) as reader:
        for info in reader.chunks():
            if info.tag == "CORE":
                bad[info.payload] ^= 1
    report = verify(bytes(bad))
    assert len(report.problems) == 200  # 100 CRCs, 100 digests
    assert report.blocks == 400 and not report.ok


def test_without_trak_nothing_is_claimed():
    for data in (GOOD[:30] + b"#" + GOOD[31:], container(trak_json=lambda data: b"{}")):
        report = verify(data)
        assert (report.state, report.root, report.head, len(report.problems)) == ("unreadable", None, None, 1)


def test_holes_are_counted_and_no_failure():
    with H4MKReader(GOOD) as reader:
        tokens = [reader.token(1), reader.token(3)]
    with H4MKBuilder(io.BytesIO(), [VIDEO], block=16, gaps=True) as builder:
        builder.add_token(tokens[0], b"sixteen bytes ..")
        builder.add_token(tokens[1], b"second group")
        builder.finish(steps=[Step(0, 5)])
        report = verify(builder.getvalue())
    assert report.ok and report.holes == 2
    independent.check(builder.getvalue())


# ---- anything --------------------------------------------------------------------------------------------

SEED = track_of(5, 8, gop=2)


@settings(max_examples=300)
@given(st.integers(0, len(SEED) - 1), st.integers(0, 20), st.binary(max_size=20))
def test_any_single_change_is_noticed_and_never_breaks_a_reader(at, cut, insert):
    """A piece of the file is replaced by another: an insertion, a deletion, a substitution."""
    data = SEED[:at] + insert + SEED[at + cut :]
    report = verify(data)
    assert report.ok == (data == SEED)
    fuzzing.check(data)


def test_memory_follows_neither_counts_nor_sizes_that_lie():  # H4MK 18.6
    """Opened, read, verified, recovered: within a fixed allowance above the size of the file."""
    code = """
import io, struct, sys, tracemalloc, zlib
from harmony4.crypto import HarmonyError
from harmony4.h4mk import H4MKReader, recover, verify
MiB = 2**20
good = sys.stdin.buffer.read()
def framed(tag, payload, size):
    return struct.pack(">4sII", tag, size, zlib.crc32(payload)) + payload
def chunks():
    at = 8
    while at < len(good):
        size = int.from_bytes(good[at + 4:at + 8])
        yield good[at:at + 12 + size]
        at += 12 + size
parts = list(chunks())
files = []
for number, part in enumerate(parts):
    for size in (2**32 - 1, 16 * MiB):
        lie = part[:4] + struct.pack(">I", size) + part[8:]
        files.append(good[:8] + b"".join([*parts[:number], lie, *parts[number + 1:]]))
    for count in (b"\\xff" * 8, b"\\x03\\xff\\xff\\xff" * 2):
        for place in (12, 20):
            if len(part) >= place + 8:
                body = bytearray(part[12:]); body[place - 12:place - 4] = count
                lie = framed(part[:4], bytes(body), len(body))
                files.append(good[:8] + b"".join([*parts[:number], lie, *parts[number + 1:]]))
files.append(good[:8] + parts[0] + b"post\\0\\0\\0\\0\\0\\0\\0\\0" * 6_000)
files.append(good[:8] + parts[0] + framed(b"SEEK", bytes(4), 4) * 6_000)
assert len(files) > 60
def attempt(data):
    try:
        with H4MKReader(data) as reader:
            for track in range(len(reader.tracks)):
                reader.locate(10**9, track)
                for start in (0,):
                    reader.read(start, 2**40, track)
                list(reader.blocks(track))
    except HarmonyError:
        pass
    verify(io.BytesIO(data)), verify(data)
    try:
        recover(data, io.BytesIO())
    except HarmonyError:
        pass
attempt(good)
worst = 0
for data in files:
    tracemalloc.start()
    attempt(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    worst = max(worst, peak - 3 * len(data))
print(len(files), worst)
"""
    _, worst = map(int, run_python(code, feed=GOOD).split())
    assert worst < 6 * 2**20


def test_a_hostile_depth_or_number_breaks_nothing():
    for text in (b"[" * 10**6, b'{"a":' * 10**5, b"1" * 10**6, b'"' + b"\\u0000" * 10**5 + b'"'):
        for data in (
            container(trak_json=lambda _, text=text: text),
            container(meta_json=lambda _, text=text: text),
            b"H4MK\0\1\0\0" + framed(b"META", text),
        ):
            assert codes(verify(data)) & {"json", "limit", "truncated"}
            with pytest.raises(HarmonyError):
                H4MKReader(data)


@needs_rlimit
def test_a_spill_that_fails_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(checks_module, "Tables", partial(Tables, limit=1, folder=str(tmp_path)))
    data = track_of(2000)
    assert verify(data).ok
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with file_size_limit(2**14), pytest.raises(StorageError):
        verify(data)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert list(tmp_path.iterdir()) == []


def test_the_classes_of_the_first_checks():
    assert [type(one) for one in verify(b"RIFF1234").problems] == [VersionError]
    assert [type(one) for one in verify(GOOD[:8] + framed(b"CORE", b"x")).problems] == [OrderError]
    assert verify(b"").problems[0].code == "truncated"
