"""Mutations of containers, and what must hold for any bytes at all. Shared by test_fuzz.py and fuzz/.

Sans randomness: a mutation is driven by integers that somebody else chooses.
"""

import io
import struct
import zlib

import independent
import vector_use
from harmony4.crypto import HarmonyError
from harmony4.h4mk import H4MKReader
from harmony4.h4mk.chunks import ChunkStream

EXTREMES = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**26, 2**31, 2**32 - 1, 2**53, 2**63 - 1)
EXTREMES += (2**63, 2**64 - 1)


def split(data):
    """The file header and the chunks of a container, as far as they can be told apart."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at + 4)
        if size > len(data) - at - 12:
            break
        chunks.append(data[at : at + 12 + size])
        at += 12 + size
    return [data[:8], *chunks, *([data[at:]] if at < len(data) else [])]


def repaired(parts, *, seal):
    """The chunks joined again with right CRCs; `seal`: TAIL's places, VERI and the head follow as well."""
    out, places = bytearray(parts[0]), {}
    trak = meta = b""
    for part in parts[1:]:
        tag, payload = part[:4], part[12:]
        if len(part) < 12 or not tag.isalpha():
            out += part
            continue
        if seal and tag == b"VERI" and b"VERI" not in places:
            payload = independent.sha(out[8:])
        if seal and tag == b"TAIL" and len(payload) == 128:
            fields = list(independent.TAIL.unpack(payload))
            fields[0] = len(out) + 140
            for number, name in ((2, b"META"), (3, b"MERK"), (4, b"VERI")):
                fields[number] = places.get(name, fields[number])
            fields[11] = independent.sha(independent.head_of(fields[5], fields[6], fields[10], trak, meta))
            payload = independent.TAIL.pack(*fields)
        trak = payload if tag == b"TRAK" else trak
        meta = payload if tag == b"META" else meta
        places.setdefault(tag, len(out))
        out += struct.pack(">4sII", tag, len(payload), zlib.crc32(payload)) + payload
    return bytes(out)


def check(data):
    """Everything that takes bytes, on these bytes: a result or a HarmonyError, and no lie about it."""
    opened, read = vector_use.opening(data)
    codes, state = vector_use.verifying(data)
    result, recovered = vector_use.recovering(data)
    if recovered is not None:
        assert vector_use.verifying(recovered) == ({"ok"}, "sealed")
    if codes == {"ok"}:
        # What verifies can be opened and read whole, and the second implementation has nothing against it.
        assert (opened, read) == (state, "ok")
        assert vector_use.opening(data, sound=True) == (state, "ok")
        independent.check(data)
        if state == "sealed" and result != "usage":
            assert result["left_out"] == 0
    else:
        try:
            independent.check(data)
        except ValueError:
            pass
        else:
            raise AssertionError(f"{codes}, but the independent implementation finds nothing")
    try:
        with H4MKReader(data) as reader:
            list(reader.chunks())
    except HarmonyError:
        pass


def events(data, sizes):
    """What ChunkStream says when it is fed pieces of these sizes (the last one repeats), joined."""
    stream, told, at = ChunkStream(), [], 0
    piece, total = 0, len(data)
    try:
        while at < total:
            size = max(1, sizes[min(piece, len(sizes) - 1)])
            stream.feed(data[at : at + size])
            at, piece = at + size, piece + 1
            for event in stream.events():
                if isinstance(event, memoryview) and told and isinstance(told[-1], bytes):
                    told[-1] += bytes(event)
                else:
                    told.append(bytes(event) if isinstance(event, memoryview) else event)
        stream.close()
    except HarmonyError as error:
        told.append(error.code)
    return told


def piped(data):
    """Verification of the same bytes from a pipe."""
    return vector_use.verifying(io.BytesIO(data))
