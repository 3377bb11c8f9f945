"""Logging of a server: whole lines on standard error, from however many processes.

Several workers write to one pipe or file. The kernel keeps a write together if it is short enough, so every
line is one write, and a line that would be too long is cut.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Final, TextIO

from harmony4.server.config import Config

__all__ = ["LONGEST", "LineHandler", "configure"]

LONGEST: Final = 4096
"""Bytes of a line, its end included: what Linux writes to a pipe in one piece (PIPE_BUF)."""

_CUT: Final = b" ...\n"


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes each line of a record at once."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; what is wrong with it is reported the way `logging` does."""
        try:
            for piece in _pieces(self.format(record)):
                self.stream.write(piece)
                self.stream.flush()
        except Exception:
            self.handleError(record)


def _pieces(text: str) -> Iterator[str]:
    for line in text.splitlines():
        data = line.encode(errors="backslashreplace") + b"\n"
        if len(data) > LONGEST:
            data = data[: LONGEST - len(_CUT)].decode(errors="ignore").encode() + _CUT
        yield data.decode()


def configure(config: Config) -> None:
    """Set up the process's logging as the settings ask for it."""
    handler = LineHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if config.access_log:  # of ours alone: a library's notes are about its own affairs
        logging.getLogger("harmony4").setLevel(logging.INFO)
