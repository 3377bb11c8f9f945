"""`/metrics`: the numbers of all workers for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from harmony4.crypto.errors import SourceError
from harmony4.server.errors import PROBLEMS
from harmony4.server.health import disk_free
from harmony4.server.insight.tally import DIGITS, Snapshot
from harmony4.server.keys import CONFIG, DESK, EVENTS, LIBRARY, OUTLETS, SHARES, TALLY
from harmony4.server.serving.workers import count

__all__ = ["COUNTERS", "GAUGES", "VALUES", "families", "publishing", "routes", "watch"]

_PUBLISH: Final = 1.0
"""Seconds between two snapshots for the other workers: what a worker that is killed takes with it at most."""

COUNTERS: Final = {
    # Name in the tally: name for Prometheus, help, label.
    "cold": ("harmony4_cold_reads", "Turns of an answer for which bytes came from the disk first", None),
    "broken": ("harmony4_answers_broken_off", "Answers that ended before their last byte, by why", "why"),
    "damaged": ("harmony4_verification_failures", "Damage found, by who looked: read or scrub", "found_by"),
    "failed": ("harmony4_failures", "Answers with a status of 500 or more, by problem", "problem"),
    "refused": ("harmony4_limited", "Requests and connections refused by a limit, by which", "limit"),
    "scrubbed": (
        "harmony4_scrubbed_containers",
        "Containers verified meanwhile, by result",
        "result",
    ),
    "scrubbed_bytes": ("harmony4_scrubbed_bytes", "Bytes verified in the background", None),
}
VALUES: Final = {
    "broken": ("failed", "left", "stuck"),
    "damaged": ("read", "scrub"),
    "failed": tuple(code for code, (status, _) in PROBLEMS.items() if status >= 500),
    "refused": ("streams", "streams_per_client", "connections_per_client"),
    "scrubbed": ("sound", "damaged"),
}
"""All values of the counters' labels. They are shown from the start, as 0: what Prometheus sees as 1 first
has not increased for it, and the first damage would not be told."""
GAUGES: Final = {
    "workers": ("harmony4_workers", "Processes that serve", None),
    "connections": ("harmony4_connections", "Connections that are open", None),
    "active": ("harmony4_requests_active", "Requests under way, streams included", None),
    "containers": ("harmony4_containers_open", "Containers that are open", None),
    "listeners": ("harmony4_sse_subscribers", "Clients of /events, and of streams of tokens", "stream"),
    "waiting": ("harmony4_sse_events_waiting", "Events that clients of /events have still to take", None),
    "lag": (
        "harmony4_sse_lag_seconds",
        "Longest time that something has waited for a client to take it, over all workers",
        "stream",
    ),
    "jobs": ("harmony4_exports_active", "Exports under way", None),
    "export_bytes": ("harmony4_exports_received_bytes", "Bytes received of the exports under way", None),
    "export_blocks": ("harmony4_exports_blocks", "Blocks made by the exports under way", None),
    "damaged_containers": (
        "harmony4_damaged_containers",
        "Containers that failed their last scrubbing",
        None,
    ),
    "audit_waiting": (
        "harmony4_audit_lines_waiting",
        "Lines that could not be put into the audit log yet",
        None,
    ),
    "workers_wanted": ("harmony4_workers_wanted", "Processes that are to serve, by the settings", None),
    "disk_free": ("harmony4_disk_free_bytes", "Bytes that are free on the library's disk", None),
    "takes_uploads": ("harmony4_takes_uploads", "Whether there is more room than min_free: 1 or 0", None),
}
_SIZES: Final = range(8, 41, 2)
_SEEKS: Final = range(10, 35)
"""Places of the histograms that are shown: 2^n bytes, 2^n ns."""


def routes() -> list[web.RouteDef]:
    """The route of this module."""
    return [web.get("/metrics", get_metrics)]


async def get_metrics(request: web.Request) -> web.Response:
    """The numbers as Prometheus reads them: text, or OpenMetrics for who accepts it."""
    own = request.app[TALLY].snapshot()
    whole = await asyncio.to_thread(request.app[SHARES].together, own)
    # Jobs are everybody's: each worker sees all of them.
    whole["gauges"] |= await asyncio.to_thread(_exports, request.app)
    others = await asyncio.to_thread(_left, request.app)
    whole["gauges"]["audit_waiting"] = whole["gauges"].get("audit_waiting", 0) + others
    whole["gauges"]["workers_wanted"] = count(request.app[CONFIG].workers)
    library = request.app[LIBRARY]
    with suppress(SourceError):  # then the library cannot be read, and there is no number
        free = await asyncio.to_thread(disk_free, library.root, library.device)
        whole["gauges"] |= {"disk_free": free, "takes_uploads": free >= request.app[CONFIG].min_free}
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(whole))
    encode, kind = choose_encoder(request.headers.get("Accept", ""))
    body: bytes = encode(registry)
    return web.Response(body=body, headers={"Content-Type": kind, "Cache-Control": "no-store"})


def _exports(app: web.Application) -> dict[str, float]:
    """What is known of exports, in a thread; nothing where no folder can be made for them."""
    jobs: list[dict[str, Any]] = []
    with suppress(Exception):
        jobs = list(app[DESK].jobs.active())
    return {
        "jobs": len(jobs),
        "export_bytes": sum(int(job.get("received") or 0) for job in jobs),
        "export_blocks": sum(int(job.get("blocks") or 0) for job in jobs),
    }


def _left(app: web.Application) -> int:
    """Lines of the audit log that no worker has: beside the log, or in the parent. In a thread."""
    return app[DESK].audit.left() + app[SHARES].waiting()


def watch(app: web.Application) -> None:
    """Name what is asked when somebody looks."""
    app[TALLY].gauges |= {
        "containers": lambda: app[LIBRARY].opened,
        "listeners|events": lambda: app[EVENTS].listeners,
        "listeners|tokens": lambda: len(app[OUTLETS]),
        "waiting": lambda: app[EVENTS].waiting,
        "audit_waiting": lambda: app[DESK].audit.waiting,
        "lag|events": lambda: app[EVENTS].lag,
        "lag|tokens": lambda: _lag(app),
    }


def _lag(app: web.Application) -> float:
    """Seconds that the slowest client of a stream of tokens has kept one write waiting."""
    oldest = min((one.since for one in app[OUTLETS] if one.since is not None), default=None)
    return 0.0 if oldest is None else max(0.0, asyncio.get_running_loop().time() - oldest)


async def publishing(app: web.Application) -> AsyncIterator[None]:
    """For `cleanup_ctx`: let the other workers see the numbers, and once more at the end."""
    shares, tally = app[SHARES], app[TALLY]

    async def publish() -> None:
        while True:
            await asyncio.to_thread(shares.publish, tally.snapshot())
            await asyncio.sleep(_PUBLISH)

    task = asyncio.create_task(publish()) if shares.several else None
    yield
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.to_thread(shares.publish, tally.snapshot())
    shares.close()


class _Collector(Collector):
    def __init__(self, whole: Snapshot) -> None:
        self._whole = whole

    def collect(self) -> Iterator[Metric]:
        return families(self._whole)


def families(whole: Snapshot) -> Iterator[Metric]:
    """A snapshot as Prometheus's families of metrics."""
    requests = CounterMetricFamily(
        "harmony4_requests", "Requests that were answered", labels=["route", "method", "status"]
    )
    sent = CounterMetricFamily("harmony4_sent_bytes", "Bytes of bodies that were sent", labels=["route"])
    by_route: dict[str, int] = {}
    for route, method, status, number, size in whole["requests"]:
        requests.add_metric([route, method, str(status)], number)
        by_route[route] = by_route.get(route, 0) + size
    for route, size in by_route.items():
        sent.add_metric([route], size)
    yield requests
    yield sent
    yield _histogram(
        "harmony4_range_bytes",
        "Bytes of one streamed answer",
        whole["sizes"],
        whole["size_sum"],
        _SIZES,
        1,
    )
    yield _histogram(
        "harmony4_seek_seconds", "Time that a seek took", whole["seeks"], whole["seek_sum"], _SEEKS, 1e-9
    )
    for key, (name, text, label) in COUNTERS.items():
        numbers = {f"{key}|{value}": 0 for value in VALUES.get(key, ())} | whole["counts"]
        yield _family(CounterMetricFamily, name, text, label, key, numbers, 0)
    for key, (name, text, label) in GAUGES.items():
        yield _family(GaugeMetricFamily, name, text, label, key, whole["gauges"], None)


def _family(
    kind: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    text: str,
    label: str | None,
    key: str,
    numbers: Mapping[str, float],
    otherwise: float | None,
) -> Metric:
    """What is counted under `key`, or under `key|value` for each value of the label."""
    family = kind(name, text, labels=[] if label is None else [label])
    if label is None:
        number = numbers.get(key, otherwise)
        if number is not None:
            family.add_metric([], number)
        return family
    for found, number in sorted(numbers.items()):
        start, _, value = found.partition("|")
        if start == key:
            family.add_metric([value], number)
    return family


def _histogram(
    name: str, text: str, places: list[int], total: int, shown: range, unit: float
) -> HistogramMetricFamily:
    """Place n holds what is below 2^n: `le` is the largest whole number there, 2^n - 1."""
    sums = list(accumulate(places))
    buckets = [(repr(float((2**n - 1) * unit)), sums[n]) for n in shown]
    family = HistogramMetricFamily(name, text)
    family.add_metric([], [*buckets, ("+Inf", sums[DIGITS])], sum_value=total * unit)
    return family
