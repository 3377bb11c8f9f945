"""Proofs of seeks and byte ranges, against every change that was thought of (H4MK 22)."""

import dataclasses
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import independent
import independent_proof
import test_signature
import test_spec
from harmony4.crypto import (
    HEADER,
    KEY,
    LAST,
    CriticalError,
    FormatError,
    HarmonyError,
    JSONError,
    LimitError,
    NotFoundError,
    OrderError,
    SealError,
    TokenRecord,
    UsageError,
    sha256,
)
from harmony4.crypto.merkle import inclusion_root, leaf_hash
from harmony4.crypto.signing import ORDER, SigningKey
from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo, opening, recover
from harmony4.h4mk.layout import head_bytes
from harmony4.h4mk.proofs.growth import prove_growth, verify_growth
from harmony4.h4mk.proofs.proof import CheckedProof, Proof, check_proof, verify_range, verify_seek
from harmony4.h4mk.proofs.prove import MOST_BLOCKS, Prover, prove_range, prove_seek
from harmony4.h4mk.proofs.signature import CHECKPOINT, FINAL, Signature, Signer
from harmony4.h4mk.proofs.trust import Trust
from needs import ORIGINAL
from samples import Counting, track_of

KEY_A, KEY_B = SigningKey.from_number(5), SigningKey.from_number(6)
SIGNER = Signer(KEY_A, "talk", 3)
TRUST = Trust((KEY_A.public,), subject="talk", revision=3)
LOOSE = Trust((KEY_A.public,))


@st.composite
def contents(draw):
    """Tracks of blocks: (track, payload, pts, flags), the ends, and how often to sign."""
    tracks, calls, ends = draw(st.integers(1, 3)), [], {}
    for track in range(tracks):
        pts, key, any_key = 0, -1, False
        for _ in range(draw(st.integers(0, 9))):
            flags = draw(st.sampled_from([0, KEY, KEY, HEADER]))
            if flags == HEADER and (any_key or pts):
                flags = 0
            if flags != HEADER:
                pts += draw(st.sampled_from([0, 0, 1, 7, 40]))
            if flags == KEY:
                pts = max(pts, key + 1)
                key, any_key = pts, True
            calls.append((track, draw(st.binary(min_size=1, max_size=5)), pts, flags))
        ends[track] = pts + draw(st.sampled_from([0, 1, 50]))
    return tracks, calls, ends, draw(st.sampled_from([0, 1, 3]))


def build(content, signer=SIGNER):
    tracks, calls, ends, every = content
    infos = [TrackInfo(kind="video")] * tracks
    every = every if signer is not None else 0
    with H4MKBuilder.in_memory(infos, order="arrival", signer=signer, sign_every=every) as builder:
        for track, payload, pts, flags in calls:
            builder.add_block(payload, pts, track=track, key=bool(flags & KEY), header=bool(flags & HEADER))
        builder.finish(ends=ends)
        return builder.getvalue()


TWO = (
    2,
    [
        (0, b"head", 0, HEADER),
        (0, b"first", 100, KEY),
        (1, b"sound", 0, KEY),
        (0, b"second", 130, 0),
        (0, b"third", 200, KEY),
        (1, b"more", 90, KEY),
        (0, b"fourth", 260, 0),
    ],
    {0: 300, 1: 150},
    2,
)
KEYS = [KEY_A.public.pem()]


def both(data, pts, track, trust=TRUST, keys=KEYS):
    """What our verifier and the second one say: (place, keyframe), or None where they refuse."""
    try:
        answer = verify_seek(data, pts, track, trust)
        ours = answer.place, answer.keyframe
    except HarmonyError:
        ours = None
    try:
        theirs = independent_proof.verify(
            data, pts, track, keys=keys, pin=trust.head, subject=trust.subject, revision=trust.revision
        )
    except independent_proof.Refused:
        theirs = None
    assert ours == theirs
    return ours


@settings(max_examples=50)
@given(contents(), st.data())
def test_every_time_has_its_proof(content, data):  # H4MK 22.2
    with H4MKReader(build(content)) as reader:
        prover = Prover(reader)
        for track in range(content[0]):
            end = content[2][track]
            for pts in data.draw(st.sets(st.integers(0, end + 5), min_size=1, max_size=6)) | {
                0,
                end,
                2**63 - 1,
            }:
                place, keyframe = both(prover.seek(pts, track).pack(), pts, track)
                found = reader.seek(pts, track)
                assert keyframe == (None if found is None else (found.pts, found.offset))
                if not reader.tracks[track].blocks:
                    assert place == "empty"
                elif pts < next(reader.tokens(track)).pts:
                    assert place == "before"
                else:
                    assert place == ("after" if pts >= reader.end(track) else "inside")


@settings(max_examples=50)
@given(contents(), st.data())
def test_several_times_share_one_proof(content, data):
    with H4MKReader(build(content)) as reader:
        track = data.draw(st.integers(0, content[0] - 1))
        times = data.draw(st.lists(st.integers(0, content[2][track] + 5), min_size=1, max_size=6))
        packed = prove_seek(reader, times, track).pack()
        assert packed == prove_seek(reader, reversed(times), track).pack()
        for pts in times:
            assert both(packed, pts, track) == both(prove_seek(reader, pts, track).pack(), pts, track)
        single = [prove_seek(reader, pts, track).raw_size() for pts in times]
        assert Proof.unpack(packed).raw_size() <= sum(single)


@settings(max_examples=50)
@given(contents(), st.data())
def test_every_byte_range_has_its_proof(content, data):  # H4MK 22.3
    with H4MKReader(build(content)) as reader:
        track = data.draw(st.integers(0, content[0] - 1))
        size = reader.stream_size(track)
        start = data.draw(st.integers(0, size + 3))
        stop = data.draw(st.integers(start + 1, size + 5))
        packed = prove_range(reader, start, stop, track).pack()
        blocks = verify_range(packed, start, stop, track, TRUST)
        theirs = independent_proof.verify_range(packed, start, stop, track, keys=KEYS)
        assert [(one.offset, one.size, one.digest) for one in blocks] == theirs
        stored = b""
        for one in blocks:
            payload = reader.read(one.offset, one.size, track)
            assert sha256(payload) == one.digest
            stored += payload
        first = blocks[0].offset if blocks else 0
        assert stored[max(0, start - first) :][: stop - start] == reader.read(start, stop - start, track)
        # A wider range than what is proven needs its blocks, too.
        if blocks and blocks[-1].offset + blocks[-1].size < size:
            with pytest.raises(SealError):
                verify_range(packed, start, size + 1, track, TRUST)


# ---- one single change -----------------------------------------------------------------------------------


def _flip(text, at):
    return text[:at] + format(int(text[at], 16) ^ 1, "x") + text[at + 1 :]


def _changes(document):
    """The document with one thing changed, for every thing there is."""

    def changed(**members):
        return {**document, **members}

    for name in document:
        yield {key: value for key, value in document.items() if key != name}
    yield changed(blocks=document["blocks"] + 1)
    yield changed(blocks=document["blocks"] - 1)
    yield changed(duration=document["duration"] + 1)
    yield changed(trak=_flip(document["trak"], 0))
    yield changed(format="h4mk proof 2")
    yield changed(extra=1)
    for name in ("meta", "root"):
        yield changed(**{name: "00" * 32})
    for at, one in enumerate(document["signatures"]):
        rest = document["signatures"][:at], document["signatures"][at + 1 :]
        for name in ("key", "value", "subject"):
            for place in (0, len(one.get(name, "")) - 1):
                if name in one:
                    yield changed(signatures=[*rest[0], {**one, name: _flip(one[name], place)}, *rest[1]])
        if "subject" not in one:
            yield changed(signatures=[*rest[0], {**one, "subject": "00" * 32}, *rest[1]])
        yield changed(signatures=[*rest[0], {**one, "revision": one["revision"] + 1}, *rest[1]])
        yield changed(signatures=[*rest[0], {**one, "revision": one["revision"] - 1}, *rest[1]])
        high = ORDER - int(one["value"][64:], 16)
        yield changed(signatures=[*rest[0], {**one, "value": f"{one['value'][:64]}{high:064x}"}, *rest[1]])
        yield changed(signatures=[*rest[0], *rest[1]])
    for at, leaf in enumerate(document.get("leaves", ())):
        for other in (leaf + 1, leaf - 1):
            yield changed(leaves=[*document["leaves"][:at], other, *document["leaves"][at + 1 :]])
        yield changed(leaves=[*document["leaves"], leaf])
    for at, token in enumerate(document.get("tokens", ())):
        for place in range(1, len(token), 16):
            spoilt = _flip(token, place)
            yield changed(tokens=[*document["tokens"][:at], spoilt, *document["tokens"][at + 1 :]])
        yield changed(tokens=[*document["tokens"][:at], *document["tokens"][at + 1 :]])
    for at, node in enumerate(document.get("path", ())):
        yield changed(path=[*document["path"][:at], _flip(node, 5), *document["path"][at + 1 :]])
        yield changed(path=[*document["path"][:at], *document["path"][at + 1 :]])
        other = [*document["path"]]
        other[at], other[at - 1] = other[at - 1], other[at]
        if other != document["path"]:
            yield changed(path=other)
    if len(document.get("leaves", ())) > 1:
        yield changed(leaves=document["leaves"][::-1], tokens=document["tokens"][::-1])
    if "path" in document:
        yield changed(path=[*document["path"], "00" * 32])


@settings(max_examples=25)  # each of them is hundreds of documents
@given(contents(), st.data())
def test_one_change_and_nothing_is_proven(content, data):
    with H4MKReader(build(content)) as reader:
        track = data.draw(st.integers(0, content[0] - 1))
        pts = data.draw(st.integers(0, content[2][track] + 5))
        proof = prove_seek(reader, pts, track).pack()
        found = both(proof, pts, track)
    for document in _changes(json.loads(proof)):
        spoilt = independent.canonical(document)
        with pytest.raises(HarmonyError):
            verify_seek(spoilt, pts, track, TRUST)
        with pytest.raises(independent_proof.Refused):
            independent_proof.verify(spoilt, pts, track, keys=KEYS, subject="talk", revision=3)
    assert both(proof, pts, track) == found


@pytest.mark.parametrize("kind", [FINAL, CHECKPOINT])
@pytest.mark.parametrize("subject", ["talk", None])
def test_one_change_in_checkpoints_and_without_a_subject(kind, subject):
    """Documents with several blocks; each has one form only."""
    signer = Signer(KEY_A, subject, 3 if subject else 0)
    trust = Trust((KEY_A.public,), subject=subject, revision=3 if subject else 0)
    tokens = [_token(0, 0, 40), _token(1, 40, 80), _token(2, 80, 120)]
    proof = _whole(tokens, kind=kind, signer=signer).pack()
    more = {"subject": subject, "revision": 3} if subject else {}
    assert verify_seek(proof, 50, 0, trust).keyframe == (40, 10)
    assert independent_proof.verify(proof, 50, 0, keys=KEYS, **more) == ("inside", (40, 10))
    count = 0
    for document in _changes(json.loads(proof)):
        spoilt = independent.canonical(document)
        with pytest.raises(HarmonyError):
            verify_seek(spoilt, 50, 0, trust)
        with pytest.raises(independent_proof.Refused):
            independent_proof.verify(spoilt, 50, 0, keys=KEYS, **more)
        count += 1
    assert count > 50


@settings(max_examples=30)
@given(contents(), st.integers(0, 400), st.integers(0, 400))
def test_another_time_or_track_or_file_is_not_proven(content, pts, other):
    with H4MKReader(build(content)) as reader:
        proof = prove_seek(reader, pts, 0).pack()
        answer, wanted = both(proof, pts, 0), both(prove_seek(reader, other, 0).pack(), other, 0)
        assert both(proof, other, 0) in (None, wanted)
        assert both(proof, pts, content[0]) is None
        assert content[0] < 2 or both(proof, pts, 1) in (
            None,
            both(prove_seek(reader, pts, 1).pack(), pts, 1),
        )
        assert both(proof, pts, 0, Trust(head=reader.head), ()) == answer
    for signer, trust in (
        (Signer(KEY_A, "talk", 2), TRUST),  # an older edition
        (Signer(KEY_A, "other", 3), TRUST),
        (Signer(KEY_B, "talk", 3), TRUST),
        (None, TRUST),  # stripped
        (SIGNER, Trust((KEY_A.public,), head=reader.head)),  # another container by the same signer
        (SIGNER, Trust(head=reader.head)),
    ):
        tracks, calls, ends, every = content
        changed = (tracks, [*calls], {**ends, 0: ends[0] + 1}, every)
        with H4MKReader(build(changed, signer)) as reader:
            proof = prove_seek(reader, pts, 0).pack()
        keys = () if not trust.keys else KEYS
        same_head = reader.head == trust.head  # an empty track has no end to change
        assert same_head or both(proof, pts, 0, trust, keys) is None


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_anything_at_all_is_refused(data):
    with pytest.raises(HarmonyError):
        verify_seek(data, 0, 0, TRUST)


# ---- splices ---------------------------------------------------------------------------------------------


def _signed(blocks, duration, root, signer=SIGNER, kind=FINAL):
    trak, meta = b"t", b"m" if kind == FINAL else None
    head = head_bytes(blocks, duration, root, trak, meta)
    signature = Signature.unpack(signer(kind, head), kind)
    return {
        "blocks": blocks,
        "duration": duration,
        "trak": sha256(trak),
        "meta": sha256(b"m") if meta else bytes(32),
        "signatures": (signature,),
    }


def _tree(tokens):
    return {leaf: leaf_hash(token.pack()) for leaf, token in enumerate(tokens)}


def _whole(tokens, **kind):
    """A proof of all blocks of a container by a signer who need not be honest."""
    root = inclusion_root(_tree(tokens), len(tokens), [])
    facts = _signed(len(tokens), max(token.end for token in tokens), root, **kind)
    return Proof(**facts, leaves=tuple(range(len(tokens))), tokens=tuple(tokens))


def _token(index, pts, end, *, flags=KEY, track=0, offset=None, size=10, key=None):
    offset = 10 * index if offset is None else offset
    key = key or (pts, offset)
    return TokenRecord(track, flags, size, index, pts, end, offset, *key, pts, bytes(32))


def test_a_signer_who_contradicts_himself_within_one_document():  # H4MK 22.2
    honest = [_token(0, 0, 40), _token(1, 40, 80), _token(2, 80, 90, flags=KEY | LAST)]
    assert both(_whole(honest).pack(), 50, 0) == ("inside", (40, 10))
    for tokens in (
        [_token(0, 0, 60), _token(1, 40, 80)],  # two blocks at one time
        [_token(0, 0, 40), _token(1, 50, 80)],  # a time that is nobody's
        [_token(0, 0, 40), _token(0, 40, 80, offset=10)],  # an index twice
        [_token(1, 0, 40), _token(0, 40, 80, offset=20)],
        [_token(0, 0, 40), _token(1, 40, 80, offset=11)],  # a byte between
        [_token(0, 0, 40), _token(1, 40, 80, offset=9)],
        [_token(0, 0, 40), _token(2, 40, 80, offset=10)],  # a block that has no byte
        [_token(0, 30, 40), _token(3, 20, 35, offset=50)],
    ):
        assert both(_whole(tokens).pack(), 45, 0) is None
        with pytest.raises(SealError, match="follow"):
            verify_seek(_whole(tokens), 45, 0, TRUST)
    # Other tracks between them are nobody's neighbours.
    mixed = [_token(0, 0, 40), _token(7, 3, 5, track=1), _token(1, 40, 80)]
    assert both(_whole(mixed).pack(), 45, 0) == ("inside", (40, 10))
    twice = _whole(
        [_token(0, 0, 40, flags=KEY | LAST), _token(1, 40, 80)]
    )  # a track that goes on after its end
    assert both(twice.pack(), 45, 0) is None
    with pytest.raises(SealError, match="contradicts"):
        verify_seek(twice, 45, 0, TRUST)


def test_a_hole_is_not_proven():
    tokens = [_token(0, 0, 40), _token(5, 100, 140, offset=90)]
    proof = _whole(tokens)
    assert both(proof.pack(), 50, 0) is None
    assert both(proof.pack(), 100, 0) == ("inside", (100, 90))
    with pytest.raises(SealError, match="lacks"):
        verify_range(proof, 0, 100, 0, TRUST)
    with pytest.raises(SealError, match="lacks"):
        verify_range(proof, 20, 95, 0, TRUST)


def test_a_checkpoint_is_not_a_whole_container():  # H4MK 13.4
    tokens = [_token(0, 0, 40), _token(1, 40, 80)]
    proof = _whole(tokens, kind=CHECKPOINT)
    checked = check_proof(proof.pack(), TRUST)
    assert not checked.final and checked.accepted.kind == CHECKPOINT
    assert both(proof.pack(), 50, 0) == ("inside", (40, 10))
    assert both(proof.pack(), 80, 0) is None  # it may go on
    for form in (bytes, bytearray, memoryview):
        answer = verify_seek(form(proof.pack()), 50, 0, TRUST)
        assert answer.keyframe == (40, 10) and not answer.final
    assert verify_seek(_whole(tokens), 50, 0, TRUST).final
    # Neither can be shown as the other one.
    for wrong in (
        dataclasses.replace(_whole(tokens), meta=bytes(32)),
        dataclasses.replace(proof, meta=sha256(b"m")),
    ):
        assert both(wrong.pack(), 50, 0) is None


def test_a_stream_that_has_no_end_yet(tmp_path):  # H4MK 13.4, 22.2
    """Its last checkpoint proves what it covers; the rest, and that there is no more, is not proven yet."""
    path = tmp_path / "a.h4mk"
    with H4MKBuilder.in_memory([TrackInfo(kind="video")] * 2, signer=SIGNER, sign_every=4) as builder:
        for number in range(11):
            builder.add_block(b"%d" % number, number * 40, key=number % 3 == 0)
        builder.finish(ends={0: 440})
        data = builder.getvalue()
    with H4MKReader(data) as reader:
        whole = {pts: both(prove_seek(reader, pts, 0).pack(), pts, 0) for pts in range(0, 320, 40)}
        end = [one.end for one in reader.chunks() if one.tag == "CORE"][9]
    path.write_bytes(data[:end])
    with H4MKReader(path) as reader:
        assert reader.state == "incomplete" and reader.block_count == 10
        prover = Prover(reader)
        for pts, answer in whole.items():
            proof = prover.seek(pts).pack()
            assert both(proof, pts, 0) == answer
            assert not verify_seek(proof, pts, 0, TRUST).final
        assert len(verify_range(prover.range(0, 8).pack(), 0, 8, 0, TRUST)) == 8
        for ask in (lambda: prover.seek(350), lambda: prover.range(7, 9)):
            with pytest.raises(NotFoundError, match="no checkpoint covers"):
                ask()
        with pytest.raises(NotFoundError, match="no block yet"):
            prover.seek(0, 1)
    first = next(one.offset for one in chunks_of(data) if one.tag == "SIGN")
    with H4MKReader(data[:first]) as reader, pytest.raises(NotFoundError, match="with checkpoints"):
        Prover(reader)


def chunks_of(data):
    with H4MKReader(data) as reader:
        return list(reader.chunks())


def test_half_of_another_tree():
    """A node in the place of a leaf, and a leaf in that of a node: prefixes keep them apart."""
    tokens = [_token(0, 0, 40), _token(1, 40, 80), _token(2, 80, 120), _token(3, 120, 160, flags=KEY | LAST)]
    whole = _whole(tokens)
    hashes = _tree(tokens)
    part = dataclasses.replace(whole, leaves=(1,), tokens=(tokens[1],), path=(hashes[0], hashes[2]))
    assert both(part.pack(), 50, 0) is None
    pair = inclusion_root({0: hashes[2], 1: hashes[3]}, 2, [])
    good = dataclasses.replace(part, path=(hashes[0], pair))
    assert both(good.pack(), 50, 0) == ("inside", (40, 10))
    for change in ({"blocks": 3}, {"blocks": 5}, {"leaves": (0,)}, {"path": (hashes[0],)}, {"blocks": 1}):
        assert both(dataclasses.replace(good, **change).pack(), 50, 0) is None
    with pytest.raises(SealError, match="increase"):
        dataclasses.replace(good, leaves=(1, 1), tokens=(tokens[1],) * 2).head()


def test_an_empty_track():
    content = (2, [(0, b"x", 0, KEY)], {0: 10, 1: 0}, 0)
    with H4MKReader(build(content)) as reader:
        packed = prove_seek(reader, 5, 1).pack()
        assert packed == prove_range(reader, 5, 9, 1).pack()
    assert both(packed, 5, 1) == ("empty", None)
    assert verify_range(packed, 0, 9, 1, TRUST) == ()
    assert both(packed, 5, 0) is None and both(packed, 5, 2) is None
    document = json.loads(packed)
    for change in (
        {"directory": document["directory"].replace('"blocks":1,', '"blocks":0,')},
        {"directory": "{}"},
    ):
        assert both(independent.canonical(document | change), 5, 0) is None
    with H4MKReader(build((1, [], {0: 0}, 0))) as reader:
        assert both(prove_seek(reader, 0).pack(), 0, 0) == ("empty", None)


def test_a_track_that_is_lost_is_not_empty(tmp_path):
    data = build((2, [(0, b"x", 0, KEY), (1, b"yy", 0, KEY)], {0: 10, 1: 10}, 0), None)
    spoilt = data.replace(b"CORE\0\0\0\2", b"CORE\0\0\1\2", 1)
    recover(spoilt, tmp_path / "r")
    with H4MKReader(tmp_path / "r") as reader:
        assert [one.track for one in reader.lost] == [1]
        with pytest.raises(NotFoundError, match="lost"):
            prove_seek(reader, 0, 1)
        proof = prove_seek(reader, 0, 0)
        directory = reader.meta.pack()
    empty = dataclasses.replace(proof, directory=directory, leaves=(), tokens=(), path=(), root=reader.root)
    trust = Trust(head=reader.head)
    with pytest.raises(SealError, match="empty"):
        verify_seek(empty.pack(), 0, 1, trust)
    assert both(empty.pack(), 0, 1, trust, ()) is None


def test_holes_of_a_recovered_container_have_no_proof(tmp_path):
    data = track_of(9)
    at = data.index(b"CORE", data.index(b"CORE", data.index(b"CORE") + 1) + 1)
    recover(data[: at + 12] + b"?" + data[at + 13 :], tmp_path / "r")
    first = data.index(b"CORE")
    recover(data[: first + 12] + b"?" + data[first + 13 :], tmp_path / "s")
    with H4MKReader(tmp_path / "r") as reader:
        prover = Prover(reader)
        trust = Trust(head=reader.head)
        for pts in (0, 79_999, 120_000, 10**9):
            assert both(prover.seek(pts).pack(), pts, 0, trust, ()) is not None
        for pts in (80_000, 119_999):
            with pytest.raises(NotFoundError, match="hole"):
                prover.seek(pts)
        with pytest.raises(NotFoundError, match="lost"):
            prover.range(0, 30)
        assert len(verify_range(prover.range(0, 16).pack(), 0, 16, 0, trust)) == 2
        assert len(verify_range(prover.range(24, 40).pack(), 24, 40, 0, trust)) == 2
    with H4MKReader(tmp_path / "s") as reader:  # that nothing is before block 1, nobody can say
        with pytest.raises(NotFoundError, match="hole"):
            Prover(reader).seek(0)
        assert Prover(reader).seek(40_000)


def test_what_is_not_asked_right(tmp_path):
    data = build(TWO)
    with H4MKReader(data) as reader:
        prover = Prover(reader)
        for call in (
            lambda: prover.seek(-1),
            lambda: prover.seek([]),
            lambda: prover.range(-1, 2),
            lambda: prover.range(2, 2),
            lambda: verify_seek(prover.seek(0), -1, 0, TRUST),
            lambda: verify_seek(prover.seek(0), 2**63, 0, TRUST),
            lambda: verify_range(prover.seek(0), 3, 3, 0, TRUST),
        ):
            with pytest.raises(UsageError):
                call()
        with pytest.raises(NotFoundError):
            prover.seek(0, 2)
    for other in (ORIGINAL, build(TWO, None)[:-1]):
        with H4MKReader(other) as reader, pytest.raises(NotFoundError, match="sealed"):
            Prover(reader)
    with H4MKReader(track_of(MOST_BLOCKS + 1, size=1)) as reader:
        with pytest.raises(LimitError, match="too many"):
            prove_range(reader, 0, MOST_BLOCKS + 1)
        assert len(prove_range(reader, 0, MOST_BLOCKS).tokens) == MOST_BLOCKS
        assert len(prove_range(reader, 0, MOST_BLOCKS).pack()) < 2**20


def test_damaged_trees_give_no_proofs():
    data = track_of(9)
    with H4MKReader(data) as reader:
        merk = reader.tail.merk
    for change, error in (
        (data[: merk + 12] + (8).to_bytes(8) + data[merk + 20 :], OrderError),
        (data[:merk] + b"META" + data[merk + 4 :], OrderError),
        (data[: merk + 20 + 32] + bytes(32) + data[merk + 20 + 64 :], SealError),
    ):
        with H4MKReader(change) as reader, pytest.raises(error):
            Prover(reader).seek(0)


# ---- documents -------------------------------------------------------------------------------------------


def test_a_document_is_strict():
    with H4MKReader(build(TWO)) as reader:
        proof = prove_seek(reader, [0, 120], 0)
    packed = proof.pack()
    document = json.loads(packed)
    assert Proof.of(document) == Proof.unpack(packed)
    assert Proof.of(document).pack() == packed
    token = document["tokens"][0]
    for change, error in (
        ({"tokens": [token + "00" * 32, *document["tokens"][1:]]}, JSONError),
        ({"tokens": [token[:-2], *document["tokens"][1:]]}, JSONError),
        ({"tokens": [token.upper(), *document["tokens"][1:]]}, JSONError),
        ({"tokens": [5]}, JSONError),
        ({"tokens": []}, JSONError),
        ({"leaves": [0]}, JSONError),
        ({"leaves": [2**26]}, JSONError),
        ({"signatures": document["signatures"] * 17}, JSONError),
        ({"directory": "{}"}, JSONError),
        ({"root": "00" * 32}, JSONError),
        ({"blocks": 2**26}, JSONError),
        ({"format": 1}, CriticalError),
        ({"more": 1}, CriticalError),
        ({"tokens": ["ff" * 96, document["tokens"][1]]}, FormatError),
    ):
        with pytest.raises(error):
            Proof.unpack(independent.canonical(document | change))
    with pytest.raises(JSONError, match="too long"):
        Proof.unpack(b" " * (2**20 + 1))
    with pytest.raises(JSONError, match="canonical"):
        Proof.unpack(packed + b"\n")
    with pytest.raises(JSONError):
        Proof.of({"blocks": 0.5})
    unknown = Trust((KEY_B.public,))
    with pytest.raises(SealError, match=r"no signature .* trusted"):
        check_proof(packed, unknown)
    with pytest.raises(SealError, match="missing"):
        check_proof(dataclasses.replace(proof, signatures=()), unknown)
    with pytest.raises(SealError, match="pinned"):
        check_proof(packed, Trust((KEY_B.public,), head=bytes(32)))
    checked = check_proof(packed, LOOSE)
    assert isinstance(checked, CheckedProof) and checked.final
    assert checked.head == reader.head and checked.accepted.revision == 3


def test_masked_tokens_keep_their_tag():
    token = dataclasses.replace(_token(0, 0, 40, flags=KEY | LAST | 2), tag=b"t" * 32)
    proof = _whole([token])
    assert both(proof.pack(), 3, 0) == ("inside", (0, 0))
    assert Proof.unpack(proof.pack()).tokens == (token,)
    assert proof.raw_size() == _whole([_token(0, 0, 40, flags=KEY | LAST)]).raw_size() + 32


def test_at_most_a_kibibyte_for_four_million_blocks():
    """The issue's bound: token and signature included, masked and with a subject."""
    token = dataclasses.replace(_token(0, 0, 40, flags=KEY | 2), tag=b"t" * 32)
    path = [os.urandom(32) for _ in range(22)]
    root = inclusion_root({1_234_567: leaf_hash(token.pack())}, 4_000_000, path)
    facts = _signed(4_000_000, 10**12, root)
    proof = Proof(**facts, leaves=(1_234_567,), tokens=(token,), path=tuple(path))
    assert verify_seek(proof.pack(), 20, 0, TRUST).keyframe == (0, 0)
    assert proof.raw_size() == 1020


@pytest.mark.parametrize("count", [1, 2, 100, 4096, 5000])
def test_reads_are_few(count):
    source = Counting(track_of(count, size=1))
    with H4MKReader(source) as reader:
        prover = Prover(reader)
        prover.seek(0)  # the range map is read now
        for block in {0, count // 3, count - 1}:
            source.taken()
            proof = prover.seek(40_000 * block + 1)
            reads, size = source.taken()
            assert reads <= 1 + 2 * count.bit_length()
            assert size <= 152 + 32 * reads
            assert both(proof.pack(), 40_000 * block + 1, 0, Trust(head=reader.head), ()) is not None


def test_what_the_first_proof_of_a_long_track_reads():
    """The range map once; then nothing but a token and nodes."""
    count = 100_000
    source = Counting(track_of(count, size=1))
    with H4MKReader(source) as reader:
        source.taken()
        prover = Prover(reader)
        assert source.taken()[0] <= 2
        prover.seek(5)
        reads, size = source.taken()
        assert reads <= 3 + 2 * count.bit_length()
        assert 40 * count <= size <= 40 * count + 40 * reads + 300
        prover.seek(40_000 * 77_777)
        reads, size = source.taken()
        assert reads <= 1 + 2 * count.bit_length() and size <= 152 + 32 * reads


def test_reads_are_few_where_tables_are_read_by_pages(monkeypatch):  # H4MK 18.3
    monkeypatch.setattr(opening, "COPY_LIMIT", 2**14)
    count, step = 5000, 40_000
    source = Counting(track_of(count, size=1))
    with H4MKReader(source) as reader:
        opened = source.taken()[0]
        prover = Prover(reader)
        assert opened + source.taken()[0] <= 12
        for block in (count // 2, 7, count - 1, 3):
            proof = prover.seek(block * step + 5)
            reads, size = source.taken()
            # The first entries of the pages that a search passes, one page, a token, and the nodes.
            assert reads <= 4 * count.bit_length() and size <= 16 * 2**10 + 200 * reads
            found = both(proof.pack(), block * step + 5, 0, Trust(head=reader.head), ())
            assert found == ("inside", (block // 4 * 4 * step, block // 4 * 4))


def test_what_the_specification_has():  # H4MK A.7
    values = test_spec._values("proofs")
    signer = test_signature.EXAMPLE
    data = test_spec._build(
        test_spec.SMALL["trak"],
        sign=[lambda head: signer(FINAL, head)],
        checkpoints={2: lambda head: signer(CHECKPOINT, head)},
    )
    trust, keys = Trust((signer.key.public,), subject="example", revision=1), [signer.key.public.pem()]
    with H4MKReader(data) as reader:
        proof = prove_seek(reader, values["seek_at"])
        assert json.loads(proof.pack()) == values["seek_proof"]
        assert both(proof.pack(), values["seek_at"], 0, trust, keys) == (
            "inside",
            tuple(values["seek_keyframe"]),
        )
        several = prove_seek(reader, values["two_at"])
        assert json.loads(several.pack()) == values["two_proof"]
        found = [both(several.pack(), pts, 0, trust, keys) for pts in values["two_at"]]
        assert found == [("inside", None), ("after", tuple(values["two_keyframes"][1]))]
        growth = prove_growth(reader, reader)
        assert json.loads(growth.pack()) == values["growth_proof"]
        assert list(verify_growth(growth.pack(), trust).blocks) == values["growth_blocks"]
