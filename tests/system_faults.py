"""What goes wrong while many are served, for real: `make test-system` (SYSTEM_TIME=seconds of load, 120).

Disks that are full, read only or forget; containers that are replaced, cut short or deleted below their
readers; no descriptors left; an nginx that comes and goes. In each test the others must not notice, nobody
may get a wrong byte, no worker may die, and afterwards everything is as it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import shutil
import time
from collections.abc import Awaitable, Callable
from mmap import PAGESIZE
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from crowd import (
    LONG,
    CutError,
    Talker,
    behind_nginx,
    crowd,
    descriptors,
)
from crowd_clients import BLOCK, CLIENTS, Film, Seen, make_film, upload
from harmony4.h4mk import H4MKReader
from harmony4.server.state import FOLDER
from mounts import folder_that_can_be_locked, small_disk
from needs import needs_nginx
from processes import cpu_seconds, needs_proc, until

pytestmark = [needs_nginx, needs_proc, pytest.mark.timeout(900)]

READERS: Final = {"range": 30, "seek": 10, "listen": 5}
COUNT: Final = 8
"""Blocks of a film here."""


def films_in(library: Path, number: int = 3) -> list[Film]:
    return [make_film(library / f"film{n}.h4mk", n, COUNT) for n in range(number)]


def load(
    url: str,
    films: list[Film],
    happens: Callable[[], Awaitable[None]],
    uploads: int = 0,
    uploader: Callable[..., Awaitable[None]] = upload,
) -> Seen:
    """A crowd, and what happens meanwhile; returns when both are over."""

    async def both() -> Seen:
        task = asyncio.create_task(happens())
        seen = await crowd(
            url,
            films,
            LONG,
            kinds=READERS | {"upload": uploads},
            clients=CLIENTS | {"upload": uploader},
        )
        await task
        return seen

    return asyncio.run(both())


async def more(number: int, count: Callable[[], int], what: str) -> None:
    """Until there are `number` more of something than now."""
    enough = count() + number
    await asyncio.to_thread(until, lambda: count() >= enough, f"{number} more: {what}")


class Uploads:
    """Clients that upload, and may be told that there is no room."""

    def __init__(self) -> None:
        self.done = self.refused = 0
        self.left: set[str] = set()
        """What could not be deleted for the same reason."""

    async def __call__(
        self, session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
    ) -> None:
        name, body = f"up{dice.randrange(2**60):x}.h4mk", dice.randbytes(dice.randrange(1, 2**20))
        async with session.post(f"{url}/video/export?name={name}&raw=1", data=body) as answer:
            text = await answer.text()
            seen.check(answer.status in (201, 507), f"export: {answer.status} {text}")
            if answer.status == 507:
                self.refused += 1
            if answer.status != 201:
                return
        self.done += 1
        async with session.get(f"{url}/video/range?name={name}") as answer:
            seen.check(await answer.read() == body, f"{name}: wrong bytes")
        self.left.add(name)
        async with session.delete(f"{url}/media?name={name}") as answer:
            found = await answer.json()
            seen.check(answer.status in (200, 507), f"delete: {answer.status} {found}")
            if answer.status == 200:
                self.left.discard(name)


def nothing_half_written(library: Path, films: list[Film], uploads: Uploads) -> None:
    """The library holds what it should, whole, and no spool is left."""
    names = {path.name for path in library.iterdir() if not path.name.startswith(".")}
    assert names == {Path(film.name).name for film in films} | uploads.left
    for name in names:
        with H4MKReader(library / name) as reader:
            assert reader.state == "sealed"
    until(lambda: not list((library / FOLDER / "spool").glob("*/*")), "spools that are given back")


def test_the_disk_fills_up(tmp_path: Path) -> None:
    """Somebody else's file takes all the room while uploads run, and goes away again."""
    uploads = Uploads()
    with small_disk(tmp_path / "disk", 128 * 2**20) as disk:
        library = disk.path
        films = films_in(library)
        environment = {"HARMONY4_MIN_FREE": "0", **disk.environment}
        with behind_nginx(library, tmp_path, **environment) as place:
            workers = place.server.workers()
            counts: list[int] = []

            async def happens() -> None:
                await more(5, lambda: uploads.done, "uploads")
                await asyncio.to_thread(disk.fill)
                counts.append(uploads.done)
                await more(5, lambda: uploads.refused, "refusals")
                counts.append(uploads.refused)
                await asyncio.to_thread(disk.empty)
                counts.append(uploads.done)

            seen = load(place.url, films, happens, 8, uploads)
            print(f"disk full: {uploads.done} uploads, {uploads.refused} refused; {dict(seen.counts)}")
            assert not seen.wrong, "\n".join(seen.wrong)
            assert counts[0]
            assert counts[1]
            assert uploads.done > counts[2]
            assert place.server.workers() == workers
            nothing_half_written(library, films, uploads)
            assert "Traceback" not in place.said()


def test_the_library_becomes_read_only(tmp_path: Path) -> None:
    """As ext4 does it after an error, and operators by hand: reading goes on, and later writing does."""
    uploads = Uploads()
    with folder_that_can_be_locked(tmp_path / "disk") as disk:
        library = disk.path
        films = films_in(library)
        with behind_nginx(library, tmp_path, HARMONY4_MIN_FREE="0", HARMONY4_SCRUB_RATE="0") as place:
            workers = place.server.workers()
            counts: list[int] = []

            async def happens() -> None:
                await more(5, lambda: uploads.done, "uploads")
                await asyncio.to_thread(until, disk.lock, "a moment in which nobody writes")
                counts.append(uploads.done)
                await more(5, lambda: uploads.refused, "refusals")
                counts.append(uploads.refused)
                await asyncio.to_thread(disk.unlock)
                counts.append(uploads.done)

            seen = load(place.url, films, happens, 4, uploads)
            print(f"read only: {uploads.done} uploads, {uploads.refused} refused; {dict(seen.counts)}")
            assert not seen.wrong, "\n".join(seen.wrong)
            assert counts[0]
            assert counts[1]
            assert uploads.done > counts[2]
            assert place.server.workers() == workers
            nothing_half_written(library, films, uploads)
            assert "Traceback" not in place.said()


# -- containers that change below their readers


async def read_on(
    address: tuple[str, int],
    name: str,
    ended: asyncio.Event,
    check: Callable[[int, int, object], None],
    number: int = 30,
    size: int = COUNT * BLOCK,
) -> None:
    """Many read one container until it is over; `check` gets start, stop and the Reply, or a CutError."""

    async def one(seed: int) -> None:
        me, dice = Talker(address), random.Random(seed)
        while not ended.is_set():
            start = dice.randrange(size)
            stop = min(size, start + dice.randrange(1, 3 * 2**20))
            try:
                check(
                    start, stop, await me.get(f"/video/range?name={name}", f"Range: bytes={start}-{stop - 1}")
                )
            except CutError as error:
                check(start, stop, error)
            await asyncio.sleep(dice.random() * 0.02)
        await me.leave()

    await asyncio.gather(*map(one, range(number)))


def test_a_container_is_replaced_again_and_again(tmp_path: Path) -> None:
    """Whatever the name leads to, all bytes under one ETag, or one `v`, are of one container."""
    library = tmp_path / "library"
    films = films_in(library)
    editions = [make_film(tmp_path / "editions" / f"{n}.h4mk", 100 + n, COUNT) for n in range(4)]
    tags = {}
    for one in editions:
        with H4MKReader(one.name) as reader:
            tags[f'"{reader.etag(0)}"'] = one.data
    assert len(tags) == 4
    by_version = {one.version: one.data for one in editions}

    def put(one: Film) -> None:
        shutil.copyfile(one.name, library / ".next")
        (library / ".next").replace(library / "same.h4mk")

    put(editions[0])
    with behind_nginx(library, tmp_path) as place:
        workers = place.server.workers()
        counts = {"whole": 0, "stale": 0, "cut": 0, "editions": set[str]()}

        async def both() -> Seen:
            ended = asyncio.Event()

            def check(start: int, stop: int, reply: object, *, cuts: bool) -> None:
                if isinstance(reply, CutError):
                    assert cuts, "nothing is cut off: who reads an old container keeps it"
                    counts["cut"] += 1
                    return
                tag = reply.headers["etag"]
                assert reply.status == 206
                assert reply.body == tags[tag][start:stop], "bytes of another one under this ETag"
                counts["whole"] += 1
                counts["editions"].add(tag)

            async def by_name(address: tuple[str, int], *, cuts: bool) -> None:
                await read_on(
                    address,
                    "same.h4mk",
                    ended,
                    lambda start, stop, one: check(start, stop, one, cuts=cuts),
                    15,
                )

            async def by_its_version(address: tuple[str, int], seed: int) -> None:
                me, dice = Talker(address), random.Random(seed)
                while not ended.is_set():
                    version, data = dice.choice(sorted(by_version.items()))
                    start = dice.randrange(len(data))
                    stop = min(len(data), start + dice.randrange(1, 2**21))
                    target = f"/video/range?name=same.h4mk&v={version}"
                    try:
                        reply = await me.get(target, f"Range: bytes={start}-{stop - 1}")
                    except CutError as error:
                        assert address == place.proxy.address
                        assert data[start:stop].startswith(error.args[0])
                        counts["cut"] += 1
                        continue
                    if reply.status == 410:
                        counts["stale"] += 1
                    else:
                        assert reply.status == 206, reply
                        assert reply.body == data[start:stop], "bytes of another one under this version"
                        counts["whole"] += 1
                await me.leave()

            async def replace() -> None:
                for turn in range(int(LONG * 10)):
                    await asyncio.to_thread(put, editions[turn % 4])
                    await asyncio.sleep(0.1)
                ended.set()

            addresses = place.server.address, place.proxy.address
            seen, *_ = await asyncio.gather(
                crowd(place.url, films, LONG, kinds=READERS),
                replace(),
                # nginx asks slice by slice, and gives up where the next one is of another edition.
                *(by_name(one, cuts=one == place.proxy.address) for one in addresses),
                *(by_its_version(one, seed) for one in addresses for seed in range(8)),
            )
            return seen

        seen = asyncio.run(both())
        print(f"replaced: {counts['whole']} whole, {counts['stale']} stale, {counts['cut']} cut by nginx")
        assert not seen.wrong, "\n".join(seen.wrong)
        assert len(counts["editions"]) == 4
        assert counts["stale"]
        assert place.server.workers() == workers


def test_a_container_is_cut_short(tmp_path: Path) -> None:
    """In place, as a copy that starts again does it: no SIGBUS, and never a body that is whole and wrong."""
    library = tmp_path / "library"
    films = films_in(library)
    path = library / "victim.h4mk"
    victim = make_film(path, 50, COUNT)
    size = path.stat().st_size
    with behind_nginx(library, tmp_path) as place:
        workers = place.server.workers()
        counts: dict[str, int] = {}

        async def both() -> Seen:
            ended = asyncio.Event()

            def check(start: int, stop: int, reply: object) -> None:
                if isinstance(reply, CutError):
                    # A page that is there in part ends in zero bytes: that is why the answer breaks off.
                    came, good = reply.args[0], victim.data[start:stop]
                    assert good.startswith(came.rstrip(b"\0"))
                    assert good.startswith(came[:-PAGESIZE])
                    kind = "cut"
                elif reply.status == 206:
                    # Cut through in the middle it is read as one that is being written, and shorter.
                    stop = min(stop, int(reply.headers["content-range"].rpartition("/")[2]))
                    assert reply.body == victim.data[start:stop]
                    kind = "whole"
                elif reply.status == 200:
                    assert reply.body == b"", reply  # nothing is left of it
                    kind = "empty"
                else:
                    assert reply.status in (404, 416, 500, 503), reply
                    kind = reply.problem
                counts[kind] = counts.get(kind, 0) + 1

            async def cut() -> None:
                for turn in range(int(LONG)):
                    for part in (0.9, 0.5, 0.1, 0.0):
                        await asyncio.sleep(0.1)
                        # Also within a page: what is missing of it reads as zero bytes.
                        os.truncate(victim.name, int(size * part) + 7 * turn)
                    await asyncio.sleep(0.1)
                    await asyncio.to_thread(make_film, path, 50, COUNT)
                await asyncio.sleep(0.3)
                ended.set()

            seen, *_ = await asyncio.gather(
                crowd(place.url, films, LONG, kinds=READERS),
                cut(),
                read_on(place.server.address, "victim.h4mk", ended, check),
            )
            return seen

        seen = asyncio.run(both())
        print(f"cut short: {counts}")
        assert not seen.wrong, "\n".join(seen.wrong)
        assert counts["whole"]
        assert len(counts) > 1
        assert place.server.workers() == workers
        status, body = place.server.get("/video/range?name=victim.h4mk")
        assert (status, body) == (200, victim.data)
        assert "Traceback" not in place.said()


def test_a_container_is_deleted(tmp_path: Path) -> None:
    """What had begun is finished; who comes later finds nothing, and the room is given back."""
    library = tmp_path / "library"
    films = films_in(library)
    victim = make_film(library / "victim.h4mk", 50, 16)
    with behind_nginx(library, tmp_path) as place:
        workers = place.server.workers()
        lines = [place.server.connect(small=True) for _ in range(8)]
        for line in lines:
            line.ask("/video/range?name=victim.h4mk")
            assert line.head()[0] == 200
        late: list[int] = []

        async def happens() -> None:
            await asyncio.sleep(LONG / 3)
            await asyncio.to_thread(Path(victim.name).unlink)
            async with aiohttp.ClientSession() as session:
                for address in (place.url, place.server.url):
                    for _ in range(10):
                        target = f"{address.rstrip('/')}/video/range?name=victim.h4mk"
                        async with session.get(target, headers={"Range": "bytes=0-99"}) as answer:
                            late.append(answer.status)

        seen = load(place.url, films, happens)
        assert not seen.wrong, "\n".join(seen.wrong)
        assert set(late) == {404}
        for line in lines:
            assert line.body(len(victim.data)) == victim.data
            line.close()

        def holds(pid: int) -> bool:
            links = [one.readlink().name for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()]
            return any(link.startswith("victim.h4mk") for link in links)

        until(lambda: not any(map(holds, workers)), "its room that is given back")
        assert place.server.workers() == workers


def flip(path: Path, offset: int) -> None:
    """Change a bit of a file, and nothing of what the file system says of it."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 4]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_container_rots(tmp_path: Path) -> None:
    """Bits change without a trace in the file's time: nothing of it gets out, and it is said everywhere."""
    library = tmp_path / "library"
    films = films_in(library)
    victim = make_film(library / "victim.h4mk", 50, COUNT)
    with H4MKReader(victim.name) as reader:
        place_in_file = next(iter(reader.extents(3 * BLOCK + 1000, 1)))[0]
    environment = {"HARMONY4_VERIFY_ON_READ": "true", "HARMONY4_SCRUB_RATE": str(2**28)}
    with behind_nginx(library, tmp_path, HARMONY4_SCRUB_PAUSE="0.2", **environment) as place:
        workers = place.server.workers()
        counts: dict[str, int] = {}

        async def both() -> Seen:
            ended = asyncio.Event()

            def check(start: int, stop: int, reply: object) -> None:
                if isinstance(reply, CutError):
                    assert victim.data[start:stop].startswith(reply.args[0])
                    kind = "cut"
                elif reply.status == 206:
                    assert reply.body == victim.data[start:stop], "a byte that is not the container's"
                    kind = "whole"
                else:
                    kind = reply.problem
                counts[kind] = counts.get(kind, 0) + 1

            async def rot() -> None:
                await more(20, lambda: counts.get("whole", 0), "whole answers")
                await asyncio.to_thread(flip, Path(victim.name), place_in_file)
                await more(20, lambda: counts.get("checksum", 0), "refusals")
                ended.set()

            seen, *_ = await asyncio.gather(
                crowd(place.url, films, LONG, kinds=READERS),
                rot(),
                read_on(place.server.address, "victim.h4mk", ended, check, number=10),
            )
            return seen

        seen = asyncio.run(both())
        print(f"rotten: {counts}")
        assert not seen.wrong, "\n".join(seen.wrong)
        assert counts["whole"]
        assert counts["checksum"]

        def found() -> dict[str, bool]:
            items = json.loads(place.server.get("/media")[1])["items"]
            return {one["name"]: one["verified"]["ok"] for one in items if "verified" in one}

        until(lambda: found().get("victim.h4mk") is False, "the scrubber's finding")
        assert all(ok for name, ok in found().items() if name != "victim.h4mk")
        metrics = place.server.get("/metrics")[1].decode()
        assert "\nharmony4_damaged_containers 1.0\n" in metrics
        assert 'harmony4_verification_failures_total{found_by="read"}' in metrics
        assert "'victim.h4mk' is damaged" in place.said()
        assert place.server.workers() == workers


# -- descriptors


def test_descriptors_run_out(tmp_path: Path) -> None:
    """None beyond those in use: what is open is served, who comes now waits, and nobody spins."""
    library = tmp_path / "library"
    films = films_in(library)
    others = [make_film(library / f"other{n}.h4mk", 70 + n, 1) for n in range(20)]
    with behind_nginx(library, tmp_path, HARMONY4_SCRUB_RATE="0") as place:
        workers = place.server.workers()
        limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in workers}
        address = place.server.address
        counts: dict[str, int] = {}

        async def reads() -> None:
            talkers = [Talker(address) for _ in range(40)]

            async def read(number: int, film: Film) -> str:
                start = number * 1000
                target = f"/video/range?name={Path(film.name).name}"
                reply = await talkers[number].get(target, f"Range: bytes={start}-{start + 99_999}")
                if reply.status != 206:
                    assert reply.status == 503, reply
                    return reply.problem
                assert reply.body == film.data[start : start + 100_000]
                return "right"

            try:
                for number in range(40):
                    assert await read(number, films[number % 3]) == "right"
                for pid in workers:
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid), limits[pid][1]))
                for turn in range(5):
                    for number in range(40):
                        # Those that are open are served from; of the others what nobody reads makes room.
                        kind = await read(number, films[number % 3] if turn % 2 else others[number % 20])
                        counts[kind] = counts.get(kind, 0) + 1
                # Those who come now wait, and cost no processor meanwhile.
                late = [Talker(address) for _ in range(10)]
                waiting = [asyncio.create_task(one.get("/health")) for one in late]
                await asyncio.sleep(0.5)
                before, began = sum(map(cpu_seconds, workers)), time.monotonic()
                await asyncio.sleep(1.5)
                used = (sum(map(cpu_seconds, workers)) - before) / (time.monotonic() - began)
                counts["percent of a processor"] = round(100 * used)
                for pid in workers:
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits[pid])
                assert {(await one).status for one in waiting} == {200}
                for number in range(40):
                    assert await read(number, others[number % 20]) == "right"
                for one in late:
                    await one.leave()
            finally:
                for one in talkers:
                    await one.leave()

        asyncio.run(reads())
        print(f"no descriptors: {counts}")
        assert counts["right"]
        assert counts["percent of a processor"] < 60
        assert place.server.workers() == workers

        async def nothing() -> None:
            return

        seen = load(place.url, films, nothing, 4)
        assert not seen.wrong, "\n".join(seen.wrong)
        assert "Traceback" not in place.said()


# -- nginx comes and goes


def test_nginx_is_reloaded_and_restarted(tmp_path: Path) -> None:
    """A reload cuts nobody off. A restart ends what listens, and whoever comes back is served."""
    library = tmp_path / "library"
    films = films_in(library)
    with behind_nginx(library, tmp_path) as place:
        workers = place.server.workers()
        before = sum(map(descriptors, workers))
        counts = {"answers": 0, "left": 0, "cut": 0, "streams": 0, "streams cut": 0}

        async def run() -> None:
            ended, gentle = asyncio.Event(), True

            async def read(number: int) -> None:
                me, dice = Talker(place.proxy.address), random.Random(number)
                while not ended.is_set():
                    film = dice.choice(films)
                    start = dice.randrange(len(film.data))
                    stop = min(len(film.data), start + dice.randrange(1, 2**21))
                    target = f"/video/range?name={Path(film.name).name}"
                    try:
                        reply = await me.get(target, f"Range: bytes={start}-{stop - 1}")
                    except CutError as error:
                        # nginx closes idle connections when it leaves: a request may cross that on its way.
                        assert film.data[start:stop].startswith(error.args[0])
                        assert not error.args[0] or not gentle
                        counts["cut"] += bool(error.args[0])
                        counts["left"] += not error.args[0]
                        continue
                    assert (reply.status, reply.body) == (206, film.data[start:stop])
                    counts["answers"] += 1
                    await asyncio.sleep(dice.random() * 0.05)
                counts["left"] += me.left
                await me.leave()

            async def listen() -> None:
                while not ended.is_set():
                    reader, writer = await asyncio.open_connection(*place.proxy.address)
                    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                    counts["streams"] += 1
                    stop = asyncio.create_task(ended.wait())
                    read = asyncio.create_task(reader.read())
                    await asyncio.wait({stop, read}, return_when=asyncio.FIRST_COMPLETED)
                    if read.done() and not ended.is_set():
                        assert not gentle, "a reload lets streams go on"
                        counts["streams cut"] += 1
                    for task in (stop, read):
                        task.cancel()
                    writer.close()

            async def happens() -> None:
                nonlocal gentle
                await more(300, lambda: counts["answers"], "answers")
                await more(8 - counts["streams"], lambda: counts["streams"], "streams")
                place.proxy.reload()
                await more(300, lambda: counts["answers"], "answers after the reload")
                gentle = False
                await asyncio.to_thread(place.proxy.restart, 1.0)
                await more(300, lambda: counts["answers"], "answers after the restart")
                await more(16 - counts["streams"], lambda: counts["streams"], "streams that come back")
                ended.set()

            await asyncio.gather(happens(), *map(read, range(30)), *(listen() for _ in range(8)))

        asyncio.run(run())
        print(f"nginx: {counts}")
        assert counts["answers"] > 100
        assert counts["streams cut"] == 8
        assert counts["streams"] == 16
        # Nobody is left of those that the old one had.
        until(lambda: sum(map(descriptors, workers)) <= before + 64 + 10, "connections that are given back")
        assert place.server.workers() == workers
        assert "Traceback" not in place.said()
