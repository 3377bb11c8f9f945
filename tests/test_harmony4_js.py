"""static/harmony4.js in Debian's Chromium: derivations, any range of masked and plain streams, refusals.

The containers come from a second implementation of masking (tests/independent_masks.py).
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

import independent
import independent_masks
from chromium import chromium
from harmony4.crypto import MasterKey
from harmony4.h4mk import H4MKReader, Unmasked
from needs import ROOT, VECTORS, needs_chromium
from serving import Server, running

pytestmark = needs_chromium

VALUES = dict(
    line.split(" = ")
    for line in re.search(  # type: ignore[union-attr]
        r"^```h4mk-values name=masking\n(.*?)^```$",
        (ROOT / "docs" / "H4MK.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )[1].splitlines()
)
MASTER, OTHER, STRANGER = bytes(range(32)), bytes(range(1, 33)), bytes(32)
TRACK = {
    "codec": "h264",
    "kind": "video",
    "masked": True,
    "media_type": "video/mp4",
    "self_framing": True,
    "span": 0,
    "start": {"den": 1000, "num": 1, "ticks": 0},
    "stream": 0,
    "timing": "demux",
}
TRAK = {"cut": {"block": 2**20, "order": "end", "rule": 1}, "origin": "0", "tracks": [TRACK]}
TINY = [
    {"payload": b"header", "pts": 0, "header": True},
    {"payload": b"sixteen bytes ..", "pts": 40_000, "key": True},
    {"payload": b"rest", "pts": 600_000, "min_pts": 560_000},
    {"payload": b"second group", "pts": 1_040_000, "key": True},
]


def tiny(blocks: Any = TINY, masters: Any = (MASTER, OTHER), **rest: Any) -> bytes:
    return independent_masks.masked(TRAK, blocks, masters, ends={0: 1_080_000}, title="Zwölf", **rest)


def large() -> tuple[bytes, list[bytes]]:
    """Two masked tracks and a plain one, blocks of 1 byte to 900 000, and the streams that they hold."""
    pick = random.Random(7)
    blocks: list[dict[str, Any]] = []
    for number in range(60):
        for track in range(3):
            size = pick.choice([1, 15, 16, 17, 1000, 70_000, 200_000, 900_000]) if track < 2 else 5000
            payload = pick.randbytes(size)
            blocks.append(
                {"track": track, "payload": payload, "pts": number * 40_000, "key": number % 5 == 0}
            )
    trak = {**TRAK, "tracks": [TRACK, {**TRACK, "kind": "audio"}, {**TRACK, "masked": False}]}
    data = independent_masks.masked(trak, blocks, [MASTER], ends=dict.fromkeys(range(3), 2_400_000))
    return data, [b"".join(one["payload"] for one in blocks if one["track"] == track) for track in range(3)]


LARGE, STREAMS = large()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    (root / "tiny.h4mk").write_bytes(tiny())
    (root / "large.h4mk").write_bytes(LARGE)
    with running(root, allowed_hosts=("films.test",)) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--host-resolver-rules=MAP films.test 127.0.0.1"]
    with chromium(*arguments, "--disable-features=LocalNetworkAccessChecks") as one:
        yield one


# `memory` is a fetch over bytes that are at hand, `refused` what a call is refused with.
PRELUDE = """async () => {
  Object.assign(globalThis, await import("./static/harmony4.js"));
  globalThis.masking = await import("./static/masking.js");
  globalThis.bytes = (text) => Uint8Array.from(text.match(/../g) ?? [], (two) => parseInt(two, 16));
  globalThis.hex = (data) => Array.from(data, (one) => one.toString(16).padStart(2, "0")).join("");
  globalThis.base64 = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  globalThis.memory = (data, seen = []) => async (url, { headers }) => {
    const [, first, last] = /^bytes=(\\d*)-(\\d*)$/.exec(headers.Range);
    const start = first ? Number(first) : Math.max(0, data.length - Number(last));
    const stop = first ? Number(last) + 1 : data.length;
    seen.push([start, stop]);
    if (stop > data.length || start >= stop) return new Response(null, { status: 416 });
    const range = `bytes ${start}-${stop - 1}/${data.length}`;
    return new Response(data.slice(start, stop), { status: 206, headers: { "Content-Range": range } });
  };
  globalThis.refused = async (call) => {
    try {
      await call();
    } catch (error) {
      return error instanceof Harmony4Error ? [error.code, error.message] : ["crash", String(error.stack)];
    }
    return ["none", ""];
  };
}"""


@pytest.fixture(scope="module")
def page(browser: Browser, server: Server) -> Iterator[Page]:
    page = browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(server.url)
    page.evaluate(PRELUDE)
    yield page
    page.close()
    assert faults == []


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_every_derivation(page: Page) -> None:  # H4MK A.4
    found = page.evaluate(
        """async (values) => {
          const { expand, hmac, hmacKey, join, sha256, xorMask } = masking;
          const at = (name) => bytes(values[name]);
          const master = await hmacKey(at("master"));
          const count = new Uint8Array(8);
          count[7] = 4;
          const made = {
            key_id: await expand(master, "h4mk/1 id", 16),
            kek: await expand(master, "h4mk/1 kek"),
            K_syn: await expand(master, "h4mk/1 syn"),
            D: await sha256(join("h4mk/1 plain\\0", at("plain_trak_hash"), count, at("plain_root"))),
            salt: await hmac(await hmacKey(at("K_syn")), at("D")),
          };
          const extracted = await hmac(await hmacKey(at("salt")), at("master"));
          made.K_file = await expand(await hmacKey(extracted), "h4mk/1 file");
          const file = await hmacKey(at("K_file"));
          made.commit = await expand(file, "h4mk/1 commit");
          made.K_mac = await expand(file, "h4mk/1 mac");
          const kek = await crypto.subtle.importKey("raw", at("kek"), "AES-KW", false, ["wrapKey"]);
          const form = { name: "HMAC", hash: "SHA-256" };
          const all = join("h4mk/1 whole\\0", at("masked_trak_hash"), count, at("masked_root"));
          made.whole = await hmac(await hmacKey(made.K_mac), all);
          const raw = await crypto.subtle.importKey("raw", at("K_file"), form, true, ["sign"]);
          made.wrapped = new Uint8Array(await crypto.subtle.wrapKey("raw", raw, kek, "AES-KW"));
          const opened = await (await MasterKey.from(values.master)).unwrap(at("wrapped"), values.commit);
          for (const number of [0, 1, 2, 3]) {
            const info = new Uint8Array(10);
            info[9] = number;
            made[`K_block_${number}`] = await expand(file, join("h4mk/1 enc", info));
            const key = await opened.blockKey(0, number);
            made[`plain_${number}`] = await xorMask(key, at(`safe_${number}`), 0);
          }
          return Object.fromEntries(Object.entries(made).map(([name, value]) => [name, hex(value)]));
        }""",
        VALUES,
    )
    plain = {f"plain_{number}": one["payload"].hex() for number, one in enumerate(TINY)}  # type: ignore[attr-defined]
    assert found == {**{name: VALUES[name] for name in found if name in VALUES}, **plain}
    assert found.keys() >= {
        "key_id",
        "kek",
        "K_syn",
        "D",
        "salt",
        "K_file",
        "commit",
        "K_mac",
        "wrapped",
        "K_block_3",
    }


def test_tags(page: Page) -> None:  # H4MK A.4, 21.5
    trak = {**TRAK, "tracks": [dict(TRACK)], "mask": {"commit": VALUES["commit"], "mode": "deterministic"}}
    blocks = [{**one, "payload": bytes.fromhex(VALUES[f"safe_{number}"])} for number, one in enumerate(TINY)]
    tags = [bytes.fromhex(VALUES[f"tag_{number}"]) for number in range(4)]
    tokens = independent.tokens_of(trak, [{**one, "tag": tag} for one, tag in zip(blocks, tags, strict=True)])
    # What the tags of A.4 are over is known there; here each must fit its own bytes and no others.
    message = [
        b"h4mk/1 tag\0" + bytes.fromhex(VALUES["masked_trak_hash"]) + independent.pack_token(one)[:96]
        for one in tokens
    ]
    mac = bytes.fromhex(VALUES["K_mac"])
    packed = [
        independent.pack_token({**one, "tag": independent_masks.mac(mac, text)}).hex()
        for one, text in zip(tokens, message, strict=True)
    ]
    found = page.evaluate(
        """async ({ values, packed }) => {
          const master = await MasterKey.from(values.master);
          const key = await master.unwrap(bytes(values.wrapped), values.commit);
          const trak = bytes(values.masked_trak_hash);
          const answers = [];
          for (const token of packed.map(bytes)) {
            for (const at of [null, 0, 95, 96, 127]) {
              const changed = token.slice();
              if (at !== null) changed[at] ^= 1;
              answers.push(await key.fits(trak, changed));
            }
            answers.push(await key.fits(bytes(values.commit), token));
          }
          return answers;
        }""",
        {"values": VALUES, "packed": packed},
    )
    assert found == [True, False, False, False, False, False] * 4


@pytest.mark.parametrize("limit", [8 * 2**20, 0])
def test_any_range(page: Page, limit: int) -> None:
    """Also with the range map read by pages."""
    pick = random.Random(limit)
    ranges = []
    for track, stream in enumerate(STREAMS):
        ranges += [[track, 0, len(stream)], [track, len(stream), len(stream)], [track, 0, 1]]
        for _ in range(40):
            start = pick.randrange(len(stream))
            length = pick.choice([1, 16, 17, 1000, 65536, 300_000, 2_000_000])
            ranges.append([track, start, min(len(stream), start + length)])
    found = page.evaluate(
        """async ({ ranges, tableLimit, key }) => {
          const container = await Container.open("container?name=large.h4mk", { tableLimit });
          const sizes = [await container.size(2)];
          await container.unlock(key);
          sizes.push(await container.size(0), await container.size(1));
          const digests = [];
          for (const [track, start, end] of ranges) {
            digests.push(hex(await masking.sha256(await container.read(start, end, track))));
          }
          const { masked, locked, keyIds, tracks } = container;
          return { sizes, digests, facts: [masked, locked, keyIds, tracks.map((one) => one.masked)] };
        }""",
        {"ranges": ranges, "tableLimit": limit, "key": MASTER.hex()},
    )
    assert found["sizes"] == [len(STREAMS[track]) for track in (2, 0, 1)]
    expected = [independent.sha(STREAMS[track][start:end]).hex() for track, start, end in ranges]
    assert found["digests"] == expected
    assert found["facts"] == [True, False, [independent_masks.key_id(MASTER).hex()], [True, True, False]]


def test_many_at_once(page: Page) -> None:
    found = page.evaluate(
        """async ({ data, key }) => {
          const container = await Container.open("x", { fetch: memory(base64(data)) });
          await container.unlock(key);
          const size = await container.size();
          const starts = Array.from({ length: 60 }, (_, number) => (number * 99_991) % (size - 5));
          const parts = await Promise.all(starts.map((start) => container.read(start, start + 5)));
          return [starts, parts.map(hex)];
        }""",
        {"data": text(LARGE), "key": MASTER.hex()},
    )
    assert found[1] == [STREAMS[0][start : start + 5].hex() for start in found[0]]


def test_a_part_of_a_block_that_was_checked(page: Page) -> None:
    """It needs 64 KiB around it, and is compared with what the block was."""
    payload = random.Random(1).randbytes(2**20)
    # Nine other blocks push the first one's bytes out of what is held.
    data = independent_masks.masked(
        TRAK, [{"payload": payload, "pts": n, "key": True} for n in range(10)], [MASTER], ends={0: 10}
    )
    found = page.evaluate(
        """async ({ data, key }) => {
          const file = base64(data);
          const seen = [];
          const container = await Container.open("x", { fetch: memory(file, seen) });
          await container.unlock(key);
          for (let at = 0; at < 10 * 2 ** 20; at += 2 ** 20) await container.read(at, at + 10);
          seen.length = 0;
          const part = await container.read(300_003, 300_013);
          const asked = seen.map(([start, stop]) => stop - start);
          const at = seen[0][0] + 5;
          file[at] ^= 1;
          const changed = await refused(() => container.read(300_003, 300_013));
          return { part: hex(part), asked, changed };
        }""",
        {"data": text(data), "key": MASTER.hex()},
    )
    assert found["part"] == payload[300_003:300_013].hex()
    assert found["asked"] == [65536]
    assert found["changed"] == ["source-changed", "block 0 of track 0 is no longer what it was"]


def test_every_changed_byte(page: Page) -> None:
    """A bit in each byte of a file: refused, or it stands where reading never looks (SEEK, MERK, VERI)."""
    data = tiny()
    found = page.evaluate(
        """async ({ data, key, plain }) => {
          const file = base64(data);
          const answers = [];
          for (let at = 0; at < file.length; at += 1) {
            const flipped = file.slice();
            flipped[at] ^= 1 << at % 8;
            let same = false;
            const [code] = await refused(async () => {
              const container = await Container.open("x", { fetch: memory(flipped) });
              await container.unlock(key);
              same = hex(await container.read(0, await container.size())) === plain;
            });
            answers.push(code === "none" ? (same ? "same" : "WRONG") : code);
          }
          return answers;
        }""",
        {"data": text(data), "key": MASTER.hex(), "plain": b"".join(one["payload"] for one in TINY).hex()},  # type: ignore[misc]
    )
    unread = set()
    for one in independent.walk(data):
        if one.tag in (b"SEEK", b"MERK", b"VERI"):
            unread |= set(range(one.at, one.at + 12 + len(one.payload)))
    assert {at for at, code in enumerate(found) if code == "same"} == unread
    classes = {
        "format",
        "truncated",
        "version",
        "checksum",
        "order",
        "critical",
        "json",
        "seal",
        "limit",
        "key",
    }
    assert set(found) - {"same"} <= classes, set(found)


@pytest.mark.parametrize("cut", [1, 140, 141, 1000, -1])
def test_what_is_cut_off(page: Page, cut: int) -> None:
    data = tiny()
    data = data + b"\0" if cut < 0 else data[:-cut]
    found = page.evaluate(
        "async (data) => refused(() => Container.open('x', { fetch: memory(base64(data)) }))", text(data)
    )
    assert found == ["format", "the container is not sealed, or its end is damaged"]


def test_a_directory_that_would_be_large(page: Page) -> None:
    """TAIL is believed only as far as a directory may be large: nothing of it is asked for."""
    data = bytearray(LARGE)
    tail = bytearray(data[-128:])
    tail[16:24] = (len(data) - 2 * 2**20).to_bytes(8)  # META
    tail[8:16] = (100).to_bytes(8)  # index start
    data[-140:] = independent.chunk(b"TAIL", bytes(tail))
    found = page.evaluate(
        """async (data) => {
          const seen = [];
          const told = await refused(() => Container.open("x", { fetch: memory(base64(data), seen) }));
          return [told, seen.length];
        }""",
        text(bytes(data)),
    )
    assert found == [["limit", "META is too large"], 1]


def forged(change: Any, data: bytes, *more: dict[str, Any]) -> bytes:
    """A container in which somebody without a key has made everything fit again but what a key makes.

    `change` gets TRAK and the stored blocks; `more` are entries put behind the history.
    """
    found = {one.tag: one.payload for one in independent.walk(data)}
    trak = independent.parse_json(found[b"TRAK"], independent.TRAK_SCHEMA, "TRAK")
    meta = independent.parse_json(found[b"META"], independent.META_SCHEMA, "META")
    tokens = [
        dict(zip(independent.NAMES, independent.TOKN.unpack(one.payload), strict=True))
        for one in independent.walk(data)
        if one.tag == b"TOKN"
    ]
    stored = [one.payload for one in independent.walk(data) if one.tag == b"SAFE"]
    blocks = [
        {
            **{name: token[name] for name in ("track", "pts", "min_pts", "tag")},
            "key": token["flags"] & independent.KEY,
            "header": token["flags"] & independent.HEADER,
            "payload": payload,
        }
        for token, payload in zip(tokens, stored, strict=True)
    ]
    trak, blocks = change(trak, blocks)
    ends = dict.fromkeys(range(len(trak["tracks"])), 1_080_000)
    history = [*meta["history"], *more]
    return independent.build(
        trak, blocks, ends=ends, keys=found[b"KEYS"], history=history, title=meta.get("title")
    )


FORGERIES: dict[str, tuple[Any, str]] = {
    "the last block dropped": (lambda trak, blocks: (trak, blocks[:-1]), "block 2 of track 0"),
    "the first block dropped": (lambda trak, blocks: (trak, blocks[1:]), "block 2 of track 0"),
    "one block dropped": (lambda trak, blocks: (trak, [*blocks[:2], blocks[3]]), "block 2 of track 0"),
    "a payload exchanged": (
        lambda trak, blocks: (trak, [*blocks[:2], {**blocks[2], "payload": b"REST"}, blocks[3]]),
        "block 2 of track 0",
    ),
    "a time changed": (
        lambda trak, blocks: (trak, [*blocks[:2], {**blocks[2], "min_pts": 0}, blocks[3]]),
        "block 2 of track 0",
    ),
    "another TRAK": (lambda trak, blocks: ({**trak, "origin": "5"}, blocks), "block 3 of track 0"),
}


LATER = {"args": {}, "inputs": [], "op": "recover"}
OPENED = """async ({ data, key }) => {
  const container = await Container.open("x", { fetch: memory(base64(data)) });
  const unlocked = await refused(() => container.unlock(key));
  const read = await refused(async () => container.read(0, await container.size()));
  return [unlocked, read, container.locked, container.whole];
}"""
MISSING = ["seal", "the container does not have the blocks that were masked"]


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries(page: Page, name: str) -> None:
    """Refused with the key; where they say that something happened since, at the block that is none."""
    change, where = FORGERIES[name]
    data, said = forged(change, tiny()), forged(change, tiny(), LATER)
    for one in (data, said):
        independent.check(one)  # who has no key finds nothing wrong with it
    unlocked, read, locked, _ = page.evaluate(OPENED, {"data": text(data), "key": MASTER.hex()})
    assert (unlocked, read[0], locked) == (MISSING, "locked", True)
    unlocked, read, _, whole = page.evaluate(OPENED, {"data": text(said), "key": MASTER.hex()})
    message = f"the tag of {where} is not one of this key: it was changed, moved or made by somebody else"
    assert (unlocked, read, whole) == (["none", ""], ["seal", message], False)


def test_a_track_that_was_left_out(page: Page) -> None:  # H4MK 21.6
    sound = [{**one, "track": 1} for one in TINY]  # type: ignore[dict-item]
    trak = {**TRAK, "tracks": [TRACK, {**TRACK, "kind": "audio"}]}
    ends = {0: 1_080_000, 1: 1_080_000}
    data = independent_masks.masked(trak, [*TINY, *sound], [MASTER], ends=ends)

    def without(trak: Any, blocks: Any) -> Any:
        return trak, [one for one in blocks if one["track"] == 0]

    def everything(trak: Any, blocks: Any) -> Any:
        return trak, blocks

    answers = [
        page.evaluate(OPENED, {"data": text(one), "key": MASTER.hex()})
        for one in (data, forged(everything, data), forged(without, data), forged(without, data, LATER))
    ]
    good, none = [["none", ""], ["none", ""], False], ["none", ""]
    assert answers == [
        [*good, True],
        [*good, True],
        [MISSING, ["locked", "this track is masked: a key must unlock it first"], True, False],
        [none, none, False, False],  # it says that something happened, so it cannot be known
    ]
    for entry in (
        {"args": {}, "inputs": [], "op": "mask"},
        {"args": {"whole": "0"}, "inputs": [], "op": "mask"},
    ):
        told = page.evaluate(OPENED, {"data": text(forged(everything, data, entry)), "key": MASTER.hex()})
        assert told[0] == ["seal", "the history does not say which blocks were masked"]


def test_plain_media_of_somebody_else(page: Page) -> None:
    """KEYS and TRAK's mask of a real file around other media: with a key it is nothing that the key made."""
    trak = {**TRAK, "tracks": [{**TRACK, "masked": False}, {**TRACK, "kind": "audio"}]}
    sound = {"track": 1, "payload": b"sound", "pts": 0, "key": True}
    ends = {0: 1_080_000, 1: 1_080_000}
    evil = [{"payload": b"EVIL", "pts": 0, "key": True}]
    for blocks, history, unlocked, locked in (
        (evil, [LATER], ["seal", "nothing in the container shows that it was masked with this key"], True),
        ([*evil, sound], [LATER], ["none", ""], False),  # a tag is one of the key
    ):
        data = independent_masks.masked(trak, blocks, [MASTER], ends=ends, history=history)
        told = page.evaluate(OPENED, {"data": text(data), "key": MASTER.hex()})
        assert (told[0], told[2], told[3]) == (unlocked, locked, False)
    # Where it is shown that nothing is missing, nothing masked need be there.
    data = independent_masks.masked(trak, evil, [MASTER], ends=ends)
    told = page.evaluate(OPENED, {"data": text(data), "key": MASTER.hex()})
    assert (told[0], told[2], told[3]) == (["none", ""], False, True)


def test_a_file_key_that_was_exchanged(page: Page) -> None:
    """A slot that opens to another file key than TRAK commits to is refused before the first byte."""
    ours, other = tiny(), tiny(file_key=b"\1" * 32)
    at = ours.index(b"KEYS")
    data = ours[:at] + other[other.index(b"KEYS") :][:532] + ours[at + 532 :]
    found = page.evaluate(
        """async ({ data, key }) => {
          const container = await Container.open("x", { fetch: memory(base64(data)) });
          return [await refused(() => container.unlock(key)), container.locked];
        }""",
        {"data": text(data), "key": MASTER.hex()},
    )
    assert found == [["key", "the key opens its slot to another file's key"], True]


def test_keys(page: Page) -> None:
    found = page.evaluate(
        """async ({ key, other, stranger }) => {
          const open = () => Container.open("container?name=tiny.h4mk");
          const container = await open();
          const texts = ["", "zz", key.slice(2), key + "00", "h4mk-key-v1:"];
          texts.push("h4mk-key-v1-scrypt:15:8:1:00:00", stranger);
          const answers = [await refused(() => container.read(0, 1)), await refused(() => container.size())];
          for (const text of texts) answers.push(await refused(() => container.unlock(text)));
          for (const wrong of [new Uint8Array(31), null]) {
            answers.push(await refused(() => container.unlock(wrong)));
          }
          const read = [];
          const right = [key, key.toUpperCase(), ` h4mk-key-v1:${key}\\n`, bytes(key), other];
          for (const text of [...right, await MasterKey.from(other)]) {
            const again = await open();
            await again.unlock(text);
            read.push(hex(await again.read(0, 6)));
          }
          const { locked, title, duration } = container;
          return { answers, read, locked, title, duration };
        }""",
        {"key": MASTER.hex(), "other": OTHER.hex(), "stranger": STRANGER.hex()},
    )
    assert [code for code, _ in found["answers"]] == ["locked", "locked", *["key"] * 9]
    assert found["answers"][-3][1] == "this key does not open the container"
    assert "passphrase" in found["answers"][-4][1]
    assert not any(
        key.hex() in message for _, message in found["answers"] for key in (MASTER, OTHER, STRANGER)
    )
    assert found["read"] == [b"header".hex()] * 6
    assert (found["locked"], found["title"], found["duration"]) == (True, "Zwölf", 1_080_000)


def test_wrong_calls(page: Page) -> None:
    plain = independent.build({**TRAK, "tracks": [{**TRACK, "masked": False}]}, TINY, ends={0: 1_080_000})
    found = page.evaluate(
        """async ({ data, key }) => {
          const container = await Container.open("x", { fetch: memory(base64(data)) });
          const calls = [
            () => container.unlock(key), () => container.read(0, 39), () => container.read(-1, 3),
            () => container.read(3, 2), () => container.read(0.5, 3), () => container.read(0, 1, 1),
            () => container.size("0"),
          ];
          const answers = [];
          for (const call of calls) answers.push((await refused(call))[0]);
          return [answers, hex(await container.read(6, 12)), hex(await container.read(0, 0))];
        }""",
        {"data": text(plain), "key": MASTER.hex()},
    )
    assert found == [["usage"] * 5 + ["not-found"] * 2, b"sixtee".hex(), ""]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("return new Response(await answer.arrayBuffer())", "source"),
        ("return new Response(null, { status: 404 })", "not-found"),
        ("return new Response(null, { status: 500 })", "source"),
        ("throw new TypeError('gone')", "source"),
        ("return new Response(await answer.arrayBuffer(), { status: 206 })", "source"),
        ("return new Response(new Uint8Array(9e6), answer)", "source"),
        ("return new Response((await answer.arrayBuffer()).slice(1), answer)", "source"),
        ("return count < 4 ? answer : new Response(null, { status: 412 })", "source-changed"),
        ("answer.headers.set('ETag', `\"${count}\"`); return answer", "source-changed"),
        ("answer.headers.set('Content-Range', 'bytes 0-139/99999999999999999999'); return answer", "source"),
    ],
)
def test_servers_that_lie(page: Page, change: str, code: str) -> None:
    script = """async ({ source, key }) => {
          const honest = memory(base64(source));
          const lie = async (answer, count) => { CHANGE };
          let count = 0;
          const fetch = async (...request) => lie(await honest(...request), (count += 1));
          return refused(async () => {
            const container = await Container.open("x", { fetch });
            await container.unlock(key);
            await container.read(0, 38);
          });
        }"""
    found = page.evaluate(script.replace("CHANGE", change), {"source": text(tiny()), "key": MASTER.hex()})
    assert found[0] == code, found


def test_without_cryptography(browser: Browser, server: Server) -> None:
    """Plain http to anything but this machine: browsers have no WebCrypto there."""
    page = browser.new_page()
    page.goto(server.url.replace("127.0.0.1", "films.test"))
    page.evaluate(PRELUDE)
    found = page.evaluate("() => refused(() => Container.open('container?name=tiny.h4mk'))")
    assert found[0] == "unsupported"
    assert "https" in found[1]
    page.close()


def test_an_aborted_request(page: Page) -> None:
    found = page.evaluate(
        """async () => {
          const ending = new AbortController();
          const options = { signal: ending.signal };
          const container = await Container.open("container?name=large.h4mk", options);
          ending.abort();
          return container.size(2).catch((error) => error.name);
        }"""
    )
    assert found == "AbortError"


def test_wide_integers(page: Page) -> None:
    """Times beyond 2^53 are exact."""
    late = 2**53 + 1
    blocks = [{"payload": b"a", "pts": late, "key": True}, {"payload": b"b", "pts": late + 2, "key": True}]
    data = independent_masks.masked(TRAK, blocks, [MASTER], ends={0: 2**62 + 1})
    found = page.evaluate(
        """async ({ data, key }) => {
          const container = await Container.open("x", { fetch: memory(base64(data)) });
          await container.unlock(key);
          return [String(container.duration), typeof container.duration, hex(await container.read(0, 2))];
        }""",
        {"data": text(data), "key": MASTER.hex()},
    )
    assert found == [str(2**62 + 1), "bigint", b"ab".hex()]


def test_what_is_exported_is_described(page: Page) -> None:
    """In docs/API.md, with the members of Container."""
    names = page.evaluate(
        """async () => {
          const usual = ["constructor", "length", "prototype", "name"];
          const members = (one) => Object.getOwnPropertyNames(one).filter((name) => !usual.includes(name));
          const container = await Container.open("container?name=tiny.h4mk");
          const modules = [await import("./static/harmony4.js"), await import("./static/unmask.js")];
          const facts = Object.keys(container.tracks[0]);
          const made = [...members(Container), ...members(Container.prototype), ...Object.keys(container)];
          return [...modules.flatMap(Object.keys), ...made, ...facts];
        }"""
    )
    text = (ROOT / "docs" / "API.md").read_text(encoding="utf-8").split("\n## JavaScript API\n")[1]
    missing = [name for name in names if not re.search(rf"[`.]{name}\b", text)]
    assert missing == []
    assert {"Container", "publish", "read", "unlock", "mediaType", "duration"} <= set(names)


@pytest.mark.parametrize(
    ("span", "code"),
    [
        ("9007199254740991", "none"),
        ('"9007199254740992"', "none"),
        ('"9223372036854775807"', "none"),
        ('"9007199254740991"', "json"),
        ('"1000000000000000"', "json"),
        ('"9223372036854775808"', "json"),
        ('"-9007199254740992"', "json"),
        ("true", "json"),
    ],
)
def test_integers_of_json(page: Page, span: str, code: str) -> None:  # H4MK 4
    """Wide ones are strings, others numbers, never the other way round."""
    trak = {**TRAK, "tracks": [{**TRACK, "masked": False}]}
    payload = independent.canonical(trak).replace(b'"span":0', f'"span":{span}'.encode())
    found = page.evaluate(
        """async (data) => {
          const { parseJSON, TRAK } = await import("./static/h4mk.js");
          let value;
          const [code] = await refused(async () => (value = parseJSON(base64(data), TRAK, "TRAK")));
          return [code, String(value?.tracks[0].span)];
        }""",
        text(payload),
    )
    assert found == [code, span.strip('"') if code == "none" else "undefined"]


ELSEWHERE = re.compile(
    r"(seek|merk|veri|sign|ancillary|tag|order|facts|keyframe|sequence|lost)-|veri$|tracks-order"
    r"|crc-(seek|merk|sign|veri|ancillary)|size-(seek|merk|sign|time|veri)|tail-(root|signs|veri)|rmap-wrong-leaf"
)
"""Vectors of faults, some of which lie where reading one stream never looks."""
SHAPE = {"order", "format", "truncated", "limit", "version"}
"""Classes of chunks that are not what they should be: which is seen first depends on what is read first."""
VECTOR_NAMES = sorted(path.stem for path in VECTORS.glob("*.json"))


@pytest.fixture(scope="module")
def vectors(page: Page) -> dict[str, Any]:
    """What reading every vector comes to: [code, message], and the streams' digests where it succeeds."""
    data = {name: text((VECTORS / f"{name}.h4mk").read_bytes()) for name in VECTOR_NAMES}
    found: dict[str, Any] = page.evaluate(
        """async ({ data, key }) => {
          const found = {};
          for (const [name, one] of Object.entries(data)) {
            const streams = [];
            const told = await refused(async () => {
              const container = await Container.open("x", { fetch: memory(base64(one)) });
              if (container.masked) await container.unlock(key);
              for (const { number } of container.tracks) {
                const bytes = await container.read(0, await container.size(number), number);
                streams.push(hex(await masking.sha256(bytes)));
              }
            });
            found[name] = [...told, streams];
          }
          return found;
        }""",
        {"data": data, "key": MASTER.hex()},
    )
    return found


@pytest.mark.parametrize("name", VECTOR_NAMES)
def test_vectors(vectors: dict[str, Any], name: str) -> None:
    """Sound ones are read as the project reads them; the others are refused, for the same reason."""
    twin = json.loads((VECTORS / f"{name}.json").read_bytes())
    code, message, streams = vectors[name]
    opened, read = twin["open"], twin.get("read", "")
    if code == "none":
        assert opened == "sealed"
        assert twin["expect"] == "ok" or ELSEWHERE.match(name)
        if twin["expect"] == "ok":
            with H4MKReader(VECTORS / f"{name}.h4mk") as reader:
                plain = reader if reader.trak.mask is None else Unmasked(reader, [MasterKey(MASTER)])
                sizes = [reader.stream_size(track) for track in range(len(reader.tracks))]
                stored = [plain.read(0, size, track) for track, size in enumerate(sizes)]
            assert streams == [independent.sha(one).hex() for one in stored]
    elif opened == "original" or "original implementation" in message:
        assert code == "version"
    elif opened == "incomplete":
        assert code in ("format", "json")
    elif opened in ("json", "critical", "checksum", "seal"):
        assert code == opened, message
    elif opened != "sealed":
        assert code in SHAPE, message
    elif twin["expect"] == "ok":
        assert (code, read) == ("order", "ok")
        assert "are missing" in message  # a hole, which the whole stream has
    else:
        assert code in {*SHAPE, twin["expect"], read}, message
