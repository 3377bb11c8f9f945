"""Masked containers for tests, made without the project's masking: `independent.build` and single AES blocks.

data = masked(trak, blocks, [master], ends={0: 5})
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import independent

EXPORT = {"args": {}, "inputs": [], "op": "export"}
Blocks = Sequence[Mapping[str, Any]]


def aes(key: bytes, block: bytes) -> bytes:
    """AES-256 of single blocks."""
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def expand(key: bytes, info: bytes, length: int = 32) -> bytes:
    """RFC 5869 2.3, one round."""
    return mac(key, info + b"\1")[:length]


def xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a) ^ int.from_bytes(b)).to_bytes(len(a))


def mask(key: bytes, data: bytes) -> bytes:
    """H4MK 21.4"""
    count = -(-len(data) // 16)
    counters = b"".join(number.to_bytes(16) for number in range(count))
    return xor(data, aes(key, counters)[: len(data)])


def wrap(key: bytes, data: bytes) -> bytes:
    """RFC 3394 2.2.1"""
    a, rows = b"\xa6" * 8, [data[at : at + 8] for at in range(0, len(data), 8)]
    for step in range(6 * len(rows)):
        row = step % len(rows)
        block = aes(key, a + rows[row])
        a, rows[row] = xor(block[:8], (step + 1).to_bytes(8)), block[8:]
    return a + b"".join(rows)


def key_id(master: bytes) -> bytes:
    return expand(master, b"h4mk/1 id", 16)


def masked(
    trak: Mapping[str, Any],
    blocks: Blocks,
    masters: Sequence[bytes],
    *,
    file_key: bytes = bytes(32),
    **rest: Any,
) -> bytes:
    """A sealed container of plain `blocks` (as `independent.build` takes them), masked where TRAK says so."""
    commit = expand(file_key, b"h4mk/1 commit")
    trak = {**trak, "mask": {"commit": commit.hex(), "mode": "random"}}
    slots = sorted(
        key_id(master) + wrap(expand(master, b"h4mk/1 kek"), file_key) + bytes(8) for master in masters
    )
    keys = (bytes([len(slots)]) + bytes(7) + b"".join(slots)).ljust(520, b"\0")
    stored, counts = [], dict.fromkeys(range(len(trak["tracks"])), 0)
    for block in blocks:
        track = block.get("track", 0)
        key = expand(file_key, b"h4mk/1 enc" + struct.pack(">HQ", track, counts[track]))
        hidden = trak["tracks"][track]["masked"]
        stored.append({**block, "payload": mask(key, block["payload"]) if hidden else block["payload"]})
        counts[track] += 1
    digest = hashlib.sha256(independent.canonical(trak)).digest()
    tokens = independent.tokens_of(trak, stored, rest.get("ends"))
    for block, token in zip(stored, tokens, strict=True):
        if token["flags"] & independent.MASKED:
            message = b"h4mk/1 tag\0" + digest + independent.pack_token(token)[:96]
            block["tag"] = mac(expand(file_key, b"h4mk/1 mac"), message)
    if "history" not in rest:
        tokens = independent.tokens_of(trak, stored, rest.get("ends"))
        if trak["cut"]["order"] == "end":
            tokens.sort(key=lambda token: (token["end"], token["track"], token["index"]))
        root = independent.root_of([independent.sha(b"\0" + independent.pack_token(one)) for one in tokens])
        message = b"h4mk/1 whole\0" + digest + struct.pack(">Q", len(tokens)) + root  # H4MK 21.6
        whole = mac(expand(file_key, b"h4mk/1 mac"), message).hex()
        rest["history"] = [EXPORT, {"args": {"whole": whole}, "inputs": [], "op": "mask"}]
    return independent.build(trak, stored, keys=keys, **rest)
