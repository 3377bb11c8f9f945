"""The clients of `crowd.py`: one request or a few each, whose answers are known beforehand.

What they ask for, and what there is of it: ranges, seeks, events, tokens of containers, tokens of media that
are sent, uploads of all three kinds, and what the page asks for. Every byte of every answer is checked; of
numbers that change (`/metrics`, `/ready`), that they are well formed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from harmony4.h4mk import H4MKReader
from harmony4.server.folder.facts import range_url
from harmony4.tokenize.video import VideoTransportTokenizer
from needs import BUNNY
from serving import write_container

BLOCK: Final = 2**19
BLOCKS: Final = 24
GROUP: Final = 3
"""Bytes of a film's block, blocks of a film, blocks of a group."""
SECOND: Final = 1_000_000
FILES: Final = (*["raw"] * 30, "film", "tus")
"""What is uploaded. A film starts processes, which take as much of a small machine as a hundred ranges."""
STEP: Final = 0.05
"""Seconds between two looks whether a job is done."""


@dataclass
class Seen:
    """What the clients have seen."""

    counts: Counter[str] = field(default_factory=Counter)
    times: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    heard: set[asyncio.Task[None] | None] = field(default_factory=set)
    """Clients whose stream has begun."""
    first: dict[str, bytes] = field(default_factory=dict)
    """What was answered first where the answer stays the same."""
    stopping: bool = False
    """Whether workers are told to stop: streams may end with `restart` then."""

    def check(self, fits: bool, what: str) -> None:
        if not fits and len(self.wrong) < 20:
            self.wrong.append(what)


@dataclass(frozen=True)
class Film:
    """A container, and what is in it."""

    name: str
    data: bytes
    url: str
    """Its `range_url`."""
    tokens: list[dict[str, Any]]
    """What is to come of each of its blocks."""

    @property
    def address(self) -> str:
        """Its name, as it stands in queries."""
        return Path(self.name).name

    @property
    def version(self) -> str:
        """Its `v`."""
        return parse_qs(urlsplit(self.url).query)["v"][0]


def make_film(path: Path, seed: int, count: int = BLOCKS) -> Film:
    """Write a film of `count` blocks, all of it different from every other one's; a block lasts a second."""
    blocks = [random.Random(seed * 1000 + n).randbytes(BLOCK) for n in range(count)]
    write_container(path, blocks, key_every=GROUP)
    with H4MKReader(path) as reader:
        url = range_url(reader, path.name)
    tokens = [
        {
            "track": 0,
            "index": n,
            "pts": n * SECOND,
            "end": (n + 1) * SECOND,
            "offset": n * BLOCK,
            "size": BLOCK,
            "key": n % GROUP == 0,
            "last": n == count - 1,
            "key_pts": n // GROUP * GROUP * SECOND,
            "key_offset": n // GROUP * GROUP * BLOCK,
            "digest": hashlib.sha256(block).hexdigest(),
        }
        for n, block in enumerate(blocks)
    ]
    return Film(str(path), b"".join(blocks), url, tokens)


def five_films(folder: Path) -> list[Film]:
    """A library of films of 12 MiB."""
    return [make_film(folder / f"film{number}.h4mk", number) for number in range(5)]


Client = Callable[[aiohttp.ClientSession, str, Film, random.Random, Seen], Awaitable[None]]


async def get_range(
    session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
) -> None:
    start = dice.randrange(len(film.data))
    stop = min(len(film.data), start + dice.randrange(1, 2**18))
    target = url + (film.url if dice.random() < 0.5 else f"/video/range?name={film.address}")
    async with session.get(target, headers={"Range": f"bytes={start}-{stop - 1}"}) as answer:
        body = await answer.read()
        seen.check(answer.status == 206, f"{target}: {answer.status}")
        if answer.status == 206:
            seen.check(body == film.data[start:stop], f"{target} {start}-{stop}: wrong bytes")


async def get_seek(
    session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
) -> None:
    count = len(film.tokens)
    pts = dice.randrange(count * SECOND)
    first = pts // (GROUP * SECOND) * GROUP
    after = min(first + GROUP, count)
    expected = {
        "track": 0,
        "asked": pts,
        "pts": first * SECOND,
        "offset": first * BLOCK,
        "block_index": first,
        "next_pts": after * SECOND if after < count else None,
        "size": (after - first) * BLOCK,
        "header_ranges": [],
        "range_url": film.url,
    }
    async with session.get(f"{url}/video/seek?name={film.address}&pts={pts}") as answer:
        found = await answer.json()
        seen.check(answer.status == 200 and found == expected, f"seek {pts}: {answer.status} {found}")


async def get_events(
    session: aiohttp.ClientSession,
    url: str,
    film: Film,
    dice: random.Random,
    seen: Seen,
    lines: int | None = None,
) -> None:
    """So many lines of them (None: some), or to the end where workers are told to stop."""
    async with session.get(f"{url}/events") as answer:
        seen.check(answer.status == 200, f"/events: {answer.status}")
        seen.heard.add(asyncio.current_task())
        for _ in range(dice.randrange(2, 20) if lines is None else lines):
            line = await answer.content.readline()
            if not line:
                seen.check(seen.stopping, "/events: ended, and nobody had asked the server to")
                return
            fits = line == b"\n" or line.startswith((b"event:", b"data:", b":", b"retry:"))
            seen.check(fits, f"/events: {line!r}")


async def get_tokens(
    session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
) -> None:
    """From any time on to the end; every other one leaves in the middle."""
    pts = dice.randrange(len(film.tokens) * SECOND)
    expected = film.tokens[pts // SECOND :]
    leaves = dice.randrange(2 * len(expected))
    async with session.get(f"{url}/video/stream?name={film.address}&from={pts}") as answer:
        seen.check(answer.status == 200, f"tokens: {answer.status}")
        await _tokens(answer, expected, leaves, seen)


async def post_media(
    session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
) -> None:
    """A real film is sent, in pieces of any size, and its tokens come back."""
    data = BUNNY.read_bytes()

    async def pieces() -> AsyncIterator[bytes]:
        at = 0
        while at < len(data):
            stop = at + dice.randrange(1, 2**18)
            yield data[at:stop]
            at = stop

    async with session.post(f"{url}/video/stream", data=pieces()) as answer:
        seen.check(answer.status == 200, f"tokens of media: {answer.status}")
        await _tokens(answer, real_tokens(), len(data), seen)


@cache
def real_tokens() -> list[dict[str, Any]]:
    """What comes of BUNNY."""
    with BUNNY.open("rb") as file:
        records = [token.record for token in VideoTransportTokenizer().encode(file)]
    return [
        {
            "index": one.index,
            "pts": one.pts,
            "end": one.end,
            "offset": one.offset,
            "size": one.size,
            "digest": one.digest.hex(),
        }
        for one in records
    ]


async def _tokens(
    answer: aiohttp.ClientResponse, expected: list[dict[str, Any]], leaves: int, seen: Seen
) -> None:
    """Read a stream of tokens to its end, or so many of them."""
    count = 0
    async for kind, data in _events(answer):
        if kind == "token":
            fits = count < len(expected) and expected[count].items() <= data.items()
            seen.check(fits, f"token {count} of {len(expected)}: {data}")
            count += 1
            if count > leaves:
                return
        elif kind == "done":
            seen.check(count == len(expected), f"{count} tokens of {len(expected)}, and done")
            return
        elif kind == "restart" and seen.stopping:
            return
        else:
            seen.check(kind == "meta" and not count, f"after {count} tokens: {kind} {data}")
    seen.check(False, f"a stream of tokens ended after {count} of {len(expected)}")


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    kind, data = "", ""
    async for line in answer.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            data += value
        elif not name and not value and kind:
            yield kind, json.loads(data)
            kind, data = "", ""


async def upload(
    session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
) -> None:
    """Some bytes, or a real film, at once or resumable; what came of it is read, deleted, and purged."""
    name, kind = f"up{secrets.token_hex(8)}.h4mk", dice.choice(FILES)
    body = dice.randbytes(dice.randrange(1, 2**18)) if kind == "raw" else BUNNY.read_bytes()
    if kind == "tus":
        made = await _send_in_parts(session, url, name, body, seen)
    else:
        target = f"{url}/video/export?name={name}{'&raw=1' * (kind == 'raw')}"
        async with session.post(target, data=io.BytesIO(body)) as answer:
            made = answer.status == 201
            seen.check(made, f"export: {answer.status} {await answer.text()}")
    if not made:
        return
    async with session.get(f"{url}/video/range?name={name}") as answer:
        seen.check(await answer.read() == body, f"{name}: wrong bytes")
    async with session.delete(f"{url}/media?name={name}") as answer:
        number = (await answer.json()).get("id")
        seen.check(answer.status == 200, f"delete: {answer.status}")
    async with session.delete(f"{url}/media/trash?id={number}") as answer:
        seen.check(answer.status == 204, f"purge: {answer.status}")


async def _send_in_parts(
    session: aiohttp.ClientSession, url: str, name: str, body: bytes, seen: Seen
) -> bool:
    """As tus 1.0 says; whether a container came of it."""
    tus = {"Tus-Resumable": "1.0.0"}
    words = {
        "Upload-Length": str(len(body)),
        "Upload-Metadata": f"name {base64.b64encode(name.encode()).decode()}",
    }
    async with session.post(f"{url}/uploads/", headers=tus | words) as answer:
        seen.check(answer.status == 201, f"tus: {answer.status} {await answer.text()}")
        if answer.status != 201:
            return False
        place = url + "/uploads/" + answer.headers["Location"].rpartition("/")[2]
    half, job = len(body) // 2, ""
    for start, part in ((0, body[:half]), (half, body[half:])):
        words = {"Upload-Offset": str(start), "Content-Type": "application/offset+octet-stream"}
        async with session.patch(place, headers=tus | words, data=part) as answer:
            fits = answer.status == 204 and answer.headers.get("Upload-Offset") == str(start + len(part))
            seen.check(fits, f"tus from {start}: {answer.status} {await answer.text()}")
            if not fits:
                return False
            job = answer.headers.get("Harmony4-Job", "")
    while True:
        async with session.get(f"{url}/jobs/{job}") as answer:
            found = await answer.json()
        if answer.status != 200 or found["state"] in ("done", "failed", "cancelled"):
            seen.check(found.get("state") == "done", f"tus, job {job}: {answer.status} {found}")
            return found.get("state") == "done"
        await asyncio.sleep(STEP)


async def get_page(
    session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
) -> None:
    info = f"/video/info?name={film.address}"
    target = dice.choice(["/", "/media", info, "/openapi.json", "/ready", "/metrics"])
    async with session.get(url + target) as answer:
        body = await answer.read()
        seen.check(answer.status == 200, f"{target}: {answer.status}")
    if answer.status != 200:
        return
    fits = True
    if target == "/media":
        items = {one["name"]: one for one in json.loads(body)["items"]}
        item = items.get(film.address, {})
        fits = (item.get("range_url"), item.get("blocks")) == (film.url, len(film.tokens))
    elif target == "/metrics":
        fits = any(text_string_to_metric_families(body.decode()))
    elif target == "/ready":
        fits = json.loads(body)["status"] == "ready"
    else:
        found = json.loads(body) if target == info else {}
        if found:  # what scrubbing found comes and goes
            fits = found.pop("verified", {"ok": True})["ok"]
            body = json.dumps(found).encode()
        fits = fits and seen.first.setdefault(target, body) == body
        if target == info:
            fits = fits and found["tracks"][0]["bytes"] == len(film.data)
    seen.check(fits, f"{target}: {body[:300]!r}")


CLIENTS: Final[dict[str, Client]] = {
    "range": get_range,
    "seek": get_seek,
    "listen": get_events,
    "tokens": get_tokens,
    "send": post_media,
    "upload": upload,
    "page": get_page,
}
