"""The head of a WAVE file: RIFF, or RF64 and BW64 for more than 4 GiB (Microsoft's Multimedia Programming
Interface and Data Specifications 1.0; EBU Tech 3306; ITU-R BS.2088).

Pure parsing: the bytes before the samples in, what they say out. Only what decides about samples is believed,
and only where it agrees: the byte rate and the RIFF size are often wrong and never needed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from harmony4.crypto.errors import MediaError

__all__ = ["CHUNK", "UNKNOWN", "WavFormat", "data_size", "ds64_size", "parse_format"]

CHUNK: Final = struct.Struct("<4sI")
"""Head of a chunk: its name, and how many bytes follow (and one more to make them even)."""
UNKNOWN: Final = 2**32 - 1
"""The size of a chunk whose writer did not know it yet, or says it in `ds64`."""

_FORMAT: Final = struct.Struct("<HHIIHH")
_EXTENSION: Final = struct.Struct("<HHI16s")
_DS64: Final = struct.Struct("<QQQI")
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_GUID: Final = bytes.fromhex("000000001000800000aa00389b71")
"""What follows the format tag in the sub-format of WAVE_FORMAT_EXTENSIBLE."""
_INTEGERS: Final = {1: "u8", 2: "s16le", 3: "s24le", 4: "s32le"}  # by bytes
_FLOATS: Final = {32: "f32le", 64: "f64le"}  # by bits


@dataclass(frozen=True, slots=True)
class WavFormat:
    """What `fmt ` says of the samples."""

    rate: int
    """Hz."""
    channels: int
    encoding: str | None
    """As in `samples.ENCODINGS`; None where samples are compressed."""


def parse_format(data: bytes, where: int) -> WavFormat:
    """The payload of `fmt `, which lies at offset `where`. Raises MediaError where it contradicts itself.

    Samples of 9 to 15, 17 to 23 or 25 to 31 bits stand at the upper end of 2, 3 or 4 bytes, and are read so.
    """
    if len(data) < _FORMAT.size:
        raise MediaError("fmt is too short", where=where, expected=_FORMAT.size, found=len(data))
    tag, channels, rate, _, align, bits = _FORMAT.unpack_from(data)
    if not channels or not rate:
        raise MediaError("fmt says what cannot be", where=where, found=f"{channels} channels at {rate} Hz")
    if tag == _EXTENSIBLE:
        tag = _sub_format(data, bits, where)
    if tag not in (_PCM, _FLOAT):
        return WavFormat(rate, channels, None)
    width = (bits + 7) // 8
    encoding = _INTEGERS.get(width) if tag == _PCM else _FLOATS.get(bits)
    if encoding is None:
        expected = "1 to 32 bits" if tag == _PCM else "32 or 64 bits"
        raise MediaError("fmt says what no samples are", where=where, expected=expected, found=bits)
    if align != channels * width:
        found = f"{bits} bits, {channels} channels, {align} bytes"
        raise MediaError("fmt contradicts itself", where=where, expected="bytes of all channels", found=found)
    return WavFormat(rate, channels, encoding)


def _sub_format(data: bytes, bits: int, where: int) -> int:
    """The format tag that an extensible format stands for; 0 where it is none of the usual ones."""
    if len(data) < _FORMAT.size + _EXTENSION.size:
        expected = _FORMAT.size + _EXTENSION.size
        raise MediaError("fmt is too short to be extensible", where=where, expected=expected, found=len(data))
    _, valid, _, name = _EXTENSION.unpack_from(data, _FORMAT.size)
    if valid > bits:
        raise MediaError("fmt contradicts itself", where=where, expected=f"<= {bits} bits", found=valid)
    return int.from_bytes(name[:2], "little") if name[2:] == _GUID else 0


def ds64_size(data: bytes, where: int) -> int:
    """The size of the samples in bytes as `ds64` says it. Raises MediaError."""
    if len(data) < _DS64.size:
        raise MediaError("ds64 is too short", where=where, expected=_DS64.size, found=len(data))
    size: int = _DS64.unpack_from(data)[1]
    return size


def data_size(size: int, ds64: int | None) -> int | None:
    """How many bytes of samples there are: `size` is what `data` says, `ds64` what that chunk says.

    None: the writer did not know (0, and all bits set in 32 or in 64).
    """
    if size == UNKNOWN and ds64 is not None:
        return ds64 if 0 < ds64 < 2**64 - 1 else None
    return size if 0 < size < UNKNOWN else None
