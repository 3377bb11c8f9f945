"""recover of masked containers: the blocks stay masked, and who had a key still has one (H4MK 20.4)."""

from __future__ import annotations

import io

import pytest

from harmony4.crypto import KeyRefusedError, TruncatedError
from harmony4.h4mk import H4MKReader, RecoverReport, Unmasked, recover, verify
from masked import KEY, OTHER, masked, plain_container, unmasked

PLAIN = plain_container(title="a title")
MASKED = masked(PLAIN, KEY, OTHER)


def saved(data: bytes) -> tuple[RecoverReport, bytes]:
    out = io.BytesIO()
    report = recover(data, out)
    return report, out.getvalue()


def flipped(data: bytes, *tags: str, header: bool = False) -> bytes:
    """The payloads of all chunks of these kinds damaged, with `header` what stands before them as well."""
    bad = bytearray(data)
    with H4MKReader(data) as reader:
        for chunk in reader.chunks():
            if chunk.tag in tags:
                bad[chunk.payload if not header else chunk.offset] ^= 0x55
    return bytes(bad)


def ends_of_blocks(data: bytes) -> list[int]:
    with H4MKReader(data) as reader:
        return [chunk.end for chunk in reader.chunks() if chunk.tag in ("SAFE", "CORE")]


def streams(data: bytes) -> list[bytes]:
    with H4MKReader(data) as reader:
        return [reader.read(0, 10**6, track) for track in range(2)]


def opened(data: bytes) -> list[bytes]:
    """The blocks of both tracks, unmasked."""
    with H4MKReader(data) as reader:
        source = Unmasked(reader, [KEY])
        return [bytes(payload) for track in range(2) for _, payload in source.blocks(track)]


@pytest.mark.parametrize("mode", ["deterministic", "random"])
def test_nothing_is_lost_of_a_sound_one(mode: str) -> None:
    data = masked(PLAIN, KEY, OTHER, mode=mode)
    report, made = saved(data)
    assert report.complete
    assert verify(made, masters=[OTHER]).tags == 12
    with H4MKReader(data) as before, H4MKReader(made) as after:
        assert after.trak == before.trak
        assert after.key_slots() == before.key_slots()
        assert after.meta is not None
        assert after.meta.title == "a title"
        assert [one.op for one in after.meta.history] == ["mask", "recover"]
    again = unmasked(made)
    assert streams(again) == streams(PLAIN)
    assert verify(again).ok


def test_one_that_was_cut_off() -> None:
    """META is gone, but that it was masked is known."""
    ends = ends_of_blocks(MASKED)
    report, made = saved(MASKED[: ends[6] + 20])
    assert report.blocks == 7
    assert report.lost
    assert verify(made, masters=[KEY]).tags == 7
    with H4MKReader(made) as reader:
        assert reader.meta is not None
        assert [one.op for one in reader.meta.history] == ["mask", "recover"]
    wanted = opened(MASKED)
    assert all(block in wanted for block in opened(made))
    assert len(opened(made)) == 7
    with H4MKReader(unmasked(made)) as plain:
        assert plain.lost == report.lost
        assert plain.trak.mask is None
        assert plain.meta is not None
        assert [one.op for one in plain.meta.history] == ["mask", "recover", "unmask"]


def test_cut_off_anywhere() -> None:
    """At any byte: the blocks that are complete, or one clear error."""
    ends = ends_of_blocks(MASKED)
    for size in range(0, len(MASKED), 7):
        whole = sum(end <= size for end in ends)
        try:
            report, made = saved(MASKED[:size])
        except (TruncatedError, KeyRefusedError):
            assert not whole
        else:
            assert report.blocks == whole
            assert verify(made, masters=[KEY]).tags == whole


def test_a_damaged_block_alone_is_lost() -> None:
    bad = bytearray(MASKED)
    bad[ends_of_blocks(MASKED)[3] - 1] ^= 1
    report, made = saved(bytes(bad))
    assert (report.blocks, len(report.lost)) == (11, 1)
    assert verify(made, masters=[KEY]).tags == 11


def test_without_the_key_slots_nobody_could_open_it() -> None:
    for damage in (flipped(MASKED, "KEYS"), flipped(MASKED, "KEYS", header=True)):
        with pytest.raises(KeyRefusedError, match="no key could open what is left"):
            saved(damage)


def test_without_the_key_slots_plain_tracks_are_kept() -> None:
    data = masked(PLAIN, keep_plaintext=True)
    report, made = saved(flipped(data, "KEYS"))
    assert (report.blocks, report.left_out, len(report.lost)) == (12, 12, 2)
    assert verify(made).ok
    with H4MKReader(made) as reader:
        assert reader.trak.mask is None
        assert [track.blocks for track in reader.tracks] == [0, 0, 6, 6]
        assert [reader.read(0, 10**6, track) for track in (2, 3)] == streams(PLAIN)


def test_without_trak_masked_blocks_say_nothing() -> None:  # H4MK 20.4
    with pytest.raises(TruncatedError, match="masked blocks"):
        saved(flipped(MASKED, "TRAK"))
    report, made = saved(flipped(masked(PLAIN, keep_plaintext=True), "TRAK"))
    assert (report.blocks, report.trak_rebuilt, report.left_out) == (12, True, 12)
    with H4MKReader(made) as reader:
        assert [reader.read(0, 10**6, track) for track in (2, 3)] == streams(PLAIN)
