"""recover against files that are made to be slow (H4MK 18.6, 20.1)."""

import io

import pytest

from harmony4.crypto import MAX_BLOCK, NONE, LimitError, TokenRecord
from harmony4.h4mk import TrackInfo, Trak, recover
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
