"""Bit-exact spectra: the magnitudes of a frame's DFT, the same integers on every machine.

A floating-point FFT adds in an order that depends on the CPU, and so do its last bits. Here a frame is a
matrix of R rows and C columns that goes through two products with matrices of integers: a DFT down its
columns, then one along its rows for each frequency of the columns. The absolute values of what is added up
for one result stay below 2^53 together, so every partial sum is exact, and neither order nor FMA nor SIMD
width changes a bit; after each product, results are rounded to integers of fewer bits. What else happens is
single IEEE operations (×, +, -, sqrt, rint).

docs/ARCHITECTURE.md, "The spectrum", has the formulas and derives the bounds. The four-step FFT is from D. H.
Bailey, "FFTs in External or Hierarchical Memory", 1990.
"""

from __future__ import annotations

import hashlib
import math
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harmony4.crypto.errors import SealError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["FRAMES", "LOUDEST", "Spectrum"]

LOUDEST = 2**23
"""Greatest absolute value of a sample, of 24 bits."""
_WINDOW_BITS = 28
"""Fraction bits of the window's integers: a product with a sample has 51 bits."""
_TABLE_BITS = 21
"""Fraction bits of the integers that stand for cosines and sines in both products."""
_EXACT_BITS = 160
"""Fraction bits of the cosines that all of these are rounded from."""
_THREADED = 2**18
"""Multiplications of one product beyond which OpenBLAS starts threads; here they cost more than they
bring."""


class _Plan(NamedTuple):
    """How a length is computed. Results depend on `rows` alone; the rest is speed, as it was measured."""

    rows: int
    """R, the length of the DFT down the columns: it decides between which sums results are rounded."""
    first: int
    """1, or the radix of the butterflies after the first product."""
    second: int
    """The radix of those after the second."""
    batch: int
    """Frames at a time: few enough for the cache, and enough for BLAS."""
    digest: str
    """SHA-256 of the tables, one after the other, as little-endian float64."""


_PLANS = {
    256: _Plan(16, 1, 2, 392, "9fbc3ddc194bdbba81223e356702b7c638187b9b3d6bebf79728f3414a9d0b57"),
    512: _Plan(16, 1, 2, 184, "9f6c800c31c0930eed9dd72d4a764240bc7641dff52fdefd88e9f60c2e5fd102"),
    1024: _Plan(16, 1, 4, 136, "3d3077068c5a7bd9a94690274e9b2e512208ad24d5922b426049857737d6f86e"),
    2048: _Plan(32, 1, 4, 36, "b37fe5386a9518e1ec769fe599dafed9f27f79aafacc16d79e8c740ec440f7ca"),
    4096: _Plan(64, 4, 4, 16, "09b3bd21d6089082af3eaa36caf0c99777208ee67de3aec5968f1aead0e4f558"),
    8192: _Plan(128, 4, 4, 16, "9c7d43fa6d4f3aaa24e7c4d07007db6bc47532d5c7dc128d558c912056a61990"),
    16384: _Plan(256, 4, 4, 8, "26512424a6e4175038bccd5f617ecbd4d472ce47a0e7de619981d0146b67e080"),
}
FRAMES = tuple(_PLANS)
"""Lengths of a frame that there are tables for, in samples."""


class Spectrum:
    """Windows frames of one length and transforms them. Threads may share one."""

    def __init__(self, frame: int) -> None:
        """`frame` in samples, one of FRAMES.

        Raises UsageError for another length, SealError where this machine makes other tables than the pinned.
        """
        if frame not in _PLANS:
            raise UsageError(
                "the length of a frame is a power of two",
                expected=f"{FRAMES[0]} to {FRAMES[-1]}",
                found=frame,
            )
        self.frame = int(frame)
        self._tables = _tables(self.frame)
        self._idle: dict[int, list[_Workspace]] = {}
        """For batches, and for half as many frames, and so on: what is left goes through these."""

    def magnitudes(self, samples: NDArray[np.int32]) -> NDArray[np.int64]:
        """(n, frame) samples of 24 bits -> (n, frame // 2 + 1) magnitudes, of bins 0 … frame / 2.

        A magnitude is 16 / frame times the absolute value of the DFT of the samples times a periodic Hann
        window whose peak is 1: 4 a for a sine of amplitude a in the middle of a bin, 8 a for a constant a; at
        most 2^26. Each frame's magnitudes depend on this frame alone. `samples` may be any view, such as
        frames that overlap, and is not changed.

        Raises UsageError for another shape or dtype than int32, and for samples beyond ±2^23.
        """
        if not isinstance(samples, np.ndarray) or samples.dtype != np.int32:
            kind = getattr(samples, "dtype", type(samples).__name__)
            raise UsageError("samples are an array of numpy", expected="int32", found=kind)
        if samples.ndim != 2 or samples.shape[1] != self.frame:
            raise UsageError("samples are whole frames", expected=f"(n, {self.frame})", found=samples.shape)
        found = np.empty((len(samples), self.frame // 2 + 1), np.int64)
        done, count = 0, _PLANS[self.frame].batch
        while done < len(samples):
            while done + count > len(samples):
                count //= 2
            # Lists hand over in one step: threads that come at once work in spaces of their own.
            idle = self._idle.setdefault(count, [])
            space = idle.pop() if idle else _Workspace(self.frame, self._tables, count)
            for start in range(done, len(samples) - count + 1, count):
                space.transform(samples[start : start + count], found[start : start + count])
                done += count
            idle.append(space)
        return found


class _Tables(NamedTuple):
    """Integers times powers of two, which scale the results without a pass of their own.

    With I and J the radices of a plan, the DFT down the columns is made of the I interleaved parts of the
    rows, for its first R / 2I + 1 frequencies s, and butterflies make frequencies s + R/I t of these
    (conjugates of others where beyond R/2). Those are the K lanes, t before s. The DFT along a lane is made
    of J interleaved parts of the columns.
    """

    window: NDArray[np.float64]
    """(frame,): to 9 - log2 R fraction bits."""
    first: NDArray[np.float64]
    """(I, 2 (R/2I + 1), R/I): cosines, then minus sines; to 9 - log2 N fraction bits."""
    second: NDArray[np.float64]
    """(J, K, 2 C/J, 2 C/J): with the twiddle factors; rows are real, then imaginary results, columns real,
    then imaginary operands; to magnitudes."""


class _Workspace:
    """Where so many frames are worked on, and what is done there: one call after the other, of numpy, with
    views that are made once. Each step reads one buffer and writes the other.
    """

    def __init__(self, frame: int, tables: _Tables, count: int) -> None:
        self._rows, self._first, self._second, _, _ = _PLANS[frame]
        self._columns = frame // self._rows
        self._count = count
        self._calls: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        size = 2 * tables.second.shape[1] * self._columns * count
        self._read, self._written, self._aside = np.empty(size), np.empty(size), np.empty(size // 2)
        # Rows first: each operand of the first product is a matrix of all frames' columns then.
        windowed = self._next(self._rows, count, self._columns)
        self._samples = windowed.transpose(1, 0, 2)
        window = tables.window.reshape(self._rows, 1, self._columns)
        self._call(np.multiply, windowed, window, windowed)
        self._call(np.rint, windowed, windowed)
        values = self._along(self._down(windowed, tables.first), tables.second)
        self._call(np.rint, values, values)
        self._call(np.square, values, values)
        squares = self._next(*values.shape[:2], values.shape[3])
        self._call(np.add, values[:, :, 0], values[:, :, 1], squares)
        self._call(np.sqrt, squares, squares)
        self._call(np.rint, squares, squares)
        self._found = squares.reshape(self._second, self._first, -1, self._columns // self._second, count)

    def transform(self, samples: NDArray[np.int32], found: NDArray[np.int64]) -> None:
        """Magnitudes of the frames. Raises UsageError."""
        least, greatest = samples.min(), samples.max()
        if least < -LOUDEST or greatest > LOUDEST:
            raise UsageError(
                "a sample has more than 24 bits",
                expected=f"-{LOUDEST} to {LOUDEST}",
                found=f"{least} to {greatest}",
            )
        np.copyto(self._samples, samples.reshape(self._samples.shape))
        for function, arguments in self._calls:
            function(*arguments)
        self._arrange(found)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        self._calls.append((function, arguments))

    def _down(self, windowed: NDArray[np.float64], table: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R, count, C) -> (J, K, count, 2 C/J): the rounded lanes, ready for the second product.

        Row r + R/2 has the sign (-1)^s of row r in frequency s, so sums of both are enough for even
        frequencies, and differences for odd ones.
        """
        count, radix, groups, columns = self._count, self._first, self._second, self._columns
        parts, lines, length = table.shape
        halves = windowed.reshape(2, -1)
        folded = self._next(*halves.shape)
        self._call(np.add, *halves, folded[0])
        self._call(np.subtract, *halves, folded[1])
        tables = table.reshape(parts, 2, lines // 2, length)[..., : length // 2]
        sums = self._next(parts * lines * count * columns)
        results, place = [], 0
        for half, operands in enumerate(folded.reshape(2, length // 2, parts, -1).transpose(0, 2, 1, 3)):
            few = np.ascontiguousarray(tables[:, :, half::2]).reshape(parts, -1, length // 2)
            size = few.shape[1] * parts * count * columns
            result = sums[place : place + size].reshape(parts, -1, count * columns)
            place += size
            step = max(1, _THREADED // (few[0].size * columns)) * columns
            for start in range(0, count * columns, step):
                self._call(
                    np.matmul, few, operands[..., start : start + step], result[..., start : start + step]
                )
            results.append(result)
        if radix > 1:
            room = self._next(sums.size)
            place = 0
            for half, result in enumerate(results):
                found = room[place : place + result.size]
                place += result.size
                results[half] = self._butterflies(result.reshape(radix, 1, 2, -1), found)
        lanes = self._next(groups, radix, lines // 2, count, 2, columns // groups)
        for half, result in enumerate(results):
            # part t, real or imaginary, s, frame, column (m, j) -> j, t, s, frame, real or imaginary, m
            result = result.reshape(radix, 2, -1, count, columns // groups, groups)
            self._call(np.copyto, lanes[:, :, half::2], result.transpose(5, 0, 2, 3, 1, 4))
        self._call(np.rint, lanes, lanes)
        return lanes.reshape(groups, -1, count, 2 * columns // groups)

    def _along(self, lanes: NDArray[np.float64], table: NDArray[np.float64]) -> NDArray[np.float64]:
        """(J, K, count, 2 C/J) -> (J, K, 2, C/J · count): real and imaginary parts, not rounded."""
        groups, number, count, length = lanes.shape
        sums = self._next(groups, number, length, count)
        self._call(np.matmul, table, lanes.transpose(0, 1, 3, 2), sums)
        return self._butterflies(sums.reshape(groups, number, 2, -1), self._next(sums.size))

    def _butterflies(self, parts: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
        """DFTs of length 2 or 4 along the first axis, by additions only, into `found`: (radix, n, 2, size),
        real and imaginary parts.
        """
        found = found.reshape(parts.shape)
        if len(parts) == 2:
            self._call(np.add, parts[0], parts[1], found[0])
            self._call(np.subtract, parts[0], parts[1], found[1])
            return found
        even, odd = aside = self._aside[: parts.size // 2].reshape(2, *parts.shape[1:])
        self._call(np.add, parts[:2], parts[2:], aside)
        self._call(np.add, even, odd, found[0])
        self._call(np.subtract, even, odd, found[2])
        self._call(np.subtract, parts[:2], parts[2:], aside)  # the odd ones times -i, i
        self._call(np.add, even[:, 0], odd[:, 1], found[1, :, 0])
        self._call(np.subtract, even[:, 1], odd[:, 0], found[1, :, 1])
        self._call(np.subtract, even[:, 0], odd[:, 1], found[3, :, 0])
        self._call(np.add, even[:, 1], odd[:, 0], found[3, :, 1])
        return found

    def _arrange(self, found: NDArray[np.int64]) -> None:
        """(J, I, K/I, C/J, count) -> (count, N/2 + 1), as integers in the order of bins.

        A lane of frequency a = s + R/I t, and u and b that count its results, are bin k = a + R (b + C/J u).
        Those with u < J/2 stand where they belong; k > N/2 is bin N - k, which is counted by R/I - s, I-1-t,
        C/J-1-b, J-1-u.
        """
        values, half = self._found, self._second // 2
        lanes = values.shape[2]
        bins = found[:, :-1].reshape(self._count, half, -1, self._first, self._rows // self._first)
        bins[..., :lanes] = values[:half].transpose(4, 0, 3, 1, 2)
        bins[..., lanes:] = values[: half - 1 : -1, ::-1, -2:0:-1, ::-1].transpose(4, 0, 3, 1, 2)
        found[:, -1] = values[half, 0, 0, 0]

    def _next(self, *shape: int) -> NDArray[np.float64]:
        """Room for a step's results, in the buffer that it does not read."""
        self._read, self._written = self._written, self._read
        return self._written[: math.prod(shape)].reshape(shape)


@cache
def _tables(frame: int) -> _Tables:
    """Make and check the tables of a length, once. Raises SealError."""
    rows, radix, groups, _, expected = _PLANS[frame]
    columns = frame // rows
    before, between = 9 - _log2(rows), 9 - _log2(frame)  # fraction bits
    quarter = _cosines(frame)
    window = 2 ** (_WINDOW_BITS - 1) - _turn(quarter, _WINDOW_BITS - 1)
    cosines = _turn(quarter, _TABLE_BITS)
    sines = np.roll(cosines, frame // 4)
    part, row = np.arange(radix)[:, None, None], np.arange(0, rows, radix)
    lane = np.arange(rows // radix // 2 + 1)
    angle = lane[:, None] * (row + part) * columns % frame
    first = np.concatenate([cosines[angle], -sines[angle]], axis=1)
    part, column = np.arange(groups)[:, None, None, None], np.arange(0, columns, groups)
    lane = np.add.outer(np.arange(0, rows, rows // radix), lane).ravel()
    bins = np.add.outer(lane, rows * np.arange(columns // groups))
    angle = bins[:, :, None] * (column + part) % frame
    # (cos - i sin)(re + i im)
    real = np.concatenate([cosines[angle], sines[angle]], axis=3)
    imaginary = np.concatenate([-sines[angle], cosines[angle]], axis=3)
    tables = _Tables(
        window * 2.0 ** (before - _WINDOW_BITS),
        first * 2.0 ** (between - before - _TABLE_BITS),
        np.concatenate([real, imaginary], axis=2) * 2.0 ** (4 - _log2(frame) - between - _TABLE_BITS),
    )
    digest = hashlib.sha256()
    for table in tables:
        digest.update(table.astype("<f8", copy=False).data)
        table.flags.writeable = False
    if digest.hexdigest() != expected:
        raise SealError(
            "the tables of the spectrum are not the pinned ones",
            where=f"frame {frame}",
            expected=expected,
            found=digest.hexdigest(),
        )
    return tables


def _log2(power: int) -> int:
    return power.bit_length() - 1


def _cosines(frame: int) -> list[int]:
    """2^160 cos(2 pi j / frame), j = 0 … frame / 4, in integers less than 2^30 off.

    So their roundings to far fewer bits are the nearest integers, wherever they are computed: no libm is
    asked, and no cosine comes near to a tie (a test looks).
    """
    one = 1 << _EXACT_BITS
    cosine, sine, parts = 0, one, 4
    while parts < frame:  # half the angle
        cosine = math.isqrt((one + cosine) << (_EXACT_BITS - 1))
        sine = (sine << (_EXACT_BITS - 1)) // cosine
        parts *= 2
    found, real, imaginary = [], one, 0
    for _ in range(frame // 4):
        found.append(real)
        real, imaginary = (
            (real * cosine - imaginary * sine) >> _EXACT_BITS,
            (real * sine + imaginary * cosine) >> _EXACT_BITS,
        )
    return [*found, 0]


def _turn(quarter: list[int], bits: int) -> NDArray[np.int64]:
    """A whole turn of cosines out of its first quarter, as nearest integers with so many fraction bits."""
    shift = _EXACT_BITS - bits
    first = np.array([(value + (1 << (shift - 1))) >> shift for value in quarter], np.int64)
    half = np.concatenate([first, -first[-2::-1]])
    return np.concatenate([half, half[-2:0:-1]])
