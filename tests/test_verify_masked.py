"""verify of masked containers: by everybody, and with a key, whose tags nobody else makes (H4MK 19, 21.5)."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from harmony4.crypto import LAST, HarmonyError, KeyRefusedError, MasterKey, SealError, TruncatedError, crc32
from harmony4.h4mk import H4MKReader, Unmasked, verify
from harmony4.h4mk.layout import CHUNK_SIZE
from harmony4.h4mk.masks.keyslots import pack_slots
from harmony4.server.cli.extracting import extract
from masked import KEY, OTHER, Block, forged, masked, plain_container, tiny_container, unmasked

PLAIN = plain_container()
MASKED = masked(PLAIN)


def test_everybody_can_verify_a_masked_container() -> None:
    report = verify(MASKED)
    assert report.ok
    assert (report.masked, report.tags) == (True, 0)


def test_with_a_key_every_tag_is_checked() -> None:
    for data in (MASKED, masked(PLAIN, mode="random"), masked(PLAIN, OTHER, KEY)):
        for source in (data, io.BytesIO(data)):
            report = verify(source, masters=[KEY])
            assert report.ok
            assert (report.masked, report.tags) == (True, 12)
    assert verify(MASKED, masters=[OTHER, KEY]).tags == 12, "one that opens it is enough"


def test_plain_blocks_have_no_tags() -> None:
    assert verify(masked(PLAIN, keep_plaintext=True), masters=[KEY]).tags == 12
    report = verify(PLAIN, masters=[KEY])
    assert report.ok
    assert (report.masked, report.tags) == (False, 0)


def test_a_key_that_is_not_one_of_the_files_is_refused() -> None:
    """The file is sound; the caller is told, and nothing is said against the file."""
    with pytest.raises(KeyRefusedError, match="none of the keys") as refused:
        verify(MASKED, masters=[OTHER])
    assert KEY.id.hex() in str(refused.value)
    assert KEY.reveal().hex() not in str(refused.value)


def sealed_keys(data: bytes, slots: list[tuple[bytes, bytes]]) -> bytes:
    """The container with other key slots, and a right CRC; VERI is wrong then, but that comes last."""
    keys = pack_slots(slots)
    with H4MKReader(data) as reader:
        chunk = next(one for one in reader.chunks() if one.tag == "KEYS")
    crc = crc32(keys).to_bytes(4)
    return data[: chunk.offset + 8] + crc + keys + data[chunk.offset + CHUNK_SIZE + len(keys) :]


def test_a_slot_that_does_not_open_is_the_files_fault() -> None:
    with H4MKReader(MASKED) as reader, H4MKReader(masked(PLAIN, mode="random")) as other:
        slot, strange = reader.key_slots(), other.key_slots()
    for slots, words in (
        ([(slot[0][0], bytes(40))], "does not open"),
        (strange, "another file's key"),
    ):
        data = sealed_keys(MASKED, slots)
        report = verify(data, masters=[KEY])
        assert report.tags == 0
        assert any(isinstance(one, SealError) and words in str(one) for one in report.problems)
        with pytest.raises(KeyRefusedError, match=words), H4MKReader(data) as reader:
            Unmasked(reader, [KEY])


def _swap(blocks: list[Block]) -> list[Block]:
    """Two blocks of one size change places, each payload with its tag."""
    places = [number for number, one in enumerate(blocks) if one[0].track == 1]
    (a, first), (b, second) = blocks[places[1]], blocks[places[2]]
    blocks[places[1]] = replace(a, tag=b.tag), second
    blocks[places[2]] = replace(b, tag=a.tag), first
    return blocks


def _later(blocks: list[Block]) -> list[Block]:
    """The last moment of a track is told to last longer."""
    token, payload = blocks[-1]
    blocks[-1] = replace(token, end=token.end + 5), payload
    return blocks


def _other_bytes(blocks: list[Block]) -> list[Block]:
    token, payload = blocks[3]
    blocks[3] = token, bytes([payload[0] ^ 1]) + payload[1:]
    return blocks


@pytest.mark.parametrize("change", [_swap, _later, _other_bytes])
def test_what_was_changed_and_sealed_again_fails_its_tag(change: object) -> None:
    """Nothing but the tag shows it: whoever has no key sees a sound container."""
    data = forged(MASKED, change)  # type: ignore[arg-type]
    assert verify(data).ok
    report = verify(data, masters=[KEY])
    assert {type(one) for one in report.problems} == {SealError}
    places = {str(one.where) for one in report.problems}
    assert places >= {"META.history"}
    assert all(place.startswith("track ") and " block " in place for place in places - {"META.history"})
    assert len(places) > 1
    with pytest.raises(SealError, match="does not have the blocks"):
        unmasked(data)
    data = forged(MASKED, change, later="recover")  # type: ignore[arg-type]
    with pytest.raises(SealError, match="tag"):
        unmasked(data)
    with H4MKReader(data) as reader, pytest.raises(SealError, match="tag"):
        unlocked = Unmasked(reader, [KEY])
        for track in range(2):
            unlocked.read(0, 10**6, track)


def test_nothing_changed_and_sealed_again_is_what_it_was() -> None:
    """Or the tests above would show nothing."""
    assert forged(MASKED, lambda blocks: blocks) == MASKED


def _shorten(blocks: list[Block]) -> list[Block]:
    return [one for one in blocks if (one[0].track, one[0].index) != (1, 5)]


def _shorten_and_say_so(blocks: list[Block]) -> list[Block]:
    """The block before the one that is gone says that it is the last."""
    kept = _shorten(blocks)
    at = [one[0].index if one[0].track == 1 else -1 for one in kept].index(4)
    token, payload = kept[at]
    kept[at] = replace(token, flags=token.flags | LAST), payload
    return kept


def test_a_last_block_that_is_gone_is_noticed() -> None:
    """Whether the file admits that something is missing, or the block before it says that it is the last."""
    data = forged(MASKED, _shorten_and_say_so)
    assert verify(data).ok
    wanted = ["track 1 block 4", "META.history"]
    assert [one.where for one in verify(data, masters=[KEY]).problems] == wanted
    with pytest.raises(SealError, match="does not have the blocks"):
        unmasked(data)
    for source in (MASKED, masked(PLAIN, mode="random")):
        data = forged(source, _shorten, gaps=True)
        with pytest.raises(SealError, match="does not have the blocks"):
            unmasked(data)
        data = forged(source, _shorten, gaps=True, later="recover")
        report = verify(data, masters=[KEY])
        assert (report.holes, report.ok, report.whole) == (1, True, False)
        with H4MKReader(data) as reader, pytest.raises(TruncatedError, match="losses"):
            extract(reader, io.BytesIO(), 1, masters=[KEY])


TINY = masked(tiny_container())
PARTS = 4
"""The flips take their time: several processes can share them."""


@pytest.mark.parametrize("part", range(PARTS))
def test_every_flipped_bit_is_refused(part: int) -> None:
    data = bytearray(TINY)
    for bit in range(part, 8 * len(data), PARTS):
        data[bit >> 3] ^= 1 << (bit & 7)
        assert not verify(bytes(data), masters=[KEY]).ok, f"bit {bit}"
        data[bit >> 3] ^= 1 << (bit & 7)
    assert data == TINY
    assert verify(TINY, masters=[KEY]).ok


@pytest.mark.parametrize("part", range(PARTS))
def test_a_flipped_bit_never_gives_other_media(part: int) -> None:
    """Unmasking reads no table that follows from the blocks: only there a bit is passed over."""
    plain = tiny_container()
    with H4MKReader(TINY) as reader:
        derived = {
            at
            for chunk in reader.chunks()
            if chunk.tag in ("SEEK", "MERK", "VERI")
            for at in range(chunk.offset, chunk.end)
        }
    data = bytearray(TINY)
    passed = set()
    for bit in range(part, 8 * len(data), PARTS):
        data[bit >> 3] ^= 1 << (bit & 7)
        try:
            assert unmasked(bytes(data)) == plain, f"bit {bit}"
            passed.add(bit >> 3)
        except HarmonyError:
            pass
        data[bit >> 3] ^= 1 << (bit & 7)
    assert passed <= derived


def test_a_flipped_bit_of_a_key_opens_nothing() -> None:
    for bit in range(0, 256, 5):
        key = bytearray(KEY.reveal())
        key[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(KeyRefusedError):
            unmasked(TINY, MasterKey(key))
