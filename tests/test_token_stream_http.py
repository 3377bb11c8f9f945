"""GET `/video/stream`: the tokens of a container over HTTP, from anywhere on, in three forms."""

from __future__ import annotations

import http.client
import json
import re
import socket
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo
from harmony4.server.folder.facts import token_facts
from harmony4.server.keys import STATUS, TURNS
from harmony4.server.streams import stored
from harmony4.tokenize.video import VideoTransportTokenizer
from processes import needs_proc, served, until
from samples import track_of
from sandboxes import at_rest
from serving import LOOPS, VIDEO, Answer, running, write_container
from test_sse import parse

URL = "/video/stream?name=a.h4mk"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (tmp_path / "a.h4mk").write_bytes(track_of(1000, 64, gop=4))
    return tmp_path


@pytest.fixture
def reader(library: Path) -> H4MKReader:
    with H4MKReader(library / "a.h4mk") as opened:
        yield opened


def events(answer: Answer) -> list[tuple[str, Any, str]]:
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream"
    body = answer.body
    assert body.startswith(b"retry: 2000\n\n")
    return [
        (name, json.loads(data), number)
        for name, data, number in parse(body.removeprefix(b"retry: 2000\n\n"))
    ]


def test_all_of_it(library: Path, reader: H4MKReader) -> None:
    with running(library) as server:
        answer = server.get(URL)
        (first, meta, _), *tokens, (last, done, end) = events(answer)
        seal = reader.head.hex()[:8]
        assert (first, last, end, done) == ("meta", "done", f"{seal}-0-end", {"tokens": 1000})
        assert (meta["name"], meta["head"], meta["first"], meta["codec"]) == (
            "a.h4mk",
            reader.head.hex(),
            0,
            "h264",
        )
        assert meta["etag"] == reader.etag(0)
        assert tokens == [
            ("token", token_facts(token), f"{seal}-0-{token.index}") for token in reader.tokens()
        ]
        assert answer.headers["Cache-Control"] == "no-cache, no-transform"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_bytes_every_time(library: Path, seed: int) -> None:
    with running(library) as server:
        assert len({server.get(f"{URL}&from={seed}").body for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("start", "index"),
    [(0, 0), (39_999, 0), (40_000, 1), (123_456, 3), (39_999_999, 999), (40_000_000, 1000), (10**15, 1000)],
)
def test_from_a_time(library: Path, start: int, index: int) -> None:
    with running(library) as server:
        _, *tokens, done = events(server.get(f"{URL}&from={start}"))
        assert [data["index"] for _, data, _ in tokens] == list(range(index, 1000))
        assert done[1] == {"tokens": 1000 - index}


def test_coming_back(library: Path, reader: H4MKReader) -> None:
    seal = reader.head.hex()[:8]
    with running(library) as server:
        for index in (0, 17, 998):
            name, *tokens, _ = events(server.get(URL, Last_Event_ID=f"{seal}-0-{index}"))
            assert name[0] == "meta"
            assert [data["index"] for _, data, _ in tokens] == list(range(index + 1, 1000))
            again = server.get(f"{URL}&last_event_id={seal}-0-{index}")  # a page that was loaded anew
            assert [data["index"] for kind, data, _ in events(again) if kind == "token"][:1] == [index + 1]
        for index in ("999", "1000", "9999999999999999999"):  # what it has not heard is that this is all
            (name, _, _), (last, done, end) = events(server.get(URL, Last_Event_ID=f"{seal}-0-{index}"))
            assert (name, last, done, end) == ("meta", "done", {"tokens": 0}, f"{seal}-0-end")
        answer = server.get(URL, Last_Event_ID=f"{seal}-0-end")
        assert (answer.status, answer.body) == (204, b"")


def test_coming_back_to_another_container(library: Path) -> None:
    with running(library) as server:
        for number in ("00000000-0-7", "00000000-0-end", f"{'0' * 8}-3-1"):
            (first, about, _), (second, meta, _), *tokens, _ = events(server.get(URL, Last_Event_ID=number))
            assert (first, second, meta["first"], len(tokens)) == ("reset", "meta", 0, 1000)
            assert about == {"detail": "the container was replaced"}


@pytest.mark.parametrize(
    "text", ["7", "x", "abcdefgh-0-1", "ABCDEF01-0-1", "00000000-0--1", "00000000-123456-1", "é"]
)
def test_ids_that_are_none(library: Path, text: str) -> None:
    with running(library) as server:
        answer = server.request("GET", URL, [("Last-Event-ID", text)])
        assert (answer.status, answer.problem) == (400, "usage")


def test_an_empty_id_is_none(library: Path) -> None:
    with running(library) as server:
        assert server.get(URL, Last_Event_ID="").status == 200


def test_lines_and_records(library: Path, reader: H4MKReader) -> None:
    with running(library) as server:
        answer = server.get(URL, Accept="application/x-ndjson")
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        found = [json.loads(line) for line in answer.body.splitlines()]
        same = [
            {"event": name, **({"id": number} if name != "meta" else {}), "data": data}
            for name, data, number in events(server.get(URL))
        ]
        assert found == same
        answer = server.get(f"{URL}&from=40000", Accept="application/octet-stream")
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.body == b"".join(token.pack() for token in reader.tokens(start=1))
        assert [one.record for one in VideoTransportTokenizer().decode(answer.body)] == list(
            reader.tokens(start=1)
        )


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "text/event-stream"),
        ("", "text/event-stream"),
        ("text/*", "text/event-stream"),
        ("application/*", "application/x-ndjson"),
        ("application/x-ndjson, */*;q=0.1", "application/x-ndjson"),
        ("text/event-stream;q=0.5, application/octet-stream", "application/octet-stream"),
        ("text/event-stream;q=0, */*", "application/x-ndjson"),
        ("TEXT/EVENT-STREAM; charset=utf-8", "text/event-stream"),
        ("image/png", None),
        ("text/event-stream;q=x", None),
        ("text/event-stream;q=nan, application/x-ndjson;q=0.1", "application/x-ndjson"),
        ("text/event-stream;q=-1", None),
        ("application/json", None),
    ],
)
def test_which_form(library: Path, accept: str, expected: str | None) -> None:
    with running(library) as server:
        answer = server.request("GET", URL, {"Accept": accept})
        if expected is None:
            assert (answer.status, answer.problem) == (406, "accept")
        else:
            assert (answer.status, answer.headers["Content-Type"]) == (200, expected)


def test_another_track(tmp_path: Path) -> None:
    infos = [VIDEO, TrackInfo(codec="opus", kind="audio", media_type="audio/ogg")]
    with H4MKBuilder.to_path(tmp_path / "a.h4mk", infos) as builder:
        for number in range(20):
            builder.add_block(b"picture", number * 1000, key=True)
            builder.add_block(b"sound" * (number + 1), number * 1000, track=1, key=True)
        builder.finish(ends={0: 20_000, 1: 20_000})
    with running(tmp_path) as server, H4MKReader(tmp_path / "a.h4mk") as reader:
        (_, meta, _), *tokens, (_, done, end) = events(server.get(f"{URL}&track=1"))
        seal = reader.head.hex()[:8]
        assert (meta["codec"], done, end) == ("opus", {"tokens": 20}, f"{seal}-1-end")
        assert tokens == [
            ("token", token_facts(token), f"{seal}-1-{token.index}") for token in reader.tokens(1)
        ]
        _, *rest, _ = events(server.get(f"{URL}&track=1", Last_Event_ID=tokens[7][2]))
        assert rest == tokens[8:]
        assert events(server.get(URL, Last_Event_ID=tokens[7][2]))[0][0] == "reset"  # an id of another track


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_ready_goes_out_at_once(tmp_path: Path, loop: str) -> None:
    """Not a write for each event; the first few do not wait for others."""
    (tmp_path / "a.h4mk").write_bytes(track_of(20_000, 8, gop=1000))
    with running(tmp_path, loop=loop) as server, socket.create_connection(server.address, timeout=30) as one:
        one.sendall(f"GET {URL} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = one.makefile("rb")
        while answer.readline() != b"\r\n":
            pass
        found = []
        while size := int(answer.readline(), 16):
            found.append(answer.read(size).count(b"\nevent: token\n"))
            answer.readline()
    assert sum(found) == 20_000
    assert found[0] == 16
    assert len(found) < 20_000 / 100


@needs_proc
def test_clients_that_do_not_read_hold_little(tmp_path: Path) -> None:
    """What waits for each of them is a batch, of 13 MB that it has asked for."""
    (tmp_path / "a.h4mk").write_bytes(track_of(60_000, 8, gop=1000))
    with served(tmp_path) as server, ExitStack() as open_ones:

        def ask() -> None:
            line = open_ones.enter_context(server.connect(small=True))
            line.ask(URL)
            assert line.head()[0] == 200
            assert line.body(1000)

        def resident() -> int:
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            return int(re.search(r"^RssAnon:\s*(\d+) kB", status, re.M)[1]) * 1024

        ask()  # what the first one needs is not what each needs
        before = at_rest(resident)
        for _ in range(80):
            ask()
        assert at_rest(resident) - before < 80 * 2**18


def test_what_is_not_there(library: Path) -> None:
    with running(library) as server:
        assert server.get("/video/stream").problem == "usage"
        assert server.get("/video/stream?name=b.h4mk").problem == "not-found"
        assert server.get(f"{URL}&track=1").problem == "not-found"
        for start in ("-1", "x", "1.5", str(2**63)):
            assert server.get(f"{URL}&from={start}").problem == "usage"


def test_an_empty_track(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [])
    with running(tmp_path) as server:
        (_, _, _), (name, done, number) = events(server.get(URL))
        assert (name, done) == ("done", {"tokens": 0})
        assert server.get(URL, Last_Event_ID=number).status == 204


def damaged(path: Path, block: int) -> None:
    """A token that fails its CRC."""
    data = bytearray(path.read_bytes())
    places = [found.start() for found in re.finditer(rb"TOKN\0\0\0\x80", data)]
    data[places[block] + 60] ^= 1
    path.write_bytes(data)


def test_a_token_that_is_damaged(library: Path) -> None:
    damaged(library / "a.h4mk", 500)
    with running(library) as server:
        _, *tokens, (name, problem, _) = events(server.get(URL))
        assert (len(tokens), name) == (500, "problem")
        assert problem["type"] == "urn:harmony4:problem:checksum"
        with pytest.raises(http.client.IncompleteRead) as broken:
            server.get(URL, Accept="application/octet-stream")
        assert len(broken.value.partial) % 128 == 0  # all of it sound, and nobody takes it for the whole
        assert len(broken.value.partial) <= 500 * 128
        first = server.get(f"{URL}&from={500 * 40_000}")
        assert (first.status, first.problem) == (500, "checksum")


def test_a_server_that_stops(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream says so and ends: a client comes back, and goes on behind the last token."""
    monkeypatch.setattr(stored, "_MOST", 16)
    with running(library) as server:
        server.app[STATUS].stopping = True
        *_, (before, _, last), (name, data, _) = events(server.get(URL))
        assert (before, name, data["retry"]) == ("token", "restart", 1000)
        with pytest.raises(http.client.IncompleteRead):  # records cannot say it, and must not seem whole
            server.get(URL, Accept="application/octet-stream")
        server.app[STATUS].stopping = False
        _, *rest, _ = events(server.get(URL, Last_Event_ID=last))
        assert rest[0][1]["index"] == int(last.rpartition("-")[2]) + 1
        assert len(rest) + int(last.rpartition("-")[2]) + 1 == 1000


def test_a_client_that_leaves(tmp_path: Path) -> None:
    """The container is given back soon; what it has not read is never made."""
    (tmp_path / "a.h4mk").write_bytes(track_of(60_000, 8, gop=1000))
    with running(tmp_path) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        connection.request("GET", URL)
        assert connection.getresponse().read(1000)
        container = server.app[_library()]._containers["a.h4mk"]
        assert container.users == 1
        connection.sock.close()
        connection.close()
        until(lambda: not container.users, "leaving", seconds=1)


def test_streams_of_one_server_share_its_loop(tmp_path: Path) -> None:
    """Each counts while it is read, and no longer; another server's do not."""
    (tmp_path / "a.h4mk").write_bytes(track_of(60_000, 8, gop=1000))
    with running(tmp_path) as server, running(tmp_path) as other, ExitStack() as open_ones:
        for number in range(3):
            connection = open_ones.enter_context(closing(http.client.HTTPConnection(*server.address)))
            connection.request("GET", URL)
            assert connection.getresponse().read(1000)
            assert (server.app[TURNS].sharing, other.app[TURNS].sharing) == (number + 1, 0)
        open_ones.close()
        until(lambda: not server.app[TURNS].sharing, "leaving")


@pytest.mark.parametrize("accept", ["text/event-stream", "application/octet-stream"])
def test_damage_behind_the_first_batch_is_counted(
    tmp_path: Path, accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As ranges count it; records have no words for it, so the connection breaks off."""
    data = bytearray(track_of(4000, 8))
    with H4MKReader(bytes(data)) as reader:
        token = reader.token(3000).pack()
    at = data.index(token)
    data[at + 60] ^= 1
    (tmp_path / "a.h4mk").write_bytes(data)
    with running(tmp_path) as server:
        if accept == "text/event-stream":
            *tokens, (name, problem, _) = events(server.get(URL))[1:]
            assert 16 <= len(tokens) <= 3000
            assert (name, problem["status"]) == ("problem", 500)
        else:
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                server.get(URL, Accept=accept)
        text = server.get("/metrics").body.decode()
        assert 'harmony4_verification_failures_total{found_by="read"} 1.0' in text
        assert 'harmony4_answers_broken_off_total{why="failed"} 1.0' in text
    assert any(f"{URL} was broken off: " in one.getMessage() for one in caplog.records)


def test_a_client_that_reads_nothing_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "a.h4mk").write_bytes(track_of(60_000, 8, gop=1000))
    with running(tmp_path, write_timeout=0.3) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        connection.request("GET", URL)
        until(lambda: "a.h4mk" in server.app[_library()]._containers, "opening")
        container = server.app[_library()]._containers["a.h4mk"]
        until(lambda: container.users == 1, "reading")
        until(lambda: not container.users, "cutting off")
        connection.close()


def _library() -> Any:
    from harmony4.server.keys import LIBRARY

    return LIBRARY
