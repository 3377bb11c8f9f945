"""`/metrics`: what is counted in both lanes and by all workers, read by Prometheus's own parser."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from commands import run
from harmony4.server.errors import PROBLEMS
from harmony4.server.insight.metrics import COUNTERS, GAUGES, VALUES, families
from harmony4.server.insight.tally import Shares, Tally, merge
from harmony4.server.keys import EXPRESS
from needs import ROOT
from processes import Served, needs_proc, served, until
from serving import LOOPS, Server, running, write_container
from test_residency import cached_pages

Found = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(server: Server, **headers: str) -> Found:
    answer = server.get("/metrics", **headers)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    read: Any = read_openmetrics if "openmetrics" in answer.headers["Content-Type"] else read_text
    return parse(answer.body.decode(), read)


def parse(text: str, read: Any = read_text) -> Found:
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in read(text)
        for one in family.samples
    }


def value(found: Found, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def exchange(connection: socket.socket, request: bytes, size: int) -> bytes:
    """One exchange on a connection that is kept; `size` bytes of body."""
    connection.sendall(request)
    data = b""
    while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < size:
        piece = connection.recv(2**16)
        assert piece
        data += piece
    return data


def test_both_lanes_are_counted(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 1000, b"y" * 1000])
    with running(tmp_path) as server:
        with socket.create_connection(server.address, timeout=30) as connection:
            for number in range(20):
                line = b"GET /video/range?name=a.h4mk HTTP/1.1\r\nHost: localhost\r\n"
                exchange(connection, line + b"Range: bytes=%d-%d\r\n\r\n" % (number, number + 99), 100)
                line = b"GET /video/seek?name=a.h4mk&pts=%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number
                exchange(connection, line, 20)
        assert server.get("/video/range?name=none.h4mk").status == 404
        assert server.get("/nowhere").status == 404
        found = samples(server)
    assert server.app[EXPRESS].answered >= 30  # so both lanes had their share
    assert value(found, "harmony4_requests_total", route="/video/range", method="GET", status="206") == 20
    assert value(found, "harmony4_requests_total", route="/video/seek", method="GET", status="200") == 20
    assert value(found, "harmony4_requests_total", route="/video/range", method="GET", status="404") == 1
    assert value(found, "harmony4_requests_total", route="other", method="GET", status="404") == 1
    assert value(found, "harmony4_range_bytes_count") == 20
    assert value(found, "harmony4_range_bytes_sum") == 2000
    assert value(found, "harmony4_range_bytes_bucket", le="255.0") == 20
    assert value(found, "harmony4_seek_seconds_count") == 20
    assert 0 < value(found, "harmony4_seek_seconds_sum") < 20
    assert value(found, "harmony4_sent_bytes_total", route="/video/range") > 2000
    assert value(found, "harmony4_containers_open") == 1
    assert value(found, "harmony4_workers") == 1
    assert value(found, "harmony4_connections") >= 1
    assert value(found, "harmony4_requests_active") == 1  # the one that asks


def test_openmetrics_for_who_accepts_it(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        found = samples(server, Accept="application/openmetrics-text; version=1.0.0")
        assert value(found, "harmony4_workers") == 1


def test_who_listens_is_counted(tmp_path: Path) -> None:
    with running(tmp_path) as server, socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        found = samples(server)
        assert value(found, "harmony4_sse_subscribers", stream="events") == 1
        assert value(found, "harmony4_sse_events_waiting") == 0
        assert value(found, "harmony4_sse_lag_seconds", stream="events") == 0


def test_damage_is_counted(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 5000])
    file = tmp_path / "a.h4mk"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"x" * 5000, b"x" * 4999 + b"z"))
    with running(tmp_path, verify_on_read=True) as server:
        assert server.get("/video/range?name=a.h4mk").status == 500
        assert value(samples(server), "harmony4_verification_failures_total", found_by="read") == 1


def small_client(server: Server) -> socket.socket:
    """One that has asked for all of a film, with room for little of it."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(30)
    one.connect(server.address)
    one.sendall(b"GET /video/range?name=a.h4mk HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert one.recv(1)
    return one


def broken(server: Server) -> dict[str, float]:
    """Answers that broke off, by why; nothing while some are under way."""
    found = samples(server)
    if value(found, "harmony4_requests_active") != 1:
        return {}
    name = "harmony4_answers_broken_off_total"
    return {why: count for why in VALUES["broken"] if (count := value(found, name, why=why))}


@pytest.mark.parametrize("loop", LOOPS)
def test_why_answers_break_off(tmp_path: Path, loop: str) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 40)
    with running(tmp_path, loop=loop, write_timeout=0.3) as server, small_client(server):
        until(lambda: broken(server) == {"stuck": 1}, "cutting off who takes nothing")
    with running(tmp_path, loop=loop) as server:
        small_client(server).close()
        until(lambda: broken(server) == {"left": 1}, "seeing who left")
        with small_client(server) as one:
            os.truncate(tmp_path / "a.h4mk", 30 * 2**20)
            with suppress(ConnectionResetError):
                while one.recv(2**20):
                    pass
            until(lambda: broken(server) == {"left": 1, "failed": 1}, "a container that was cut short")


def test_failures_are_counted_by_problem(tmp_path: Path) -> None:
    """A limit that is met wakes nobody, and a disk that cannot be read does."""
    library = tmp_path / "library"
    write_container(library / "a.h4mk", [b"x" * 2**20] * 40)

    def failures() -> dict[str, float]:
        found = samples(server)
        name = "harmony4_failures_total"
        return {code: count for code in VALUES["failed"] if (count := value(found, name, problem=code))}

    with running(library, state=tmp_path / "state", max_streams=1) as server:
        with small_client(server):
            assert server.get("/video/range?name=a.h4mk").problem == "crowded"
        assert failures() == {"crowded": 1}
        library.rename(tmp_path / "elsewhere")
        assert server.get("/ready").problem == "source"
        assert failures() == {"crowded": 1, "source": 1}
    (rule,) = (rule for rule in alerts() if rule["alert"] == "Harmony4Errors")
    (without,) = re.findall(r'problem!~"([a-z|]+)"', rule["expr"])
    assert "crowded" in without.split("|")
    assert set(without.split("|")) < set(VALUES["failed"])
    assert not {"source", "storage", "http", "checksum"} & set(without.split("|"))


def test_labels_are_there_before_the_first_event(tmp_path: Path) -> None:
    """increase() of a series that begins with 1 is 0: nobody would be told of the first damage."""
    with running(tmp_path) as server:
        found = samples(server)
    for key, values in VALUES.items():
        name, _, label = COUNTERS[key]
        for one in values:
            assert found[f"{name}_total", frozenset({(str(label), one)})] == 0
    counted = {
        one
        for file in (ROOT / "server").rglob("*.py")
        for one in re.findall(r'"((?:broken|damaged|refused|scrubbed)\|\w+)"', file.read_text("utf-8"))
    }
    literal = {key: values for key, values in VALUES.items() if key != "failed"}
    assert counted == {f"{key}|{one}" for key, values in literal.items() for one in values}
    assert set(VALUES["failed"]) == {code for code, (status, _) in PROBLEMS.items() if status >= 500}
    assert set(VALUES) == {key for key, (_, _, label) in COUNTERS.items() if label}


def test_a_token_of_its_own(tmp_path: Path) -> None:
    texts = {}
    for scope in ("read", "write", "metrics", "admin"):
        done = run("token", "add", scope, "--scope", scope, "--library", tmp_path)
        texts[scope] = done.text.split()[-1]
    for mode in ({"auth": True}, {"public_read": True}):
        with running(tmp_path, **mode) as server:
            assert server.get("/metrics").status == 401
            for scope, text in texts.items():
                answer = server.get("/metrics", Authorization=f"Bearer {text}")
                assert answer.status == (200 if scope in ("metrics", "admin") else 403), scope
            assert server.get("/jobs", Authorization=f"Bearer {texts['metrics']}").status == 403


@needs_proc
def test_workers_add_up_and_a_dead_one_is_not_forgotten(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 1000])
    with served(tmp_path, "--workers", 2) as server:
        for worker in server.workers():
            with server.only(worker):
                for _ in range(3):
                    assert server.get("/video/range?name=a.h4mk")[0] == 200

        def ranges() -> tuple[float, float]:
            found = parse(server.get("/metrics")[1].decode())
            name = "harmony4_requests_total"
            count = value(found, name, route="/video/range", method="GET", status="200")
            return count, value(found, "harmony4_workers")

        # The other worker's numbers are a second old at most.
        until(lambda: ranges() == (6, 2), "both workers' numbers")
        until(lambda: json.loads(server.get("/ready")[1])["workers"] == 2, "both workers")
        victim = server.workers()[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in server.workers() and ranges() == (6, 2), "the successor")


def test_processes_add_up_and_counters_never_go_back(tmp_path: Path) -> None:
    one, other = Tally(), Tally()
    first, second = Shares(tmp_path), Shares(tmp_path)
    one.cell("/a", "GET", 200)[0] += 3
    one.cell("/a", "BREW", 405)[0] += 1
    one.size(0)
    one.size(2**60)
    one.seek(0.001)
    one.count("cold", 2)
    one.gauges["containers"] = lambda: 5
    one.gauges["damaged_containers"] = other.gauges["damaged_containers"] = lambda: 3  # the same
    other.cell("/a", "GET", 200)[0] += 4
    other.gauges["containers"] = lambda: 6
    second.publish(other.snapshot())
    whole = first.together(one.snapshot())
    assert whole["requests"] == [["/a", "GET", 200, 7, 0], ["/a", "other", 405, 1, 0]]
    assert whole["gauges"] == {"containers": 11, "damaged_containers": 3, "workers": 2}
    assert (whole["counts"], whole["size_sum"], sum(whole["sizes"])) == ({"cold": 2}, 2**60, 2)
    assert first.living() == 2
    second.close()  # it has died: what it counted stays, what it holds does not
    whole = first.together(one.snapshot())
    assert whole["requests"][0] == ["/a", "GET", 200, 7, 0]
    assert whole["gauges"] == {"containers": 5, "damaged_containers": 3, "workers": 1}
    assert first.living() == 1
    # What another one sees afterwards is no less than what was shown before.
    assert Shares(tmp_path).together(Tally().snapshot())["requests"] == whole["requests"]


def test_a_snapshot_that_is_damaged_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "1-0.json").write_text("{")
    assert Shares(tmp_path).together(Tally().snapshot())["gauges"] == {"workers": 1}


def test_nothing_adds_up_to_nothing() -> None:
    assert merge(iter([]))["requests"] == []


# -- real traffic over several workers


def all_of(server: Served) -> Found:
    status, body = server.get("/metrics")
    assert status == 200
    return parse(body.decode())


@needs_proc
def test_clients_of_all_streams_and_how_late_they_are(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x"] * 40_000, step=1000)
    with served(tmp_path, "--workers", 2) as server, ExitStack() as stack:
        for worker in server.workers():
            with server.only(worker):
                for target in ("/events", "/video/stream?name=a.h4mk"):
                    line = stack.enter_context(server.connect(small=True))
                    line.ask(target)
                    assert line.head()[0] == 200

        def subscribers(stream: str) -> float:
            return value(all_of(server), "harmony4_sse_subscribers", stream=stream)

        def lag(stream: str) -> float:
            return value(all_of(server), "harmony4_sse_lag_seconds", stream=stream)

        until(lambda: subscribers("events") == 2, "both workers' listeners")
        # Who takes nothing of some MiB of tokens is behind, more and more; that is no sum over workers.
        until(lambda: subscribers("tokens") == 2 and lag("tokens") > 1, "clients that are late")
        assert lag("tokens") < 60
        assert lag("events") == 0
        stack.close()
        until(lambda: subscribers("tokens") == 0 == subscribers("events"), "the end of all")
        assert lag("tokens") == 0


@needs_proc
def test_what_is_counted_by_whichever_worker(tmp_path: Path) -> None:
    """Seeks, sizes of ranges, damage, cold reads and exports, from both workers."""
    library = tmp_path / "library"
    film = b"x" * 3_000_000
    write_container(library / "a.h4mk", [film])
    write_container(library / "bad.h4mk", [b"y" * 5000])
    data = (library / "bad.h4mk").read_bytes()
    (library / "bad.h4mk").write_bytes(data.replace(b"y" * 5000, b"y" * 4999 + b"z"))
    settings = {"HARMONY4_MIN_FREE": "0", "HARMONY4_VERIFY_ON_READ": "true"}
    with served(library, "--workers", 2, **settings) as server:
        with ExitStack() as stack:
            for number, worker in enumerate(server.workers()):
                with server.only(worker):
                    assert server.get("/video/seek?name=a.h4mk&pts=0")[0] == 200
                    assert server.get("/video/range?name=bad.h4mk")[0] == 500
                    assert len(server.get("/video/range?name=a.h4mk")[1]) == len(film)
                    line = stack.enter_context(server.connect())
                    head = f"POST /video/export?name=new{number}.h4mk&raw=1&block_size=64KiB HTTP/1.1\r\n"
                    line.send(
                        f"{head}Host: localhost\r\nContent-Length: 3000000\r\n\r\n".encode()
                        + film[:2_000_000]
                    )

            def exports() -> tuple[float, float, float]:
                found = all_of(server)
                names = ("active", "received_bytes", "blocks")
                return tuple(value(found, f"harmony4_exports_{name}") for name in names)  # type: ignore[return-value]

            def under_way() -> bool:
                active, received, blocks = exports()
                return active == 2 and 2_000_000 <= received <= 4_000_000 and blocks >= 2

            until(under_way, "both exports' progress")

        def counted() -> tuple[float, ...]:
            found = all_of(server)
            return (
                value(found, "harmony4_seek_seconds_count"),
                value(found, "harmony4_range_bytes_sum"),
                value(found, "harmony4_verification_failures_total", found_by="read"),
                value(found, "harmony4_exports_active"),
            )

        until(lambda: counted() == (2, 2 * len(film), 2, 0), "both workers' counts")
        found = all_of(server)
        assert value(found, "harmony4_seek_seconds_sum") > 0
        assert value(found, "harmony4_disk_free_bytes") > 0
        assert value(found, "harmony4_takes_uploads") == 1


def test_cold_reads_are_counted(tmp_path: Path) -> None:
    """Where the file system lets pages go; on one that is nothing but pages no read is ever cold."""
    film = os.urandom(8 * 2**20)
    write_container(tmp_path / "a.h4mk", [film])
    with running(tmp_path) as server:
        assert server.get("/video/range?name=a.h4mk").body == film
        with (tmp_path / "a.h4mk").open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            cold = not all(cached_pages(file.fileno()))
        before = value(samples(server), "harmony4_cold_reads_total")
        assert server.get("/video/range?name=a.h4mk").body == film
        after = value(samples(server), "harmony4_cold_reads_total")
        assert (after > before) == cold


def test_names_are_as_prometheus_wants_them(tmp_path: Path) -> None:
    """https://prometheus.io/docs/practices/naming: base units at the end, `_total` for counters alone."""
    whole = Tally().snapshot()
    whole["requests"] = [["/a", "GET", 200, 1, 1]]
    whole["counts"] = {f"{key}|x" if label else key: 1 for key, (_, _, label) in COUNTERS.items()}
    whole["gauges"] = {f"{key}|x" if label else key: 1 for key, (_, _, label) in GAUGES.items()}
    found = list(families(whole))
    assert len({one.name for one in found}) == len(found) == 4 + len(COUNTERS) + len(GAUGES)
    for one in found:
        assert re.fullmatch(r"harmony4(_[a-z]+)+", one.name), one.name
        assert one.documentation[0].isupper(), one.name
        assert not one.documentation.endswith("."), one.name
        assert one.samples, one.name
        words = one.name.split("_")
        assert not {"total", "count", "sum", "bucket", "ms", "us", "kib", "mib"} & set(words), one.name
        for unit in ("seconds", "bytes"):
            assert unit not in words[:-1], one.name
        if one.type == "counter":
            assert all(sample.name == f"{one.name}_total" for sample in one.samples)


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_workers_are_held_against_the_setting(tmp_path: Path) -> None:
    """Not against what there was: a reload has old and new ones for a while."""
    (rule,) = (rule for rule in alerts() if rule["alert"] == "Harmony4WorkersMissing")
    assert rule["expr"] == "harmony4_workers < harmony4_workers_wanted"
    with running(tmp_path) as server:
        found = samples(server)
    assert value(found, "harmony4_workers") == value(found, "harmony4_workers_wanted") == 1


def test_alerts_are_about_metrics_that_there_are(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x"])
    with running(tmp_path) as server:
        shown = server.get("/metrics").body.decode()
    known = {"up"} | {name for line in shown.splitlines() for name in re.findall(r"^# TYPE (\S+) ", line)}
    known |= {f"{name}{end}" for name in known for end in ("_bucket", "_count", "_sum")}
    for rule in alerts():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}, rule
        assert set(rule["annotations"]) == {"summary", "description"}, rule
        assert rule["labels"]["severity"] in ("page", "ticket"), rule
        assert re.fullmatch(r"\d+[smh]", rule["for"]), rule
        named = set(re.findall(r"\b(?:harmony4_\w+|up)\b", rule["expr"]))
        assert named, rule
        assert named <= known, rule


def test_the_runbook_has_a_row_for_each_alert() -> None:
    page = (ROOT / "docs" / "DEPLOYMENT.md").read_text("utf-8")
    table = page.split("| alert | means | do |", 1)[1].split("\n\n", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert rows == [rule["alert"] for rule in alerts()]


def test_every_metric_is_described() -> None:
    page = (ROOT / "docs" / "DEPLOYMENT.md").read_text("utf-8")
    for key, (name, _, label) in (COUNTERS | GAUGES).items():
        shown = f"{name}_total" if key in COUNTERS else name
        assert re.search(rf"`{shown}" + (r"\{[a-z_,]*" + label if label else "") + r"[`{}]", page), shown
