"""A second verifier of proofs, written from docs/H4MK.md (12, 13, 22) with hashlib and `cryptography` alone.

Nothing of the project is imported. `verify` raises Refused for everything that must not be believed.
"""

import hashlib
import itertools
import json
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

Q = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
NONE = 2**64 - 1
NEEDED = {"blocks", "duration", "format", "signatures", "trak"}
FIELDS = ("track", "flags", "size", "index", "pts", "end", "offset", "key_pts", "key_offset", "min_pts")


class Refused(Exception):  # noqa: N818
    pass


def need(condition):
    if not condition:
        raise Refused


def sha(data):
    return hashlib.sha256(data).digest()


def hexed(text, *sizes):
    need(
        isinstance(text, str) and set(text) <= set("0123456789abcdef") and len(text) in [2 * s for s in sizes]
    )
    return bytes.fromhex(text)


def whole(value, most=2**63 - 1):
    if isinstance(value, str):
        need(
            value.isascii()
            and value.isdigit()
            and len(value) < 20
            and value[0] != "0"
            and int(value) > 2**53 - 1
        )
        value = int(value)
    else:
        need(type(value) is int and value <= 2**53 - 1)
    need(0 <= value <= most)
    return value


def root_of(leaves, n, path):  # H4MK 22.1
    need(leaves and max(leaves) < n)
    known, m, rest = dict(leaves), n, list(path)
    while m > 1:
        above = {}
        for k in sorted(known):
            mate = k ^ 1
            if mate >= m:
                above[k // 2] = known[k]
                continue
            if mate not in known:
                need(rest)
                other = rest.pop(0)
            else:
                other = known[mate]
            pair = known[k] + other if k % 2 == 0 else other + known[k]
            above[k // 2] = sha(b"\x01" + pair)
        known, m = above, -(-m // 2)
    need(not rest)
    return known[0]


def token_of(text):  # H4MK 6.1, 6.2
    data = hexed(text, 96, 128)
    need(len(data) == 96 or any(data[96:]))
    data = data.ljust(128, b"\0")
    token = dict(zip(FIELDS, struct.unpack_from(">HHIQQQQQQQ", data), strict=True))
    token |= {"data": data, "digest": data[64:96]}
    key, header, masked = token["flags"] & 1, token["flags"] & 8, token["flags"] & 2
    need(token["flags"] < 16 and not (key and header) and (masked or not any(data[96:])))
    need(1 <= token["size"] <= 2**24 and token["index"] < 2**26 - 1 and token["pts"] <= token["end"])
    need(max(token[name] for name in ("index", "pts", "end", "offset", "min_pts")) < 2**63)
    pair = token["key_pts"], token["key_offset"]
    need((pair[0] == NONE) == (pair[1] == NONE) and all(one == NONE or one < 2**63 for one in pair))
    need(not key or pair == (token["pts"], token["offset"]))
    need(pair[0] == NONE or (pair[0] <= token["pts"] and pair[1] + (not key) <= token["offset"]))
    need(not header or (pair == (NONE, NONE) and token["pts"] == 0))
    return token


def signed(document, head, kind, keys, subject, revision):  # H4MK 13.2, 13.3
    for one in document["signatures"]:
        for pem in keys:
            public = serialization.load_pem_public_key(pem)
            spki = public.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            name = sha(spki)
            if name[:4] != hexed(one["key"], 4):
                continue
            about = hexed(one["subject"], 32) if "subject" in one else bytes(32)
            start = struct.pack(">BB6xQ", kind, 1, whole(one["revision"])) + about + name
            value = hexed(one["value"], 64)
            r, s = int.from_bytes(value[:32], "big"), int.from_bytes(value[32:], "big")
            if not (0 < r < Q and 0 < s <= Q // 2):
                continue
            try:
                public.verify(utils.encode_dss_signature(r, s), head + start, ec.ECDSA(hashes.SHA256()))
            except InvalidSignature:
                continue
            if subject is not None and (about != sha(subject.encode()) or one["revision"] < revision):
                continue
            return True
    return False


def opened(data, *, keys=(), pin=None, subject=None, revision=0):
    """The document and its tokens, once it is trusted."""
    try:
        document = json.loads(data)
    except ValueError:
        raise Refused from None
    need(isinstance(document, dict))
    again = json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    need(again.encode("utf-8", "surrogatepass") == bytes(data))
    need(document.get("format") == "h4mk proof 1" and document.keys() >= NEEDED)
    extra = document.keys() - NEEDED
    shapes = {"leaves", "tokens", "path"}, {"leaves", "tokens", "path", "meta"}, {"directory", "root"}
    need(extra in (*shapes, {"root"}, {"root", "meta"}))
    need(isinstance(document["signatures"], list) and len(document["signatures"]) <= 16)
    for one in document["signatures"]:
        need(isinstance(one, dict) and one.keys() - {"subject"} == {"key", "revision", "value"})
        (
            hexed(one["key"], 4),
            hexed(one["value"], 64),
            hexed(one.get("subject", "00" * 32), 32),
            whole(one["revision"]),
        )
    n, tokens = whole(document["blocks"], 2**26 - 1), []
    if "directory" in document:
        need(isinstance(document["directory"], str))
        meta, root = sha(document["directory"].encode()), hexed(document["root"], 32)
    elif "root" in document:
        meta, root = hexed(document.get("meta", "00" * 32), 32), hexed(document["root"], 32)
    else:
        leaves, texts, path = document["leaves"], document["tokens"], document["path"]
        need(all(isinstance(one, list) for one in (leaves, texts, path)) and len(leaves) == len(texts) > 0)
        need(all(whole(one) < n for one in leaves))
        need(all(one < after for one, after in itertools.pairwise(leaves)))
        tokens = [token_of(one) for one in texts]
        hashed = {leaf: sha(b"\0" + token["data"]) for leaf, token in zip(leaves, tokens, strict=True)}
        root = root_of(hashed, n, [hexed(one, 32) for one in path])
        meta = hexed(document["meta"], 32) if "meta" in document else bytes(32)
    head = b"H4MK head v1".ljust(16, b"\0") + struct.pack(">QQ", n, whole(document["duration"])) + root
    head += hexed(document["trak"], 32) + meta
    need(pin is None or sha(head) == pin)
    need(keys or pin is not None)
    if keys:
        need(signed(document, head, 1 if any(meta) else 2, keys, subject, revision))
    return document, tokens


def in_order(tokens, track):  # H4MK 22.2
    ours = [token for token in tokens if token["track"] == track]
    for one, after in itertools.pairwise(ours):
        d = after["index"] - one["index"] - 1
        gap = after["offset"] - one["offset"] - one["size"]
        need(d >= 0 and (gap == 0 if d == 0 else gap >= d))
        need(after["pts"] == one["end"] if d == 0 else after["pts"] >= one["end"])
    return ours


def empty(document, track):
    try:
        meta = json.loads(document["directory"])
        need(track < len(meta["tracks"]) and meta["tracks"][track]["blocks"] == 0)
    except (ValueError, KeyError, TypeError):
        raise Refused from None
    need(all(one["track"] != track for one in meta.get("lost", ())))


def verify(data, t, track, **trust):
    """(place, keyframe or None) of a time."""
    document, tokens = opened(data, **trust)
    if "directory" in document:
        empty(document, track)
        return "empty", None
    answers = []
    for token in in_order(tokens, track):
        key = None if token["key_pts"] == NONE else (token["key_pts"], token["key_offset"])
        if token["index"] == 0 and t < token["pts"]:
            answers.append(("before", None))
        if token["pts"] <= t < token["end"]:
            answers.append(("inside", key))
        if token["flags"] & 4 and t >= token["end"]:
            answers.append(("after", key))
    need(len(answers) == 1)
    return answers[0]


def verify_range(data, a, b, track, **trust):
    """[(offset, size, digest)] of the blocks of a byte range."""
    document, tokens = opened(data, **trust)
    if "directory" in document:
        empty(document, track)
        return []
    ours = in_order(tokens, track)
    if ours and ours[-1]["flags"] & 4 and ours[-1]["offset"] + ours[-1]["size"] <= a:
        return []
    need(ours)
    touched = [one for one in ours if one["offset"] < b and one["offset"] + one["size"] > a]
    need(touched and touched[0]["offset"] <= a)
    for one, after in itertools.pairwise(touched):
        need(one["offset"] + one["size"] == after["offset"])
    need(touched[-1]["offset"] + touched[-1]["size"] >= b or touched[-1]["flags"] & 4)
    return [(one["offset"], one["size"], one["digest"]) for one in touched]
