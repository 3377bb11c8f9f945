"""Signals while all are there: to the server, which stops or reads its settings anew, and to a worker.

Part of `make test-system`; system.py says how.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
import pytest

from crowd import (
    ENVIRONMENT,
    LONG,
    OPTIONS,
    SECONDS,
    CutError,
    Reply,
    Talker,
    behind_nginx,
    crowd,
    ports,
)
from crowd_clients import BLOCK, BLOCKS, CLIENTS, Client, Film, Seen, five_films, get_events, make_film
from harmony4.crypto.mask import MaskSpec
from harmony4.server.guard import signing
from harmony4.server.guard.secret import load_secret, secret_path
from harmony4.server.guard.tokens import Token, TokenFile, new_token
from harmony4.server.state import FOLDER, State
from masking import ONE, keyring, masked_container
from needs import needs_nginx
from processes import Served, needs_proc, served, until

pytestmark = [needs_nginx, needs_proc, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Film]:
    return five_films(tmp_path_factory.mktemp("system"))


def test_sigterm_under_load(films: list[Film], tmp_path: Path) -> None:
    """What has begun ends whole, `/ready` turns first, and the server is gone in time.

    The crowd comes through nginx; forty who read nothing yet have the server's own address: nginx would read
    for them.
    """
    ends: list[float] = []
    refused: Counter[str] = Counter()
    told: Counter[str] = Counter()
    with behind_nginx(Path(films[0].name).parent, tmp_path) as place:
        server = place.server
        lines = [server.connect(small=True) for _ in range(40)]
        for number, line in enumerate(lines):
            line.ask(f"/video/range?name={Path(films[number % 5].name).name}")
            assert line.head()[0] == 200

        def end() -> None:
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            until(lambda: server.get("/ready")[0] == 503, "/ready, which turns first")
            assert server.get("/health")[0] == 200  # and everything is answered still
            for number, line in enumerate(lines):
                assert line.body(BLOCK * BLOCKS) == films[number % 5].data
                line.close()
            assert server.process.wait(60) == 0
            assert time.monotonic() - started < 1 + 10 + 5 + 5

        async def end_amid() -> Seen:
            clock = asyncio.get_running_loop().time
            clients = {
                kind: _knowing(kind, client, ends, refused, clock)
                for kind, client in (CLIENTS | {"listen": partial(_listen, told, ends)}).items()
            }
            met = Seen()
            amid = asyncio.create_task(crowd(place.url, films, LONG, clients=clients, seen=met))
            await asyncio.sleep(LONG / 2)
            ends.append(clock())
            met.stopping = True
            await asyncio.to_thread(end)
            return await amid

        seen = asyncio.run(end_amid())
    print(f"SIGTERM: {dict(seen.counts)} answers, {dict(told)} streams, refused afterwards {dict(refused)}")
    assert not seen.wrong, "\n".join(seen.wrong)
    assert told["to the end"]
    assert refused["range"], "the load went on when the server was gone"
    assert "Traceback" not in place.said()


async def _listen(
    told: Counter[str],
    ends: Sequence[float],
    session: aiohttp.ClientSession,
    url: str,
    film: Film,
    dice: random.Random,
    seen: Seen,
) -> None:
    """One of those who wait for events: a stream goes on until the server stops, and has a proper end."""
    async with session.get(f"{url}/events") as answer:
        seen.check(answer.status == 200, f"/events: {answer.status}")
        seen.heard.add(asyncio.current_task())
        async for line in answer.content:  # what breaks off within a chunk is an error
            fits = line == b"\n" or line.startswith((b"event:", b"data:", b":", b"retry:"))
            seen.check(fits, f"/events: {line!r}")
    seen.check(bool(ends), "/events: ended, and nobody had asked the server to")
    told["to the end"] += 1


class _RefusedError(Exception):
    """The server is gone."""


def _knowing(
    kind: str, client: Client, ends: Sequence[float], refused: Counter[str], clock: Callable[[], float]
) -> Client:
    """A client who knows that a server which was told to stop (at `ends[0]`) may refuse what is asked then.

    Not what was asked before, and not within the second that `stop_delay` gives: that comes whole.
    """

    class Asking:
        """A session; what may be refused and is ends the client's round."""

        def __init__(self, session: aiohttp.ClientSession) -> None:
            self._session = session

        @asynccontextmanager
        async def _ask(self, method: str, url: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
            asked = clock()
            # nginx may have taken a moment to pass it on.
            late = ends and asked > ends[0] + (0 if url.endswith("/ready") else 0.8)
            try:
                async with self._session.request(method, url, **options) as answer:
                    if late and answer.status in (502, 503):
                        raise _RefusedError
                    yield answer
            except aiohttp.ClientError as error:
                if late:  # the film's next slice is nowhere to be had
                    raise _RefusedError from error
                raise

        get = partialmethod(_ask, "GET")
        post = partialmethod(_ask, "POST")
        patch = partialmethod(_ask, "PATCH")
        delete = partialmethod(_ask, "DELETE")

    async def ask(
        session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
    ) -> None:
        try:
            await client(cast("aiohttp.ClientSession", Asking(session)), url, film, dice, seen)
        except _RefusedError:
            refused[kind] += 1

    return ask


def test_a_worker_is_killed_under_load(films: list[Film], tmp_path: Path) -> None:
    """Its connections are cut, and nobody else's; its successor takes over at once."""
    library = Path(films[0].name).parent
    with (tmp_path / "log").open("wb") as log, served(library, *OPTIONS, log=log, **ENVIRONMENT) as server:
        victim, other = server.workers()
        lines = {}
        for worker in (victim, other):
            with server.only(worker):
                lines[worker] = [server.connect(small=True) for _ in range(10)]
                for number, line in enumerate(lines[worker]):
                    line.ask(f"/video/range?name={Path(films[number % 5].name).name}")
                    assert line.head()[0] == 200
        asyncio.run(_talk_while_it_dies(server, films, victim))
        for worker, open_ones in lines.items():
            for number, line in enumerate(open_ones):
                try:
                    body = line.body(BLOCK * BLOCKS)
                except ConnectionError:
                    body = b""
                line.close()
                data = films[number % 5].data
                assert (body == data) == (worker == other), "those of the victim, and only those"
                assert data.startswith(body)
        until(lambda: len(server.workers()) == 2, "its successor")


async def _talk_while_it_dies(server: Served, films: list[Film], victim: int) -> None:
    """Sixty clients talk; whose answers break off is compared with whose connections the victim had."""
    clock = asyncio.get_running_loop().time
    until_then = clock() + min(SECONDS, 6)
    talkers = [Talker(server.address) for _ in range(60)]
    cut: list[tuple[int, int, bool]] = []  # (talker, port, whether it waited when the victim died)
    waiting: set[int] = set()
    had: set[int] = set()
    counted = [0, 0]

    async def talk(number: int) -> None:
        me, dice = talkers[number], random.Random(number)
        while clock() < until_then:
            await asyncio.sleep(dice.random() * 0.02)
            film = dice.choice(films)
            start = dice.randrange(len(film.data) - 2**20)
            field = f"Range: bytes={start}-{start + 2**20 - 1}"
            try:
                reply = await me.get(f"/video/range?name={Path(film.name).name}", field)
            except CutError as error:
                assert film.data.startswith(error.args[0], start)
                cut.append((number, me.port, number in waiting))
                continue
            assert (reply.status, reply.body) == (206, film.data[start : start + 2**20])
            counted[bool(had)] += 1

    async def kill() -> None:
        await asyncio.sleep(min(SECONDS, 6) / 3)
        os.kill(victim, signal.SIGSTOP)
        had.update(ports(victim))
        waiting.update(number for number, one in enumerate(talkers) if one.waits and one.port in had)
        os.kill(victim, signal.SIGKILL)

    await asyncio.gather(kill(), *map(talk, range(len(talkers))))
    for one in talkers:
        await one.leave()
    print(
        f"killed: {len(waiting)} waited for it, {len(cut)} were cut off; {counted} answers before and after"
    )
    assert {port for _, port, _ in cut} <= had
    assert cut
    assert all(counted)
    # Who did not wait had just asked on a connection that was gone. And nobody is cut off twice.
    assert len(cut) == len({number for number, _, _ in cut})


def test_a_worker_is_killed_amid_the_crowd(films: list[Film], tmp_path: Path) -> None:
    """What it was answering is lost, no more of it than it had connections; all else is answered as ever."""
    with behind_nginx(Path(films[0].name).parent, tmp_path) as place:
        killed: list[float] = []
        lost: Counter[str] = Counter()
        had: set[int] = set()

        async def amid() -> Seen:
            clock = asyncio.get_running_loop().time
            clients = {
                kind: _bereft(kind, client, killed, lost, clock)
                for kind, client in (CLIENTS | {"listen": partial(get_events, lines=sys.maxsize)}).items()
            }
            met = Seen()
            rest = asyncio.create_task(crowd(place.url, films, LONG, clients=clients, seen=met))
            await asyncio.sleep(LONG / 2)
            victim = place.server.workers()[0]
            os.kill(victim, signal.SIGSTOP)
            had.update(ports(victim))
            killed.append(clock())
            os.kill(victim, signal.SIGKILL)
            await asyncio.to_thread(until, lambda: len(place.server.workers()) == 2, "its successor")
            return await rest

        seen = asyncio.run(amid())
    print(f"killed amid the crowd: {dict(seen.counts)} answers, {dict(lost)} lost, {len(had)} connections")
    assert not seen.wrong, "\n".join(seen.wrong)
    assert 0 < lost.total() <= len(had)


def _bereft(
    kind: str, client: Client, killed: Sequence[float], lost: Counter[str], clock: Callable[[], float]
) -> Client:
    """A client who may lose what it was doing when a worker was killed, and nothing before and after.

    What is asked within the next half second may still go to a connection that is gone.
    """

    async def ask(
        session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
    ) -> None:
        mine = replace(seen, wrong=[])
        begun = clock()
        try:
            await client(session, url, film, dice, mine)
        except (aiohttp.ClientError, OSError) as error:
            mine.wrong.append(f"{kind}: {type(error).__name__} {error}")
        if mine.wrong and killed and begun < killed[0] + 0.5 and clock() > killed[0]:
            lost[kind] += 1
            return
        for what in mine.wrong:
            seen.check(False, what)

    return ask


def _gone(server: Served, workers: set[int]) -> None:
    until(lambda: not workers & set(server.workers()), "the old workers' end")


def test_sighup_amid_the_crowd(films: list[Film], tmp_path: Path) -> None:
    """Workers are replaced twice: no answer of any kind fails, streams have a proper end."""
    with behind_nginx(Path(films[0].name).parent, tmp_path) as place:

        async def amid() -> Seen:
            met = Seen()
            rest = asyncio.create_task(crowd(place.url, films, LONG, seen=met))
            for _ in range(2):
                await asyncio.sleep(LONG / 4)
                old = set(place.server.workers())
                met.stopping = True
                place.server.process.send_signal(signal.SIGHUP)
                await asyncio.to_thread(
                    until, lambda old=old: not old & set(place.server.workers()), "their end"
                )
            return await rest

        seen = asyncio.run(amid())
        said = place.said()
    print(f"SIGHUP amid the crowd: {dict(seen.counts)} answers")
    assert not seen.wrong, "\n".join(seen.wrong)
    assert said.count("the settings were read anew") == 2
    assert "Traceback" not in said


def test_sighup_under_load(tmp_path: Path) -> None:
    """Settings, tokens, keys and the secret change; every answer is right, and no connection is dropped."""
    library, keys = tmp_path / "library", tmp_path / "keys"
    keyring(keys)
    film = make_film(library / "film.h4mk", 1)
    masked_container(library / "masked.h4mk", Path(film.name), MaskSpec((ONE,)))
    settings = tmp_path / "harmony4.toml"
    settings.write_text(SETTINGS.format(keys=keys, hosts=""))
    scopes = ("read", "write", "mask"), ("read",), ("read",)
    tokens = [new_token("test", one, time.time(), None) for one in scopes]
    for token, _ in tokens[:2]:
        TokenFile(State(library / FOLDER)).add(token)
    with (
        (tmp_path / "log").open("wb") as log,
        served(library, "--workers", 2, "--config", settings, log=log) as server,
    ):
        asyncio.run(_talk_while_it_changes(server, film, settings, keys, tokens))
    said = (tmp_path / "log").read_text()
    assert said.count("the settings were read anew") == 2
    assert "Traceback" not in said


SETTINGS: Final = """[server]
auth = true
keyring = "{keys}"
stop_delay = 1
allowed_hosts = [{hosts}]
"""


async def _talk_while_it_changes(
    server: Served, film: Film, settings: Path, keys: Path, tokens: list[tuple[Token, str]]
) -> None:
    clock = asyncio.get_running_loop().time
    state = State(Path(film.name).parent / FOLDER)
    file = TokenFile(state)
    (_, steady), (doomed, revoked), late = tokens

    def signed() -> str:
        target = "/video/range?name=film.h4mk"
        ends = signing.Signature(int(time.time()) + 600, None)
        return signing.signed_url(signing.key_of(load_secret(state)), target, ends)

    before = signed()
    ended = asyncio.Event()
    config = await asyncio.to_thread(settings.read_text)
    answers: Counter[str] = Counter()
    changed = dict.fromkeys(("revoked", "late", "host", "key", "secret"), float("inf"))
    """When the new state was seen to hold for every worker."""
    began = dict(changed)
    """When each change was begun."""
    fresh: list[str] = []

    def check(kind: str, asked: float, done: float, reply: Reply, old: int, new: int) -> None:
        """Before a change began the old status is right, after it has come about the new one."""
        status = 401 if reply.status == 429 else reply.status  # many wrong tokens: the brake says no as well
        allowed = {old} if done < began[kind] else {new} if asked > changed[kind] else {old, new}
        assert status in allowed, f"{kind}: {reply.status} at {asked}, {began[kind]}, {changed[kind]}"
        answers[f"{kind} {status}"] += 1

    async def talk(number: int) -> None:
        me, dice = Talker(server.address), random.Random(number)
        kinds = ("steady", "revoked", "late", "host", "key", "secret")
        kind = kinds[number % len(kinds)]
        bearer = {"revoked": revoked, "late": late[1]}.get(kind, steady)
        while not ended.is_set():
            await asyncio.sleep(dice.random() * 0.05)
            start = dice.randrange(len(film.data) - 2**17)
            stop = start + dice.randrange(1, 2**17)
            fields, target = [f"Range: bytes={start}-{stop - 1}"], "/video/range?name=film.h4mk"
            if kind == "secret":
                target = before
            else:
                fields.append(f"Authorization: Bearer {bearer}")
            if kind == "key":
                target = "/video/range?name=masked.h4mk"
            asked = clock()
            reply = await me.get(target, *fields, host="new.example" if kind == "host" else "localhost")
            done = clock()
            if reply.status == 206:
                assert reply.body == film.data[start:stop], kind
            else:
                assert reply.problem, reply
            if kind == "steady":
                assert reply.status == 206
                answers["steady"] += 1
            else:
                old, new = {
                    "revoked": (206, 401),
                    "late": (401, 206),
                    "host": (421, 206),
                    "key": (403, 206),
                    "secret": (206, 401),
                }[kind]
                check(kind, asked, done, reply, old, new)
            if kind == "secret" and fresh:
                assert (await me.get(fresh[0], fields[0])).body == film.data[start:stop]
                answers["fresh"] += 1
        assert not me.left, f"{kind}: the connection was dropped"
        await me.leave()

    async def listen() -> None:
        """One of those who wait for events: told that it ends, or goes on; never cut off within an event."""
        while not ended.is_set():
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(
                f"GET /events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {steady}\r\n\r\n".encode()
            )
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            stop = asyncio.create_task(ended.wait())
            read = asyncio.create_task(reader.read())
            await asyncio.wait({stop, read}, return_when=asyncio.FIRST_COMPLETED)
            if read.done():
                assert read.result().endswith(b"0\r\n\r\n")  # the stream's proper end
                answers["listeners told"] += 1
            for task in (stop, read):
                task.cancel()
            writer.close()

    async def heard(*names: str) -> None:
        """Until there were more of such answers."""
        enough = {name: answers[name] + 10 for name in names}
        await asyncio.to_thread(
            until, lambda: all(answers[name] >= enough[name] for name in names), str(names)
        )

    async def change() -> None:
        await heard("revoked 206", "late 401", "host 421", "key 403", "secret 206", "steady")
        old = set(server.workers())
        now = clock()
        began.update(revoked=now, late=now, host=now, key=now)
        file.revoke(doomed.id)
        file.add(late[0])
        await asyncio.to_thread(keyring, keys, one=ONE)
        await asyncio.to_thread(settings.write_text, config.replace("[]", '["new.example"]'))
        server.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(until, lambda: not old & set(server.workers()), "the old workers' end")
        await asyncio.to_thread(until, lambda: len(server.workers()) == 2, "the new ones")
        now = clock()
        changed.update(revoked=now, late=now, host=now, key=now)
        await heard("revoked 401", "late 206", "host 206", "key 206", "secret 206", "steady")
        # The secret: what the old one signed is void, and the next workers know the new one.
        old = set(server.workers())
        began["secret"] = clock()
        secret_path(state).unlink()
        load_secret(state)
        server.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(until, lambda: not old & set(server.workers()), "their end")
        changed["secret"] = clock()
        fresh.append(signed())
        await heard("secret 401", "fresh", "steady")
        ended.set()

    await asyncio.gather(change(), *map(talk, range(60)), *(listen() for _ in range(5)))
    print(f"SIGHUP: {dict(sorted(answers.items()))}")
    assert answers["listeners told"]
