"""`/video/info`: structure, tracks, metadata, state; and the facts that it shares with the command line."""

from __future__ import annotations

from pathlib import Path

from harmony4.crypto.signing import SigningKey
from harmony4.h4mk import H4MKBuilder, H4MKReader, HistoryEntry, Step, TrackInfo
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.signing import sign_file
from harmony4.server.folder.facts import info_facts, token_facts
from needs import ORIGINAL
from serving import VIDEO, running, write_container

STREAM = b"one" + b"three"


def test_sealed(tmp_path: Path) -> None:
    info = TrackInfo("h264,aac", "video", "video/mp4", timing="demux", lang="de", name='<b>"x"</b>')
    with H4MKBuilder.to_path(tmp_path / "a.h4mk", [info], title="A <i>title</i>", origin=-5) as builder:
        builder.add_block(b"one", 0, key=True)
        builder.add_block(b"three", 40_000, key=True)
        seal = builder.finish(
            ends={0: 80_000},
            steps=[Step(40_000, 7)],
            history=[HistoryEntry("export", {"gop": 30, "raw": True})],
            ancillary=[("note", b"n")],
        )
    with running(tmp_path) as server:
        answer = server.get("/video/info?name=a.h4mk")
        with H4MKReader(tmp_path / "a.h4mk") as reader:
            facts = info_facts(reader)
        info_json = answer.json
        assert info_json.pop("name") == "a.h4mk"
        url = info_json["tracks"][0].pop("range_url")
        assert info_json == facts
        assert server.get(url).body == STREAM
    assert facts["state"] == "sealed"
    assert facts["head"] == seal.head.hex()
    assert facts["root"] == seal.root.hex()
    assert (facts["duration"], facts["blocks"], facts["size"]) == (80_000, 2, seal.length)
    assert facts["origin"] == "-5"
    assert facts["title"] == "A <i>title</i>"
    assert facts["steps"] == [{"pts": 40_000, "shift": 7, "track": 0}]
    assert facts["history"] == [{"op": "export", "args": {"gop": 30, "raw": True}, "inputs": []}]
    assert [one["tag"] for one in facts["ancillary"]] == ["note"]
    track = facts["tracks"][0]
    assert (track["kind"], track["codec"], track["lang"], track["name"]) == (
        "video",
        "h264,aac",
        "de",
        '<b>"x"</b>',
    )
    assert (track["blocks"], track["bytes"], track["keyframes"]) == (2, len(STREAM), 2)
    assert len(track["sha256"]) == 64
    assert url.endswith(f"&v={track['etag'][:16]}")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_original_and_incomplete(tmp_path: Path) -> None:
    (tmp_path / "original.h4mk").write_bytes(ORIGINAL.read_bytes())
    write_container(tmp_path / "whole.h4mk", [b"block"] * 9)
    whole = (tmp_path / "whole.h4mk").read_bytes()
    (tmp_path / "cut.h4mk").write_bytes(whole[:-1])
    with running(tmp_path) as server:
        original = server.get("/video/info?name=original.h4mk").json
        assert (original["state"], original["head"], original["blocks"]) == ("original", None, 5)
        assert original["original"]["project"] == "HarmonyO4"
        cut = server.get("/video/info?name=cut.h4mk").json
        assert (cut["state"], cut["head"], cut["root"], cut["blocks"]) == ("incomplete", None, None, 9)
        assert cut["tracks"][0]["etag"] is None
        assert "&v=" not in cut["tracks"][0]["range_url"]
        assert server.get(cut["tracks"][0]["range_url"]).body == b"block" * 9


def test_wrong_requests(tmp_path: Path) -> None:
    (tmp_path / "broken.h4mk").write_bytes(b"H4MK\0\0\0\2")
    with running(tmp_path) as server:
        assert server.get("/video/info").problem == "usage"
        assert server.get("/video/info?name=").problem == "usage"
        assert server.get("/video/info?name=none.h4mk").problem == "not-found"
        broken = server.get("/video/info?name=broken.h4mk")
        assert (broken.status, broken.problem) == (500, "version")


def test_token_facts() -> None:
    builder = H4MKBuilder.in_memory([VIDEO])
    builder.add_block(b"header", 0, header=True)
    builder.add_block(b"key", 5, key=True, min_pts=4)
    builder.finish(ends={0: 9})
    with H4MKReader(builder.getvalue()) as reader:
        header, key = (token_facts(token) for token in reader.tokens())
    assert (header["header"], header["key"], header["key_pts"], header["key_offset"]) == (
        True,
        False,
        None,
        None,
    )
    assert (key["key"], key["last"], key["masked"], key["tag"]) == (True, True, False, None)
    assert (key["index"], key["pts"], key["end"], key["min_pts"], key["offset"], key["size"]) == (
        1,
        5,
        9,
        4,
        6,
        3,
    )
    assert (key["key_pts"], key["key_offset"]) == (5, 6)
    assert len(key["digest"]) == 64


def test_who_signed(tmp_path: Path) -> None:
    """Named, not checked: in `/video/info` and in the listing; a signature that is damaged counts as none."""
    path = tmp_path / "a.h4mk"
    write_container(path, [b"one", b"two"])
    keys = [SigningKey.from_number(number) for number in (7, 8)]
    for key in keys:
        sign_file(path, Signer(key))
    expected = [key.public.fingerprint[:4].hex() for key in keys]
    data = bytearray(path.read_bytes())
    data[data.rindex(b"SIGN") + 40] ^= 1
    (tmp_path / "b.h4mk").write_bytes(data)
    (tmp_path / "c.h4mk").write_bytes(data[:300])
    with H4MKReader(path) as reader:
        assert reader.signers() == tuple(key.public.fingerprint for key in keys)
    with H4MKReader(tmp_path / "c.h4mk") as reader:
        assert (reader.state, reader.signers()) == ("incomplete", ())
    with running(tmp_path) as server:
        assert server.get("/video/info?name=a.h4mk").json["signed"] == expected
        assert server.get("/video/info?name=b.h4mk").json["signed"] == []
        items = server.get("/media").json["items"]
        assert [(item["signed"], item["head"] is None) for item in items] == [
            (expected, False), ([], False), ([], True)
        ]  # fmt: skip
