"""`/metrics`: the numbers of all workers for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import accumulate
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from harmony4.server.insight.tally import DIGITS, Snapshot
from harmony4.server.keys import DESK, EVENTS, LIBRARY, SHARES, TALLY

__all__ = ["COUNTERS", "GAUGES", "families", "publishing", "routes", "watch"]

_PUBLISH: Final = 1.0
"""Seconds between two snapshots for the other workers: what a worker that is killed takes with it at most."""

COUNTERS: Final = {
    # Name in the tally: name for Prometheus, help, label.
    "cold": ("harmony4_cold_reads", "Turns of an answer for which bytes came from the disk first", None),
    "broken": ("harmony4_answers_broken_off", "Answers that ended before their last byte", None),
    "damaged": ("harmony4_verification_failures", "Damage found, by who looked: read or scrub", "found_by"),
    "refused": ("harmony4_limited", "Requests and connections refused by a limit, by which", "limit"),
    "scrubbed": (
        "harmony4_scrubbed_containers",
        "Containers verified meanwhile, by result",
        "result",
    ),
    "scrubbed_bytes": ("harmony4_scrubbed_bytes", "Bytes verified in the background", None),
}
GAUGES: Final = {
    "workers": ("harmony4_workers", "Processes that serve"),
    "connections": ("harmony4_connections", "Connections that are open"),
    "active": ("harmony4_requests_active", "Requests under way, streams included"),
    "containers": ("harmony4_containers_open", "Containers that are open"),
    "listeners": ("harmony4_sse_subscribers", "Clients of /events"),
    "waiting": ("harmony4_sse_events_waiting", "Events that clients of /events have still to take"),
    "lag": ("harmony4_sse_lag_seconds", "Seconds that the oldest of them has waited, added up over workers"),
    "jobs": ("harmony4_exports_active", "Exports under way"),
    "export_bytes": ("harmony4_exports_bytes_received", "Bytes received of the exports under way"),
    "damaged_containers": ("harmony4_damaged_containers", "Containers that failed their last scrubbing"),
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
    return {"jobs": len(jobs), "export_bytes": sum(int(job.get("received") or 0) for job in jobs)}


def watch(app: web.Application) -> None:
    """Name what is asked when somebody looks."""
    app[TALLY].gauges |= {
        "containers": lambda: app[LIBRARY].opened,
        "listeners": lambda: app[EVENTS].listeners,
        "waiting": lambda: app[EVENTS].waiting,
        "lag": lambda: app[EVENTS].lag,
    }


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
    counts: dict[str, int] = whole["counts"]
    for key, (name, text, label) in COUNTERS.items():
        family = CounterMetricFamily(name, text, labels=[] if label is None else [label])
        if label is None:
            family.add_metric([], counts.get(key, 0))
        for found, number in sorted(counts.items()):
            kind, _, value = found.partition("|")
            if label is not None and kind == key:
                family.add_metric([value], number)
        yield family
    for key, (name, text) in GAUGES.items():
        if key in whole["gauges"]:
            yield GaugeMetricFamily(name, text, value=whole["gauges"][key])


def _histogram(
    name: str, text: str, places: list[int], total: int, shown: range, unit: float
) -> HistogramMetricFamily:
    """Place n holds what is below 2^n: `le` is the largest whole number there, 2^n - 1."""
    sums = list(accumulate(places))
    buckets = [(repr(float((2**n - 1) * unit)), sums[n]) for n in shown]
    family = HistogramMetricFamily(name, text)
    family.add_metric([], [*buckets, ("+Inf", sums[DIGITS])], sum_value=total * unit)
    return family
