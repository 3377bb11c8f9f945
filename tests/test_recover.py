"""recover: every complete block of a cut or damaged file, and nothing that was not there (H4MK 20)."""

import io
import os
import signal
import struct
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import independent
from harmony4.crypto import (
    LimitError,
    SourceError,
    StorageError,
    TokenSequencer,
    TruncatedError,
    UsageError,
    VersionError,
)
from harmony4.h4mk import H4MKBuilder, H4MKReader, Lost, TrackInfo, recover, verify
from harmony4.h4mk.layout import MOST_ANCILLARY
from make_vectors.parts import BLOCKS, TRACK, TRAK, TWO, TWO_BLOCKS, TWO_ENDS, container, framed
from needs import ORIGINAL
from samples import Counting, payloads, track_of

GOOD = container()
NAMES = [block["payload"] for block in BLOCKS]


def saved(data, *, strictly=True):
    """The report, the recovered container, which is sound, and what the independent reader says of it."""
    out = io.BytesIO()
    report = recover(data, out)
    made = out.getvalue()
    assert verify(made).ok
    with H4MKReader(made) as reader:
        assert (reader.block_count, reader.lost, reader.head) == (
            report.blocks,
            report.lost,
            report.seal.head,
        )
    if not strictly:
        return report, made, None
    facts = independent.check(made)
    assert report.blocks == len(facts["tokens"]) and facts["payloads"] == payloads(made)
    assert list(report.lost) == [Lost(**hole) for hole in facts["meta"].get("lost", [])]
    assert facts["meta"]["history"][-1]["op"] == "recover"
    return report, made, facts


def places(data):
    with H4MKReader(data) as reader:
        return list(reader.chunks())


def flip(data, *offsets):
    bad = bytearray(data)
    for offset in offsets:
        bad[offset] ^= 0x55
    return bytes(bad)


def test_a_sound_file_loses_nothing():  # H4MK 20.3
    report, made, facts = saved(
        container(steps=[{"pts": 5, "shift": 3, "track": 0}], ancillary=[(b"post", b"x")])
    )
    with H4MKReader(GOOD) as reader:
        head = reader.head
        tokens = [token.pack() for token in reader.tokens()]
    assert report.complete and payloads(made) == NAMES
    assert [independent.pack_token(token) for token in facts["tokens"]] == tokens  # verbatim
    meta = facts["meta"]
    assert meta["steps"] == [{"pts": 5, "shift": 3, "track": 0}] and meta["title"]
    assert [one["op"] for one in meta["history"]] == ["export", "recover"]
    assert [one["tag"] for one in meta["ancillary"]] == ["post"]
    again = saved(GOOD)[2]["meta"]["history"][1]
    assert again == {"args": {}, "inputs": [{"head": head.hex()}], "op": "recover"}


def test_a_cut_at_every_byte():  # H4MK 20.1
    ends = [GOOD.index(name) + len(name) for name in NAMES]
    trak_end = places(GOOD)[0].end
    index = places(GOOD)[9].offset  # behind it the cut only moves through tables
    for cut in [*range(index), *range(index, len(GOOD), 9)]:
        complete = sum(end <= cut for end in ends)
        if cut < trak_end:
            with pytest.raises((TruncatedError, VersionError)):
                saved(GOOD[:cut])
            continue
        report, made, facts = saved(GOOD[:cut], strictly=cut % 16 == 0)
        assert payloads(made) == NAMES[:complete]
        assert report.lost == (() if complete == 4 else (Lost(0, complete),))
        assert (report.left_out, report.trak_rebuilt) == (0, False)
        assert [(one.op, one.args, one.inputs) for one in H4MKReader(made).meta.history] == [
            ("recover", {}, ())
        ]
        assert not facts or facts["meta"]["history"] == [{"args": {}, "inputs": [], "op": "recover"}]


def test_a_damaged_byte_costs_at_most_its_block():
    """Every byte: whatever stands in other blocks is kept, with its tokens as they were."""
    chunks = places(GOOD)
    owner = {}
    for token, core in pairwise(chunks):
        if (token.tag, core.tag) == ("TOKN", "CORE"):
            number = len(set(owner.values()))
            owner |= dict.fromkeys(range(token.offset, core.end), number)
    index = chunks[9].offset
    for at in [*range(index), *range(index, len(GOOD), 9)]:
        report, made, _ = saved(flip(GOOD, at), strictly=at % 16 == 0)
        wanted = [name for number, name in enumerate(NAMES) if number != owner.get(at)]
        assert payloads(made) == wanted, at
        assert report.left_out == 0
        assert report.trak_rebuilt == (chunks[0].offset <= at < chunks[0].end)
        assert not report.complete or at not in owner


def test_two_tracks_and_holes():  # H4MK 10.2
    data = container(TWO, TWO_BLOCKS, TWO_ENDS)
    sound = [info for info in places(data) if info.tag == "CORE"][2]
    report, made, _ = saved(flip(data, data.index(b"picture 0"), data.index(b"sound 1")))
    assert payloads(made) == [b"sound 0", b"picture 1"] and sound.size == 9
    assert report.lost == (Lost(1, 0, 0), Lost(0, 1, 1))
    with H4MKReader(made) as reader:
        assert reader.read(9, 9) == b"picture 1" and reader.read(0, 9, 1) == b"sound 0"
    again, twice, _ = saved(made)  # recovering what was recovered changes nothing but the history
    assert (again.lost, payloads(twice)) == (report.lost, payloads(made))
    lost_all, _, _ = saved(flip(data, data.index(b"sound 0"), data.index(b"sound 1")))
    assert lost_all.lost == (Lost(0, 0, 1),)


def test_an_empty_track_stays_empty():
    data = container(TWO, TWO_BLOCKS[:2], TWO_ENDS)
    assert saved(data)[0].lost == ()  # META knows that there was nothing
    assert saved(data[:-1])[0].lost == (Lost(0, 0, 1),)  # without it nobody knows


def test_bytes_that_are_missing_or_too_many():
    chunks = places(GOOD)
    second = chunks[4]
    for data, kept in (
        (GOOD[: second.payload + 3] + GOOD[second.payload + 9 :], [0, 2, 3]),
        (GOOD[: second.payload + 3] + b"inserted" + GOOD[second.payload + 3 :], [0, 2, 3]),
        (GOOD[: second.offset] + b"garbage in between" + GOOD[second.offset :], [0, 2, 3]),
        (GOOD[: second.end] + bytes(5000) + GOOD[second.end :], [0, 1, 2, 3]),
        (GOOD[: second.end] + GOOD[chunks[3].offset :], [0, 1, 2, 3]),  # a block twice
        (GOOD[: chunks[3].offset] + GOOD[second.end :], [0, 2, 3]),
        (GOOD[:8] + b"x" * 3 + GOOD[8:], [0, 1, 2, 3]),
        (bytes(8) + GOOD[8:], [0, 1, 2, 3]),
    ):
        report, made, _ = saved(data)
        assert payloads(made) == [NAMES[number] for number in kept]
        assert not report.complete or data[:4] != b"H4MK" or kept == [0, 1, 2, 3]


def test_blocks_that_do_not_fit_are_left_out():  # H4MK 20.2
    def swapped(raws):
        return [*raws[2:4], *raws[0:2], *raws[4:]]

    report, made, _ = saved(container(body=swapped)[:-1])
    assert payloads(made) == NAMES[1:] and report.left_out == 1
    report, made, _ = saved(container(body=lambda raws: raws * 2)[:-1])
    assert payloads(made) == NAMES and report.left_out == 4 and not report.complete


def test_what_looks_like_a_block_inside_a_block_is_media():  # H4MK 20.1
    inner = GOOD[places(GOOD)[1].offset : places(GOOD)[2].end]
    trak = {**TRAK, "cut": {**TRAK["cut"], "block": 2**20}}
    media = b"film" + inner * 3
    blocks = [{"payload": media, "pts": 0, "key": True}, {"payload": b"next", "pts": 9, "key": True}]
    data = container(trak, blocks, {0: 20})
    report, made, _ = saved(data[:-1])
    assert payloads(made) == [media, b"next"] and report.left_out == 0
    # Damaged, but what follows stands where it should: still media, and not searched.
    report, made, _ = saved(flip(data, data.index(b"film")))
    assert payloads(made) == [b"next"] and report.lost == (Lost(1, 0),)


def nested():
    """A container in a container, and the digests of the outer one's blocks."""
    with H4MKBuilder.in_memory([TrackInfo()], block=200) as builder:
        for number in range(60):
            builder.add_block(bytes([number]) * 200, number * 1000, key=True)
        builder.finish(ends={0: 60_000})
        inner = builder.getvalue()
    with H4MKBuilder.in_memory([TrackInfo()], block=5000) as builder:
        for number, start in enumerate(range(0, len(inner), 5000)):
            builder.add_block(inner[start : start + 5000], number * 1000, key=True)
        builder.finish()
        data = builder.getvalue()
    with H4MKReader(data) as reader:
        return data, list(reader.blocks())


def test_a_damaged_header_does_not_open_its_block_to_the_search():  # H4MK 20.1
    """The media are a container themselves: no block of theirs may take the place of a real one."""
    data, blocks = nested()
    for number, block in enumerate(blocks):
        rest = [one.token for one in blocks if one is not block]
        for at in [*range(block.position - 152, block.position + 3, 5), block.position - 12]:
            report, made, _ = saved(flip(data, at), strictly=False)
            with H4MKReader(made) as reader:
                assert list(reader.tokens()) == rest, (number, at)
            assert report.left_out == 0


def test_a_cut_block_gives_nothing_of_its_media():  # H4MK 20.1
    data, blocks = nested()
    for size in range(blocks[0].position, len(data), 997):
        _, made, _ = saved(data[:size], strictly=False)
        with H4MKReader(made) as reader:
            tokens = list(reader.tokens())
        assert tokens == [one.token for one in blocks if one.position + len(one.payload) <= size]


def test_a_damaged_header_of_a_block_that_is_shorter_than_it_says():
    """Neither its token nor its payload header can be followed: what stands behind is searched."""
    first = places(GOOD)[3]
    for damaged in (first.offset + 2, first.offset + 40, places(GOOD)[4].offset + 1):
        bad = flip(GOOD, damaged)
        report, made, _ = saved(bad[: first.end + 14] + bad[first.end + 15 :])
        assert payloads(made) == [NAMES[0], *NAMES[2:]] and report.left_out == 0


def test_a_block_that_the_end_cuts_is_searched():
    """A length that reaches past the end says nothing: what stands behind the missing bytes is found."""
    trak = {**TRAK, "cut": {**TRAK["cut"], "block": 2**20}}
    blocks = [{"payload": bytes(5000), "pts": 0, "key": True}, {"payload": b"next", "pts": 9, "key": True}]
    data = container(trak, blocks, {0: 20})
    start = data.index(bytes(5000))
    report, made, _ = saved(data[:start] + data[start + 4900 : data.index(b"next") + 4])
    assert payloads(made) == [b"next"] and report.lost == (Lost(1, 0),)


# ---- without TRAK ----------------------------------------------------------------------------------------


def test_a_generic_trak():  # H4MK 20.4
    data = container(TWO, TWO_BLOCKS, TWO_ENDS, steps=[{"pts": 5, "shift": 3, "track": 1}])
    report, made, facts = saved(flip(data, 40))
    assert report.trak_rebuilt and not report.complete and payloads(made) == payloads(data)
    generic = {
        **TRACK,
        "codec": "",
        "kind": "data",
        "media_type": "application/octet-stream",
        "self_framing": False,
        "start": {"den": 1_000_000, "num": 1, "ticks": 0},
        "timing": "hint",
    }
    cut = {"block": 2**24, "order": "arrival", "rule": 1}
    assert facts["trak"] == {"cut": cut, "origin": "0", "tracks": [generic, generic]}
    assert facts["meta"]["history"][-1]["args"] == {"trak": "rebuilt"}
    assert facts["meta"]["steps"] and facts["meta"]["title"]


def test_tracks_and_steps_that_are_gone_with_trak():
    """Only as many tracks as the tokens name: a step of a track beyond is not kept."""
    steps = [{"pts": 5, "shift": 3, "track": 1}]
    data = container(TWO, TWO_BLOCKS[:2], TWO_ENDS, steps=steps)
    report, _, facts = saved(flip(data, 40))
    assert len(facts["trak"]["tracks"]) == 1 and facts["meta"]["steps"] == [] and report.trak_rebuilt


# ---- what cannot be recovered -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", TruncatedError),
        (b"H4MK\0\0\0\1", TruncatedError),
        (b"PK\3\4" * 99, VersionError),
        (bytes(10**6), VersionError),
        (GOOD[:8] + bytes(1000), TruncatedError),
        (ORIGINAL.read_bytes(), UsageError),
    ],
)
def test_nothing_to_recover(data, kind, tmp_path):
    with pytest.raises(kind):
        recover(data, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_signatures_are_dropped_and_counted():  # H4MK 20.3
    sign = b"\1\1" + bytes(142)
    data = container(
        checkpoints={2: b"\2\1" + bytes(142)}, finals=[framed(b"SIGN", sign), framed(b"time", b"t")]
    )
    report, made, facts = saved(data)
    assert report.signatures == 2 and not report.complete and payloads(made) == NAMES
    assert facts["signs"] == [] and facts["meta"]["ancillary"] == []


def test_ancillary_chunks_are_kept_unless_damaged():  # H4MK 3.2
    data = container(ancillary=[(b"aaaa", b""), (b"post", b"picture"), (b"post", b"x" * 3_000_000)])
    assert len(saved(data)[2]["meta"]["ancillary"]) == 3
    at = data.index(b"picture")
    kept = saved(flip(data, at))[2]["meta"]["ancillary"]
    assert [one["size"] for one in kept] == [0]  # behind damage only blocks are looked for
    many = framed(b"post", b"")
    with pytest.raises(LimitError):
        recover(data[: places(data)[9].offset] + many * (MOST_ANCILLARY + 1), io.BytesIO())


def test_unknown_critical_chunks_are_searched():
    report, made, _ = saved(
        container(body=lambda raws: [*raws[:2], framed(b"XTRA", b"".join(raws[2:]))])[:-1]
    )
    assert payloads(made)[:2] == NAMES[:2] and report.blocks >= 2


def test_forged_tokens_that_overlap_do_not_take_forever():  # H4MK 25
    """Each claims a payload that only reading it all shows to be wrong; together they claim far too much."""
    token = TokenSequencer()
    token.push(100_000, bytes(32), 0, key=True)
    forged = framed(b"TOKN", token.finish().pack()) + struct.pack(">4sII", b"CORE", 100_000, 0)
    source = Counting(GOOD[: places(GOOD)[0].end] + forged * 1000 + bytes(100_000))
    with pytest.raises(LimitError):
        recover(source, io.BytesIO())
    assert sum(count for _, count in source.reads if count == 100_000) <= 65 * source.size()


def test_what_only_looks_like_a_token_is_passed_over():
    """The search finds the tag, and goes on where no sound token stands."""
    data = GOOD[: places(GOOD)[0].end] + (b"TOKN\0\0\0\x80" + bytes(200)) * 3 + GOOD[places(GOOD)[1].offset :]
    report, made, _ = saved(data)
    assert payloads(made) == NAMES and report.left_out == 0


# ---- files -----------------------------------------------------------------------------------------------


def test_from_path_to_path_with_progress(tmp_path):
    (tmp_path / "cut").write_bytes(track_of(50, 40)[:6000])
    seen = []
    report = recover(tmp_path / "cut", tmp_path / "out", progress=seen.append)
    assert report.blocks == len(seen) == len(set(seen)) and seen == sorted(seen)
    with H4MKReader(tmp_path / "out") as reader:
        assert (reader.block_count, reader.head) == (report.blocks, report.seal.head)
    report = recover(str(tmp_path / "cut"), str(tmp_path / "cut"))  # onto itself
    assert verify(tmp_path / "cut").ok and verify(tmp_path / "cut").head == report.seal.head
    source = Counting(GOOD)
    recover(source, io.BytesIO())
    assert source.closed == 0
    with pytest.raises(SourceError):
        recover(tmp_path / "none", tmp_path / "out")
    with pytest.raises(StorageError):
        recover(GOOD, tmp_path / "none" / "out")


def test_kill_9_leaves_the_target_and_a_part_with_every_complete_block(tmp_path):  # H4MK 17.3
    target = tmp_path / "film.h4mk"
    target.write_bytes(b"what was there before")
    code = """
import sys
from harmony4.h4mk import H4MKBuilder, TrackInfo
with H4MKBuilder.to_path(sys.argv[1], [TrackInfo()]) as builder:
    for number in range(10**9):
        builder.add_block(number.to_bytes(4) * 20_000, number, key=True)
        if number == 30:
            print("far enough", flush=True)
            sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"far enough\n"
        os.kill(process.pid, signal.SIGKILL)
    assert target.read_bytes() == b"what was there before"
    (part,) = (path for path in tmp_path.iterdir() if path != target)
    report = recover(part, tmp_path / "saved.h4mk")
    assert 20 <= report.blocks <= 30 and report.lost == (Lost(0, report.blocks),)
    with H4MKReader(tmp_path / "saved.h4mk") as reader:
        wanted = [number.to_bytes(4) * 20_000 for number in range(report.blocks)]
        assert [block.payload for block in reader.blocks()] == wanted
    assert verify(tmp_path / "saved.h4mk").ok


# ---- anything --------------------------------------------------------------------------------------------

SEED = track_of(8, 24, gop=3)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.integers(0, len(SEED)), st.integers(0, 400), st.binary(max_size=30)),
        min_size=1,
        max_size=4,
    )
)
def test_any_damage_invents_nothing(damages):
    """What is recovered is a subsequence of what was there, and a sound container."""
    data = SEED
    for at, cut, insert in damages:
        data = data[:at] + insert + data[at + cut :]
    try:
        report, made, _ = saved(data)
    except (TruncatedError, VersionError):
        return
    there = iter(payloads(SEED))
    assert all(payload in there for payload in payloads(made))
    assert report.left_out == 0 or report.blocks <= 8
