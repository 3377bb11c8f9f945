"""Containers far larger than memory and disk (`big_container.py`): built right, opened and sought at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from big_container import SECOND, TRACK, Big, build, sparse
from harmony4.crypto import SealError
from harmony4.h4mk import H4MKBuilder, verify

BLOCKS = 210_000  # × 5 MiB: 1 TiB; its range map is just past the size up to which tables are copied
SIZE = 5 * 2**20


def test_it_writes_what_the_builder_writes(tmp_path: Path) -> None:
    made = build(tmp_path / "big", 37, 5000, last=123, real_digests=True)
    builder = H4MKBuilder.in_memory([TRACK], block=5000)
    for number in range(37):
        builder.add_block(bytes(5000 if number < 36 else 123), number * SECOND, key=True)
    seal = builder.finish(ends={0: 37 * SECOND})
    assert (tmp_path / "big").read_bytes() == builder.getvalue()
    assert (made.head, made.root, made.length) == (seal.head, seal.root, seal.length)
    assert verify(tmp_path / "big").ok


def test_without_real_digests_verify_reports_these_two_and_nothing_else(tmp_path: Path) -> None:
    build(tmp_path / "big", 20, 4096)
    report = verify(tmp_path / "big")
    assert report.state == "sealed"
    assert [type(one) for one in report.problems] == [SealError, SealError]
    assert [one.message for one in report.problems] == [
        "META is not what the file gives: tracks",
        "VERI is not the digest of what stands before it",
    ]


@pytest.fixture
def terabyte(tmp_path: Path) -> Iterator[tuple[Path, Big]]:
    path = tmp_path / "big"
    yield path, build(path, BLOCKS, SIZE, last=77)
    path.unlink()  # pytest keeps the folders of three runs; a page a block is 0.8 GiB


LOOK = """
import json, sys
from harmony4.h4mk import H4MKReader
with H4MKReader(sys.argv[1]) as reader:
    mapped = reader.mapping is not None
    end = reader.duration
    entry = reader.seek(end)
    found = reader.locate(end)
    stream = reader.stream_size()
    data = reader.read(stream - 2**20 - 1000, 2**20 + 1000)
    token = reader.token(reader.block_count - 1)
    facts = dict(state=reader.state, mapped=mapped, pts=entry.pts, offset=entry.offset, stream=stream,
                 index=found.block_index, read=len(data), zero=not any(data), last=token.offset)
    with open("/proc/self/status") as status:
        facts["peak"] = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
print(json.dumps(facts))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs sparse files and /proc")
def test_a_terabyte_opens_in_little_memory(terabyte: tuple[Path, Big]) -> None:
    path, made = terabyte
    assert made.stream == (BLOCKS - 1) * SIZE + 77
    assert path.stat().st_size == made.length > 2**40
    assert sparse(path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOOK, os.fspath(path)], capture_output=True, text=True, check=True
    )
    facts = json.loads(done.stdout)
    assert facts.pop("peak") < 100 * 2**20
    assert facts == {
        "state": "sealed",
        "mapped": True,
        "pts": (BLOCKS - 1) * SECOND,
        "offset": (BLOCKS - 1) * SIZE,
        "index": BLOCKS - 1,
        "stream": made.stream,
        "read": 2**20 + 1000,
        "zero": True,
        "last": (BLOCKS - 1) * SIZE,
    }
