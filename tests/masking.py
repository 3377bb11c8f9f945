"""Masked containers, keys and keyrings for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harmony4.crypto.mask import MaskSpec, MasterKey
from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo, mask_container
from harmony4.server.masking.keys import format_key, write_key_file

ONE = MasterKey(bytes(range(32)))
TWO = MasterKey(bytes(range(32, 64)))
STRANGE = MasterKey(bytes(range(64, 96)))


def keyring(folder: Path, **keys: MasterKey) -> Path:
    """A folder with these keys."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, key in keys.items():
        write_key_file(folder / f"{name}.key", format_key(key))
    return folder


def plain_container(path: Path, payloads: Sequence[bytes], info: TrackInfo, *, header: bytes = b"") -> None:
    """One track: `header`, then a block each second, every second one a keyframe."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with H4MKBuilder.to_path(path, [info], block=16 * 2**20) as builder:
        if header:
            builder.add_block(header, 0, header=True)
        for number, payload in enumerate(payloads):
            builder.add_block(payload, number * 1_000_000, key=number % 2 == 0)
        builder.finish(ends={0: len(payloads) * 1_000_000})


def masked_container(path: Path, plain: Path, spec: MaskSpec) -> None:
    """`plain`, masked."""
    with H4MKReader(plain) as reader:
        mask_container(reader, path, spec)
