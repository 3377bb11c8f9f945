"""Hypothesis against everything that takes bytes: mutated vectors and arbitrary bytes (H4MK 18.6).

Only HarmonyError may come out, what is accepted must hold together, and memory follows the bytes that are
there. The same cases every run: `derandomize`. For long runs with new cases see fuzz/ (`make fuzz`), or
raise HARMONY4_FUZZ (a factor on the number of cases, which then are random).
"""

import os
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuzzing
import make_vectors
import vector_use
from harmony4.h4mk import H4MKReader, recover, verify
from harmony4.tokenize.scan import Packets

FACTOR = int(os.environ.get("HARMONY4_FUZZ", "1"))
SEEDS = [
    path.read_bytes()
    for path in sorted(make_vectors.FOLDER.glob("*.h4mk"))
    if path.stem.startswith("ok-") or path.stem == "original-v1"
]


def cases(count):
    return settings(
        max_examples=count * FACTOR,
        derandomize=FACTOR == 1,
        database=None,
        deadline=5000,  # ms, a hang; these files are a few kilobytes
        suppress_health_check=list(HealthCheck),
    )


seeds = st.sampled_from(SEEDS)
places = st.integers(0, 2**16)
extremes = st.sampled_from(fuzzing.EXTREMES)


@st.composite
def flipped(draw):
    """A valid file with a few bytes changed."""
    data = bytearray(draw(seeds))
    for place, value in draw(st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=4)):
        data[place % len(data)] ^= value
    return bytes(data)


@st.composite
def spliced(draw):
    """A piece of one valid file in the middle of another, or a piece of one left out."""
    one, other = draw(seeds), draw(seeds)
    start, end = sorted((draw(places) % len(one), draw(places) % len(one)))
    first, last = sorted((draw(places) % len(other), draw(places) % len(other)))
    return one[:start] + other[first:last] + one[end:]


@st.composite
def reordered(draw):
    """Chunks doubled, dropped, moved or taken from another file; CRCs right, seal repaired or not."""
    parts = fuzzing.split(draw(seeds))
    others = fuzzing.split(draw(seeds))[1:]
    for _ in range(draw(st.integers(1, 3))):
        at = 1 + draw(places) % max(1, len(parts) - 1)
        action = draw(st.sampled_from(["double", "drop", "move", "insert"]))
        if action == "double":
            parts[at:at] = parts[at : at + 1]
        elif action == "drop" and len(parts) > 2:
            del parts[at]
        elif action == "move" and len(parts) > 2:
            parts.insert(1 + draw(places) % (len(parts) - 1), parts.pop(at))
        elif others:
            parts.insert(at, others[draw(places) % len(others)])
    return fuzzing.repaired(parts, seal=draw(st.booleans()))


@st.composite
def lying(draw):
    """Integer fields at extreme values, with the CRC right again, and mostly the seal."""
    parts = fuzzing.split(draw(seeds))
    for _ in range(draw(st.integers(1, 2))):
        number = 1 + draw(places) % max(1, len(parts) - 1)
        part = bytearray(parts[number % len(parts)])
        width = draw(st.sampled_from([1, 2, 4, 8]))
        if len(part) >= 12 + width:
            at = 12 + draw(places) % (len(part) - 12 - width + 1)
            if draw(st.booleans()):
                at -= (at - 12) % width
            value = draw(extremes | st.integers(0, 2**64 - 1)) % 2 ** (8 * width)
            part[at : at + width] = value.to_bytes(width, "big")
            parts[number % len(parts)] = bytes(part)
    return fuzzing.repaired(parts, seal=draw(st.sampled_from([True, True, False])))


@cases(250)
@given(flipped())
def test_changed_bytes(data):
    fuzzing.check(data)


@cases(200)
@given(spliced())
def test_cut_and_joined_files(data):
    fuzzing.check(data)


@cases(300)
@given(reordered())
def test_chunks_in_wrong_places(data):
    fuzzing.check(data)


@cases(400)
@given(lying())
def test_integers_that_lie(data):
    fuzzing.check(data)


@cases(150)
@given(
    st.sampled_from([b"", b"H4MK", b"H4MK\0\0\0\1", b"H4MK\0\1\0\0", b"H4MK\0\0\0\1TRAK"]),
    st.binary(max_size=400),
)
def test_arbitrary_bytes(start, data):
    fuzzing.check(start + data)


@cases(150)
@given(st.one_of(seeds, flipped(), lying()), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_a_stream_says_the_same_in_pieces_of_any_size(data, sizes):
    """Whole, in pieces, byte by byte (house rule 2)."""
    whole = fuzzing.events(data, [len(data)])
    assert fuzzing.events(data, sizes) == whole
    assert fuzzing.events(data, [1]) == whole
    piped, _ = fuzzing.piped(data)
    codes, _ = vector_use.verifying(data)
    if piped != codes:  # from a pipe, a size that lies is seen only where it leads
        assert "truncated" in codes and "ok" not in piped


LIES = [
    ("TRAK", 4, 2**32 - 1),
    ("CORE", 4, 2**32 - 1),
    ("SEEK", 4, 2**32 - 1),
    ("SEEK", 12, 2**32 - 1),
    ("RMAP", 4, 2**32 - 1),
    ("RMAP", 24, 2**32 - 1),
    ("META", 4, 2**32 - 1),
    ("MERK", 4, 2**32 - 1),
    ("MERK", 16, 2**32 - 1),
    ("TAIL", 12 + 44, 2**26 - 1),
    ("TAIL", 12 + 24, 2**31),
]


@pytest.mark.parametrize(("tag", "at", "value"), LIES)
@pytest.mark.parametrize("seal", [True, False])
def test_memory_follows_the_bytes_that_are_there(tag, at, value, seal):
    """Whatever a size or count claims, no more is allocated than the file's bytes and a constant."""
    data = next(one for one in SEEDS if len(one) > 1800)
    parts = fuzzing.split(data)
    number = next(i for i, part in enumerate(parts) if part[:4] == tag.encode())
    parts[number] = parts[number][:at] + value.to_bytes(4, "big") + parts[number][at + 4 :]
    # A size that lies must not be put right again.
    lie = b"".join(parts) if at == 4 else fuzzing.repaired(parts, seal=seal)
    fuzzing.check(data)  # imports and caches
    tracemalloc.start()
    try:
        vector_use.opening(lie)
        vector_use.verifying(lie)
        vector_use.recovering(lie)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(lie) + 2**22, f"{peak} bytes for a file of {len(lie)}"


def test_memory_of_bombs():
    """Deep and wide JSON, and many tiny chunks, cost memory in proportion."""
    base = next(one for one in SEEDS if len(one) > 1800)
    parts = fuzzing.split(base)
    wide = b'{"a":[' + b",".join([b"{}"] * 2**16) + b"]}"
    bombs = [
        fuzzing.repaired([parts[0], b"TRAK" + bytes(8) + wide, *parts[2:]], seal=True),
        fuzzing.repaired([*parts[:-5], *[b"pstr" + bytes(8)] * 2**14, *parts[-5:]], seal=True),
        fuzzing.repaired([*parts[:2], *[parts[2]] * 2**12, *parts[2:]], seal=True),
        b"H4MK\0\0\0\1" + b"TOKN\0\0\0\x80" * 2**14,
    ]
    for bomb in bombs:
        tracemalloc.start()
        try:
            vector_use.opening(bomb)
            vector_use.verifying(bomb)
            vector_use.recovering(bomb)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 60 * len(bomb) + 2**22, f"{peak} bytes for a file of {len(bomb)}"


def test_sources_that_shrink_or_give_less(tmp_path):
    """A source that ends before its size is truncated, wherever the end is."""
    data = next(one for one in SEEDS if len(one) > 1800)

    class Short:
        def __init__(self, end):
            self.end = end

        def size(self):
            return len(data)

        def read_at(self, offset, count):
            return data[: self.end][offset : offset + count]

        def close(self):
            pass

    for end in range(0, len(data), 7):
        assert vector_use.opening(Short(end))[0] in ("incomplete", "truncated", "version", "checksum"), end
        assert not verify(Short(end)).ok
        out = tmp_path / f"{end}.h4mk"
        try:
            recover(Short(end), out)
        except vector_use.HarmonyError:
            assert not out.exists()
        else:
            with H4MKReader(out) as reader:
                assert reader.state == "sealed"


# ---- what longer runs found ------------------------------------------------------------------------------


def test_a_pat_at_the_place_asked_for_is_not_the_one_before_it():
    """By fuzz_media.py: forgetting what lies before a place forgot the PAT that counts there (H4MK 16.3)."""
    pat, clock = (bytes([0x47, 0x40 | pid >> 8, pid & 0xFF, 0x10]).ljust(188, b"\xff") for pid in (0, 256))
    scanner = Packets(256)
    scanner.feed(pat + pat + clock)
    assert scanner.unit(188) == 0
    scanner.forget(188)
    assert (scanner.unit(188), scanner.unit(2 * 188)) == (0, 188)
