"""`/media`: the library page by page, whatever lies in the folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from needs import ORIGINAL
from serving import Server, running, write_container


def names(server: Server, **query: Any) -> list[str]:
    """All names, over all pages."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        asked = query | ({"cursor": cursor} if cursor else {})
        answer = server.get(f"/media?{urlencode(asked)}")
        assert answer.status == 200, answer
        page = answer.json
        assert len(page["items"]) <= query.get("limit", 100)
        found += [item["name"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            return found


def test_items(tmp_path: Path) -> None:
    seal = write_container(tmp_path / "talks" / "day 1.h4mk", [b"12345", b"678"], title="<b>Day</b>")
    (tmp_path / "original.h4mk").write_bytes(ORIGINAL.read_bytes())
    with running(tmp_path) as server:
        answer = server.get("/media")
        assert answer.headers["Cache-Control"] == "no-cache"
        original, talk = answer.json["items"]
        assert answer.json["next"] is None
        assert (original["name"], original["state"]) == ("original.h4mk", "original")
        assert (talk["name"], talk["state"], talk["title"]) == ("talks/day 1.h4mk", "sealed", "<b>Day</b>")
        assert (talk["size"], talk["duration"], talk["blocks"]) == (seal.length, 2_000_000, 2)
        assert talk["modified"] == int((tmp_path / "talks" / "day 1.h4mk").stat().st_mtime)
        assert talk["tracks"] == [
            {
                "kind": "video",
                "codec": "h264",
                "media_type": "video/mp4",
                "keyframes": 2,
                "bytes": 8,
                "lost": 0,
            }
        ]
        assert server.get(talk["range_url"]).body == b"12345678"
        assert server.get(f"/video/info?name={quote(talk['name'])}").status == 200


def test_pages_sorting_search(tmp_path: Path) -> None:
    for number in range(25):
        path = tmp_path / f"clip-{number:02}.h4mk"
        write_container(path, [b"x" * (1 + number % 3)] * (1 + number % 5))
        os.utime(path, (1000 + number * 7 % 25, 1000 + number * 7 % 25))
    every = [f"clip-{number:02}.h4mk" for number in range(25)]
    with running(tmp_path) as server:
        for limit in (1, 4, 25, 1000):
            assert names(server, limit=limit) == every
        assert names(server, limit=7, sort="-name") == every[::-1]
        for sort, key in (
            ("size", lambda name: (tmp_path / name).stat().st_size),
            ("modified", lambda name: (tmp_path / name).stat().st_mtime_ns),
            ("duration", lambda name: 1 + int(name[5:7]) % 5),
        ):
            expected = sorted(every, key=lambda name, key=key: (key(name), name))  # type: ignore[misc]
            assert names(server, limit=6, sort=sort) == expected
            assert names(server, limit=6, sort=f"-{sort}") == expected[::-1]
        assert names(server, q="CLIP-1", limit=3) == every[10:20]
        assert names(server, q="nothing") == []


def test_cursor_survives_changes(tmp_path: Path) -> None:
    for name in "bdf":
        write_container(tmp_path / f"{name}.h4mk", [b"x"])
    with running(tmp_path) as server:
        page = server.get("/media?limit=2").json
        assert [item["name"] for item in page["items"]] == ["b.h4mk", "d.h4mk"]
        (tmp_path / "d.h4mk").unlink()
        write_container(tmp_path / "a.h4mk", [b"x"])
        write_container(tmp_path / "e.h4mk", [b"x"])
        rest = server.get(f"/media?cursor={page['next']}").json
        assert [item["name"] for item in rest["items"]] == ["e.h4mk", "f.h4mk"]


def test_changes_are_seen(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        assert server.get("/media").json == {"items": [], "next": None, "total": 0}
        write_container(tmp_path / "a.h4mk", [b"x"])
        assert server.get("/media").json["items"][0]["blocks"] == 1
        write_container(tmp_path / "a.h4mk", [b"x", b"y"])
        assert server.get("/media").json["items"][0]["blocks"] == 2
        (tmp_path / "a.h4mk").unlink()
        assert server.get("/media").json["items"] == []


def test_strange_files(tmp_path: Path) -> None:
    """What is broken is listed with its error; what is none of ours is not listed; nothing breaks the
    listing."""
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    write_container(outside / "secret.h4mk", [b"secret"])
    write_container(root / "good.h4mk", [b"good"])
    write_container(root / "folder" / "inner.h4mk", [b"inner"])
    (root / "broken.h4mk").write_bytes(b"no container")
    (root / "zero.h4mk").touch()
    (root / "folder.h4mk").mkdir()
    (root / ".hidden.h4mk").touch()
    (root / ".half.h4mk.part").touch()
    (root / "text.txt").touch()
    os.mkfifo(root / "fifo.h4mk")
    (root / "inside.h4mk").symlink_to(root / "good.h4mk")
    (root / "outside.h4mk").symlink_to(outside / "secret.h4mk")
    (root / "dangling.h4mk").symlink_to(root / "nothing")
    (root / "circle").symlink_to(root)
    (root / os.fsdecode(b"latin-\xe4.h4mk")).write_bytes(b"x")
    (root / "<script>alert(1)<").mkdir()
    write_container(root / "<script>alert(1)<" / "script>.h4mk", [b"x"])
    with running(root) as server:
        items = server.get("/media").json["items"]
        assert server.get("/media?sort=-duration&limit=2").status == 200
        assert names(server, limit=1, sort="duration").count(None) == 1  # type: ignore[arg-type]
    listed = {item["name"]: item.get("error", {}).get("code") for item in items}
    assert listed == {
        "<script>alert(1)</script>.h4mk": None,
        "broken.h4mk": "version",
        "folder/inner.h4mk": None,
        "good.h4mk": None,
        "inside.h4mk": None,
        None: "name",
        "zero.h4mk": "truncated",
    }
    assert not any(str(tmp_path) in str(item) for item in items)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=x",
        "limit=",
        "sort=colour",
        "sort=--name",
        "cursor=%20",
        "cursor=AAAA",
    ],
)
def test_wrong_requests(tmp_path: Path, query: str) -> None:
    with running(tmp_path) as server:
        answer = server.get(f"/media?{query}")
        assert (answer.status, answer.problem) == (400, "usage")
