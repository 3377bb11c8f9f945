"""The container: bytes to chunks and back, seek, range map, seal. No media meaning, no HTTP.

The format is specified in docs/H4MK.md; comments and tests cite its sections.
"""

from harmony4.h4mk.builder import H4MKBuilder, Seal
from harmony4.h4mk.chunks import ChunkInfo, ChunkStream, CoreChunk
from harmony4.h4mk.documents import HistoryEntry, Lost, Meta, Start, Step, StoredTrack, TrackInfo, Trak
from harmony4.h4mk.edits.recover import RecoverReport, recover
from harmony4.h4mk.masks.maskedit import MaskReport, mask_container, unmask_container
from harmony4.h4mk.masks.masking import KeptMask, Masking, Plain, Rehearsal
from harmony4.h4mk.masks.rekey import RekeyReport, rekey_container
from harmony4.h4mk.masks.unmasked import Unmasked
from harmony4.h4mk.reader import TOKEN_DTYPE, H4MKReader, TrackState
from harmony4.h4mk.seek import Playing, SeekEntry, SeekResult, SeekTable
from harmony4.h4mk.source import BytesSource, FileSource, ReadAt
from harmony4.h4mk.timerange import TimeRange
from harmony4.h4mk.verify import VerifyReport, verify

__all__ = [
    "TOKEN_DTYPE",
    "BytesSource",
    "ChunkInfo",
    "ChunkStream",
    "CoreChunk",
    "FileSource",
    "H4MKBuilder",
    "H4MKReader",
    "HistoryEntry",
    "KeptMask",
    "Lost",
    "MaskReport",
    "Masking",
    "Meta",
    "Plain",
    "Playing",
    "ReadAt",
    "RecoverReport",
    "Rehearsal",
    "RekeyReport",
    "Seal",
    "SeekEntry",
    "SeekResult",
    "SeekTable",
    "Start",
    "Step",
    "StoredTrack",
    "TimeRange",
    "TrackInfo",
    "TrackState",
    "Trak",
    "Unmasked",
    "VerifyReport",
    "mask_container",
    "recover",
    "rekey_container",
    "unmask_container",
    "verify",
]
