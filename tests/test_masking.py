"""Masked containers (H4MK 21): made, read by ranges, unmasked, given other keys; and all that is refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import independent
from harmony4.crypto import (
    DEFAULT_BLOCK,
    EMPTY_ROOT,
    FormatError,
    HarmonyError,
    KeyRefusedError,
    LimitError,
    MaskSpec,
    MasterKey,
    NotFoundError,
    SealError,
    SourceChangedError,
    TruncatedError,
    UsageError,
    crc32,
    sha256,
    xor_mask,
)
from harmony4.h4mk import (
    BytesSource,
    H4MKBuilder,
    H4MKReader,
    HistoryEntry,
    KeptMask,
    Masking,
    Plain,
    Rehearsal,
    Seal,
    Step,
    TrackInfo,
    Trak,
    Unmasked,
    mask_container,
    rekey_container,
    unmask_container,
    verify,
)
from harmony4.h4mk.edits.bundle import ContainerInput, bundle
from harmony4.h4mk.edits.recover import recover
from harmony4.server.exporting.ingest import ExportOptions, export
from media_factory import media
from needs import BUNNY
from samples import VIDEO, Counting, payloads, track_of

MASTER = MasterKey(bytes(range(32)))
OTHER = MasterKey(bytes(range(1, 33)))
SPEC = MaskSpec((MASTER,))
RANDOM = MaskSpec((MASTER,), "random")
BESIDE = MaskSpec((MASTER,), keep_plaintext=True)
SOUND = TrackInfo(codec="aac", kind="audio", media_type="audio/mp4", timing="demux")


def masked(data: bytes, spec: MaskSpec = SPEC) -> bytes:
    out = io.BytesIO()
    with H4MKReader(data) as reader:
        mask_container(reader, out, spec)
    return out.getvalue()


def unmasked(data: bytes, *keys: MasterKey) -> bytes:
    out = io.BytesIO()
    with H4MKReader(data) as reader:
        unmask_container(reader, out, keys or [MASTER])
    return out.getvalue()


def rekeyed(data: bytes, keys: list[MasterKey], **changes: list[MasterKey] | list[bytes]) -> bytes:
    out = io.BytesIO()
    with H4MKReader(data) as reader:
        rekey_container(reader, out, keys, **changes)  # type: ignore[arg-type]
    return out.getvalue()


@contextmanager
def opened(data: bytes, *keys: MasterKey) -> Iterator[Unmasked]:
    with H4MKReader(data) as reader:
        yield Unmasked(reader, keys or [MASTER])


def two_tracks(order: str = "end") -> bytes:
    """Steps, a title, ancillary chunks and more than one track."""
    with H4MKBuilder.in_memory([VIDEO, SOUND], order=order, title="Ö") as builder:
        for number in range(6):
            builder.add_block(b"picture %d" % number * 40, number * 500_000, key=number % 2 == 0)
            builder.add_block(b"sound %d" % number, number * 500_000 + 1, track=1, key=True)
        builder.finish(
            ends={0: 3_000_000, 1: 3_000_000},
            steps=[Step(1, 7), Step(600_000, 1, 1)],
            history=[
                HistoryEntry(
                    "concat", {"n": 2}, ({"head": "0a" * 32, "sign": "ff" * 32}, {"head": "0b" * 32})
                ),
                HistoryEntry("cut", {"from": 5}, ({"head": "0c" * 32},)),
            ],
            ancillary=[("post", b"\xff\xd8"), ("aaaa", b"")],
        )
        return builder.getvalue()


PLAIN = two_tracks()
MASKED = masked(PLAIN)


# -- there and back


@pytest.mark.parametrize("spec", [SPEC, RANDOM, BESIDE, MaskSpec((OTHER, MASTER), "random")], ids=str)
@pytest.mark.parametrize("order", ["end", "arrival"])
def test_there_and_back(spec: MaskSpec, order: str) -> None:
    plain = two_tracks(order)
    data = masked(plain, spec)
    assert verify(data).problems == ()
    independent.check(data)
    assert unmasked(data) == plain
    with opened(data) as media, H4MKReader(plain) as reader:
        for track in (0, 1):
            assert media.read(0, 2**60, track) == reader.read(0, 2**60, track)
            assert media.open(track).read() == reader.open(track).read()
            assert [payload for _, payload in media.blocks(track, 2)] == [
                block.payload for block in reader.blocks(track, 2)
            ]
        assert media.stream_size(1) == reader.stream_size(1)


def test_reports() -> None:
    with H4MKReader(PLAIN) as reader:
        made = mask_container(reader, io.BytesIO(), SPEC)
        assert (made.signed, made.parts, made.exact) == (False, 0, False)
        assert made.seal.length == len(MASKED)
    seen: list[tuple[int, int | None]] = []
    with H4MKReader(MASKED) as reader:
        back = unmask_container(reader, io.BytesIO(), [MASTER], progress=lambda *one: seen.append(one))
        assert (back.signed, back.parts, back.exact, back.seal.length) == (False, 0, True, len(PLAIN))
        total = sum(track.bytes for track in reader.tracks)
    assert seen[-1] == (total, total)


def test_a_real_film(tmp_path: Path) -> None:
    """Exported with the mask, exported and masked, from a pipe: one container; the film back at any place."""
    film = BUNNY.read_bytes()
    plain, direct, piped = tmp_path / "plain.h4mk", tmp_path / "direct.h4mk", tmp_path / "piped.h4mk"
    export(BUNNY, plain, ExportOptions())
    export(BUNNY, direct, ExportOptions(mask=SPEC))
    export(io.BytesIO(film), piped, ExportOptions(mask=SPEC))
    assert direct.read_bytes() == piped.read_bytes() == masked(plain.read_bytes())
    assert film[1000:1100] not in direct.read_bytes()
    assert unmasked(direct.read_bytes()) == plain.read_bytes()
    with opened(direct.read_bytes()) as media, media.open() as stream:
        for start in range(0, len(film), 99_991):
            assert media.read(start, 1_000) == film[start : start + 1_000]
            stream.seek(start)
            assert stream.read(7) == film[start : start + 7]


@settings(max_examples=60)
@given(st.lists(st.binary(min_size=1, max_size=70), min_size=1, max_size=6), st.data())
def test_any_content_and_any_range(blocks: list[bytes], draw: st.DataObject) -> None:
    with H4MKBuilder.in_memory([TrackInfo()], masking=Masking.of(RANDOM, None)) as builder:
        for number, payload in enumerate(blocks):
            builder.add_block(payload, number, key=True)
        builder.finish()
        data = builder.getvalue()
    whole = b"".join(blocks)
    start = draw.draw(st.integers(0, len(whole) + 2))
    length = draw.draw(st.integers(0, len(whole) + 2))
    with opened(data) as media:
        for _ in range(2):  # the second time from blocks that have been checked
            assert media.read(start, length) == whole[start : start + length]


# -- what is equal, and what is not


def test_what_equal_content_gives() -> None:
    """The same content twice, and under two titles; two contents that share a prefix."""
    assert masked(PLAIN) == MASKED
    assert masked(PLAIN, MaskSpec((OTHER,))) != MASKED
    assert masked(PLAIN, RANDOM) != masked(PLAIN, RANDOM)
    stored = payloads_of(MASKED)
    assert not set(stored) & set(payloads_of(masked(PLAIN, MaskSpec((OTHER,)))))
    assert not set(stored) & set(payloads_of(masked(PLAIN, RANDOM)))
    # A second key changes who may open it, and nothing else.
    both = masked(PLAIN, MaskSpec((MASTER, OTHER)))
    assert payloads_of(both) == stored
    assert unmasked(both, OTHER) == PLAIN

    one, other = track_of(8, 64), track_of(9, 64)
    assert payloads(one) == payloads(other)[:8]
    first, second = payloads_of(masked(one)), payloads_of(masked(other))
    assert len(first) == 8 and not set(first) & set(second)
    # What a shared keystream would give: the XOR of masked blocks would be that of plain ones.
    xored = [bytes(a ^ b for a, b in zip(*pair, strict=True)) for pair in zip(first, second, strict=False)]
    assert bytes(64) not in xored


def payloads_of(data: bytes) -> list[bytes]:
    """The SAFE payloads, in file order."""
    with H4MKReader(data) as reader:
        return [reader.read_file(one.payload, one.size) for one in reader.chunks() if one.tag == "SAFE"]


def test_no_digest_of_plain_media_is_left() -> None:
    """H4MK 21.6, 21.8: nothing that a guess could be compared with."""
    with H4MKReader(PLAIN) as reader:
        secret = [reader.head, reader.root, *(track.sha256 for track in reader.tracks)]
        secret += [token.digest for track in (0, 1) for token in reader.tokens(track)]
    for digest in secret:
        assert digest is not None
        assert digest not in MASKED and digest.hex().encode() not in MASKED
    for head in (b"0a" * 32, b"0b" * 32, b"0c" * 32):
        assert head in PLAIN and head not in MASKED
    assert b"ff" * 32 in MASKED  # the hash of a signature tells nobody anything


def test_the_mode_is_said() -> None:
    for spec in (SPEC, RANDOM):
        with H4MKReader(masked(PLAIN, spec)) as reader:
            assert reader.trak.mask is not None
            assert reader.trak.mask["mode"] == spec.mode
            assert [name for name, _ in reader.key_slots()] == [MASTER.id]


def test_beside_the_plain_tracks() -> None:
    data = masked(PLAIN, BESIDE)
    with H4MKReader(data) as reader, H4MKReader(PLAIN) as plain:
        assert [track.info.masked for track in reader.tracks] == [True, True, False, False]
        assert reader.read(0, 2**60, 2) == plain.read(0, 2**60, 0)
        assert reader.meta is not None
        assert reader.meta.steps == (Step(1, 7), Step(1, 7, 2), Step(600_000, 1, 1), Step(600_000, 1, 3))
    with opened(data) as media:
        assert media.read(3, 50, 2) == media.read(3, 50, 0)


# -- keys


def test_a_wrong_key_is_refused_before_the_first_byte() -> None:
    with H4MKReader(MASKED) as reader:
        with pytest.raises(KeyRefusedError, match=f"expected key {MASTER.id.hex()}"):
            Unmasked(reader, [OTHER])
        with pytest.raises(KeyRefusedError):
            Unmasked(reader, [])
        with pytest.raises(KeyRefusedError):
            unmask_container(reader, io.BytesIO(), [OTHER])
    with H4MKReader(PLAIN) as reader, pytest.raises(UsageError, match="not masked"):
        Unmasked(reader, [MASTER])


def test_one_file_cannot_open_to_two_contents() -> None:
    """KEYS is not sealed by head: another file's slot is put there, and TRAK's commitment refuses it."""
    elsewhere = masked(track_of(3))
    with H4MKReader(MASKED) as reader, H4MKReader(elsewhere) as other:
        at, there = (len(one.trak.pack()) + 8 + 12 for one in (reader, other))
    swapped = MASKED[:at] + elsewhere[there : there + 532] + MASKED[at + 532 :]
    with H4MKReader(swapped) as reader, pytest.raises(KeyRefusedError, match="another file's key"):
        Unmasked(reader, [MASTER])


def test_rekeying() -> None:
    more = rekeyed(MASKED, [MASTER], add=[OTHER])
    assert verify(more).ok and len(more) == len(MASKED)
    assert unmasked(more, MASTER) == unmasked(more, OTHER) == PLAIN
    gone = rekeyed(more, [OTHER], remove=[MASTER.id])
    with H4MKReader(gone) as reader, pytest.raises(KeyRefusedError):
        Unmasked(reader, [MASTER])
    assert unmasked(gone, OTHER) == PLAIN
    # Back again, to the same bytes; blocks, root, head and TAIL never moved.
    assert rekeyed(gone, [OTHER], add=[MASTER], remove=[OTHER.id]) == MASKED
    changed = [at for at, (a, b) in enumerate(zip(MASKED, gone, strict=True)) if a != b]
    with H4MKReader(MASKED) as reader:
        keys = 8 + 12 + len(reader.trak.pack())
        assert all(keys <= at < keys + 532 or 0 <= at - reader.veri_offset < 44 for at in changed)
    assert unmasked(MASKED, MASTER) == PLAIN  # an old copy stays readable


def test_rekeying_a_file_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.h4mk"
    path.write_bytes(MASKED)
    seen: list[tuple[int, int | None]] = []
    with H4MKReader(path) as reader:
        report = rekey_container(
            reader, path, [MASTER], add=[OTHER, OTHER], progress=lambda *one: seen.append(one)
        )
    assert (report.keys, report.added) == (tuple(sorted([MASTER.id, OTHER.id])), (OTHER.id,))
    assert seen[-1][0] < len(MASKED)
    assert path.read_bytes() == rekeyed(MASKED, [MASTER], add=[OTHER])
    assert [one.name for one in tmp_path.iterdir()] == ["a.h4mk"]


def test_what_rekeying_refuses(tmp_path: Path) -> None:
    many = [MasterKey(bytes([number]) * 32) for number in range(8)]
    refused: list[tuple[type[HarmonyError], str, dict[str, list[MasterKey] | list[bytes]]]] = [
        (UsageError, "no such key", {"remove": [OTHER.id]}),
        (UsageError, "that key already", {"add": [MASTER]}),
        (UsageError, "nobody could open", {"remove": [MASTER.id]}),
        (LimitError, "too many keys", {"add": many}),  # type: ignore[dict-item]
    ]
    for kind, words, changes in refused:
        with pytest.raises(kind, match=words):
            rekeyed(MASKED, [MASTER], **changes)
    with pytest.raises(KeyRefusedError):
        rekeyed(MASKED, [OTHER], add=many)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="only a sealed container"):
        rekeyed(MASKED[:-1], [MASTER], add=[OTHER])
    at = MASKED.index(payloads_of(MASKED)[0])
    path = tmp_path / "a.h4mk"
    path.write_bytes(MASKED[:at] + bytes([MASKED[at] ^ 1]) + MASKED[at + 1 :])
    with H4MKReader(path) as reader, pytest.raises(SealError, match="damaged"):
        rekey_container(reader, path, [MASTER], add=[OTHER])
    assert [one.name for one in tmp_path.iterdir()] == ["a.h4mk"]


# -- damage


def test_every_bit_counts() -> None:
    """Each bit of a small masked file, flipped: `verify`, which has no key, sees it."""
    data = masked(track_of(2, 5))
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            assert not verify(bytes(flipped)).ok, (at, bit)


def remade(data: bytes, change: Callable[[list[tuple[str, bytes]]], None], *later: HistoryEntry) -> bytes:
    """The container with blocks changed and every CRC, table and digest made anew: what a forger can do.

    `later`: what the history says of that.
    """
    with H4MKReader(data) as reader:
        keys = KeptMask(reader.trak.mask or {}, reader.read_file(len(reader.trak.pack()) + 32, 520))
        blocks = [
            (block.token, block.payload)
            for track in range(len(reader.tracks))
            for block in reader.blocks(track)
        ]
        change(blocks)  # type: ignore[arg-type]
        assert reader.meta is not None
        info = reader.trak.tracks
        with H4MKBuilder.in_memory(info, order="arrival", masking=keys) as builder:
            for token, payload in blocks:
                assert token is not None
                builder.add_token(replace(token, digest=sha256(payload)), payload)
            builder.finish(history=[*reader.meta.history, *later])
            return builder.getvalue()


def _flip(blocks: list) -> None:  # type: ignore[type-arg]
    token, payload = blocks[1]
    blocks[1] = token, bytes([payload[0] ^ 1]) + payload[1:]


def _swap(blocks: list) -> None:  # type: ignore[type-arg]
    (a, first), (b, second) = blocks[-2:]
    blocks[-2:] = (a, second), (b, first)


def _later(blocks: list) -> None:  # type: ignore[type-arg]
    token, payload = blocks[-1]
    blocks[-1] = replace(token, end=token.end + 1), payload


def _shorter(blocks: list) -> None:  # type: ignore[type-arg]
    token, payload = blocks[-1]
    blocks[-1] = replace(token, size=token.size - 1), payload[:-1]


def _dropped(blocks: list) -> None:  # type: ignore[type-arg]
    blocks.pop()
    token, payload = blocks.pop()
    blocks.append((replace(token, flags=token.flags | 4), payload))


def forgeable() -> bytes:
    """A container that no hidden head protects: nobody knew what it would be without the mask."""
    with H4MKBuilder.in_memory([SOUND, VIDEO], order="arrival", masking=Masking.of(RANDOM, None)) as builder:
        builder.add_block(b"sound", 0, key=True)
        builder.end_track(0)
        for number in range(4):
            builder.add_block(bytes([number]) * 40, number * 10, track=1, key=True)
        builder.finish()
        return builder.getvalue()


def _emptied(blocks: list) -> None:  # type: ignore[type-arg]
    blocks[:] = [one for one in blocks if one[0].track == 1]


def _all_gone(blocks: list) -> None:  # type: ignore[type-arg]
    blocks.clear()


@pytest.mark.parametrize("change", [_flip, _swap, _later, _shorter, _dropped, _emptied, _all_gone])
def test_a_forger_without_the_key(change: Callable[[list], None]) -> None:  # type: ignore[type-arg]
    """A container that is whole by every public check, and whose blocks are not those that were masked."""
    forged = remade(forgeable(), change)
    assert verify(forged).ok
    report = verify(forged, masters=[MASTER])
    assert not report.ok
    assert not report.whole
    assert any("does not have the blocks that were masked" in str(one) for one in report.problems)
    with pytest.raises(SealError, match="does not have the blocks that were masked"):
        opened(forged).__enter__()
    with pytest.raises(SealError, match="does not have the blocks that were masked"):
        unmasked(forged)
    assert verify(remade(forgeable(), lambda _: None), masters=[MASTER]).whole


def test_a_forger_who_says_that_something_happened() -> None:
    """What is there is authentic, and that it is all of it, nobody claims; nothing proves nothing."""
    forged = remade(forgeable(), _emptied, HistoryEntry("recover"))
    report = verify(forged, masters=[MASTER])
    assert (report.ok, report.whole) == (True, False)
    with opened(forged) as media:
        assert not media.whole
    nothing = remade(forgeable(), _all_gone, HistoryEntry("recover"))
    assert [one.code for one in verify(nothing, masters=[MASTER]).problems] == ["seal"]
    with pytest.raises(SealError, match="nothing in the container shows"):
        opened(nothing).__enter__()


@pytest.mark.parametrize("change", [_flip, _swap, _later, _shorter, _dropped])
def test_a_forger_does_not_get_past_the_tags(change: Callable[[list], None]) -> None:  # type: ignore[type-arg]
    forged = remade(forgeable(), change, HistoryEntry("recover"))
    assert verify(forged).ok
    with opened(forged) as media:
        with pytest.raises(SealError, match="tag is not one of this key"):
            media.read(0, 2**60, 1)
        with pytest.raises(SealError, match="tag is not one of this key"):
            list(media.blocks(1))
        assert media.read(0, 2**60) == b"sound"
    with pytest.raises(SealError):
        unmasked(forged)


def test_a_tag_is_checked_each_time_and_a_digest_once() -> None:
    """What was read once is not hashed again, but its token is looked at: the file may have changed."""
    source = Counting(bytearray(masked(track_of(1, 4096))))
    with H4MKReader(source) as reader:
        media = Unmasked(reader, [MASTER])
        whole = media.read(0, 4096)
        source.taken()
        assert media.read(100, 10) == whole[100:110]
        assert source.taken()[1] < 400  # token and headers, and ten bytes
        at = bytes(source.data).index(b"SAFE") - 1
        source.data[at] ^= 1  # the last byte of the tag
        with pytest.raises(FormatError):
            media.read(100, 10)


def test_a_file_that_breaks_off_still_opens() -> None:
    """H4MK 18.2: complete blocks of a recording that was cut can be had with the key."""
    data = masked(track_of(6, 100))
    with opened(data[: data.rindex(b"SAFE")]) as media:
        assert media.reader.state == "incomplete"
        with H4MKReader(track_of(6, 100)) as plain:
            assert media.read(0, 2**60) == plain.read(0, 2**60)[: media.stream_size()]
            assert media.stream_size() == 5 * 96


# -- holes and histories


def holed(data: bytes) -> bytes:
    """Recovered from a damaged one: its third block is lost."""
    at = data.index(payloads(data)[2])
    out = io.BytesIO()
    recover(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], out)
    return out.getvalue()


def test_holes_stay_holes() -> None:
    plain = holed(track_of(5, 64))
    for spec in (SPEC, BESIDE):
        data = masked(plain, spec)
        assert verify(data).ok
        assert unmasked(data) == plain
        with opened(data) as media, pytest.raises(NotFoundError, match="are lost"):
            media.read(0, 2**60)


def test_a_track_that_is_lost_whole() -> None:
    with H4MKBuilder.in_memory([VIDEO, SOUND], order="arrival") as builder:
        builder.add_block(b"a" * 20, 0, key=True)
        builder.finish(gone=[1], ends={0: 10})
        plain = builder.getvalue()
    for spec in (SPEC, BESIDE):
        assert unmasked(masked(plain, spec)) == plain


def test_what_came_after_the_mask_stays() -> None:
    """An entry behind the mask: the heads come back, and the history says what happened."""
    with H4MKReader(MASKED) as reader:
        assert reader.meta is not None
        keys = KeptMask(reader.trak.mask or {}, reader.read_file(len(reader.trak.pack()) + 32, 520))
        later = HistoryEntry("recover", {}, ({"head": "0d" * 32},))
        with H4MKBuilder.in_memory(reader.trak.tracks, title="Ö", masking=keys) as builder:
            tokens = [(block.token, block.payload) for track in (0, 1) for block in reader.blocks(track)]
            for token, payload in sorted(tokens, key=lambda one: (one[0].end, one[0].track)):  # type: ignore[union-attr]
                builder.add_token(token, payload)  # type: ignore[arg-type]
            builder.finish(steps=reader.meta.steps, history=[*reader.meta.history, later])
            data = builder.getvalue()
    out = io.BytesIO()
    with H4MKReader(data) as reader:
        assert not unmask_container(reader, out, [MASTER]).exact
        head = reader.head
    with H4MKReader(out.getvalue()) as back, H4MKReader(PLAIN) as plain:
        assert (
            back.meta is not None and plain.meta is not None and plain.head is not None and head is not None
        )
        mask = back.meta.history[2]
        assert back.meta.history[:2] == plain.meta.history
        assert (mask.op, mask.inputs) == ("mask", ({"head": plain.head.hex()},))
        assert back.meta.history[3:] == (later, HistoryEntry("unmask", {}, ({"head": head.hex()},)))
        assert back.read(0, 2**60) == plain.read(0, 2**60)


def with_history(*history: HistoryEntry) -> bytes:
    """A masked container that says something else of how it came to be."""
    masking = Masking.of(RANDOM, None)
    kept = KeptMask(masking.mask, masking.keys)
    trak = Trak((replace(VIDEO, masked=True),), 0, DEFAULT_BLOCK, "end", mask=masking.mask).pack()
    whole = {"whole": masking.key.whole(sha256(trak), 0, EMPTY_ROOT).hex()}
    entries = [replace(one, args={**whole, **one.args}) if one.op == "mask" else one for one in history]
    with H4MKBuilder.in_memory([replace(VIDEO, masked=True)], masking=kept) as builder:
        builder.finish(history=entries)
        return builder.getvalue()


@pytest.mark.parametrize(
    ("entry", "kind", "words"),
    [
        (HistoryEntry("export"), SealError, "nothing in the container shows"),
        (HistoryEntry("mask", {}, ({"head": "00" * 32},)), SealError, "another number of heads"),
        (HistoryEntry("mask", {"whole": "00" * 32}), SealError, "does not have the blocks"),
        (HistoryEntry("mask", {"whole": "xyz"}), SealError, "no hexadecimal digits"),
        (HistoryEntry("mask", {"heads": "xyz"}), SealError, "no hexadecimal digits"),
        (HistoryEntry("mask", {"heads": True}), SealError, "no hexadecimal digits"),
        (HistoryEntry("mask", {"heads": "00" * 40}), KeyRefusedError, "not one of this key's"),
        (HistoryEntry("mask", {"heads": ""}), KeyRefusedError, "not one of this key's"),
    ],
)
def test_histories_that_lie(entry: HistoryEntry, kind: type[HarmonyError], words: str) -> None:
    with pytest.raises(kind, match=words):
        unmasked(with_history(entry))


def test_a_history_that_does_not_tell_of_the_mask() -> None:
    masking = Masking.of(RANDOM, None)
    with H4MKBuilder.in_memory([VIDEO], masking=masking) as builder:
        builder.add_block(b"a", 0, key=True)
        builder.finish()
        data = builder.getvalue()
    with H4MKReader(data) as reader:
        block = next(reader.blocks())
        assert block.token is not None
        kept = KeptMask(masking.mask, masking.keys)
        with H4MKBuilder.in_memory(reader.trak.tracks, masking=kept) as builder:
            builder.add_token(block.token, block.payload)
            builder.finish(history=[HistoryEntry("export")])
            data = builder.getvalue()
    with pytest.raises(SealError, match="does not say so"):
        unmasked(data)


def test_nothing_to_mask() -> None:
    with H4MKBuilder.in_memory([VIDEO]) as builder:
        builder.finish()
        plain = builder.getvalue()
    for spec in (SPEC, RANDOM, BESIDE):
        assert unmasked(masked(plain, spec)) == plain


def test_parts_are_left_out() -> None:
    """A bundle keeps heads and digests of what is in it, for `split`: the mask would hide nothing."""
    out = io.BytesIO()
    with H4MKReader(track_of(3)) as one, H4MKReader(track_of(4)) as other:
        bundle([ContainerInput(one), ContainerInput(other)], out)
        digest = one.tracks[0].sha256
    made = io.BytesIO()
    with H4MKReader(out.getvalue()) as reader:
        report = mask_container(reader, made, SPEC)
    assert report.parts == 2
    assert digest is not None and digest.hex().encode() not in made.getvalue()
    back = io.BytesIO()
    with H4MKReader(made.getvalue()) as reader:
        assert not unmask_container(reader, back, [MASTER]).exact
    with H4MKReader(back.getvalue()) as reader, H4MKReader(out.getvalue()) as bundled:
        assert reader.meta is not None and bundled.meta is not None
        assert reader.root == bundled.root
        assert reader.meta.history == bundled.meta.history


# -- what is refused


def test_what_cannot_be_masked_or_unmasked() -> None:
    refused: list[tuple[Callable[[bytes], object], bytes, str]] = [
        (masked, PLAIN[:-1], "only a sealed container can be masked"),
        (masked, MASKED, "masked already"),
        (unmasked, PLAIN, "not masked"),
        (unmasked, MASKED[:-1], "only a sealed container can be unmasked"),
    ]
    for act, data, words in refused:
        with pytest.raises(UsageError, match=words):
            act(data)


def test_a_damaged_container_is_not_masked() -> None:
    at = PLAIN.index(b"picture 3")
    damaged = PLAIN[:at] + b"P" + PLAIN[at + 1 :]
    with pytest.raises(FormatError):
        masked(damaged)


def test_a_source_that_changes_between_its_readings() -> None:
    """H4MK 21.3: the second reading must give the blocks that the key was made for, all of them."""
    blocks = [b"one", b"two"]
    for second in ([b"one", b"TWO"], [b"one"], [b"one", b"two", b"three"], [b"two", b"one"], []):
        with Rehearsal() as rehearsal:
            with H4MKBuilder.in_memory([VIDEO], masking=rehearsal) as builder:
                seal = add_all(builder, blocks)
                assert builder.getvalue() == plain_container(blocks)
            plain = rehearsal.plain(seal.trak, seal.blocks, seal.root, seal.head)
            builder = H4MKBuilder.in_memory([VIDEO], masking=Masking.of(SPEC, plain))
            with builder, pytest.raises(SourceChangedError, match="the second time"):
                add_all(builder, second)


def test_more_blocks_at_the_second_reading() -> None:
    def read(builder: H4MKBuilder, *, more: bool) -> Seal:
        builder.add_block(b"one", 0, key=True)
        builder.end_track(0)
        if more:
            builder.add_block(b"two", 0, key=True, track=1)
        return builder.finish()

    with Rehearsal() as rehearsal:
        with H4MKBuilder.in_memory([VIDEO, SOUND], order="arrival", masking=rehearsal) as builder:
            seal = read(builder, more=False)
        masking = Masking.of(SPEC, rehearsal.plain(seal.trak, seal.blocks, seal.root, seal.head))
        builder = H4MKBuilder.in_memory([VIDEO, SOUND], order="arrival", masking=masking)
        with builder, pytest.raises(SourceChangedError, match="track 1 block 0"):
            read(builder, more=True)


def add_all(builder: H4MKBuilder, blocks: list[bytes]) -> Seal:
    for number, payload in enumerate(blocks):
        builder.add_block(payload, number, key=True)
    return builder.finish()


def plain_container(blocks: list[bytes]) -> bytes:
    with H4MKBuilder.in_memory([VIDEO]) as builder:
        add_all(builder, blocks)
        return builder.getvalue()


def test_export_notices_a_source_that_changes(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out.h4mk"
    source.write_bytes(bytes(3 * 2**20))
    calls = []

    def change(done: int, _: int | None) -> None:
        calls.append(done)
        if len(calls) == 4:  # within the second reading
            with source.open("r+b") as file:
                file.seek(2**21)
                file.write(b"x")

    with pytest.raises(SourceChangedError):
        export(source, out, ExportOptions(mask=SPEC), progress=change)
    assert not out.exists()


def test_masked_tracks_need_their_mask() -> None:
    with pytest.raises(UsageError, match="need their mask"):
        H4MKBuilder.in_memory([replace(VIDEO, masked=True)])


def test_keys_is_where_it_must_be() -> None:
    with H4MKReader(MASKED) as reader:
        at = 8 + 12 + len(reader.trak.pack())
    gone = MASKED[:at] + MASKED[at + 532 :]
    spoilt = MASKED[: at + 12] + bytes([2]) + MASKED[at + 13 :]
    for data, kind in ((gone, FormatError), (spoilt, FormatError), (MASKED[: at + 40], TruncatedError)):
        with H4MKReader(data) as reader, pytest.raises(kind):
            Unmasked(reader, [MASTER])


def test_the_stored_bytes_are_what_the_server_may_give_anyone() -> None:
    """H4MK 21.4: SAFE is the plain payload XOR the block's keystream, of the same length."""
    with H4MKReader(MASKED) as reader, H4MKReader(PLAIN) as plain:
        key = Unmasked(reader, [MASTER]).key
        for number, block in enumerate(reader.blocks()):
            stored = next(plain.blocks(0, number)).payload
            assert xor_mask(stored, key.block_key(0, number)) == block.payload


def test_media_of_every_kind(tmp_path: Path) -> None:
    for name in ("speech.wav", "numbered.webm"):
        source = media(name)
        export(source, tmp_path / "a.h4mk", ExportOptions(mask=RANDOM))
        with opened((tmp_path / "a.h4mk").read_bytes()) as found:
            assert found.read(0, 2**60) == source.read_bytes()


def test_one_track_of_two() -> None:
    """Masked sound beside a picture that is not."""
    masking = Masking.of(RANDOM, None, tracks=[1])
    with H4MKBuilder.in_memory([VIDEO, SOUND], masking=masking) as builder:
        builder.add_block(b"picture", 0, key=True)
        builder.add_block(b"sound", 0, key=True, track=1)
        builder.finish(ends={0: 10, 1: 9})
        data = builder.getvalue()
    assert verify(data).ok
    with H4MKReader(data) as reader, H4MKReader(unmasked(data)) as plain:
        assert (reader.read(0, 9), plain.read(0, 9), plain.read(0, 9, 1)) == (
            b"picture",
            b"picture",
            b"sound",
        )
        assert b"sound" not in data
        assert plain.trak.mask is None


# -- under one key never two contents, not even for a moment


class Written(io.BytesIO):
    """A pipe: what was written is out."""


def forged_block(data: bytes) -> bytes:
    """Its first block replaced by zeros, token and CRC made right; MERK, META and TAIL say what they said."""
    with H4MKReader(data) as reader:
        token, entry = reader.token(0), reader.range_map(0)[0]
    new = bytes(token.size)
    packed = replace(token, digest=sha256(new)).pack()
    out, at = bytearray(data), entry.position
    out[at : at + len(new)] = new
    out[at - 4 : at] = crc32(new).to_bytes(4)
    out[at - 140 : at - 12] = packed
    out[at - 144 : at - 140] = crc32(packed).to_bytes(4)
    return bytes(out)


def test_a_root_that_lies_makes_no_key() -> None:
    """Whoever knows a container's root could have zeros masked under its key, and read the keystream off."""
    out = Written()
    with (
        H4MKReader(forged_block(PLAIN)) as reader,
        pytest.raises(SealError, match="not those that were"),
    ):
        mask_container(reader, out, SPEC)
    assert out.getvalue() == b""


class Changing(BytesSource):
    """A container of which a block changes once its tokens have been read, with its token and CRC."""

    def __init__(self, data: bytes, later: bytes, after: int) -> None:
        super().__init__(data)
        self._later, self._left = later, after

    def read_at(self, offset: int, count: int) -> bytes:
        self._left -= 1
        return self._later[offset : offset + count] if self._left < 0 else super().read_at(offset, count)


def test_no_byte_of_another_content_leaves() -> None:
    """The source changes between the readings: nothing of its new block goes out under the old one's key."""
    forged = forged_block(PLAIN)
    counted = Counting(PLAIN)
    with H4MKReader(counted) as reader:
        mask_container(reader, io.BytesIO(), SPEC)
    reads = counted.taken()[0]
    secret = payloads_of(MASKED)[0]
    stopped = 0
    for after in range(1, reads):
        out = Written()
        try:
            with H4MKReader(Changing(PLAIN, forged, after)) as reader:
                mask_container(reader, out, SPEC)
        except HarmonyError:
            stopped += 1
        key = MASTER.file_key(MASTER.salt(plain_of(PLAIN).digest())).block_key(0, 0)
        keystream = xor_mask(bytes(len(secret)), key)
        assert keystream not in out.getvalue(), after
    assert stopped > reads // 4


def plain_of(data: bytes) -> Plain:
    with H4MKReader(data) as reader:
        assert reader.root is not None
        return Plain(sha256(reader.trak.pack()), reader.block_count, reader.root)


def test_export_into_a_pipe_from_a_source_that_changes(tmp_path: Path) -> None:
    source, out = tmp_path / "source", Written()
    source.write_bytes(bytes(3 * 2**20))
    calls: list[int] = []

    def change(done: int, _: int | None) -> None:
        calls.append(done)
        if len(calls) == 4:  # within the second reading, after its first block
            with source.open("r+b") as file:
                file.seek(2**21)
                file.write(b"x" * 2**20)

    before = masked_raw(source)
    with pytest.raises(SourceChangedError):
        export(source, out, ExportOptions(raw=True, mask=SPEC), progress=change)
    sent = out.getvalue()
    assert len(sent) < 2 * 2**20 + 4096  # the blocks before the change, and not the changed one
    assert before.startswith(sent[: len(sent) // 2])


def masked_raw(source: Path) -> bytes:
    out = io.BytesIO()
    export(source, out, ExportOptions(raw=True, mask=SPEC))
    return out.getvalue()


def test_plain_copies_are_believed_where_they_are() -> None:
    """The history alone makes no track disappear."""
    with H4MKReader(MASKED) as reader:
        assert reader.meta is not None
        *before, mask = reader.meta.history
        lying = replace(mask, args={**mask.args, "plaintext": True})
        keys = KeptMask(reader.trak.mask or {}, reader.read_file(len(reader.trak.pack()) + 32, 520))
        blocks = [
            (block.token, block.payload) for track in (0, 1) for block in reader.blocks(track) if block.token
        ]
        with H4MKBuilder.in_memory(reader.trak.tracks, title="Ö", masking=keys) as builder:
            for token, payload in sorted(blocks, key=lambda one: (one[0].end, one[0].track)):
                builder.add_token(token, payload)
            builder.finish(steps=reader.meta.steps, history=[*before, lying])
            data = builder.getvalue()
    with pytest.raises(SealError, match="plain copies that are not there"):
        unmasked(data)


def test_plain_media_of_somebody_else() -> None:
    """KEYS and TRAK's mask of a real file around other media: with a key it is nothing that the key made."""
    with H4MKReader(MASKED) as reader:
        assert reader.meta is not None
        keys = KeptMask(reader.trak.mask or {}, reader.read_file(len(reader.trak.pack()) + 32, 520))
        history = [*reader.meta.history, HistoryEntry("recover")]
    with H4MKBuilder.in_memory([VIDEO, replace(SOUND, masked=True)], masking=keys) as builder:
        builder.add_block(b"EVIL", 0, key=True)
        builder.finish(history=history)
        data = builder.getvalue()
    assert verify(data).ok
    assert [one.message for one in verify(data, masters=[MASTER]).problems] == [
        "nothing in the container shows that it was masked with this key"
    ]
    with H4MKReader(data) as reader, pytest.raises(SealError, match="masked with this key"):
        Unmasked(reader, [MASTER])


def test_the_deterministic_mode_needs_two_readings() -> None:
    for plain in (None, plain_of(PLAIN)):
        with pytest.raises(UsageError, match="first reading"):
            Masking.of(SPEC, plain)


def test_a_file_without_a_seal_is_neither_signed_nor_plain() -> None:
    for data in (PLAIN[:-1], MASKED[:-1]):
        with H4MKReader(data) as reader:
            assert (reader.is_signed(), reader.is_plain()) == (False, False)
    with H4MKReader(PLAIN) as plain, H4MKReader(MASKED) as hidden:
        assert (plain.is_plain(), hidden.is_plain(), hidden.is_signed()) == (True, False, False)
