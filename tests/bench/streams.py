"""Streams of tokens: of a container to one client and to a thousand, and of media that are still arriving."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import selectors
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench.load import warm
from bench.long import MINUTES, micros, ten_hours
from bench.measure import Place, Table, harmony4, median, percentile, run, spread, whole
from bench.servers import Server, cores, ours, peer

EVENTS = 300_000
FIRST = 5e-3
SUBSCRIBERS = 1000
MEMORY = 300 * 2**20
SOON = 1.0
RATE = 300e6
ARRIVING = 200 * 2**20
PLANS = ((200_000, 7, 200, SUBSCRIBERS, MINUTES), (50_000, 3, 40, 200, 10), (5000, 1, 5, 20, 2))
"""Blocks, rounds, first tokens, subscribers, minutes of the film."""
PIECE = 2**20
REAL = 150
"""How many times as fast as it is played."""
SOUND = (1800, 120, 10)
"""Seconds of sound."""
NOISE = (
    "-f lavfi -i testsrc2=s=640x360:r=25:d=8,noise=alls=25:allf=t:all_seed=1,format=yuv420p "
    "-f lavfi -i sine=f=440:r=48000:d=8 -c:v libx264 -preset ultrafast {rate} -g 25 -c:a aac"
)
FILMS = {
    "30 Mbit/s": ("dense", "-qp 22", (36, 4, 1)),
    "4 Mbit/s": ("usual", "-b:v 4M -maxrate 4M -bufsize 4M", (270, 30, 1)),
}
"""What to call the file, how it is coded, and how often the clip of eight seconds is repeated."""


def streams(place: Place) -> Table:
    """One server on the first core; whoever asks it is on the last."""
    table, pair = Table(), cores()
    if pair is None:
        table.notes.append("Not measured: it needs a second core.")
        return table
    blocks, rounds, firsts, subscribers, minutes = PLANS[place.quick]
    source = ten_hours(place.cache, minutes, fragmented=True)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-", dir=place.cache)))
        library = home / "library"
        library.mkdir()
        for name, size, count in (("near", 64, blocks), ("apart", 2**15, blocks // 8)):
            raw = home / f"{name}.bin"
            with raw.open("wb") as file:
                for number in range(count):
                    file.write(random.Random(number).randbytes(size))
            run(
                [
                    harmony4(),
                    "export",
                    "-q",
                    "--raw",
                    "--block-size",
                    str(size),
                    raw,
                    "-o",
                    library / f"{name}.h4mk",
                ]
            )
            raw.unlink()
        warm([library / "near.h4mk", library / "apart.h4mk", source])
        server = stack.enter_context(ours(library, home, pair[0]))
        ready = stack.enter_context(peer("events", home, home, pair[0], str(blocks)))
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {pair[1]})
        stack.callback(os.sched_setaffinity, 0, mine)
        rates = _rates(server, ready, blocks, rounds)
        for name, title in (("near", "64 bytes"), ("apart", "32 KiB")):
            table.add(
                f"tokens of a container over SSE, blocks of {title}",
                f"{whole(rates[name])} events/s",
                f"≥ {EVENTS:,}".replace(",", " "),
                f"a bare aiohttp handler with ready events, 128 at a time: {whole(rates['ready'])}/s",
                median(rates[name]) >= EVENTS,
            )
        table.add("the same as records of 128 bytes", f"{whole(rates['records'])} tokens/s")
        first = [first_token(server) for _ in range(firsts)]
        table.add(
            "first token, from the request on a new connection",
            micros(first),
            f"≤ {FIRST * 1e3:.0f} ms at p99",
            "",
            percentile(first, 0.99) <= FIRST,
        )
        served, slowest, peak = thousand(server, subscribers, blocks)
        table.add(
            f"{subscribers} subscribers of one container at once",
            f"{served} served whole; resident {peak / 2**20:.0f} MiB at most",
            f"< {MEMORY / 2**20:.0f} MiB",
            "",
            served == subscribers and peak < MEMORY,
        )
        table.add(
            "the slowest first byte among them", f"{slowest:.2f} s", f"< {SOON:.0f} s", "", slowest < SOON
        )
    with ExitStack() as stack:  # another one: what a thousand clients left in memory is not this one's
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-", dir=place.cache)))
        library = home / "library"
        library.mkdir()
        server = stack.enter_context(ours(library, home, pair[0]))
        stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {pair[1]})
        for path, title in (
            (source, f"{minutes / 60:.3g} hours of fragmented MP4"),
            *((film(place.cache, rate, place.quick), f"fragmented MP4 of {rate}") for rate in FILMS),
        ):
            size = path.stat().st_size
            found = [arriving(server, path) for _ in range(min(rounds, 3))]
            speed = [size / took for took, _ in found]
            peak = max(memory for _, memory in found)
            table.add(
                f"`POST /video/stream` of {title}",
                f"{spread([one / 1e6 for one in speed])} MB/s",
                f"≥ {RATE / 1e6:.0f} MB/s",
                f"{size / 2**30:.2f} GiB",
                median(speed) >= RATE,
            )
            table.add(
                "resident memory of the server and its demuxer meanwhile",
                f"{peak / 2**20:.0f} MiB at most",
                f"< {ARRIVING / 2**20:.0f} MiB",
                "",
                peak < ARRIVING,
            )
        recording = sound(place.cache, SOUND[place.quick])
        for profile in ("structure", "detail"):
            took = [
                arriving(server, recording, f"/audio/stream?profile={profile}")[0]
                for _ in range(min(rounds, 3))
            ]
            times = [SOUND[place.quick] / one for one in took]
            table.add(
                f"`POST /audio/stream?profile={profile}`, WAV of 48 kHz, stereo: times real time",
                spread(times),
                f"≥ {REAL}",
                f"{SOUND[place.quick]} s",
                median(times) >= REAL,
            )
    table.notes.append(
        f"{rounds} rounds, {blocks} and {blocks // 8} tokens, all read anew each time, with CRC and "
        "range map checked; the client only counts bytes. The server, and its demuxer, have one core."
    )
    return table


def film(cache: Path, rate: str, quick: int) -> Path:
    """One of `FILMS`, made once."""
    name, coded, repeats = FILMS[rate]
    times = repeats[quick]
    path, clip = cache / f"{name}-{times}.mp4", cache / f"{name}.mp4"
    quiet = ["ffmpeg", "-v", "error", "-y"]
    if not clip.exists():
        part = clip.with_suffix(".part")
        subprocess.run([*quiet, *NOISE.format(rate=coded).split(), "-f", "mp4", part], check=True)
        part.rename(clip)
    if not path.exists():
        part = path.with_suffix(".part")
        repeat = ["-stream_loop", str(times - 1), "-i", clip, "-c", "copy"]
        flags = ["-movflags", "frag_keyframe+empty_moov+default_base_moof", "-f", "mp4"]
        subprocess.run([*quiet, *repeat, *flags, part], check=True)
        part.rename(path)
    return path


def get(server: Server, path: str, accept: str = "text/event-stream") -> socket.socket:
    one = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    fields = f"Host: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    one.sendall(f"GET {path} HTTP/1.1\r\n{fields}".encode())
    return one


def all_of(one: socket.socket) -> float:
    """Read an answer to its end; seconds since the last byte of the request."""
    began, last = time.perf_counter(), b""
    with one:
        while piece := one.recv(PIECE):
            last = (last + piece)[-200:]
    took = time.perf_counter() - began
    if not last.endswith(b"\r\n0\r\n\r\n"):
        raise SystemExit(f"error: a stream broke off: {last!r}")
    return took


def _rates(server: Server, ready: Server, blocks: int, rounds: int) -> dict[str, list[float]]:
    asked = {
        "near": (server, "/video/stream?name=near.h4mk", blocks, "text/event-stream"),
        "apart": (server, "/video/stream?name=apart.h4mk", blocks // 8, "text/event-stream"),
        "records": (server, "/video/stream?name=near.h4mk", blocks, "application/octet-stream"),
        "ready": (ready, "/events", blocks, "text/event-stream"),
    }
    rates: dict[str, list[float]] = {name: [] for name in asked}
    for turn in range(rounds + 1):
        for name, (one, path, count, accept) in asked.items():
            took = all_of(get(one, path, accept))
            if turn:  # the first round opens the containers
                rates[name].append(count / took)
    return rates


def first_token(server: Server) -> float:
    began = time.perf_counter()
    with get(server, "/video/stream?name=near.h4mk") as one:
        received = b""
        while b"event: token" not in received:
            received += one.recv(2**16)
        return time.perf_counter() - began


def thousand(server: Server, count: int, blocks: int) -> tuple[int, float, int]:
    """How many got everything, the slowest first byte, and the most memory the server had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * count)), hard))
    start = blocks * 1_000_000 - 2_000_000_000  # the last 2000: each block is a second
    path = f"/video/stream?name=near.h4mk&from={max(start, 0)}"
    selector = selectors.DefaultSelector()
    peak = slowest = 0.0
    served = 0
    with _watched(server) as marks, selector:
        began = time.perf_counter()
        waiting = [get(server, path) for _ in range(count)]
        seen: dict[int, bytes] = {}
        for one in waiting:
            selector.register(one, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(60) or [(None, 0)]:
                if key is None:
                    raise SystemExit("error: subscribers are not served")
                piece = key.fileobj.recv(2**16)
                if key.fd not in seen:
                    slowest = max(slowest, time.perf_counter() - began)
                seen[key.fd] = (seen.get(key.fd, b"") + piece)[-9:]
                if not piece:
                    served += seen[key.fd].endswith(b"\r\n0\r\n\r\n")
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
        peak = max(marks, default=0)
    return served, slowest, int(peak)


@contextlib.contextmanager
def _watched(server: Server) -> Iterator[list[int]]:
    """Resident bytes of the server's processes, ten times a second."""
    marks: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            marks.append(server.memory()["VmRSS"])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield marks
    finally:
        over.set()
        thread.join()


def sound(cache: Path, seconds: int) -> Path:
    """Noise and a tone, made once."""
    path = cache / f"{seconds}-seconds.wav"
    if not path.exists():
        part = path.with_suffix(".part")
        noise, tone = f"anoisesrc=r=48000:a=0.3:seed=1:d={seconds}", f"sine=f=440:r=48000:d={seconds}"
        inputs = ["-f", "lavfi", "-i", noise, "-f", "lavfi", "-i", tone]
        make = ["ffmpeg", "-v", "error", "-y", *inputs, "-filter_complex", "amerge", "-f", "wav", part]
        subprocess.run(make, check=True)
        part.rename(path)
    return path


def arriving(
    server: Server, source: Path, path: str = "/video/stream", fields: str = ""
) -> tuple[float, int]:
    """Seconds for all of it, with the answer read meanwhile, and the most memory.

    `fields`: more header fields, with their line ends.
    """
    size = source.stat().st_size
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\nConnection: close\r\n"
    with _watched(server) as marks:
        one = socket.create_connection(("127.0.0.1", server.port), timeout=120)
        began = time.perf_counter()
        one.sendall(f"{head}{fields}\r\n".encode())

        def send() -> None:
            with source.open("rb") as file:
                one.sendfile(file)

        thread = threading.Thread(target=send)
        thread.start()
        all_of(one)
        took = time.perf_counter() - began
        thread.join()
    return took, max(marks, default=0)
