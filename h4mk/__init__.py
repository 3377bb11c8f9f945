"""The container: bytes to chunks and back, seek, range map, seal. No media meaning, no HTTP.

The format is specified in docs/H4MK.md; comments and tests cite its sections.
"""

from harmony4.h4mk.builder import H4MKBuilder, Seal
from harmony4.h4mk.chunks import ChunkInfo, ChunkStream, CoreChunk
from harmony4.h4mk.documents import HistoryEntry, Lost, Meta, Start, Step, StoredTrack, TrackInfo, Trak
from harmony4.h4mk.reader import TOKEN_DTYPE, H4MKReader, TrackState
from harmony4.h4mk.recover import RecoverReport, recover
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
    "Lost",
    "Meta",
    "Playing",
    "ReadAt",
    "RecoverReport",
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
    "VerifyReport",
    "recover",
    "verify",
]
