"""`/video/seek` for many times at once: `pts=1,2,3`, and a JSON body."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony4.crypto.errors import HarmonyError, LimitError, UsageError
from harmony4.h4mk import H4MKBuilder, H4MKReader
from harmony4.h4mk import opening as opening_module
from harmony4.server.folder.facts import range_url, seek_card, seek_facts, seek_text
from harmony4.server.reading import resource
from harmony4.server.reading.seeking import MAX_TARGETS, parse_targets
from serving import LOOPS, VIDEO, Answer, Server, running, write_container

URL = "/video/seek?name=a.h4mk"
BLOCKS = [bytes([65 + n]) * (n + 1) for n in range(9)]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    write_container(root / "a.h4mk", BLOCKS, key_every=3)
    with H4MKBuilder.to_path(root / "far.h4mk", [VIDEO, VIDEO]) as builder:
        builder.add_block(b"header", 0, header=True)
        builder.add_block(b"key", 5, key=True)
        builder.add_block(b"far", 2**60, key=True)
        builder.add_block(b"other", 2**61, track=1, key=True)
        builder.finish()
    with running(root, loop=request.param) as one:
        yield one


def post(server: Server, body: bytes | str, url: str = URL, **headers: str) -> Answer:
    data = body.encode() if isinstance(body, str) else body
    return server.request(
        "POST", url, JSON | {name.replace("_", "-"): value for name, value in headers.items()}, data
    )


def one_by_one(server: Server, url: str, targets: list[int]) -> list[Any]:
    answers = [server.get(f"{url}&pts={pts}") for pts in targets]
    return [
        answer.json
        if answer.status == 200
        else {
            "asked": pts if pts < 2**53 else str(pts),
            "error": {"code": answer.problem, "message": answer.json["detail"]},
        }
        for pts, answer in zip(targets, answers, strict=True)
    ]


@pytest.mark.parametrize(
    ("url", "targets"),
    [
        (URL, [0, 1]),
        (URL, [9_000_000, 0, 3_000_000, 3_000_000, 2_999_999]),
        (URL, [2**63 - 1, 0]),
        ("/video/seek?name=far.h4mk", [0, 5, 4, 2**60 - 1, 2**60, 2**62]),
        ("/video/seek?name=far.h4mk&track=1", [0, 2**61]),
    ],
)
def test_as_one_by_one(server: Server, url: str, targets: list[int]) -> None:
    """In the order asked, each as its own answer; what has none says so in its place."""
    expected = {"results": one_by_one(server, url, targets)}
    joined = ",".join(map(str, targets))
    answer = server.get(f"{url}&pts={joined}")
    assert (answer.status, answer.json) == (200, expected)
    assert answer.headers["Cache-Control"] == "no-cache"
    assert server.get(f"{url}&pts={joined.replace(',', '%2C')}").json == expected
    for values in (targets, [pts if pts < 2**53 else str(pts) for pts in targets], list(map(str, targets))):
        answer = post(server, json.dumps({"pts": values}), url)
        assert (answer.status, answer.json) == (200, expected)
        assert answer.headers["Cache-Control"] == "no-store"
    head = server.request("HEAD", f"{url}&pts={joined}")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["Content-Length"]) == len(answer.body)


def test_one_target(server: Server) -> None:
    """One time in the query has the plain answer, one in a body a list."""
    single = server.get(f"{URL}&pts=0").json
    assert "results" not in single
    assert post(server, '{"pts":[0]}').json == {"results": [single]}
    assert post(server, '{"pts":[]}').json == {"results": []}
    assert server.request("HEAD", f"{URL}&pts=0").status == 200
    assert server.request("HEAD", "/video/seek?name=far.h4mk&pts=0").status == 404


def test_ten_thousand(server: Server) -> None:
    rng = random.Random(3)
    targets = [rng.randrange(9_000_000) for _ in range(MAX_TARGETS)]
    answer = post(server, json.dumps({"pts": targets}))
    assert answer.status == 200
    assert [one["asked"] for one in answer.json["results"]] == targets
    assert [one["pts"] for one in answer.json["results"]] == [pts // 3_000_000 * 3_000_000 for pts in targets]
    longest = json.dumps({"pts": [str(2**63 - 1)] * MAX_TARGETS})
    assert len(post(server, longest).json["results"]) == MAX_TARGETS
    refused = post(server, json.dumps({"pts": [0] * (MAX_TARGETS + 1)}))
    assert (refused.status, refused.problem) == (413, "limit")
    assert (refused.json["expected"], refused.json["found"]) == ("<= 10000", "10001")
    many = ",".join(["1"] * 3000)
    assert len(server.get(f"{URL}&pts={many}").json["results"]) == 3000


def test_the_address_works(server: Server) -> None:
    for one in server.get(f"{URL}&pts=0,4000000").json["results"]:
        start, size = one["offset"], one["size"]
        piece = server.get(one["range_url"], Range=f"bytes={start}-{start + size - 1}")
        assert piece.body == b"".join(BLOCKS)[start : start + size]
        assert "immutable" in piece.headers["Cache-Control"]


def test_version(server: Server) -> None:
    version = server.request("HEAD", "/video/range?name=a.h4mk").headers["ETag"].strip('"')[:16]
    assert "immutable" in server.get(f"{URL}&pts=0,1&v={version}").headers["Cache-Control"]
    assert post(server, '{"pts":[0]}', f"{URL}&v={version}").status == 200
    for answer in (
        server.get(f"{URL}&pts=0,1&v=feedfeedfeedfeed"),
        post(server, '{"pts":[0]}', f"{URL}&v=feedfeedfeedfeed"),
        server.get(f"/video/seek?name=far.h4mk&pts=0&v={version}"),  # stale, before it is not found
    ):
        assert (answer.status, answer.problem) == (410, "stale")


@pytest.mark.parametrize("query", ["pts=1,", "pts=,1", "pts=,", "pts=1,,2", "pts=1,x", "pts=1;2", "pts=1, 2"])
def test_wrong_lists(server: Server, query: str) -> None:
    answer = server.get(f"{URL}&{query.replace(' ', '%20')}")
    assert (answer.status, answer.problem) == (400, "usage")


WRONG = [
    "",
    "x",
    "[]",
    "[1]",
    "1",
    "null",
    '"{["',
    "{}",
    '{"pts":1}',
    '{"pts":null}',
    '{"pts":{}}',
    '{"pts":{"a":[]}}',
    '{"PTS":[1]}',
    '{"pts":[1],"track":0}',
    '{"pts":[1],"pts":[1]}',
    '{"pts":1,"pts":[1]}',
    '{"track":0,"pts":[1]}',
    '{"pts":[[1]]}',
    '{"pts":[{}]}',
    '[{"pts":1}]',
    '[{"pts":1,"b":2}]',
    "[{}]",
    '{"pts":[1.0]}',
    '{"pts":[1e3]}',
    '{"pts":[-1]}',
    '{"pts":[true]}',
    '{"pts":[null]}',
    '{"pts":[NaN]}',
    '{"pts":[Infinity]}',
    '{"pts":NaN}',
    '{"pts":["x"]}',
    '{"pts":["1.5"]}',
    '{"pts":[" 1"]}',
    '{"pts":["\\u0663"]}',
    '{"pts":[9223372036854775808]}',
    '{"pts":["9223372036854775808"]}',
    '{"pts":[' + "9" * 5000 + "]}",
    '{"pts":[01]}',
    '{"pts":[1,]}',
    '{"pts":[1]}x',
    '{"pts":[1]',
    "{pts:[1]}",
    '\ufeff{"pts":[1]}',
    "[" * 100_000,
    '{"a":' * 30_000,
]


@pytest.mark.parametrize("body", WRONG, ids=lambda body: body[:30])
def test_wrong_bodies(body: str) -> None:
    with pytest.raises(UsageError):
        parse_targets(body.encode())


def test_wrong_bodies_over_http(server: Server) -> None:
    for body in (*WRONG[:8], b"\xff", '{"pts":[1]}'.encode("utf-16")):
        answer = post(server, body)
        assert (answer.status, answer.problem) == (400, "usage")
    assert post(server, b'{"pts":[1.5]}').json["expected"] == '{"pts": [MICROSECONDS, …]}'
    assert post(server, '{"pts":["soon"]}').json["found"] == "soon"


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_body(data: bytes) -> None:
    try:
        targets = parse_targets(data)
    except HarmonyError:
        return
    assert json.loads(data)["pts"] == targets or all(isinstance(one, int) for one in targets)


@given(st.lists(st.integers(0, 2**63 - 1)), st.sampled_from([None, 1, "\t"]))
def test_right_bodies(targets: list[int], indent: Any) -> None:
    assert parse_targets(json.dumps({"pts": targets}, indent=indent).encode()) == targets


def test_too_many() -> None:
    with pytest.raises(LimitError):
        parse_targets(json.dumps({"pts": [0] * (MAX_TARGETS + 1)}).encode())


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {},
    ],
)
def test_other_types(server: Server, headers: dict[str, str]) -> None:
    answer = server.request("POST", URL, headers, b'{"pts":[0]}')
    assert answer.status in (400, 415)  # aiohttp unpacks first and finds no gzip
    if answer.status == 415:
        assert answer.problem == "content-type"
        assert answer.headers["Accept"] == "application/json"
    else:
        assert "Content-Encoding" in headers


def test_types_that_are_right(server: Server) -> None:
    for kind in ("application/json", "Application/JSON", "application/json; charset=UTF-8"):
        assert post(server, '{"pts":[0]}', Content_Type=kind).status == 200


def test_long_bodies(server: Server) -> None:
    answer = post(server, b" " * (2**18 + 1))
    assert (answer.status, answer.problem) == (413, "limit")
    # Refused by its length alone, before a byte of it has come.
    answer = server.request("POST", URL, JSON | {"Content-Length": str(2**60)})
    assert (answer.status, answer.problem) == (413, "limit")
    spaces = b" " * 2**16
    chunks = b"10000\r\n" + spaces + b"\r\n"
    answer = server.request("POST", URL, JSON | {"Transfer-Encoding": "chunked"}, chunks * 5 + b"0\r\n\r\n")
    assert (answer.status, answer.problem) == (413, "limit")
    answer = server.request(
        "POST", URL, JSON | {"Transfer-Encoding": "chunked"}, chunks + b'B\r\n{"pts":[0]}\r\n0\r\n\r\n'
    )
    assert answer.status == 200


def test_a_body_that_does_not_come(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", BLOCKS)
    with running(tmp_path, write_timeout=0.1) as server, socket.create_connection(server.address) as client:
        lines = ["Host: localhost", "Content-Type: application/json", "Content-Length: 11", "", ""]
        client.sendall("\r\n".join([f"POST {URL} HTTP/1.1", *lines]).encode() + b'{"pts"')
        client.settimeout(30)
        assert client.recv(2**16).startswith(b"HTTP/1.1 408 ")


def test_what_is_not_there(server: Server) -> None:
    assert post(server, '{"pts":[0]}', "/video/seek?name=none.h4mk").problem == "not-found"
    assert post(server, '{"pts":[0]}', f"{URL}&track=7").problem == "not-found"
    assert post(server, '{"pts":[0]}', "/video/seek").problem == "usage"
    assert server.request("PUT", URL).headers["Allow"] == "GET,HEAD,POST"


def test_tables_too_large_to_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening_module, "COPY_LIMIT", 0)
    monkeypatch.setattr(resource, "COPY_LIMIT", 0)
    write_container(tmp_path / "a.h4mk", BLOCKS, key_every=3)
    with running(tmp_path) as server:
        single = server.get(f"{URL}&pts=4000000").json
        assert (single["pts"], single["offset"]) == (3_000_000, 6)
        assert server.get(f"{URL}&pts=4000000,1").json["results"][0] == single


@given(
    st.lists(st.integers(0, 2**62), min_size=1, max_size=6, unique=True).map(sorted),
    st.integers(0, 2**63 - 1),
    st.booleans(),
)
def test_the_text_is_the_facts(keys: list[int], pts: int, header: bool) -> None:
    with H4MKBuilder.in_memory([VIDEO]) as builder:
        if header:
            builder.add_block(b"header", 0, header=True)
        for key in keys:
            builder.add_block(b"block", key, key=True)
        builder.finish()
    with H4MKReader(builder.getvalue()) as reader:
        card = seek_card(reader, 'ä".h4mk', 0)
        if pts < keys[0]:
            return
        expected = seek_facts(reader, pts) | {"range_url": range_url(reader, 'ä".h4mk')}
        text = seek_text(reader, pts, card)
        assert json.loads(text) == expected
        assert text == json.dumps(expected)


def test_a_client_that_leaves_after_a_refusal_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """aiohttp goes on to read the body that was refused; when the client has left there is none."""
    with running(tmp_path, stop_timeout=60) as server:
        with socket.create_connection(server.address, timeout=30) as connection:
            connection.sendall(
                b"POST /video/seek?name=a.h4mk HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: 10000000\r\n\r\n"
            )
            assert connection.recv(12) == b"HTTP/1.1 413"
        before = time.monotonic()
    assert time.monotonic() - before < 5  # aiohttp's ten seconds, and the server's sixty
