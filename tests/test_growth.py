"""Proof that a stream only grew (H4MK 13.4, 22.4, 22.7)."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import independent
from harmony4.crypto import (
    ChecksumError,
    HarmonyError,
    JSONError,
    NotFoundError,
    SealError,
    TruncatedError,
    UsageError,
)
from harmony4.crypto.signing import SigningKey
from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo
from harmony4.h4mk.proofs.growth import Growth, checkpoints, prove_growth, verify_growth
from harmony4.h4mk.proofs.proof import Proof
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.trust import Trust
from needs import ORIGINAL

KEY = SigningKey.from_number(5)
LIVE = Signer(KEY, "live", 1)
TRUST = Trust((KEY.public,), subject="live", revision=1)


def made(count, *, every=2, signer=LIVE, start=0, kind="video"):
    tracks = [TrackInfo(kind=kind), TrackInfo()]
    with H4MKBuilder.in_memory(tracks, order="arrival", signer=signer, sign_every=every) as builder:
        for number in range(count):
            payload = b"%d" % (number + (start if number >= count // 2 else 0))
            builder.add_block(payload, number * 10, key=True)
            builder.add_block(payload, number * 10, track=1, key=True)
        builder.finish()
        return builder.getvalue()


def at(data, blocks):
    """A file that is cut behind so many blocks and their checkpoint."""
    with H4MKReader(data) as reader:
        end, seen = 0, 0
        for chunk in reader.chunks():
            seen += chunk.tag == "TOKN"
            if seen > blocks:
                return data[:end]
            end = chunk.end
    raise AssertionError


def grown(first, second):
    with H4MKReader(first) as one, H4MKReader(second) as other:
        return prove_growth(one, other)


@given(st.integers(1, 20), st.integers(1, 5), st.data())
def test_a_stream_that_grew(count, every, data):
    whole = made(count, every=every)
    facts = independent.check(whole)
    with H4MKReader(whole) as reader:
        found = list(checkpoints(reader))
    assert [one.head() for one in found] == [head for head, _ in facts["checkpoints"]]
    if 2 * count <= every:
        return
    least = data.draw(st.integers(every, 2 * count - 1))
    growth = grown(at(whole, least), whole)
    result = verify_growth(growth.pack(), TRUST)
    assert result.blocks == (least // every * every, 2 * count)
    assert result.final == (False, True) and result.accepted[0].key == KEY.public
    later = data.draw(st.integers(least, 2 * count - 1))
    result = verify_growth(grown(at(whole, least), at(whole, later)).pack(), TRUST)
    assert result.blocks == (least // every * every, later // every * every)
    assert result.final == (False, False)
    assert verify_growth(growth, dataclasses.replace(TRUST, head=reader.head)).blocks[1] == 2 * count


def test_one_change_and_it_did_not_grow():
    growth = grown(at(made(9), 8), made(9))
    document = json.loads(growth.pack())
    verify_growth(growth.pack(), TRUST)

    def flip(text):
        return format(int(text[0], 16) ^ 1, "x") + text[1:]

    changes = [{"path": document["path"][:-1]}, {"path": [*document["path"], "00" * 32]}, {"extra": 1}]
    changes += [{"first": document["second"], "second": document["first"]}, {"format": "h4mk growth 2"}]
    changes += [{"path": [flip(node), *document["path"][1:]]} for node in document["path"][:1]]
    for name in ("first", "second"):
        part = document[name]
        for key, value in part.items():
            hexed = isinstance(value, str) and key != "format"
            other = value + 1 if isinstance(value, int) else flip(value) if hexed else []
            changes.append({name: {**part, key: other}})
            changes.append({name: {one: kept for one, kept in part.items() if one != key}})
        changes.append({name: 5})
    for change in changes:
        with pytest.raises(HarmonyError):
            verify_growth(independent.canonical({**document, **change}), TRUST)
    with pytest.raises(JSONError, match="too long"):
        Growth.unpack(b" " * (2**20 + 1))
    with H4MKReader(made(9)) as reader:
        from harmony4.h4mk.proofs.prove import prove_seek

        block = json.loads(prove_seek(reader, 5).pack())
    with pytest.raises(JSONError, match="without blocks"):
        Growth.unpack(independent.canonical({**document, "first": block}))


def test_streams_that_are_not_one():
    growth = grown(at(made(9), 8), made(9))
    other = grown(at(made(9, signer=Signer(KEY, "live", 2)), 8), made(9, signer=Signer(KEY, "live", 2)))
    with pytest.raises(SealError, match="different editions"):
        verify_growth(dataclasses.replace(growth, second=other.second), TRUST)
    audio = grown(at(made(9, kind="audio"), 8), made(9, kind="audio"))
    with pytest.raises(SealError, match="one stream"):
        verify_growth(dataclasses.replace(growth, second=audio.second), TRUST)
    # Another stream from its middle on, by the same signer: no path leads there.
    changed = made(9, start=100)
    parted = grown(at(changed, 16), changed)
    assert parted.first.blocks == 16
    with pytest.raises(SealError, match="begin"):
        verify_growth(dataclasses.replace(parted, second=growth.second), TRUST)
    assert grown(at(made(9), 14), changed).first.blocks == 8  # up to where they part
    with pytest.raises(UsageError, match="no key"):
        verify_growth(growth, Trust(head=bytes(32)))
    with pytest.raises(SealError, match="pinned"):
        verify_growth(growth, dataclasses.replace(TRUST, head=bytes(32)))


def test_what_did_not_grow():
    whole = made(9)
    for first, second in (
        (made(9, every=0), whole),  # nothing to go on from
        (at(whole, 8), made(9, every=0, signer=None)),  # nothing that is signed later
        (at(whole, 1), whole),
        (made(9, start=9, every=18), whole),
    ):
        with pytest.raises(NotFoundError):
            grown(first, second)
    with pytest.raises(UsageError):
        grown(ORIGINAL, whole)
    # The other way round there is the last checkpoint that both have, and nothing more.
    assert verify_growth(grown(at(whole, 8), at(whole, 5)), TRUST).blocks == (4, 4)
    # A checkpoint that is damaged, and a file that lost its end within a chunk.
    place = whole.index(b"SIGN") + 50
    with pytest.raises(ChecksumError):
        grown(whole[:place] + b"?" + whole[place + 1 :], whole)
    assert grown(at(whole, 8) + b"TOKN\0\0\0\x80", whole).first.blocks == 8


def test_a_sealed_file_that_ends_too_early(monkeypatch):
    with H4MKReader(made(3)) as reader:

        def broken():
            raise TruncatedError("gone")
            yield

        monkeypatch.setattr(reader, "chunks", broken)
        with pytest.raises(TruncatedError):
            list(checkpoints(reader))


def test_a_head_alone_shows_no_block():
    head = grown(at(made(9), 8), made(9)).second
    assert Proof.unpack(head.pack()).pack() == head.pack()
    from harmony4.h4mk.proofs.proof import verify_range, verify_seek

    with pytest.raises(SealError, match="does not answer"):
        verify_seek(head.pack(), 5, 0, TRUST)
    with pytest.raises(SealError, match="lacks"):
        verify_range(head.pack(), 0, 5, 0, TRUST)
