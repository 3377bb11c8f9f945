"""All tracks at one time: `H4MKReader.at` and `/video/seek?track=*`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony4.crypto.errors import SealError, UsageError
from harmony4.h4mk import H4MKBuilder, H4MKReader
from harmony4.server.reading.seeking import MAX_TARGETS
from needs import ORIGINAL
from serving import LOOPS, VIDEO, Server, running

URL = "/video/seek?name=a.h4mk&track=*"
TRACKS = [
    [(0, True), (1_000_000, False), (2_000_000, True), (3_000_000, False)],
    [(2_500_000, True), (2_600_000, True)],
    [],
    [(500_000, False), (700_000, True)],
]
ENDS = {0: 4_000_000, 1: 9_000_000, 3: 700_001}


def build(tracks: list[list[tuple[int, bool]]], ends: dict[int, int]) -> bytes:
    """Blocks of (pts, key) for each track, added in the order of their times."""
    events = [(pts, number, key) for number, track in enumerate(tracks) for pts, key in track]
    with H4MKBuilder.in_memory([VIDEO] * len(tracks)) as builder:
        for pts, number, key in sorted(
            [*events, *((end, number, None) for number, end in ends.items())], key=_order
        ):
            if key is None:
                builder.end_track(number, pts)
            else:
                builder.add_block(b"%d at %d" % (number, pts), pts, track=number, key=key)
        builder.finish()
        return builder.getvalue()


def _order(event: tuple[int, int, bool | None]) -> tuple[int, int]:
    return event[:2]


def test_every_track() -> None:
    with H4MKReader(build(TRACKS, ENDS)) as reader:
        assert [one.found.pts if one else None for one in reader.at(2_550_000)] == [
            2_000_000,
            2_500_000,
            None,
            None,
        ]
        first, second, *_ = reader.at(3_500_000)
        assert first is not None and second is not None
        assert (first.token, second.token) == (reader.token(3, 0), reader.token(1, 1))
        assert first.found == reader.locate(3_500_000, 0)
        assert [one is None for one in reader.at(600_000)] == [False, True, True, True]  # no keyframe yet
        assert [one is None for one in reader.at(700_000)] == [False, True, True, False]
        assert [one is None for one in reader.at(4_000_000)] == [True, False, True, True]
        with pytest.raises(UsageError):
            reader.at(-1)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=8, unique_by=lambda one: one[0]).map(
            sorted
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 70),
)
def test_as_the_tokens_say(tracks: list[list[tuple[int, bool]]], pts: int) -> None:
    """The block that plays is the one whose [pts, end) holds the time, if a keyframe stands before it."""
    ends = {number: 60 for number, track in enumerate(tracks) if track}
    with H4MKReader(build(tracks, ends)) as reader:
        for number, found in enumerate(reader.at(pts)):
            shown = [token for token in reader.tokens(number) if token.pts <= pts < token.end]
            key = reader.seek(pts, number)
            if key is None or not shown:
                assert found is None
            else:
                assert found is not None
                assert (found.track, found.token, found.found.pts) == (number, shown[-1], key.pts)


def test_original_files() -> None:
    """They hold no tokens, and say when they end."""
    with H4MKReader(ORIGINAL) as reader:
        (one,) = reader.at(0)
        assert one is not None and one.token is None
        assert reader.at(reader.duration) == (None,)


def test_where_tracks_end() -> None:
    with H4MKReader(build(TRACKS, ENDS)) as reader:
        assert [reader.end(track) for track in range(4)] == [4_000_000, 9_000_000, 0, 700_001]
    with H4MKReader(ORIGINAL) as reader:
        assert reader.end() == reader.duration > 0


def test_keyframes_without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    with H4MKReader(build(TRACKS, ENDS)) as reader:
        monkeypatch.setitem(reader._opened.rmaps, 0, reader.range_map(2))
        with pytest.raises(SealError):
            reader.end()


def test_tables_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A range map that begins later than SEEK says."""
    with H4MKReader(build(TRACKS, ENDS)) as reader:
        monkeypatch.setattr(reader.range_map(0), "at_time", lambda pts: -1)
        with pytest.raises(SealError):
            reader.at(0)


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    (root / "a.h4mk").write_bytes(build(TRACKS, ENDS))
    (root / "late.h4mk").write_bytes(build([[(5, True)], [(7, True)]], {0: 9, 1: 9}))
    (root / "many.h4mk").write_bytes(
        build([[(number, True)] for number in range(200)], dict.fromkeys(range(200), 300))
    )
    with running(root, loop=request.param) as one:
        yield one


def test_over_http(server: Server) -> None:
    answer = server.get(f"{URL}&pts=2550000")
    assert answer.status == 200 and answer.headers["Cache-Control"] == "no-cache"
    assert answer.json["asked"] == 2_550_000
    first, second, third, fourth = answer.json["tracks"]
    for number, one in ((0, first), (1, second), (3, fourth)):
        alone = server.get(f"/video/seek?name=a.h4mk&track={number}&pts=2550000").json
        assert one == alone | {"playing": number != 3}
    assert (third["track"], third["asked"], third["error"]["code"]) == (2, 2_550_000, "not-found")
    many = server.get(f"{URL}&pts=2550000,0").json["results"]
    assert many[0] == answer.json and [one["track"] for one in many[1]["tracks"]] == [0, 1, 2, 3]
    posted = server.request(
        "POST", URL, {"Content-Type": "application/json"}, json.dumps({"pts": [2_550_000]}).encode()
    )
    assert posted.json == {"results": [answer.json]} and posted.headers["Cache-Control"] == "no-store"


def test_where_nothing_is(server: Server) -> None:
    url = "/video/seek?name=late.h4mk&track=*"
    refused = server.get(f"{url}&pts=4")
    assert (refused.status, refused.problem) == (404, "not-found")
    assert server.get(f"{url}&pts=6").status == 200
    assert server.get(f"{url}&pts=4,6").json["results"][0]["error"]["code"] == "not-found"
    assert server.get("/video/seek?name=late.h4mk&track=**&pts=6").status == 400
    assert server.get("/video/range?name=late.h4mk&track=*").status == 400


def test_version_is_that_of_the_first_track(server: Server) -> None:
    version = server.request("HEAD", "/video/range?name=a.h4mk").headers["ETag"].strip('"')[:16]
    assert "immutable" in server.get(f"{URL}&pts=0&v={version}").headers["Cache-Control"]
    assert server.get(f"{URL}&pts=0&v=feedfeedfeedfeed").status == 410


def test_many_tracks(server: Server) -> None:
    url = "/video/seek?name=many.h4mk&track=*"
    found = server.get(f"{url}&pts=99").json["tracks"]
    assert [one.get("pts") for one in found] == [*range(100), *[None] * 100]
    most = MAX_TARGETS // 200
    assert len(server.get(f"{url}&pts={','.join(['250'] * most)}").json["results"]) == most
    refused = server.get(f"{url}&pts={','.join(['250'] * (most + 1))}")
    assert (refused.status, refused.problem) == (413, "limit")


def test_from_a_path(tmp_path: Path) -> None:
    (tmp_path / "a.h4mk").write_bytes(build(TRACKS, ENDS))
    with H4MKReader(tmp_path / "a.h4mk") as reader:
        assert [one is None for one in reader.at(0)] == [False, True, True, True]
