"""docs/H4MK.md is true: its examples, its tables, and that it says enough to rebuild what the project writes.

`independent.py` was written from the specification alone. Every example is checked with it, and with the
project's own builder, reader and verifier, byte for byte.
"""

import hashlib
import hmac
import io
import json
import re
import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import harmony4.crypto as crypto
import independent
from harmony4.crypto import errors, token
from harmony4.h4mk import H4MKBuilder, H4MKReader, canonical, layout, recover, verify
from harmony4.h4mk.documents import HistoryEntry, Start, TrackInfo
from harmony4.server.exporting.ingest import ExportOptions, export
from needs import BUNNY, needs_ffmpeg

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "H4MK.md").read_text("utf-8")


def _hex_example(name):
    body = re.search(rf"^```h4mk-hex name={name}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[1]
    data = bytearray()
    for line in filter(None, body.splitlines()):
        offset, _, rest = line.partition(":")
        assert int(offset, 16) == len(data), line
        data += bytes.fromhex(rest.partition("|")[0])
    return bytes(data)


def _values(name):
    body = re.search(rf"^```h4mk-values name={name}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[1]
    values = {}
    for line in body.splitlines():
        key, _, value = line.partition(" = ")
        try:
            values[key] = (
                json.loads(value) if not re.fullmatch(r"[0-9a-f]{32,}", value) else bytes.fromhex(value)
            )
        except ValueError:
            values[key] = bytes.fromhex(value)
    return values


EXPORT = {"args": {}, "inputs": [], "op": "export"}
TITLE = 'Zwölf "µs"'
BLOCKS = [
    {"payload": b"header", "pts": 0, "header": True},
    {"payload": b"sixteen bytes ..", "pts": 40000, "key": True},
    {"payload": b"rest", "pts": 600000, "min_pts": 560000},
    {"payload": b"second group", "pts": 1040000, "key": True, "min_pts": 1000000},
]
END = 1080000
SMALL = independent.check(_hex_example("small"))
PLAIN = independent.canonical(SMALL["trak"])


def _build(trak, blocks=BLOCKS, **options):
    return independent.build(trak, blocks, ends={0: END}, **{"history": [EXPORT], "title": TITLE, **options})


# ---- A.1 to A.3: containers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["empty", "small"])
def test_the_example_is_a_container_and_its_facts_rebuild_it(name):  # H4MK A.1, A.2, 17.2
    data = _hex_example(name)
    facts = independent.check(data)
    blocks = [
        {
            "payload": payload,
            "pts": one["pts"],
            "min_pts": one["min_pts"],
            "key": one["flags"] & 1,
            "header": one["flags"] & 8,
        }
        for one, payload in zip(facts["tokens"], facts["payloads"], strict=True)
    ]
    meta = facts["meta"]
    rebuilt = independent.build(
        facts["trak"], blocks, ends={0: facts["duration"]}, history=meta["history"], title=meta.get("title")
    )
    assert rebuilt == data


def test_the_examples_are_what_their_text_says():  # H4MK A.2
    assert _build(SMALL["trak"]) == _hex_example("small")
    assert f"A stream of {sum(len(one['payload']) for one in BLOCKS)} bytes with B = 16" in TEXT


def test_the_project_builds_the_examples():  # H4MK 17.2
    empty = TrackInfo(start=Start(0, 30, 30))
    with H4MKBuilder.in_memory([empty]) as builder:
        builder.finish(history=[HistoryEntry("export", {"fps": "30/1", "gop": 30})])
        assert builder.getvalue() == _hex_example("empty")
    video = TrackInfo(
        codec="h264,aac",
        kind="video",
        media_type="video/mp4",
        self_framing=True,
        start=Start(126000, 1, 90000),
        timing="demux",
    )
    with H4MKBuilder.in_memory([video], origin=1400000, block=16, title=TITLE) as builder:
        for one in BLOCKS:
            builder.add_block(**one)
        builder.finish(ends={0: END}, history=[HistoryEntry("export")])
        assert builder.getvalue() == _hex_example("small")


@pytest.mark.parametrize("name", ["empty", "small"])
def test_the_project_reads_and_verifies_the_examples(name):  # H4MK 18.1, 19
    data = _hex_example(name)
    facts = independent.check(data)
    report = verify(data)
    assert report.ok and report.state == "sealed" and not report.problems
    with H4MKReader(data) as reader:
        assert (reader.state, reader.head, reader.root) == ("sealed", facts["head"], facts["root"])
        assert (reader.block_count, reader.duration) == (len(facts["tokens"]), facts["duration"])
        assert [(one.tag, one.offset, one.size) for one in reader.chunks()] == facts["chunks"]
        assert [one.pack() for one in reader.tokens()] == [independent.pack_token(t) for t in facts["tokens"]]
        assert reader.read(0, reader.stream_size()) == b"".join(facts["payloads"])
        assert reader.etag() == independent.etag(facts["head"])


@pytest.mark.parametrize(
    ("t", "answer"),
    [(39_999, None), (40_000, (40_000, 6)), (1_039_999, (40_000, 6)), (10**9, (1_040_000, 26))],
)
def test_seeks_in_the_example(t, answer):  # H4MK 8, 18.4
    with H4MKReader(_hex_example("small")) as reader:
        entry = reader.seek(t)
        assert entry is None if answer is None else (entry.pts, entry.offset) == answer


def test_identity():  # H4MK 11, 12
    values = _values("identity")
    facts = independent.check(_hex_example("small"))
    empty = independent.check(_hex_example("empty"))
    leaves = facts["leaves"]
    assert [values[f"leaf_{number}"] for number in range(4)] == leaves
    assert values["node_0_1"] == crypto.node_hash(leaves[0], leaves[1])
    assert values["node_2_3"] == crypto.node_hash(leaves[2], leaves[3])
    assert values["root"] == facts["root"] == crypto.node_hash(values["node_0_1"], values["node_2_3"])
    assert values["root_of_first_3"] == crypto.node_hash(values["node_0_1"], leaves[2])
    assert values["empty_root"] == empty["root"] == crypto.EMPTY_ROOT == hashlib.sha256().digest()
    assert values["empty_head"] == empty["head"]
    assert values["HEAD"] == facts["HEAD"]
    assert values["HEAD"][64:] == values["trak_hash"] + values["meta_hash"]
    assert values["head"] == facts["head"] == hashlib.sha256(values["HEAD"]).digest()
    assert values["etag_track_0"].hex() == independent.etag(facts["head"])
    assert values["etag_masked_form"].hex() == independent.etag(facts["head"], unmasked=True)


# ---- A.4: masking, with nothing but hmac, hashlib and AES on single blocks -------------------------------


def _aes(key, block):
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def _hmac(key, data):
    return hmac.digest(key, data, "sha256")


def _expand(key, info, length=32):  # RFC 5869 2.3, one round
    return _hmac(key, info + b"\1")[:length]


def _xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def _mask(key, data):  # H4MK 21.4
    stream = b"".join(_aes(key, number.to_bytes(16, "big")) for number in range(-(-len(data) // 16)))
    return _xor(data, stream[: len(data)])


def _wrap(key, data):  # RFC 3394 2.2.1
    a, rows = b"\xa6" * 8, [data[at : at + 8] for at in range(0, len(data), 8)]
    for step in range(6 * len(rows)):
        row = step % len(rows)
        block = _aes(key, a + rows[row])
        a, rows[row] = _xor(block[:8], (step + 1).to_bytes(8, "big")), block[8:]
    return a + b"".join(rows)


def test_masking():  # H4MK 21
    values = _values("masking")
    master = values["master"]
    assert values["key_id"] == _expand(master, b"h4mk/1 id", 16)
    assert values["kek"] == _expand(master, b"h4mk/1 kek")
    assert values["K_syn"] == _expand(master, b"h4mk/1 syn")
    assert (values["plain_trak_hash"], values["plain_root"]) == (
        hashlib.sha256(PLAIN).digest(),
        SMALL["root"],
    )
    d = b"h4mk/1 plain\0" + values["plain_trak_hash"] + struct.pack(">Q", 4) + values["plain_root"]
    assert values["D"] == hashlib.sha256(d).digest()
    assert values["salt"] == _hmac(values["K_syn"], values["D"])
    file_key = _expand(_hmac(values["salt"], master), b"h4mk/1 file")
    assert values["K_file"] == file_key
    assert values["commit"] == _expand(file_key, b"h4mk/1 commit")
    assert values["K_mac"] == _expand(file_key, b"h4mk/1 mac")
    assert values["wrapped"] == _wrap(values["kek"], file_key)
    keys = bytes([1]) + bytes(7) + values["key_id"] + values["wrapped"] + bytes(8)
    assert values["keys_payload_start"] == keys

    trak = json.loads(PLAIN)
    trak["tracks"][0]["masked"] = True
    trak["mask"] = {"commit": values["commit"].hex(), "mode": "deterministic"}
    assert values["masked_trak_hash"] == hashlib.sha256(independent.canonical(trak)).digest()
    blocks = []
    for number, one in enumerate(BLOCKS):
        key = _expand(file_key, b"h4mk/1 enc" + struct.pack(">HQ", 0, number))
        assert values[f"K_block_{number}"] == key
        assert values[f"safe_{number}"] == _mask(key, one["payload"])
        blocks.append({**one, "payload": values[f"safe_{number}"]})
    for number, one in enumerate(independent.tokens_of(trak, blocks, {0: END})):
        message = b"h4mk/1 tag\0" + values["masked_trak_hash"] + independent.pack_token(one)[:96]
        assert values[f"tag_{number}"] == _hmac(values["K_mac"], message)
        blocks[number]["tag"] = values[f"tag_{number}"]

    history_key = _expand(file_key, b"h4mk/1 history")
    assert (values["K_history"], values["heads"]) == (history_key, _wrap(history_key, SMALL["head"]))
    message = b"h4mk/1 whole\0" + values["masked_trak_hash"] + struct.pack(">Q", 4) + values["masked_root"]
    assert values["whole"] == _hmac(values["K_mac"], message)
    arguments = {name: values[name].hex() for name in ("heads", "whole")}
    masked = {"args": arguments, "inputs": [{"head": "00" * 32}], "op": "mask"}
    data = _build(trak, blocks, keys=keys.ljust(520, b"\0"), history=[EXPORT, masked])
    assert (len(data), hashlib.sha256(data).digest()) == (
        values["masked_file_length"],
        values["masked_file_hash"],
    )
    checked = independent.check(data)
    assert (checked["head"], checked["root"]) == (values["masked_head"], values["masked_root"])
    assert verify(data).problems == ()


# ---- A.5: signatures -------------------------------------------------------------------------------------

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def test_signing():  # H4MK 13
    values = _values("signing")
    private = ec.derive_private_key(int.from_bytes(values["private_key"], "big"), ec.SECP256R1())
    public = private.public_key()
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert (values["spki"], values["spki_hash"]) == (spki, hashlib.sha256(spki).digest())
    assert values["subject_hash"] == hashlib.sha256(values["subject"].encode()).digest()

    def sign(kind):
        def signer(head):
            start = struct.pack(">BB6xQ", kind, 1, values["revision"]) + values["subject_hash"]
            message = head + start + values["spki_hash"]
            raw = private.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
            r, s = utils.decode_dss_signature(raw)
            low = min(s, ORDER - s)
            return message[128:] + r.to_bytes(32, "big") + low.to_bytes(32, "big")

        return signer

    data = _build(SMALL["trak"], sign=[sign(1)], checkpoints={2: sign(2)})
    facts = independent.check(data)
    assert facts["checkpoints"] == [(values["checkpoint_HEAD"], values["checkpoint_sign"])]
    assert facts["signs"] == [(values["final_HEAD"], values["final_sign"])]
    assert values["final_message"] == values["final_HEAD"] + values["final_sign"][:80]
    assert values["final_message_hash"] == hashlib.sha256(values["final_message"]).digest()
    assert values["final_sign"][80:] == values["final_r"] + values["final_s"]
    assert (facts["head"], facts["root"]) == (values["signed_head"], SMALL["root"])
    assert (len(data), hashlib.sha256(data).digest()) == (
        values["signed_file_length"],
        values["signed_file_hash"],
    )
    # The checkpoint covers two blocks and no META; both signatures hold.
    assert values["checkpoint_HEAD"][16:24] == struct.pack(">Q", 2)
    assert values["checkpoint_HEAD"][96:] == bytes(32)
    for head, payload in (*facts["checkpoints"], *facts["signs"]):
        r, s = (int.from_bytes(payload[at : at + 32], "big") for at in (80, 112))
        assert s <= ORDER // 2
        public.verify(utils.encode_dss_signature(r, s), head + payload[:80], ec.ECDSA(hashes.SHA256()))
    assert verify(data).problems == ()


# ---- A.6: cutting ----------------------------------------------------------------------------------------


def test_cutting():  # H4MK 15.4, 16
    values = _values("cutting")
    packets = [independent.Packet(*one) for one in values["packets"]]
    keyframes = [one.pos for one in packets if one.stream == 0 and one.key]

    def unit(p, _):
        return next((at - 2 for at in keyframes if at - 2 <= p <= at), p)

    timeline = independent.Timeline(1, 1000, 0)
    blocks = independent.Cut(60, 10, 0, timeline, unit).read(packets)
    kinds = ["K" if one["key"] else "H" if one["header"] else "-" for one in blocks]
    names = ("offset", "size", "pts", "min_pts")
    assert [
        [*(one[name] for name in names), kind] for one, kind in zip(blocks, kinds, strict=True)
    ] == values["blocks"]
    assert (timeline.end, timeline.steps) == (values["last_end"], values["steps"])


# ---- real media: the packets that PyAV finds, the rule of section 16, the bytes of section 17 -----------

VIDEO = "-f lavfi -i testsrc2=s=96x64:r=25:d=4 -f lavfi -i sine=r=44100:d=4.2 -pix_fmt yuv420p -g 25"
AVC = f"{VIDEO} -c:v libx264 -preset ultrafast -bf 2 -c:a aac"
TONE = "-f lavfi -i sine=r=44100:d=4.2"
CLIPS = {
    "plain.mp4": f"{AVC} -movflags +faststart",
    "moov-last.mp4": AVC,
    "fragmented.mp4": f"{AVC} -movflags frag_keyframe+empty_moov+default_base_moof",
    "long-fragments.mp4": f"{AVC} -movflags empty_moov+default_base_moof -frag_duration 2500000",
    "open-gop.mkv": f"{AVC} -x264opts open-gop=1",
    "clip.webm": f"{VIDEO} -c:v libvpx -deadline realtime -c:a libvorbis",
    "clip.ts": f"{AVC} -f mpegts",
    "clip.m2ts": f"{AVC} -f mpegts -mpegts_m2ts_mode 1",
    "tone.mp3": f"{TONE} -c:a libmp3lame",
    "tone.flac": f"{TONE} -c:a flac",
    "tone.wav": f"{TONE} -c:a pcm_s16le",
    "tone.ogg": f"{TONE} -c:a libvorbis",
}
FORMATS = {
    ".mp4": ("mp4", "video/mp4"),
    ".mkv": ("matroska", "video/x-matroska"),
    ".webm": ("matroska", "video/webm"),
    ".ts": ("mpegts", "video/mp2t"),
    ".m2ts": ("mpegts", "video/mp2t"),
    ".mp3": ("mp3", "audio/mpeg"),
    ".flac": ("flac", "audio/flac"),
    ".wav": ("wav", "audio/wav"),
    ".ogg": ("ogg", "audio/ogg"),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, options in CLIPS.items():
        command = ["ffmpeg", "-v", "error", "-nostdin", *options.split(), "-bitexact", str(folder / name)]
        subprocess.run(command, check=True)
    return folder


class _Pipe:
    """A source that cannot seek."""

    def __init__(self, data):
        self.read = io.BytesIO(data).read


def _rebuild(path, limit):
    """What docs/H4MK.md says an export of this file is, without any code of the project."""
    data = path.read_bytes()
    name, media_type = FORMATS[path.suffix]
    boxes = [data.find(kind) for kind in (b"mdat", b"moov", b"moof")]
    jumping = name == "mp4" and boxes[0] < min(at for at in boxes[1:] if at >= 0)
    with av.open(
        io.BytesIO(data) if jumping else _Pipe(data),
        format=name,
        container_options={"correct_ts_overflow": "0"},
        buffer_size=32768,
    ) as media:
        media.flags &= ~1  # genpts
        streams = list(media.streams)
        clock = next((one for one in streams if one.type == "video"), streams[0])
        base = clock.time_base
        starts = [
            one.start_time * one.time_base.numerator * 10**6 // one.time_base.denominator
            for one in streams
            if one.start_time is not None
        ]
        start, pid, video = clock.start_time or 0, clock.id, clock.type == "video"
        codecs = ",".join(one.codec_context.codec.canonical_name for one in streams)
        index = clock.index
        packets = [
            independent.Packet(one.stream_index, one.pts, one.duration or 0, one.pos, one.is_keyframe)
            for one in media.demux()
            if one.size or one.pts is not None
        ]
    origin, span = min(starts, default=0), 0 if video else 10**6
    if name == "mpegts":
        unit = independent.transport(data, pid, 192 if data[4] == 0x47 and data[196] == 0x47 else 188)
    elif name in ("mp4", "matroska", "ogg"):
        unit = independent.top_level(data, name)
    else:

        def unit(p, _):
            return p

    timeline = independent.Timeline(
        base.numerator, base.denominator, origin, start if name == "mpegts" else None
    )
    blocks = independent.Cut(len(data), limit, index, timeline, unit, span, jumping).read(packets)
    for one in blocks:
        one["payload"] = data[one["offset"] : one["offset"] + one["size"]]
    track = {
        "codec": codecs,
        "kind": "video" if video else "audio",
        "masked": False,
        "media_type": media_type,
        "self_framing": name != "mp4" or 0 <= boxes[2] < packets[0].pos,
        "span": span,
        "start": {"den": base.denominator, "num": base.numerator, "ticks": start},
        "stream": index,
        "timing": "demux",
    }
    trak = {"cut": {"block": limit, "order": "end", "rule": 1}, "origin": str(origin), "tracks": [track]}
    return independent.build(trak, blocks, ends={0: timeline.end}, history=[EXPORT], steps=timeline.steps)


def _same(path, limit):
    out = io.BytesIO()
    export(path, out, ExportOptions(block_size=limit))
    ours = _rebuild(path, limit)
    assert out.getvalue() == ours
    return independent.check(ours)


@pytest.mark.parametrize("limit", [4096, 2**20])
def test_a_real_export_is_rebuilt_from_the_specification(limit):  # H4MK 16, 17
    facts = _same(BUNNY, limit)
    assert b"".join(facts["payloads"]) == BUNNY.read_bytes()


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "limit"), [*((name, 1500) for name in CLIPS), ("fragmented.mp4", 2**20), ("clip.ts", 2**20)]
)
def test_every_format_is_rebuilt_from_the_specification(clips, name, limit):  # H4MK 16, 17
    facts = _same(clips / name, limit)
    assert b"".join(facts["payloads"]) == (clips / name).read_bytes()
    # One a second; of a fragment that holds several keyframes, only the first opens a block.
    expected = 2 if name == "long-fragments.mp4" else 5 if name.startswith("tone") else 4
    assert facts["meta"]["tracks"][0]["keyframes"] == expected


@needs_ffmpeg
def test_a_joined_stream_takes_a_step(clips, tmp_path):  # H4MK 15.4
    path = tmp_path / "joined.ts"
    path.write_bytes((clips / "clip.ts").read_bytes() * 2)
    facts = _same(path, 2**20)
    assert len(facts["meta"]["steps"]) == 1
    assert facts["meta"]["tracks"][0]["keyframes"] == 8


@pytest.mark.parametrize("size", [0, 1, 1000, 1001, 2500])
@pytest.mark.parametrize("raw", [False, True])
def test_opaque_bytes_are_rebuilt_from_the_specification(tmp_path, size, raw):  # H4MK 16.8
    path = tmp_path / "opaque.bin"
    path.write_bytes(bytes(at % 251 for at in range(size)))
    out = io.BytesIO()
    options = ExportOptions(block_size=1000, raw=raw, fps_hint=Fraction(24000, 1001), gop=48)
    export(path, out, options)
    blocks, end = independent.opaque(path.read_bytes(), 1000, 24000, 1001, 48)
    trak = independent.check(_hex_example("empty"))["trak"]
    trak["cut"]["block"] = 1000
    trak["tracks"][0]["start"] = {"den": 24000, "num": 1001 * 48, "ticks": 0}
    entry = {
        "args": {"fps": "24000/1001", "gop": 48} | ({"raw": True} if raw else {}),
        "inputs": [],
        "op": "export",
    }
    assert out.getvalue() == independent.build(trak, blocks, ends={0: end}, history=[entry])


# ---- the two implementations refuse the same -------------------------------------------------------------


@pytest.mark.parametrize(("name", "stride"), [("empty", 3), ("small", 7)])
def test_both_notice_changed_bytes_and_cuts(name, stride):  # H4MK 19
    good = _hex_example(name)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 0x20  # in a tag: the case of a letter
        with pytest.raises(ValueError, match=r"."):
            independent.check(bytes(bad))
        with pytest.raises(ValueError, match=r"."):
            independent.check(good[:at])
        if at % stride == 0:
            assert not verify(bytes(bad)).ok, at
            assert not verify(good[:at]).ok, at


def _trak(path, value):
    """TRAK of A.2 with one value set (a dotted path from its root) or, with `...`, taken out."""
    trak = json.loads(PLAIN)
    *parents, name = path.split(".")
    place = trak
    for one in parents:
        place = place[int(one) if one.isdigit() else one]
    if value is ...:
        del place[name]
    else:
        place[name] = value
    return {"trak": trak}


def _entry(**changes):
    return {"history": [EXPORT | changes]}


def _steps(*times, track=0):
    return {"steps": [{"pts": one, "shift": 1, "track": track} for one in times]}


def _signed(start, rest=b"", stamp=None):
    return {"sign": [lambda head: (start + bytes(144 - len(start)) + rest, stamp)]}


FIRST, KEYED, MORE, SECOND = BLOCKS
VARIANTS = {
    # Sound:
    "as it is": (True, {}),
    "language": (True, _trak("tracks.0.lang", "de")),
    "least origin": (True, _trak("origin", "-9223372036854775807")),
    "arrival": (True, _trak("cut.order", "arrival")),
    "wide integer": (True, _trak("tracks.0.span", 2**60)),
    "negative start": (True, _trak("tracks.0.start.ticks", -5)),
    "arguments": (True, _entry(args={"a": 2**60, "b": True, "c": "s"})),
    "inputs": (True, _entry(inputs=[{"head": "00" * 32, "sign": "11" * 32}])),
    "steps": (True, _steps(5, 5, 6)),
    "not structure only": (True, {"structure_only": False}),
    "ancillary chunks": (True, {"ancillary": [(b"abcd", b""), (b"aBcd", b"x"), (b"abcd", b"y")]}),
    "blocks before the first keyframe": (True, {"blocks": [FIRST, {"payload": b"x", "pts": 3}, KEYED]}),
    "equal times": (
        True,
        {"blocks": [{"payload": b"x", "pts": 40000}, KEYED, {"payload": b"x", "pts": 40000}]},
    ),
    "signature": (True, _signed(b"\1\1")),
    "certificate": (True, _signed(b"\1\1", b"\0\0\0\1x")),
    "time stamp": (True, _signed(b"\1\1", stamp=b"t")),
    "checkpoint": (True, {"checkpoints": {1: lambda head: b"\2\1" + bytes(142)}}),
    # Refused (H4MK 4, 5, 10):
    "empty language": (False, _trak("tracks.0.lang", "")),
    "empty name": (False, _trak("tracks.0.name", "")),
    "empty title": (False, {"title": ""}),
    "unknown kind": (False, _trak("tracks.0.kind", "smell")),
    "unknown order": (False, _trak("cut.order", "pts")),
    "unknown rule": (False, _trak("cut.rule", 2)),
    "true is no integer": (False, _trak("cut.rule", True)),
    "unknown key": (False, _trak("x", 1)),
    "missing key": (False, _trak("cut.rule", ...)),
    "float": (False, _trak("tracks.0.span", 0.5)),
    "null": (False, _trak("tracks.0.span", None)),
    "string for an integer": (False, _trak("tracks.0.span", "5")),
    "negative": (False, _trak("tracks.0.span", -1)),
    "time base": (False, _trak("tracks.0.start.den", 0)),
    "stream": (False, _trak("tracks.0.stream", 65536)),
    "origin as a number": (False, _trak("origin", 5)),
    "origin -0": (False, _trak("origin", "-0")),
    "origin 2^63": (False, _trak("origin", str(2**63))),
    "no room for a block": (False, _trak("cut.block", 15)),
    "no block size": (False, _trak("cut.block", 0)),
    "no tracks": (False, {**_trak("tracks", []), "blocks": []}),
    "mask without masked tracks": (False, _trak("mask", {"commit": "00" * 32, "mode": "random"})),
    "nested arguments": (False, _entry(args={"a": [1]})),
    "null argument": (False, _entry(args={"a": None})),
    "upper-case digest": (False, _entry(inputs=[{"head": "AA" * 32}])),
    "steps unsorted": (False, _steps(6, 5)),
    "steps of no track": (False, _steps(5, track=1)),
    "1 is no boolean": (False, {"structure_only": 1}),
    # Refused (H4MK 3, 7, 14.2):
    "KEYS without mask": (False, {"keys": bytes([1]) + bytes(519)}),
    "ancillary chunk twice": (False, {"ancillary": [(b"abcd", b"y"), (b"abcd", b"y")]}),
    "time among ancillary chunks": (False, {"ancillary": [(b"time", b"y")]}),
    "unknown critical chunk": (False, {"ancillary": [(b"Abcd", b"y")]}),
    "tag with a digit": (False, {"ancillary": [(b"abc1", b"y")]}),
    # Refused (H4MK 6.2):
    "equal keyframe times": (False, {"blocks": [KEYED, {"payload": b"x", "pts": 40000, "key": True}]}),
    "times run backwards": (False, {"blocks": [KEYED, {**MORE, "pts": 30000}, SECOND]}),
    "late HEADER": (False, {"blocks": [{**KEYED, "pts": 0}, FIRST]}),
    "HEADER with a time": (False, {"blocks": [{**FIRST, "pts": 4}, KEYED]}),
    "HEADER and KEY": (False, {"blocks": [{**FIRST, "key": True}, KEYED]}),
    "tag on a plain block": (False, {"blocks": [{**FIRST, "tag": b"x" * 32}, KEYED]}),
    "empty payload": (False, {"blocks": [{**FIRST, "payload": b""}, KEYED]}),
    # Refused (H4MK 13.1):
    "checkpoint at the end": (False, _signed(b"\2\1")),
    "final signature between blocks": (False, {"checkpoints": {1: lambda head: b"\1\1" + bytes(142)}}),
    "unknown algorithm": (False, _signed(b"\1\2")),
    "reserved byte": (False, _signed(b"\1\1\1")),
    "empty certificate": (False, _signed(b"\1\1", b"\0\0\0\0")),
    "long certificate": (False, _signed(b"\1\1", b"\0\0\0\2x")),
    "half a length": (False, _signed(b"\1\1", b"\0\0")),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_both_judge_alike(name):  # H4MK 19
    sound, options = VARIANTS[name]
    data = _build(**{"trak": SMALL["trak"], **options})
    if sound:
        independent.check(data)
    else:
        with pytest.raises(ValueError, match=r"."):
            independent.check(data)
    assert verify(data).ok is sound


@pytest.mark.parametrize("damaged", [0, 1, 2, 3])
def test_a_recovered_container_is_sound_and_names_its_holes(damaged):  # H4MK 10.2, 20
    data = bytearray(_hex_example("small"))
    places = [at for tag, at, _ in SMALL["chunks"] if tag == "CORE"]
    data[places[damaged] + 12] ^= 1
    out = io.BytesIO()
    recover(bytes(data), out)
    facts = independent.check(out.getvalue())
    assert verify(out.getvalue()).ok
    lost = {"count": 0 if damaged == 3 else 1, "first": damaged, "track": 0}
    assert facts["meta"]["lost"] == [lost]
    kept = [independent.pack_token(one) for one in SMALL["tokens"]]
    del kept[damaged]
    assert [independent.pack_token(one) for one in facts["tokens"]] == kept
    entry = {"args": {}, "inputs": [{"head": SMALL["head"].hex()}], "op": "recover"}
    assert facts["meta"]["history"] == [EXPORT, entry]


def test_the_original_implementations_file():  # H4MK 23
    data = (Path(__file__).parent / "vectors" / "original-v1.h4mk").read_bytes()
    facts = independent.check(data)
    assert facts["seek"] == [(0, 0), (1_000_000, 3_000), (2_000_000, 9_000)]
    assert verify(data).ok
    with H4MKReader(data) as reader:
        assert reader.state == facts["state"] == "original"
        assert reader.read(0, reader.stream_size()) == facts["stream"]
        assert reader.etag() == independent.etag(facts["seal"])


# ---- the text knows what the code knows ------------------------------------------------------------------


def _table(heading):
    return re.search(rf"^### {re.escape(heading)}\n(.*?)^##", TEXT, re.MULTILINE | re.DOTALL)[1]


def test_every_tag_and_its_sizes_stand_in_the_text():  # H4MK 3.2
    rows = dict(re.findall(r"^\| `(\w{4})` \|(.*)\|$", _table("3.2 Tags"), re.MULTILINE))
    critical = {tag.decode() for tag in layout._LIMITS if layout.is_critical(tag.decode())}
    assert rows.keys() == critical | {"time"}
    for tag, (least, most) in layout._LIMITS.items():
        if least == most:
            assert f"| {least} |" in rows[tag.decode()]


def test_every_limit_stands_in_the_text():  # H4MK 24.1
    limits = _table("24.1 Limits")
    for value in (
        token.MAX_BLOCK,
        token.DEFAULT_BLOCK,
        token.MAX_BLOCKS,
        token.MAX_VALUE + 1,
        layout.JSON_LIMIT,
        layout.COPY_LIMIT,
        layout.FIRST_READ,
        canonical.MAX_INTEGER,
        canonical.MAX_DEPTH,
    ):
        assert re.search(rf"\b{value}\b", limits), value
    assert layout.TAIL_CHUNK == 140
    assert layout.KEYS_SIZE == 520


def test_every_error_class_stands_in_the_text():  # H4MK 24.2
    section = _table("24.2 Errors")

    def family(kind):
        return {kind.code}.union(*map(family, kind.__subclasses__()))

    assert family(errors.HarmonyError) <= set(re.findall(r"`([a-z-]+)`", section))
    rows = set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))
    assert rows == family(errors.FormatError) | {"limit"}


def test_sections_that_code_and_tests_cite_exist():
    sections = set(re.findall(r"^##+ (A?[0-9.]*[0-9]|A\.\d) ", TEXT, re.MULTILINE))
    for path in [*ROOT.glob("*/*.py"), *ROOT.glob("*/*/*.py")]:
        if path.parts[len(ROOT.parts)].startswith("."):
            continue
        for cited in re.findall(r"H4MK ((?:\d|A\.)[\d.]*)", path.read_text("utf-8")):
            assert cited.rstrip(".") in sections, f"{path.name} cites {cited}"


def test_the_contents_link_to_every_section():
    for number, title in re.findall(r"^## (\w+) (.*)$", TEXT, re.MULTILINE):
        slug = re.sub(r"[^a-z0-9 -]", "", f"{number} {title}".lower()).replace(" ", "-")
        assert f"(#{slug})" in TEXT, title
