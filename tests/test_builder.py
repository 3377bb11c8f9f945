"""H4MKBuilder: what it writes, what it refuses, and what a refusal leaves behind (H4MK 17)."""

import io
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import independent
from harmony4.crypto import (
    HEADER,
    KEY,
    LAST,
    MAX_BLOCK,
    CriticalError,
    FormatError,
    HarmonyError,
    JSONError,
    LimitError,
    OrderError,
    StorageError,
    TokenRecord,
    TokenSequencer,
    UsageError,
    sha256,
)
from harmony4.h4mk import H4MKBuilder, H4MKReader, HistoryEntry, Lost, Step, TrackInfo, verify
from limits import file_size_limit, needs_rlimit
from make_vectors.parts import BLOCKS, ENDS, TITLE, TRACK, TWO, TWO_BLOCKS, TWO_ENDS
from samples import VIDEO

DATA = TrackInfo()
SOUND = TrackInfo(codec="aac", kind="audio", media_type="audio/mp4", lang="de", timing="demux")


def trak_of(tracks, **cut):
    """TRAK as the independent implementation takes it."""
    return {
        "cut": {"block": 2**20, "order": "end", "rule": 1, **cut},
        "origin": "0",
        "tracks": [independent.json.loads(independent.canonical(track._json())) for track in tracks],
    }


def test_everything_at_once_is_what_the_specification_says():  # H4MK 17.2
    """Two tracks, steps, history, a title, ancillary chunks: against the independent implementation."""
    ancillary = [("post", b"\xff\xd8"), ("aaaa", b""), ("post", b"second"), ("post", b"\xff\xd8")]
    history = [
        HistoryEntry("concat", {"n": 2}, ({"head": "0a" * 32, "sign": "ff" * 32},)),
        HistoryEntry("cut", {"wide": 2**60}),
    ]
    steps = [Step(5, 2**60), Step(600_000, 1, 1)]
    with H4MKBuilder.in_memory([VIDEO, SOUND], title="Ö", block=2**16) as builder:
        # In the order in which they end; sound ends first and does not wait for the picture.
        builder.add_block(b"picture 0", 0, key=True)
        builder.add_block(b"sound 0", 0, track=1, key=True, min_pts=7)
        builder.add_block(b"picture 1", 500_000, key=True)
        builder.add_block(bytearray(b"sound 1"), 600_000, track=1)
        builder.end_track(1, 700_000)
        builder.add_block(memoryview(b"picture 2"), 800_000)
        seal = builder.finish(
            ends={0: 1_000_000}, history=history, steps=steps, ancillary=ancillary, structure_only=False
        )
        data = builder.getvalue()
    blocks = [
        {"payload": b"picture 0", "pts": 0, "key": True},
        {"payload": b"picture 1", "pts": 500_000, "key": True},
        {"payload": b"picture 2", "pts": 800_000},
        {"payload": b"sound 0", "pts": 0, "key": True, "min_pts": 7, "track": 1},
        {"payload": b"sound 1", "pts": 600_000, "track": 1},
    ]
    wanted = independent.build(
        trak_of([VIDEO, SOUND], block=2**16),
        blocks,
        ends={0: 1_000_000, 1: 700_000},
        title="Ö",
        history=[{"args": dict(one.args), "inputs": list(one.inputs), "op": one.op} for one in history],
        steps=[{"pts": one.pts, "shift": one.shift, "track": one.track} for one in steps],
        structure_only=False,
        ancillary={(tag.encode(), payload) for tag, payload in ancillary},
    )
    assert data == wanted
    facts = independent.check(data)
    assert (seal.head, seal.root, seal.blocks) == (facts["head"], facts["root"], 5)
    assert (seal.duration, seal.length, seal.lost) == (1_000_000, len(data), ())


def test_arrival_keeps_the_order_of_the_calls():  # H4MK 17.1
    with H4MKBuilder.in_memory([VIDEO, SOUND], order="arrival") as builder:
        for number in range(3):
            builder.add_block(b"a", number, key=True)
        for number in range(3):
            builder.add_block(b"b", number, key=True, track=1)
        builder.finish()
        with H4MKReader(builder.getvalue()) as reader:
            leaves = [[entry.leaf for entry in reader.range_map(track)] for track in (0, 1)]
    # The last blocks of both are only complete at the end.
    assert leaves == [[0, 1, 4], [2, 3, 5]]


BLOCK = st.tuples(st.integers(0, 2), st.binary(min_size=1, max_size=30), st.integers(0, 3), st.booleans())


@settings(max_examples=100)
@given(st.lists(BLOCK, max_size=25), st.integers(0, 50))
def test_any_blocks_come_back(blocks, tail):
    """Builder to reader, verify and stream, and the independent reader agrees."""
    pts, keys, made = [0, 0, 0], [-1, -1, -1], [b"", b"", b""]
    with H4MKBuilder.in_memory([VIDEO, SOUND, DATA], order="arrival", block=30) as builder:
        for track, payload, step, key in blocks:
            pts[track] += step
            key = key and pts[track] > keys[track]
            keys[track] = pts[track] if key else keys[track]
            builder.add_block(payload, pts[track], track=track, key=key)
            made[track] += payload
        builder.finish(ends={track: pts[track] + tail for track in range(3)})
        data = builder.getvalue()
    report = verify(data)
    assert report.ok and report.blocks == len(blocks)
    facts = independent.check(data)
    with H4MKReader(data) as reader:
        for track in range(3):
            assert reader.read(0, 10**6, track) == made[track]
            with reader.open(track) as stream:
                assert stream.read() == made[track]
            assert b"".join(block.payload for block in reader.blocks(track)) == made[track]
            assert reader.tracks[track].sha256 == sha256(made[track])
            mine = [independent.pack_token(one) for one in facts["tokens"] if one["track"] == track]
            assert [token.pack() for token in reader.tokens(track)] == mine
        assert (reader.head, reader.root, reader.duration) == (
            facts["head"],
            facts["root"],
            facts["duration"],
        )


def test_complete_tokens_from_elsewhere():
    """add_token writes what a tokenizer made, and gives the same file as add_block."""

    def built(by_token):
        with H4MKBuilder.in_memory([VIDEO]) as builder:
            sequencer, held = TokenSequencer(), b""
            for number in range(5):
                payload = bytes([number]) * 9
                if not by_token:
                    builder.add_block(payload, number * 10, key=number % 2 == 0, header=False)
                    continue
                token = sequencer.push(9, sha256(payload), number * 10, key=number % 2 == 0)
                if token is not None:
                    builder.add_token(token, memoryview(held))
                held = payload
            if by_token:
                builder.add_token(sequencer.finish(50), held)
            builder.finish(ends={0: 50})
            return builder.getvalue()

    assert built(True) == built(False)


@pytest.mark.parametrize("kind", [bytearray, lambda data: memoryview(bytearray(data)).toreadonly()])
def test_a_payload_may_change_after_the_call(kind):
    with H4MKBuilder.in_memory([VIDEO]) as builder:
        buffer = bytearray(1000)
        for number in range(20):
            buffer[:] = bytes([number]) * 1000
            builder.add_block(
                kind(buffer) if kind is bytearray else memoryview(buffer).toreadonly(), number, key=True
            )
        buffer[:] = bytes(1000)
        builder.finish()
        data = builder.getvalue()
    assert verify(data).ok
    with H4MKReader(data) as reader:
        assert [block.payload[0] for block in reader.blocks()] == list(range(20))


def test_views_of_wide_or_strided_items():
    source = bytes(range(64))
    with H4MKBuilder.in_memory([VIDEO]) as builder:
        builder.add_block(memoryview(source).cast("I"), 0)
        builder.add_block(memoryview(source)[::2], 1)
        builder.finish()
        assert verify(builder.getvalue()).ok
        with H4MKReader(builder.getvalue()) as reader:
            assert [block.payload for block in reader.blocks()] == [source, source[::2]]


# ---- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"tracks": []}, UsageError),
        ({"tracks": [TrackInfo(masked=True)]}, UsageError),
        ({"block": 0}, LimitError),
        ({"block": MAX_BLOCK + 1}, LimitError),
        ({"order": "other"}, CriticalError),
        ({"origin": 2**63}, JSONError),
        ({"tracks": [TrackInfo(kind="film")]}, CriticalError),
        ({"tracks": [TrackInfo(name="x" * 2**20)]}, LimitError),
        ({"tracks": [TrackInfo(name="\ud800")]}, UsageError),
        ({"title": "\ud800"}, UsageError),
        ({"title": "x" * 2**20}, LimitError),
    ],
)
def test_impossible_facts(arguments, kind, tmp_path):
    threads = threading.active_count()
    for make in (
        H4MKBuilder.in_memory,
        lambda tracks, **rest: H4MKBuilder.to_path(tmp_path / "x", tracks, **rest),
    ):
        with pytest.raises(kind):
            make(**{"tracks": [VIDEO], **arguments})
    assert list(tmp_path.iterdir()) == [] and threading.active_count() == threads


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ({"payload": b""}, LimitError),
        ({"payload": b"x" * 17}, LimitError),
        ({"pts": 4}, OrderError),
        ({"pts": 5, "key": True}, OrderError),
        ({"pts": -1}, HarmonyError),
        ({"pts": 2**63}, FormatError),
        ({"pts": 9, "header": True}, OrderError),
        ({"track": 1}, UsageError),
        ({"track": -1}, UsageError),
        ({"min_pts": -1}, FormatError),
    ],
)
def test_a_block_that_is_refused_changes_nothing(block, kind):  # H4MK 6.2
    def built(disturb):
        with H4MKBuilder.in_memory([VIDEO], block=16) as builder:
            builder.add_block(b"first", 5, key=True)
            if disturb:
                with pytest.raises(kind):
                    builder.add_block(**{"payload": b"x", "pts": 9, **block})
            builder.add_block(b"second", 9, key=True)
            builder.finish(ends={0: 12})
            return builder.getvalue()

    assert built(True) == built(False)


TOKEN = TokenRecord(0, KEY | LAST, 3, 0, 0, 5, 0, 0, 0, 0, sha256(b"abc"))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"size": 4}, UsageError),
        ({"track": 1}, OrderError),
        ({"track": -1}, FormatError),
        ({"index": 1}, OrderError),
        ({"offset": 1, "key_offset": 1}, OrderError),
        ({"flags": KEY | LAST | HEADER}, OrderError),
        ({"flags": KEY | LAST | 2}, OrderError),
        ({"digest": b"short"}, FormatError),
        ({"pts": -1}, FormatError),
    ],
)
def test_a_token_that_is_refused_changes_nothing(change, kind):
    def built(disturb):
        with H4MKBuilder.in_memory([VIDEO]) as builder:
            if disturb:
                with pytest.raises(kind):
                    builder.add_token(replace(TOKEN, **change), b"abc")
            builder.add_token(TOKEN, b"abc")
            builder.finish()
            return builder.getvalue()

    assert built(True) == built(False)


def test_the_order_of_ends_is_held():  # H4MK 17.1
    with H4MKBuilder.in_memory([VIDEO, SOUND]) as builder:
        for number in range(3):
            builder.add_block(b"a", number * 10)
        builder.add_block(b"b", 0, track=1)
        with pytest.raises(OrderError):
            builder.add_block(b"b", 5, track=1)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"ancillary": [("Post", b"")]}, JSONError),
        ({"ancillary": [("time", b"x")]}, JSONError),
        ({"history": [HistoryEntry("Export")]}, JSONError),
        ({"steps": [Step(5, 1), Step(4, 1)]}, UsageError),
        ({"steps": [Step(5, 1, 1)]}, UsageError),
        ({"steps": [Step(-5, 1)]}, JSONError),
        ({"ends": {0: 2**63}}, FormatError),
        ({"history": [HistoryEntry("export", {"x": "y" * 2**20})]}, LimitError),
    ],
)
def test_an_end_that_is_refused_leaves_nothing(arguments, kind, tmp_path):
    target = tmp_path / "x.h4mk"
    target.write_bytes(b"old")
    with H4MKBuilder.to_path(target, [VIDEO]) as builder:
        builder.add_block(b"x", 0)
        with pytest.raises(kind):
            builder.finish(**arguments)
        with pytest.raises(UsageError):
            builder.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["x.h4mk"] and target.read_bytes() == b"old"


def test_a_missing_last_block_is_only_for_recovery():
    open_token = replace(TOKEN, flags=KEY)
    with H4MKBuilder.in_memory([VIDEO]) as builder:
        builder.add_token(open_token, b"abc")
        with pytest.raises(OrderError):
            builder.finish()
    with H4MKBuilder(io.BytesIO(), [VIDEO, SOUND], gaps=True) as builder:
        builder.add_token(open_token, b"abc")
        seal = builder.finish(gone=[1])
        assert seal.lost == (Lost(0, 1), Lost(0, 0, 1))
        assert verify(builder.getvalue()).ok and verify(builder.getvalue()).holes == 2


def test_calls_out_of_order(tmp_path):
    builder = H4MKBuilder.in_memory([VIDEO])
    with pytest.raises(UsageError):
        builder.getvalue()
    builder.add_block(b"x", 0)
    builder.end_track(0)
    with pytest.raises(UsageError):
        builder.add_block(b"x", 0)
    builder.end_track(0)  # nothing more to write
    builder.finish()
    builder.abort()
    assert verify(builder.getvalue()).ok
    for call in (
        builder.finish,
        lambda: builder.add_block(b"x", 0),
        lambda: builder.add_token(TOKEN, b"abc"),
    ):
        with pytest.raises(UsageError):
            call()
    with pytest.raises(UsageError):
        builder.end_track(0)
    with H4MKBuilder.to_path(tmp_path / "x", [VIDEO]) as other:
        other.finish()
        with pytest.raises(UsageError):
            other.getvalue()


# ---- files -----------------------------------------------------------------------------------------------


def test_leaving_without_finish_removes_everything(tmp_path):  # H4MK 17.3
    target = tmp_path / "x.h4mk"
    threads = threading.active_count()
    for error in (None, ValueError):
        try:
            with H4MKBuilder.to_path(target, [VIDEO]) as builder:
                builder.add_block(bytes(2**18), 0)
                builder.add_block(bytes(2**18), 1)
                assert not target.exists() and len(list(tmp_path.iterdir())) == 1
                if error:
                    raise error
        except ValueError:
            pass
        assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


@needs_rlimit
def test_a_full_disk_leaves_the_target_as_it_was(tmp_path):
    target = tmp_path / "x.h4mk"
    target.write_bytes(b"old")
    with file_size_limit(2**20), pytest.raises(StorageError):  # noqa: SIM117
        with H4MKBuilder.to_path(target, [VIDEO]) as builder:
            for number in range(40):
                builder.add_block(bytes(2**16), number)
            builder.finish()
    with file_size_limit(2**16), pytest.raises(StorageError):  # noqa: SIM117
        with H4MKBuilder.to_path(target, [VIDEO]) as builder:
            builder.add_block(bytes(2**16), 0)
            builder.finish()  # what is buffered does not fit
    assert [path.name for path in tmp_path.iterdir()] == ["x.h4mk"] and target.read_bytes() == b"old"


def test_a_target_that_fails_at_once():
    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

    threads = threading.active_count()
    with pytest.raises(StorageError, match="No space"):
        H4MKBuilder(Full(), [VIDEO])
    assert threading.active_count() == threads


def test_a_file_is_the_same_as_memory(tmp_path):
    def fill(builder):
        with builder:
            for number in range(50):
                builder.add_block(bytes([number]) * 999, number * 7, key=number % 5 == 0)
            return builder.finish(history=[HistoryEntry("export")], ends={0: 400})

    seals = [
        fill(H4MKBuilder.to_path(tmp_path / "x", [VIDEO], title=TITLE)),
        fill(memory := H4MKBuilder.in_memory([VIDEO], title=TITLE)),
    ]
    assert seals[0] == seals[1]
    assert (tmp_path / "x").read_bytes() == memory.getvalue()
    with H4MKReader(tmp_path / "x") as reader:
        assert (reader.head, reader.size) == (seals[0].head, seals[0].length)


def test_the_vectors_tracks_are_ours():
    """The hand-made containers of the vectors and the builder speak of the same things."""
    for trak, blocks, ends in (({**TWO, "tracks": [TRACK]}, BLOCKS, ENDS), (TWO, TWO_BLOCKS, TWO_ENDS)):
        assert verify(independent.build(trak, blocks, ends=ends)).ok
