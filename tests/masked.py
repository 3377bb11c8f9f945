"""Small masked containers in memory, and what an attacker without the key can make of one."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

from harmony4.crypto import MaskSpec, MasterKey, TokenRecord, sha256
from harmony4.h4mk import (
    H4MKBuilder,
    H4MKReader,
    HistoryEntry,
    KeptMask,
    TrackInfo,
    mask_container,
    unmask_container,
)
from harmony4.h4mk.masks.keyslots import pack_slots

KEY = MasterKey(bytes(range(32)))
OTHER = MasterKey(bytes(range(32, 64)))
SOUND = TrackInfo(codec="opus", kind="audio", media_type="audio/ogg", timing="demux")


def plain_container(*, blocks: int = 6, title: str | None = None) -> bytes:
    """Two tracks with blocks that are all different."""
    builder = H4MKBuilder.in_memory([TrackInfo(), SOUND], title=title)
    for number in range(blocks):
        builder.add_block(b"picture %03d " % number * 40, number * 1000, key=number % 2 == 0)
        builder.add_block(b"sound %03d" % number, number * 1000, track=1, key=True)
    builder.finish(ends={0: blocks * 1000, 1: blocks * 1000})
    return builder.getvalue()


def tiny_container() -> bytes:
    """As little as a container can be that has a block."""
    builder = H4MKBuilder.in_memory([TrackInfo()])
    builder.add_block(b"ab", 0, key=True)
    builder.finish()
    return builder.getvalue()


def masked(data: bytes, *keys: MasterKey, mode: str = "deterministic", keep_plaintext: bool = False) -> bytes:
    """The container, masked; by default for KEY."""
    out = io.BytesIO()
    with H4MKReader(data) as reader:
        mask_container(reader, out, MaskSpec(keys or (KEY,), mode, keep_plaintext))
    return out.getvalue()


def unmasked(data: bytes, *keys: MasterKey) -> bytes:
    """The container that was masked."""
    out = io.BytesIO()
    with H4MKReader(data) as reader:
        unmask_container(reader, out, keys or (KEY,))
    return out.getvalue()


Block = tuple[TokenRecord, bytes]


def forged(
    data: bytes, change: Callable[[list[Block]], list[Block]], *, gaps: bool = False, later: str | None = None
) -> bytes:
    """The masked container with other blocks and a seal that fits them: everything but the tags is right.

    `gaps`: it may admit that blocks are missing. `later`: what the history says to have been done.
    """
    with H4MKReader(data) as reader:
        assert reader.meta is not None
        assert reader.trak.mask is not None
        blocks: list[Block] = []
        for track in range(len(reader.tracks)):
            for one in reader.blocks(track):
                assert one.token is not None
                blocks.append((one.token, bytes(one.payload)))
        blocks.sort(key=lambda one: (one[0].end, one[0].track))
        kept = KeptMask(reader.trak.mask, pack_slots(reader.key_slots()))
        out = io.BytesIO()
        builder = H4MKBuilder(out, reader.trak.tracks, title=reader.meta.title, masking=kept, gaps=gaps)
        for token, payload in change(blocks):
            builder.add_token(replace(token, digest=sha256(payload)), payload)
        after = [] if later is None else [HistoryEntry(later)]
        builder.finish(history=[*reader.meta.history, *after])
    return out.getvalue()
