"""Digests, the thread that computes them, and the family of errors."""

import hashlib
import pickle
import threading
import zlib

import pytest

from harmony4 import crypto
from harmony4.crypto import DigestLane, HarmonyError, UsageError, crc32, sha256
from harmony4.crypto import errors as errors_module
from harmony4.crypto.mac import derive, equal, mac


def test_known_answers():  # H4MK 3.1; FIPS 180-4
    assert crc32(b"123456789") == 0xCBF43926
    assert sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert crc32(b"6789", crc32(b"12345")) == 0xCBF43926
    for buffer in (bytearray(b"abc"), memoryview(b"abc")):
        assert sha256(buffer) == sha256(b"abc")


def test_message_authentication():  # RFC 4231, test case 2; RFC 5869 §2.3
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert mac(b"Jefe", b"what do ya want for nothing?").hex() == expected
    key = bytes(range(32))
    assert derive(key, b"label") == mac(key, b"label\x01")
    assert equal(key, bytes(range(32)))
    assert not equal(key, key[:-1])


# ---- DigestLane ------------------------------------------------------------------------------------------


def test_a_lane_runs_updates_in_order_and_flush_waits_for_them():
    one, two = hashlib.sha256(), hashlib.sha256()
    pieces = [bytes([number]) * size for number, size in enumerate((1, 300_000, 7, 2**18, 5))]
    with DigestLane() as lane:
        for piece in pieces:
            lane.put(one.update, piece)
            lane.put(two.update, piece[::-1])
        lane.flush()
        assert one.digest() == sha256(b"".join(pieces))
        assert two.digest() == sha256(b"".join(piece[::-1] for piece in pieces))
        lane.put(one.update, b"more")
        lane.flush()
    assert one.digest() == sha256(b"".join(pieces) + b"more")


def test_a_lane_with_enough_to_do_has_a_thread_that_ends_with_it():
    seen = []

    def note(_):
        seen.append(threading.current_thread())

    with DigestLane() as lane:
        lane.put(note, b"little")
        lane.flush()
        lane.put(note, bytes(DigestLane.BATCH))
        lane.flush()
        lane.put(note, b"little")
        lane.flush()
    assert seen[0] is threading.current_thread()
    assert seen[1] is seen[2] is not seen[0] and not seen[1].is_alive()
    lane.close()  # twice is safe
    for call in (lane.flush, lambda: lane.put(note, bytes(DigestLane.BATCH))):
        with pytest.raises(UsageError):
            call()


def test_tiny_buffers_do_not_pile_up():
    with DigestLane(depth=1) as lane:
        for _ in range(10_000):
            lane.put(len, b"")
            assert len(lane._batch) < DigestLane.BATCH / DigestLane.CALL
        lane.flush()


def test_put_waits_while_the_queue_is_full():
    gate, entered = threading.Event(), threading.Event()

    def hold(_):
        entered.set()
        assert gate.wait(10)

    batch = bytes(DigestLane.BATCH)
    with DigestLane(depth=1) as lane:
        lane.put(hold, batch)  # taken by the thread
        assert entered.wait(10)
        lane.put(len, batch)  # fills the queue
        third = threading.Thread(target=lane.put, args=(len, batch))
        third.start()
        third.join(0.05)
        assert third.is_alive()
        gate.set()
        third.join(10)
        assert not third.is_alive()


def test_an_error_inside_an_update_comes_out_and_nothing_runs_behind_it():
    gate, ran = threading.Event(), []

    def fail(_):
        assert gate.wait(10)
        raise UsageError("no")

    batch = bytes(DigestLane.BATCH)
    with DigestLane() as lane:
        lane.put(fail, batch)
        lane.put(ran.append, batch)  # waits behind it
        gate.set()
        with pytest.raises(UsageError, match="no"):
            lane.flush()
        with pytest.raises(UsageError, match="no"):
            lane.put(ran.append, batch)
    assert ran == []


# ---- errors ----------------------------------------------------------------------------------------------

FAMILY = [getattr(errors_module, name) for name in errors_module.__all__]


def test_one_root_and_a_code_for_each():  # H4MK 24.2
    assert all(issubclass(kind, HarmonyError) for kind in FAMILY)
    assert len({kind.code for kind in FAMILY}) == len(FAMILY)
    assert set(errors_module.__all__) <= set(crypto.__all__)
    within_format = {kind.code for kind in FAMILY if issubclass(kind, crypto.FormatError)}
    assert within_format == {
        *("format", "truncated", "version", "checksum", "order", "critical", "json", "seal"),
    }
    assert issubclass(crypto.SourceChangedError, crypto.SourceError)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "wrong"),
        ({"where": 12}, "wrong at offset 12"),
        ({"where": "META.tracks"}, "wrong in META.tracks"),
        ({"expected": 1}, "wrong (expected 1)"),
        ({"expected": 0, "found": 0}, "wrong (expected 0, found 0)"),
        ({"found": "x", "where": 0}, "wrong at offset 0 (found x)"),
    ],
)
def test_an_error_says_where_expected_and_found(facts, text):
    assert str(HarmonyError("wrong", **facts)) == text


@pytest.mark.parametrize("kind", FAMILY)
def test_errors_cross_processes(kind):
    error = pickle.loads(pickle.dumps(kind("text", where=3, expected="a", found=b"b")))
    assert type(error) is kind
    assert (error.message, error.where, error.expected, error.found) == ("text", 3, "a", b"b")


def test_the_same_input_gives_the_same_digests_on_any_thread():
    data = bytes(range(256)) * 4096
    found = []

    def digest():
        found.append((crc32(data), sha256(data), crypto.leaf_hash(data)))

    threads = [threading.Thread(target=digest) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    leaf = hashlib.sha256(b"\0" + data).digest()
    assert found == [(zlib.crc32(data), hashlib.sha256(data).digest(), leaf)] * 4
