"""`/video/keyframes`: a long answer is put together in parts, and shows no seam."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from harmony4.h4mk import H4MKReader
from harmony4.server.folder.facts import keyframe_facts
from harmony4.server.keys import LIBRARY
from serving import Server, running, write_container

COUNT = 2600
STEP = 2**53 // 1500
"""µs between two keyframes: from number 1500 on, times are strings (beyond what JavaScript keeps exact)."""
URL = "/video/keyframes?name=a.h4mk"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    write_container(root / "a.h4mk", [b"%04d" % number for number in range(COUNT)], step=STEP)
    with running(root) as one:
        yield one


@pytest.fixture(scope="module")
def reader(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[H4MKReader]:
    copy = tmp_path_factory.mktemp("copy") / "a.h4mk"
    copy.write_bytes(server.get("/container?name=a.h4mk").body)
    with H4MKReader(copy) as found:
        yield found


@pytest.mark.parametrize("start", [0, 1, 999, 1000, 1001, 1499, 1600, COUNT - 1, COUNT, COUNT + 1, 10**6])
@pytest.mark.parametrize("limit", [None, 1, 2, 999, 1000, 1001, 1999, 2000, 2001, COUNT, 100_000])
def test_any_part(server: Server, reader: H4MKReader, start: int, limit: int | None) -> None:
    answer = server.get(f"{URL}&start={start}{'' if limit is None else f'&limit={limit}'}")
    facts = keyframe_facts(reader, start=start, limit=limit or 100_000)
    assert answer.status == 200
    assert answer.body.decode() == json.dumps(facts)
    stop = min(COUNT, start + (limit or 100_000))
    assert [int(pts) for pts in answer.json["pts"]] == [number * STEP for number in range(start, stop)]
    assert answer.json["offset"] == [number * 4 for number in range(start, stop)]


def test_from_the_beginning_without_being_told(server: Server, reader: H4MKReader) -> None:
    answer = server.get(URL)
    assert answer.json == keyframe_facts(reader, limit=COUNT)
    assert (answer.json["count"], len(answer.json["pts"])) == (COUNT, COUNT)
    assert {type(pts) for pts in answer.json["pts"][:1500]} == {int}
    assert {type(pts) for pts in answer.json["pts"][1501:]} == {str}


def test_no_keyframe(server: Server) -> None:
    write_container(server.app[LIBRARY].root / "none.h4mk", [])
    answer = server.get("/video/keyframes?name=none.h4mk")
    assert answer.json == {"track": 0, "count": 0, "start": 0, "pts": [], "offset": []}
