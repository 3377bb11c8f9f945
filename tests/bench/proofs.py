"""Proofs of a container with four million blocks; what signing costs `export`; `fetch` beside curl."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from bench.load import warm
from bench.long import micros
from bench.measure import Place, Table, harmony4, median, run, spread
from bench.servers import cores, ours
from big_container import SECOND, build
from harmony4.crypto.signing import SigningKey
from harmony4.h4mk import FileSource, H4MKReader
from harmony4.h4mk.proofs.proof import verify_seek
from harmony4.h4mk.proofs.prove import Prover
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.trust import Trust

PLANS = ((4_000_000, 2000, 9, 1024), (100_000, 500, 3, 128), (3000, 20, 1, 8))
"""Blocks; proofs; rounds; MiB that are exported and fetched."""
MIB = 2**20
RAW, MAKING, CHECKING, COST, RATE = 1024, 1e-3, 1e-3, 0.03, 0.4


class _Counting:
    """A file that counts what is read of it."""

    def __init__(self, path: Path) -> None:
        self._file = FileSource(path)
        self.reads = 0

    def size(self) -> int:
        return self._file.size()

    def read_at(self, offset: int, count: int) -> bytes:
        self.reads += 1
        return self._file.read_at(offset, count)

    def close(self) -> None:
        self._file.close()


def proofs(place: Place) -> Table:
    """One key, one subject. The big container has blocks of one byte: a proof does not see their size."""
    blocks, count, rounds, size = PLANS[place.quick]
    key = SigningKey.generate()
    signer, table = Signer(key, "bench", 1), Table()
    with tempfile.TemporaryDirectory(prefix="proofs-", dir=place.cache) as name:
        home = Path(name)
        _one(table, home, blocks, count, signer, Trust((key.public,), subject="bench", revision=1))
        _cost(table, home, rounds, size, key)
    return table


def _one(table: Table, home: Path, blocks: int, count: int, signer: Signer, trust: Trust) -> None:
    path = home / "many.h4mk"
    build(path, blocks, 1, signer=signer)
    numbers = random.Random(1)
    with H4MKReader(_Counting(path)) as reader:
        source = reader._source
        prover = Prover(reader)
        prover.seek(0)
        made, checked, reads, sizes = [], [], [], []
        for _ in range(count):
            pts, before = numbers.randrange(blocks * SECOND), source.reads
            began = perf_counter()
            data = prover.seek(pts).pack()
            middle = perf_counter()
            answer = verify_seek(data, pts, 0, trust)
            checked.append(perf_counter() - middle)
            made.append(middle - began)
            reads.append(source.reads - before)
            sizes.append(len(data))
            assert answer.keyframe == (pts // SECOND * SECOND, pts // SECOND)
        raw = prover.seek(blocks // 2 * SECOND).raw_size()
    table.add(
        f"one proof of {blocks} blocks, raw: token, path, head, signature",
        f"{raw} bytes; as JSON {max(sizes)}",
        f"≤ {RAW} bytes",
        "22 nodes are 704 bytes: what BitTorrent v2 needs for one piece of as many",
        raw <= RAW,
    )
    table.add(
        "making one proof",
        f"{micros(made)}; {median(reads):.0f} reads (at most {max(reads)})",
        "≤ 1 ms",
        "",
        median(made) <= MAKING,
    )
    table.add(
        "checking one proof, signature included", micros(checked), "≤ 1 ms", "", median(checked) <= CHECKING
    )
    path.unlink()


def _cost(table: Table, home: Path, rounds: int, size: int, key: SigningKey) -> None:
    library = home / "library"
    library.mkdir()
    source, secret, public = home / "source", home / "key.pem", home / "key.pub.pem"
    secret.write_bytes(key.pem())
    public.write_bytes(key.public.pem())
    with source.open("wb") as file:
        for _ in range(size):
            file.write(os.urandom(MIB))
    made = library / "a.h4mk"
    plain = [harmony4(), "export", "-q", "--raw", source, "-o", made]
    ways = {
        "": plain,
        "signing": [*plain, "--sign", "--key", secret],
        "signing after every block": [*plain, "--sign-every", "1", "--key", secret],
    }
    costs: dict[str, list[float]] = {way: [] for way in ways if way}
    # Signing takes less than what two runs differ by: twice the rounds, each way first as often as last.
    for number in range(2 * rounds + 1):
        warm([source])
        spent = {}
        for way in sorted(ways, reverse=number % 2 == 1):
            done = run(ways[way])
            spent[way] = done.user + done.system
        if number:
            for way, found in costs.items():
                found.append(spent[way] / spent[""] - 1)
    for way, found in costs.items():
        table.add(
            f"{way}: CPU time that `export` of {size} MiB takes more",
            f"{100 * median(found):+.1f} % ({100 * min(found):+.1f} to {100 * max(found):+.1f})",
            f"≤ {100 * COST:.0f} %",
            "",
            median(found) <= COST,
        )
    _fetch(table, home, library, made, rounds, size, public)


def _fetch(table: Table, home: Path, library: Path, made: Path, rounds: int, size: int, public: Path) -> None:
    pair = cores()
    with ExitStack() as stack:
        server = stack.enter_context(ours(library, home, pair[0] if pair else 0))
        url = f"http://127.0.0.1:{server.port}/video/range?name={made.name}"
        ratios, speeds = [], []
        for number in range(min(rounds, 5) + 1):
            warm([made])
            peer = _timed(lambda: _curl(url, home / "c"))
            mine = _timed(lambda: run([harmony4(), "fetch", "-q", url, "-o", home / "f", "--trust", public]))
            assert (home / "f").stat().st_size == (home / "c").stat().st_size
            for one in ("c", "f"):
                (home / one).unlink()
            if number:
                ratios.append(peer / mine)
                speeds.append(size / mine)
    table.add(
        f"`fetch` of {size} MiB: rate ÷ that of curl",
        f"{spread(ratios)}; {median(speeds):.0f} MiB/s",
        f"≥ {RATE}",
        "curl checks nothing; both until the bytes are on the disk",
        median(ratios) >= RATE,
    )
    table.notes.append(
        f"{rounds} rounds, twice as many of what signing costs. "
        "Bao gives a slice of a file 7 % more bytes than it has (its own figure, chunks of "
        "1 KiB); a proof of a block of 1 MiB is 0.2 % of it, and says at which time it plays."
    )


def _curl(url: str, path: Path) -> None:
    run(["curl", "-sS", "-o", path, url])
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _timed(call: Callable[[], object]) -> float:
    before = perf_counter()
    call()
    return perf_counter() - before
