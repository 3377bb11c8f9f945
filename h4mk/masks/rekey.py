"""Who may open a masked container: its key slots, rewritten (H4MK 7, 21.6)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Final

from harmony4.crypto.digest import Buffer, DigestLane, crc32
from harmony4.crypto.errors import LimitError, SealError, UsageError
from harmony4.crypto.mask import MOST_KEYS, MasterKey
from harmony4.h4mk.edits.rewrite import Progress, Target
from harmony4.h4mk.edits.target import AtomicFile, Writable, write_all
from harmony4.h4mk.layout import CHUNK_SIZE, HEADER_SIZE, KEYS_SIZE, chunk_header
from harmony4.h4mk.masks.keyslots import Slot, pack_slots
from harmony4.h4mk.masks.unmasked import Unmasked
from harmony4.h4mk.reader import H4MKReader

__all__ = ["RekeyReport", "rekey_container"]

_PIECE: Final = 2**20


@dataclass(frozen=True, slots=True)
class RekeyReport:
    """Who may open the container now."""

    keys: tuple[bytes, ...]
    """Key ids, 16 bytes each, in order."""
    added: tuple[bytes, ...]
    removed: tuple[bytes, ...]


def rekey_container(
    reader: H4MKReader,
    out: Target,
    masters: Sequence[MasterKey],
    *,
    add: Iterable[MasterKey] = (),
    remove: Iterable[bytes] = (),
    progress: Progress | None = None,
) -> RekeyReport:
    """Write the container with other key slots: those of `add` more, those of the key ids in `remove` less.

    Only KEYS and VERI differ; blocks, root, head and signatures stay as they are. Copies of the file as it
    was stay readable with the keys they had. Raises KeyRefusedError where none of `masters` opens it;
    UsageError for one that is not sealed, an id without a slot, a key that has one, and where no key would be
    left; LimitError beyond 8; SealError where the file is not what it was sealed as; SourceError,
    StorageError.
    """
    if reader.meta is None:
        raise UsageError("only a sealed container can be given other keys", found=reader.state)
    key = Unmasked(reader, masters).key
    slots = dict(reader.key_slots())
    removed = sorted(set(remove))
    for name in removed:
        if slots.pop(name, None) is None:
            raise UsageError("the container has no such key", found=name.hex())
    added = sorted({master.id: master for master in add}.items())
    for name, master in added:
        if name in slots:
            raise UsageError("the container has that key already", found=name.hex())
        slots[name] = master.wrap(key)
    if not slots:
        raise UsageError("no key would be left, and nobody could open the container any more")
    if len(slots) > MOST_KEYS:
        raise LimitError("too many keys for one file", expected=f"1 to {MOST_KEYS}", found=len(slots))
    with _target(out) as target:
        _copy(reader, target, list(slots.items()), progress)
    return RekeyReport(tuple(sorted(slots)), tuple(name for name, _ in added), tuple(removed))


@contextmanager
def _target(out: Target) -> Iterator[Writable]:
    if not isinstance(out, str | PathLike):
        yield out
        return
    file = AtomicFile(out)
    try:
        yield file
        file.commit()
    finally:
        file.abort()


def _copy(reader: H4MKReader, out: Writable, slots: list[Slot], progress: Progress | None) -> None:
    at = HEADER_SIZE + CHUNK_SIZE + len(reader.trak.pack())
    end = at + CHUNK_SIZE + KEYS_SIZE
    keys = pack_slots(slots)
    new = chunk_header(b"KEYS", KEYS_SIZE, crc32(keys)) + keys
    veri = reader.veri_offset
    was, now = hashlib.sha256(), hashlib.sha256()
    with DigestLane() as lane:

        def put(data: Buffer, old: Buffer) -> None:
            lane.put(was.update, old)
            now.update(data)
            write_all(out, data)

        write_all(out, reader.read_file(0, HEADER_SIZE))
        front = reader.read_file(HEADER_SIZE, at - HEADER_SIZE)
        put(front, front)
        put(new, reader.read_file(at, end - at))
        for start in range(end, veri, _PIECE):
            data = reader.read_file(start, min(_PIECE, veri - start))
            put(data, data)
            if progress is not None:
                progress(start + len(data), reader.size)
        lane.flush()
    if was.digest() != reader.veri():
        # A new seal over damage would say that it belongs there.
        raise SealError("the container is damaged: VERI is not the digest of what stands before it")
    digest = now.digest()
    write_all(out, chunk_header(b"VERI", len(digest), crc32(digest)) + digest)
    for start in range(veri + CHUNK_SIZE + len(digest), reader.size, _PIECE):
        write_all(out, reader.read_file(start, min(_PIECE, reader.size - start)))
