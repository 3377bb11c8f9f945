"""`/metrics`: what is counted in both lanes and by all workers, read by Prometheus's own parser."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from commands import run
from harmony4.server.insight.tally import Shares, Tally, merge
from harmony4.server.keys import EXPRESS
from processes import needs_proc, served, until
from serving import Server, running, write_container

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
        assert value(found, "harmony4_sse_subscribers") == 1
        assert value(found, "harmony4_sse_events_waiting") == 0
        assert value(found, "harmony4_sse_lag_seconds") == 0


def test_damage_is_counted(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 5000])
    file = tmp_path / "a.h4mk"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"x" * 5000, b"x" * 4999 + b"z"))
    with running(tmp_path, verify_on_read=True) as server:
        assert server.get("/video/range?name=a.h4mk").status == 500
        assert value(samples(server), "harmony4_verification_failures_total", found_by="read") == 1


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
    other.cell("/a", "GET", 200)[0] += 4
    other.gauges["containers"] = lambda: 6
    second.publish(other.snapshot())
    whole = first.together(one.snapshot())
    assert whole["requests"] == [["/a", "GET", 200, 7, 0], ["/a", "other", 405, 1, 0]]
    assert whole["gauges"] == {"containers": 11, "workers": 2}
    assert (whole["counts"], whole["size_sum"], sum(whole["sizes"])) == ({"cold": 2}, 2**60, 2)
    assert first.living() == 2
    second.close()  # it has died: what it counted stays, what it holds does not
    whole = first.together(one.snapshot())
    assert whole["requests"][0] == ["/a", "GET", 200, 7, 0]
    assert whole["gauges"] == {"containers": 5, "workers": 1}
    assert first.living() == 1
    # What another one sees afterwards is no less than what was shown before.
    assert Shares(tmp_path).together(Tally().snapshot())["requests"] == whole["requests"]


def test_a_snapshot_that_is_damaged_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "1-0.json").write_text("{")
    assert Shares(tmp_path).together(Tally().snapshot())["gauges"] == {"workers": 1}


def test_nothing_adds_up_to_nothing() -> None:
    assert merge(iter([]))["requests"] == []
