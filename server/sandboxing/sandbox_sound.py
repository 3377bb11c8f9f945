"""Sound decoded in a process of its own, with limits: a medium may crash a decoder, never us.

`SoundSandbox()` is a decoder as `open_sound` takes one. It gives the same samples as the one in this process
(`harmony4.tokenize.decode`), at the price of a process, as `Sandbox()` does with packets. Whatever the worker
does, the caller gets a MediaError, or a LimitError where it decodes more than `Limits.samples`, and the
worker is gone.

On systems without POSIX processes (Windows) `default_decoder` falls back to decoding in this process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harmony4.crypto.errors import HarmonyError, LimitError, MediaError
from harmony4.server.sandboxing import sandbox_worker as wire
from harmony4.server.sandboxing.sandbox import Limits, Worker
from harmony4.tokenize.decode import SoundDecoder, decode, undecodable
from harmony4.tokenize.demux import Readable
from harmony4.tokenize.samples import SCALE, SoundFormat

__all__ = ["SoundSandbox", "default_decoder"]


class SoundSandbox:
    """Decodes media in worker processes. Thread-safe; each call is a process of its own."""

    def __init__(self, limits: Limits | None = None, look: Callable[[], object] | None = None) -> None:
        """`look` is called a few times a second while a worker is silent, and raises where nobody wants its
        samples any more.
        """
        self.limits: Final = limits or Limits()
        self._look = look or (lambda: None)

    def __call__(self, source: Readable, name: str, stream: int | None = None) -> _Decoder:
        """Start a worker that decodes a stream of `source`, a medium of format `name`; None: its first sound.

        Raises MediaError, SourceError where no process can be started, StorageError.
        """
        wanted = () if stream is None else (str(stream),)
        return _Decoder(source, name, self.limits, self._look, wire.SOUND, *wanted)


def default_decoder(limits: Limits | None = None, look: Callable[[], object] | None = None) -> SoundDecoder:
    """The sandbox where processes can be confined, else the decoder of this process."""
    return SoundSandbox(limits, look) if os.name == "posix" else decode


class _Decoder(Worker):
    """A worker behind the `Decoded` protocol."""

    format: SoundFormat

    def describe(self, streams: list[object]) -> None:
        self.format = _format(streams)

    def check_output(self) -> None:
        pass  # what is said are samples, and these are counted

    def refused(self, reason: str) -> MediaError:
        return undecodable(reason, self.name)

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        """The samples, shape (n, channels). Raises LimitError, MediaError, SourceError, StorageError."""
        channels, most, count = self.format.channels, self.limits.samples, 0
        while (payload := self.next(wire.DATA)) is not None:
            if not payload or len(payload) % (4 * channels):
                raise self.nonsense()
            samples = np.frombuffer(payload, "<i4").astype(np.int32).reshape(-1, channels)
            if samples.min() < -SCALE or samples.max() > SCALE:
                raise self.nonsense()
            count += samples.size
            if count > most:
                raise LimitError(
                    "it decodes to more sound than it may", where=self.name, expected=f"<= {most} samples"
                )
            yield samples


def _format(entry: object) -> SoundFormat:
    if not isinstance(entry, list) or len(entry) != 5:
        raise ValueError("not a sound")
    rate, channels, encoding, exact, start = entry
    if not all(type(value) is int and abs(value) < 2**63 for value in (rate, channels, start)):
        raise ValueError("not a sound")
    if not (isinstance(encoding, str) and encoding.isascii() and len(encoding) < 64):
        raise ValueError("not a sound")
    if type(exact) is not bool:
        raise ValueError("not a sound")
    try:
        return SoundFormat(rate, channels, encoding, exact, start)
    except HarmonyError as error:
        raise ValueError("not a sound") from error
