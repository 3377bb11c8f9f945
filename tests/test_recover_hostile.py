"""recover against files that are made to be slow (H4MK 18.6, 20.1)."""

import io

import pytest

from harmony4.crypto import MAX_BLOCK, NONE, LimitError, TokenRecord
from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo, Trak, recover
from harmony4.h4mk.layout import HEADER_V1
from make_vectors.parts import framed


def test_forged_tokens_that_overlap_end_in_an_error_not_in_hours() -> None:
    """Each token is sound and claims 16 MiB of payload that overlaps the next one's."""
    trak = Trak((TrackInfo(),), block=MAX_BLOCK).pack()
    claims = b"CORE" + MAX_BLOCK.to_bytes(4) + bytes(4)
    forged = b"".join(
        framed(
            b"TOKN",
            TokenRecord(0, 0, MAX_BLOCK, index, 0, 0, index * MAX_BLOCK, NONE, NONE, 0, bytes(32)).pack(),
        )
        + claims
        for index in range(3000)
    )
    with pytest.raises(LimitError, match="overlap"):
        recover(HEADER_V1 + framed(b"TRAK", trak) + forged, io.BytesIO())


def test_forged_chunks_that_overlap_end_in_an_error_not_in_hours() -> None:
    """Behind each sound block stands the header of a table that reaches to the end of the file."""
    with H4MKBuilder.in_memory([TrackInfo()], block=1) as builder:
        for number in range(20_000):
            builder.add_block(b"x", number, key=True)
        builder.finish()
        data = builder.getvalue()
    start = H4MKReader(data).range_map()[0].position - 152
    forged = bytearray(data[:start])
    for number in range(20_000):
        forged += data[start + number * 153 : start + (number + 1) * 153]
        forged += b"SEEK" + (64 + (19_999 - number) * (153 + 12)).to_bytes(4) + bytes(4)
    with pytest.raises(LimitError, match="overlap"):
        recover(bytes(forged) + bytes(64), io.BytesIO())
