"""Tokens of an upload that somebody else reads, or the same client on another connection: a file that grows.

A browser cannot send media and read the answer at the same time (HTTP/1.1). So POST with `job` answers 202
when all has arrived, with the address of a GET stream, which can be read meanwhile by who has chosen the
number. What that stream says is kept, as it comes:

    STATE/streams/ID.stream   entries, one behind the other; held (`state.hold`) by who writes them

An entry is the index of the token, or what stands for it (8 bytes), the lengths of name, text and record (2,
4, 4), and these: the event's name, its data as JSON, the token's own record.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from harmony4.crypto.errors import HarmonyError, LimitError, NotFoundError, StorageError, UsageError
from harmony4.server.errors import Problem, describe
from harmony4.server.intake.admission import LOOK, Room
from harmony4.server.keys import STATE
from harmony4.server.sse import compact
from harmony4.server.state import State, held, hold
from harmony4.server.streams.forms import END, chosen
from harmony4.server.streams.outlet import Outlet, last_position
from harmony4.server.streams.work import Work

__all__ = ["Entry", "Keeper", "asked_number", "get_kept", "keep"]

NO_INDEX: Final = -2
_HEAD: Final = struct.Struct(">qHII")
_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_PIECE: Final = 2**18
_POLL: Final = 0.05
"""Seconds between two looks whether more has come."""
_QUIET: Final = 15.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One event."""

    name: str
    text: bytes
    """Its data as JSON."""
    index: int = NO_INDEX
    """Of the token; END of the end; NO_INDEX of what has no id."""
    record: bytes = b""

    def pack(self) -> bytes:
        """As it is kept."""
        name = self.name.encode("ascii")
        head = _HEAD.pack(self.index, len(name), len(self.text), len(self.record))
        return b"".join((head, name, self.text, self.record))


class Keeper:
    """Who writes a stream. For threads, one at a time."""

    def __init__(self, state: State, number: str) -> None:
        """Raises Problem (409) where there is one already, StorageError."""
        path = state.folder("streams") / f"{number}.stream"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        try:
            self._file = os.open(path, flags, 0o600)
        except FileExistsError:
            raise Problem("exists", "there is a stream of that number") from None
        except OSError as error:
            raise StorageError(f"a stream cannot be kept: {error.strerror}") from error
        hold(self._file, wait=True)
        self.size = 0
        """Bytes that are kept."""

    def add(self, data: bytes) -> None:
        """Entries, packed. Raises StorageError."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            raise StorageError(f"a stream cannot be kept: {error.strerror}") from error
        self.size += len(data)

    def close(self) -> None:
        """Nothing more comes. Safe to call twice."""
        descriptor, self._file = self._file, -1
        if descriptor >= 0:
            os.close(descriptor)


def asked_number(request: web.Request) -> str | None:
    """The number that `job` asks for: one of ours for 1, the client's own, or None without `job`.

    A browser that wants to read while it sends has to know the address before. Raises UsageError.
    """
    text = request.query.get("job", "0")
    if text in ("0", "1"):
        return secrets.token_hex(16) if text == "1" else None
    return _checked(text)


def _checked(text: str) -> str:
    if not _ID.fullmatch(text):
        raise UsageError("job is not valid", expected="0, 1, or 32 hexadecimal digits", found=text[:40])
    return text


async def get_kept(request: web.Request) -> web.StreamResponse:
    """A kept stream, from its beginning or behind the last token received, as it grows: 200, 204, 404."""
    number = _checked(request.query["job"])
    form = chosen(request.headers.getall("Accept", []))(number[:8], 0)
    last = last_position(request)
    same = last is not None and (last.seal, last.track) == (number[:8], 0)
    after = last.index if last is not None and same else NO_INDEX
    if after == END:
        return web.Response(status=204, headers={"Cache-Control": "no-cache"})
    reader = await asyncio.to_thread(_Reader, request.app[STATE], number)
    try:
        outlet = Outlet(request, form)
        async with outlet:
            await outlet.write(form.begin() + (form.reset() if last is not None and not same else b""))
            quiet = 0.0
            while True:
                entries, writing = await asyncio.to_thread(reader.read)
                text = [
                    form.entry(one.name, one.text, None if one.index == NO_INDEX else one.index, one.record)
                    for one in entries
                    if one.index < 0 or one.index > after
                ]
                if text:
                    quiet = 0.0
                    await outlet.write(b"".join(text))
                if entries:
                    if entries[-1].name in ("done", "problem"):
                        if entries[-1].name == "problem" and not text[-1]:
                            outlet.abort()
                        break
                    continue
                if not writing:
                    error = Problem("interrupted", "the server stopped before it was done")
                    await outlet.fail(error, index=END)
                    break
                if outlet.stopping:
                    await outlet.say_goodbye()
                    break
                await asyncio.sleep(_POLL)
                quiet += _POLL
                if not outlet.alive:
                    raise ConnectionResetError("the client has left")
                if quiet >= _QUIET:
                    quiet = 0.0
                    await outlet.write(form.ping)
        return outlet.response
    finally:
        reader.close()


class _Reader:
    """One who reads a stream. For threads, one at a time."""

    def __init__(self, state: State, number: str) -> None:
        self._path = state.path / "streams" / f"{number}.stream"
        try:
            self._file = os.open(self._path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            raise NotFoundError("there is no such stream, or it has expired") from None
        self._rest = b""

    def read(self) -> tuple[list[Entry], bool]:
        """What has come, and whether somebody still writes. Raises StorageError."""
        writing = held(self._path)  # before reading: what is written last is read then
        try:
            data = self._rest + os.read(self._file, _PIECE)
        except OSError as error:
            raise StorageError(f"a stream cannot be read: {error.strerror}") from error
        entries, at = [], 0
        while at + _HEAD.size <= len(data):
            index, name, text, record = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + name + text + record
            if end > len(data):
                break
            start = at + _HEAD.size
            entries.append(
                Entry(
                    data[start : start + name].decode("ascii"),
                    data[start + name : start + name + text],
                    index,
                    data[end - record : end],
                )
            )
            at = end
        grown = len(data) > len(self._rest)
        self._rest = data[at:]
        return entries, writing or grown

    def close(self) -> None:
        os.close(self._file)


def keep(
    keeper: Keeper, work: Work[Any], room: Room, most: int
) -> Callable[[AsyncIterator[bytes]], Coroutine[Any, Any, None]]:
    """What writes all tokens of what arrives into a stream; how it ends stands there, too.

    It raises that as well: HarmonyError, Problem; 507 where there is no `room`, LimitError past `most` bytes.
    """

    async def write(entries: list[Entry]) -> None:
        # Tokens of small blocks take far more than the blocks.
        await asyncio.to_thread(_write, keeper, room, most, b"".join(one.pack() for one in entries))

    async def keeping(pieces: AsyncIterator[bytes]) -> None:
        count, last = 0, None
        try:
            async with aclosing(work.batches(pieces)) as batches:
                async for batch in batches:
                    found = [] if last is not None else [Entry("meta", compact(work.meta()))]
                    found += [
                        Entry("token", compact(work.data(token)), number, token.serialize())
                        for number, token in enumerate(batch, count)
                    ]
                    await write(found)
                    count, last = count + len(batch), batch[-1]
            found = [] if last is not None else [Entry("meta", compact(work.meta()))]
            found.append(Entry("done", compact({"tokens": count, **work.done(last)}), END))
            await write(found)
        except (HarmonyError, Problem) as error:
            await asyncio.to_thread(keeper.add, Entry("problem", compact(describe(error)), END).pack())
            raise
        finally:
            work.gone.set()
            keeper.close()

    return keeping


def _write(keeper: Keeper, room: Room, most: int, data: bytes) -> None:
    before = keeper.size
    if before + len(data) > most:
        raise LimitError("its tokens take more than is kept", expected=f"<= {most} bytes")
    keeper.add(data)
    if before // LOOK != keeper.size // LOOK:
        room.check(roughly=True)
