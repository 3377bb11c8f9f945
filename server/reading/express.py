"""The express lane: requests that were answered before, but for one number, without aiohttp's machinery.

Players, proxies and download programs send the same bytes again and again, and only `Range` or `pts`
differs. The first such request goes the ordinary way: the library's parser reads it, the router, the
middlewares and the handler answer it. The handler offers a plan with its answer, and a plan is kept under the
request's bytes without that number. The next request with the same bytes around it is answered in
`data_received`: same decision, same headers (they are taken from the first answer as it went out), same
bytes.

No request is parsed here, so there is no second opinion about what a request means: its bytes are those of
a request that was parsed, except for decimal digits. And since an answer follows from the request's bytes
and the container alone, one that was given holds for the next one but for what the number changes. That is
looked up anew each time: only the way there is remembered, no bytes of an answer. Whatever is not plain
goes the ordinary way: ranges that are not `first-last`, bodies beyond 16 MiB (1 MiB while others wait for
short answers), bytes that a disk must be asked for, a client that still has bytes to take.

The guard is not asked again, so it has to vouch for a request before its answer is learned from: it does
where the same bytes get in for as long as nothing is dropped. It drops all plans when tokens change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from itertools import islice
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

from harmony4.crypto.errors import HarmonyError, SourceError
from harmony4.h4mk.source import impatient
from harmony4.server.folder.facts import SeekCard, seek_template
from harmony4.server.insight.tally import Cell, Tally
from harmony4.server.logs import without_signature
from harmony4.server.reading.push import begin, push
from harmony4.server.serving.access import client_fields, escape
from harmony4.server.serving.forwarded import ADDRESS
from harmony4.server.serving.front import route_name

if TYPE_CHECKING:
    from harmony4.h4mk import H4MKReader
    from harmony4.server.folder.library import Container, Library
    from harmony4.server.reading.resource import Resource, Soon
    from harmony4.server.serving.connection import Connection

__all__ = ["SHORT", "Express", "Key", "offer_range", "offer_seek", "split"]

Key = tuple[bytes, bytes]
"""A request's bytes before and behind the number."""

_RANGE: Final = b"\r\nRange: bytes="
_PTS: Final = b"pts="
_PLANS: Final = 8192
_MEMORY: Final = 16 * 2**20
"""Bytes of text in all plans, about."""
_PIECES: Final = 512
"""Most pieces of a file in one answer: each costs a buffer, and blocks may be as small as a byte."""
_LONGEST: Final = 4096
"""Bytes; longer requests go the ordinary way, so that plans take a bounded amount of memory."""
_DIGITS: Final = 15
"""So many digits stay below 2^53: numbers that are numbers in JSON too."""
_MOST: Final = 2**20
"""The largest body, bytes, while others wait for short answers: what the kernel copies before their turn."""
_MOST_CALM: Final = 2**24
"""The same while nobody does. A slow client's rest is slices of the mapping, which cost it a page table."""
_CALM: Final = 0.1
"""Seconds since the last short answer, after which nobody is taken to wait for one."""
SHORT: Final = 2**16
"""Bytes of an answer that somebody waits for rather than plays."""
_SMALL: Final = 2**16
"""Up to here reading beats mapping: one system call says whether the bytes are in memory and fetches them."""
_MOST_MADE: Final = 2**20
"""The largest body that is made on the event loop, bytes: as long as `_MOST` takes to be copied."""
_KEPT: Final = 2**24
"""Bytes of made bodies that may wait in transports; while there are more, only small ones are made here."""
_BUFFER: Final = memoryview(bytearray(_MOST_MADE))
"""For the event loop: good until the next body is made."""
_STEADY: Final = frozenset(
    {
        "accept-ranges",
        "access-control-allow-origin",
        "access-control-expose-headers",
        "cache-control",
        "content-disposition",
        "content-location",
        "content-security-policy",
        "content-type",
        "cross-origin-resource-policy",
        "etag",
        "last-modified",
        "referrer-policy",
        "repr-digest",  # of the whole stream, whatever the range is
        "server",
        "vary",
        "x-content-type-options",
    }
)
"""Headers of an answer that do not depend on the number."""
_MADE: Final = frozenset({"content-length", "content-range", "date"})
"""Headers that are made anew. An answer with any other header is not learned from."""


def split(data: bytes) -> tuple[Key | None, bytes]:
    """A request's key and the number in it; no key for what the express lane does not take."""
    if not data.startswith(b"GET /video/") or len(data) > _LONGEST:
        return None, b""
    start = data.find(_RANGE)
    if start >= 0:
        start += len(_RANGE)
        stop = data.find(b"\r", start)
    else:
        start = data.find(_PTS)
        if start < 0 or data[start - 1] not in b"?&":
            return None, b""
        start += len(_PTS)
        stop = start
        while data[stop : stop + 1].isdigit():
            stop += 1
    return (data[:start], data[stop:]), data[start:stop]


class _Plan(Protocol):
    """How to answer one kind of request."""

    container: Container

    def answer(self, connection: Connection, value: bytes, express: Express) -> bool:
        """Answer it with this number in it; False, and nothing done, where it must go the ordinary way."""
        ...


class Express:
    """The plans of one application. For one event loop."""

    def __init__(self, library: Library, tally: Tally | None = None) -> None:
        self._library = library
        self.tally = Tally() if tally is None else tally
        self._plans: dict[Key, _Plan] = {}
        self._keys: dict[Container, set[Key]] = {}
        """What a container's plans are kept under, so that to forget one costs nothing that grows."""
        self._memory = 0
        """Bytes learned since there was no plan; those that were forgotten since count as well."""
        self.now = float("-inf")
        """The loop's time, seconds, of the request that is being answered."""
        self._second = -1
        self.date = b""
        """The Date header's value (RFC 9110 §6.6.1)."""
        self.last = float("-inf")
        """The loop's time, seconds, of the last short answer, in this lane or elsewhere."""
        self.kept = 0
        """Bytes of made bodies that wait in transports."""
        self.answered = 0
        """Number of requests that were answered in this lane."""
        self._closed = False
        self._generation = 0
        library.on_retire = self.forget

    def answer(self, connection: Connection, key: Key, value: bytes, now: float) -> bool:
        """Answer a request if there is a plan for it; else nothing has happened. `now` is the loop's time."""
        plan = self._plans.get(key)
        if plan is None or not self._library.touch(plan.container, now):
            return False
        transport = connection.transport
        if transport is None or transport.get_write_buffer_size():
            return False
        if now != self.now:
            self._look_at_the_clock(now)
        return plan.answer(connection, value, self)

    def is_calm(self, now: float) -> bool:
        """Whether nobody is taken to wait for a short answer. `now` is the loop's time."""
        return self.last + _CALM < now

    def vouch(self, request: web.BaseRequest) -> None:
        """Say that whoever sends the same bytes may have the same answer, until plans are dropped."""
        request[_VOUCHED] = self._generation

    def drop(self) -> None:
        """Forget all plans, and learn from no request that somebody vouched for before."""
        self._generation += 1
        self._clear()

    def learn(self, key: Key, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Keep a plan for requests like this one, if it got an answer that its handler offered a plan for."""
        offer = request.get(_OFFER)
        if (
            offer is None
            or self._closed
            or request.get(_VOUCHED) != self._generation
            or offer.container.retired  # since its handler gave it back
            or response.status != offer.status
            or not key[0].endswith(offer.number)
            or (offer.number == _PTS and not _is_the_time(key, request))
            or not response.keep_alive
            or "Expect" in request.headers  # answered twice: first that the client may go on
        ):
            return
        known = self._plans.get(key)
        if known is not None and not known.container.retired:
            return
        steady = [item for item in response.headers.items() if item[0].lower() not in _MADE]
        if not _STEADY.issuperset(name.lower() for name, _ in steady):
            return
        cell = self.tally.cell(route_name(request), "GET", response.status)
        outer = _Outer(request, response, steady, cell)
        size = sum(map(len, (*key, outer.head, outer.line, outer.client)))
        if len(self._plans) >= _PLANS or self._memory + size > _MEMORY:
            self._clear()
        self._memory += size
        self._plans[key] = offer.plan(outer)
        self._keys.setdefault(offer.container, set()).add(key)

    def forget(self, container: Container) -> None:
        """Drop the plans of a container that is no longer served."""
        for key in self._keys.pop(container, ()):
            plan = self._plans.get(key)
            if plan is not None and plan.container is container:
                del self._plans[key]

    def close(self) -> None:
        """Send everything the ordinary way from here on: answers of a server that stops say so."""
        self._closed = True
        self._clear()

    def _clear(self) -> None:
        self._plans.clear()
        self._keys.clear()
        self._memory = 0

    def _look_at_the_clock(self, now: float) -> None:
        self.now = now
        second = int(time.time())
        if second != self._second:
            self._second, self.date = second, formatdate(second, usegmt=True).encode("ascii")


def _is_the_time(key: Key, request: web.BaseRequest) -> bool:
    """Whether the digits in the key are all of the `pts` that the request was understood to have.

    They may stand in a header or a fragment, or go on behind a percent sign, or be the second of two.
    """
    before, behind = key
    return (
        before.count(b"?") == 1
        and b"#" not in before
        and b"\r" not in before
        and behind[:1] in (b" ", b"&")
        and len(request.query.getall("pts")) == 1
    )


@dataclass(frozen=True, slots=True)
class _Offer:
    """What a handler says of its answer: the next one like it, but for the number, may come from `plan`."""

    status: int
    number: bytes
    container: Container
    plan: Callable[[_Outer], _Plan]


_OFFER: Final = web.RequestKey("express", _Offer)
_VOUCHED: Final = web.RequestKey("vouched", int)


def offer_range(request: web.Request, resource: Resource) -> None:
    """Say that an answer with one range (206) follows from the resource and the range alone."""
    descriptor = resource.container.reader.fileno()
    if not resource.in_memory or descriptor is None:
        return
    plan: Callable[[_Outer], _Plan]
    if resource.fill is None:
        plan = lambda outer: _RangePlan(outer, resource, descriptor)  # noqa: E731
    elif (soon := resource.soon) is not None:
        plan = lambda outer: _MadePlan(outer, resource, descriptor, soon)  # noqa: E731
    else:
        return
    request[_OFFER] = _Offer(206, _RANGE, resource.container, plan)


def offer_seek(request: web.Request, container: Container, card: SeekCard) -> None:
    """Say that the answer about one time follows from the container, the track's card and the time alone."""
    reader, track = container.reader, card.track
    keys = reader.key_map(track)
    greatest = reader.stream_size(track) + reader.duration if keys is None else keys.greatest
    if greatest >= 10**_DIGITS:
        return
    template = seek_template(card)
    find = keys.find if keys is not None else partial(_find_in_pages, reader, track)
    request[_OFFER] = _Offer(200, _PTS, container, lambda outer: _SeekPlan(outer, container, template, find))


_Find = Callable[[int], tuple[int, int, int, int | None, int] | None]
"""As `KeyMap.find`."""


def _find_in_pages(reader: H4MKReader, track: int, pts: int) -> tuple[int, int, int, int | None, int] | None:
    """The same where tables are read by pages; None as well where a page is not in memory."""
    try:
        with impatient():
            found = reader.locate(pts, track)
    except HarmonyError:
        return None
    return None if found is None else (found.pts, found.offset, found.block_index, found.next_pts, found.size)


class _Outer:
    """What goes around the body of all answers of a plan: the head's steady part, and the log's."""

    def __init__(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        steady: list[tuple[str, str]],
        cell: Cell,
    ) -> None:
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in steady]
        self.head = "\r\n".join(lines).encode() + b"\r\n"
        self.status = response.status
        self.line = escape(f"GET {without_signature(request.raw_path)} HTTP/1.1")
        self.client = client_fields(request)
        self.cell = cell
        self._address: str | None = request.get(ADDRESS)

    def address(self, connection: Connection) -> str:
        """Whom an answer goes to: a proxy that is believed has said it in the very bytes of the request."""
        if self._address is not None and connection.trusted:
            return self._address
        return connection.address


class _RangePlan:
    """One range of a resource."""

    def __init__(self, outer: _Outer, resource: Resource, descriptor: int) -> None:
        """`descriptor` is open as long as the container is not retired."""
        self.container = resource.container
        self._outer = outer
        self._pieces = resource.pieces
        self._descriptor = descriptor
        self._size = resource.size
        # Parts of the head that seldom change between two answers.
        self._length = -1
        self._front = self._date = self._behind = b""

    def answer(self, connection: Connection, value: bytes, express: Express) -> bool:
        first, dash, last = value.partition(b"-")
        if not dash or len(value) > 2 * _DIGITS or not first.isdigit() or not (last.isdigit() or not last):
            return False
        started = perf_counter()
        start = int(first)
        stop = int(last) + 1 if last else self._size
        if stop > self._size:
            stop = self._size
        length = stop - start
        if length <= 0 or length > (_MOST_CALM if express.is_calm(express.now) else _MOST):
            return False
        return self._answer(connection, express, start, length, started)

    def _answer(
        self, connection: Connection, express: Express, start: int, length: int, started: float
    ) -> bool:
        """Answer with bytes that exist. `started`: when that began, seconds."""
        try:
            pieces = self._pieces(start, length)
            if type(pieces) is not tuple:
                pieces = tuple(islice(pieces, _PIECES + 1))
            if len(pieces) > _PIECES:
                return False
            data = mapping = None
            if length > _SMALL:
                mapping = self.container.reader.mapping if connection.maps else None
            if length <= _SMALL or mapping is not None:
                data = begin(self._descriptor, pieces, length)
        except HarmonyError:
            return False  # the ordinary way says what is wrong
        if data is None:
            return False
        head = self._head(express, start, length)
        self._count(express, length)
        try:
            if left := push(connection.socket, head, data, self._descriptor, pieces, mapping):
                connection.owe(self.container, left)
        except SourceError:
            connection.break_off()
        if connection.access is not None:
            self._log(connection, length, started)
        return True

    def _head(self, express: Express, start: int, length: int) -> bytes:
        outer = self._outer
        if length != self._length:
            self._length = length
            self._front = b"%bContent-Length: %d\r\nContent-Range: bytes " % (outer.head, length)
        if express.date is not self._date:
            self._date = express.date
            self._behind = b"/%d\r\nDate: %b\r\n\r\n" % (self._size, express.date)
        return b"%b%d-%d%b" % (self._front, start, start + length - 1, self._behind)

    def _count(self, express: Express, length: int) -> None:
        express.answered += 1
        if length <= SHORT:
            express.last = express.now
        cell, tally = self._outer.cell, express.tally
        cell[0] += 1
        cell[1] += length
        tally.sizes[length.bit_length()] += 1  # far below 2^48
        tally.size_sum += length

    def _log(self, connection: Connection, length: int, started: float) -> None:
        access, outer = connection.access, self._outer
        assert access is not None
        address, seconds = outer.address(connection), perf_counter() - started
        access.add(address, outer.line, outer.status, length, outer.client, seconds)


class _MadePlan(_RangePlan):
    """One range of a resource whose bytes stand in no file, but are made of those that do: unmasked ones."""

    def __init__(self, outer: _Outer, resource: Resource, descriptor: int, soon: Soon) -> None:
        super().__init__(outer, resource, descriptor)
        self._soon = soon

    def _answer(
        self, connection: Connection, express: Express, start: int, length: int, started: float
    ) -> bool:
        # What the kernel does not take at once has to be kept for it: no slice of a file will do.
        if length > (_MOST_MADE if express.kept < _KEPT else _SMALL):
            return False
        data = _BUFFER[:length]
        if not self._soon(start, data):
            return False
        head = self._head(express, start, length)
        self._count(express, length)
        if left := push(connection.socket, head, data, self._descriptor, (), None):
            connection.owe(self.container, left, copied=True)
        if connection.access is not None:
            self._log(connection, length, started)
        return True


class _SeekPlan:
    """The keyframe at or before a time."""

    def __init__(self, outer: _Outer, container: Container, template: bytes, find: _Find) -> None:
        self.container = container
        self._outer = outer
        self._template = template
        self._find = find
        before, _, behind = outer.line.partition("pts=")
        self._line = f"{before}pts=", behind.lstrip("0123456789")

    def answer(self, connection: Connection, value: bytes, express: Express) -> bool:
        if not 0 < len(value) <= _DIGITS:
            return False
        started = perf_counter_ns()
        asked = int(value)
        found = self._find(asked)
        if found is None:
            return False
        pts, offset, block, following, size = found
        next_pts = b"null" if following is None else b"%d" % following
        body = self._template % (asked, pts, offset, block, next_pts, size)
        outer = self._outer
        head = b"%bContent-Length: %d\r\nDate: %b\r\n\r\n" % (outer.head, len(body), express.date)
        express.answered += 1
        express.last = express.now
        transport = connection.transport
        assert transport is not None
        transport.write(head + body)
        taken = perf_counter_ns() - started
        cell, tally = outer.cell, express.tally
        cell[0] += 1
        cell[1] += len(body)
        tally.seeks[taken.bit_length()] += 1  # far below 2^48
        tally.seek_sum += taken
        if (access := connection.access) is not None:
            before, behind = self._line
            line = f"{before}{value.decode('ascii')}{behind}"
            access.add(outer.address(connection), line, outer.status, len(body), outer.client, taken / 1e9)
        return True
