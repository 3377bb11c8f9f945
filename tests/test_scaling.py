"""How work grows: counted, not timed. Building and verifying double with the input; seeking does not."""

import hashlib
import io
import math
import threading

import pytest

from harmony4.crypto import digest as digest_module
from harmony4.crypto import merkle as merkle_module
from harmony4.h4mk import H4MKBuilder, H4MKReader, builder, checks, recover, tables, verify
from harmony4.h4mk import opening as opening_module
from harmony4.h4mk.seek import PagedTable
from samples import VIDEO, Counting, track_of

SIZES = (500, 1000, 2000)


class Work:
    """Counts calls and bytes of the digests that the modules use; results stay what they are."""

    def __init__(self, monkeypatch):
        self.calls = 0
        self.bytes = 0
        self._lock = threading.Lock()  # the digests' lanes are threads
        work = self

        class Counted:
            def __init__(self, data=b""):
                self._inner = hashlib.sha256(data)
                work.count(data)

            def update(self, data):
                self._inner.update(data)
                work.count(data)

            def __getattr__(self, name):
                return getattr(self._inner, name)

        class Module:
            sha256 = Counted

        for module in (digest_module, merkle_module, builder, checks):
            monkeypatch.setattr(module, "hashlib", Module)
        real = digest_module.crc32

        def crc32(data, value=0):
            work.count(data)
            return real(data, value)

        for module in (builder, tables):
            monkeypatch.setattr(module, "crc32", crc32)

    def count(self, data):
        with self._lock:
            self.calls += 1
            self.bytes += len(data)

    def taken(self):
        taken, self.calls, self.bytes = (self.calls, self.bytes), 0, 0
        return taken


def doubles(counts, slack=0.02):
    """Each count is about twice the one before, fixed costs aside."""
    first, second, third = counts
    grown = (third - second) / (second - first)
    assert first > 0 and second > first
    assert grown == pytest.approx(2, abs=slack * 2), counts


def build(blocks, size=64):
    with H4MKBuilder.in_memory([VIDEO]) as made:
        for number in range(blocks):
            made.add_block(number.to_bytes(8) * (size // 8), number * 1000, key=number % 4 == 0)
        made.finish()
        return made.getvalue()


def test_building_is_linear(monkeypatch):
    work = Work(monkeypatch)
    counts, amounts, lengths = [], [], []
    for blocks in SIZES:
        lengths.append(len(build(blocks)))
        calls, amount = work.taken()
        counts.append(calls)
        amounts.append(amount)
    doubles(counts)
    doubles(amounts)
    doubles(lengths)
    # Each stored byte goes through three digests at most (token, stream, VERI) and one CRC; tokens and tables
    # go through a few more.
    payload = build(SIZES[2], 2**14)
    work.taken()
    assert len(build(SIZES[2], 2**14)) == len(payload)
    assert work.taken()[1] <= 4.1 * len(payload)


def test_each_byte_is_written_once():
    class Target:
        total = 0
        writes = 0

        def write(self, data):
            self.total += len(data)
            self.writes += 1

    writes = []
    for blocks in SIZES:
        target = Target()
        with H4MKBuilder(target, [VIDEO]) as made:
            for number in range(blocks):
                made.add_block(bytes(64), number, key=True)
            seal = made.finish()
        assert target.total == seal.length
        writes.append(target.writes)
    doubles(writes)


def test_verifying_is_linear_and_reads_every_byte_once(monkeypatch):
    work = Work(monkeypatch)
    counts, amounts = [], []
    for blocks in SIZES:
        data = build(blocks, 2048)
        work.taken()
        source = Counting(data)
        assert verify(source).ok
        offset = 0
        for at, count in source.reads:
            assert at == offset
            offset = min(offset + count, len(data))
        assert offset == len(data)
        calls, amount = work.taken()
        counts.append(calls)
        amounts.append(amount)
        assert amount <= 3.6 * len(data)
    # A chunk that lies across the border of two reads takes two updates: no exact doubling.
    doubles(counts, slack=0.05)
    doubles(amounts, slack=0.05)


def test_recovering_is_linear():
    amounts = []
    for blocks in SIZES:
        data = build(blocks)[:-200]
        source = Counting(data)
        assert recover(source, io.BytesIO()).blocks == blocks
        amounts.append(source.taken()[1])
    doubles(amounts)


def test_walking_is_linear_and_reads_no_payload():
    counts, amounts = [], []
    for blocks in SIZES:
        source = Counting(build(blocks, 4096)[:-1])
        with H4MKReader(source) as reader:
            assert reader.state == "incomplete" and reader.block_count == blocks
        reads, amount = source.taken()
        counts.append(reads)
        amounts.append(amount)
        assert reads <= 3 * blocks + 20 and amount < 400 * blocks + 200_000
    doubles(counts)


def test_opening_and_seeking_do_not_grow(monkeypatch):
    """With tables read by pages, as those of long films are: a seek's reads grow with the logarithm."""
    monkeypatch.setattr(opening_module, "COPY_LIMIT", 0)
    monkeypatch.setattr(PagedTable, "PAGE", 640)
    seeks, ranges = {}, {}
    for blocks in (400, 1600, 6400):
        source = Counting(track_of(blocks))
        with H4MKReader(source) as reader:
            assert source.taken()[0] == 3
            assert reader.seek(blocks * 40_000 - 1).pts == (blocks - 4) * 40_000
            seeks[blocks] = source.taken()
            assert len(reader.read(blocks * 8 - 12, 8)) == 8
            ranges[blocks] = source.taken()
    for found in (seeks, ranges):
        assert found[6400][0] - found[400][0] <= 2 * math.log2(6400 / 400) + 1
        assert found[6400][1] - found[400][1] <= 1000
        assert found[6400][0] >= found[400][0] > 3


def test_a_stream_is_read_in_proportion():
    source = Counting(track_of(1000, 800))
    with H4MKReader(source) as reader:
        source.taken()
        reader.read(0, 8000)
        first = source.taken()
        reader.read(400_000, 8000)
        assert source.taken() == (10, 8000)
        assert first[1] <= 8000 + 12 + 16 + 40 * 1000
        with reader.open() as stream:
            while stream.read(2**16):
                pass
        reads, amount = source.taken()
    assert amount == 800_000 and reads <= 1000 + 800_000 / 2**17
