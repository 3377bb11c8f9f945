"""Logging of a server: whole lines on standard error, from however many processes, for people or as JSON.

Several workers write to one pipe or file. The kernel keeps a write together if it is short enough, so every
line is one write, and a line that would be too long is cut.

With `log_format = "json"` a record is one line of JSON: `timestamp` (RFC 3339, UTC), `level`, `logger`,
`event`, and for what belongs to a request `request_id`, which a client that was refused finds in
`X-Request-Id`. Tokens, keys and signatures are no part of any message.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from json import dumps
from typing import TYPE_CHECKING, Any, Final, TextIO
from urllib.parse import unquote

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

from harmony4.server.config import Config

__all__ = [
    "LONGEST",
    "REQUEST_ID",
    "LineHandler",
    "configure",
    "json_line",
    "rfc3339",
    "without_keys",
    "without_signature",
]

LONGEST: Final = 4096
"""Bytes of a line, its end included: what Linux writes to a pipe in one piece (PIPE_BUF)."""
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""What the request that is being answered is called."""

_CUT: Final = b" ...\n"
_LEAST: Final = 8
"""Bytes of a text that is not cut any more."""
_SECRET: Final = re.compile(
    r"""(
        harmony4-master-key["']?\s*[:=,]\s*b?["']?
      | Bearer\ +
      | h4mk-key-v1[-a-z]*(?::|%3A)
      | harmony4_session=
      | h4_[0-9a-f]{16}_
    )[^\s&"';,]+""",
    re.IGNORECASE | re.VERBOSE,
)
# No part of it fits in two ways: what a client sends is looked at once, however it is made.
_PARAMETER: Final = re.compile(r"([?&]([^=&?#\s]*)=)([^&?#\s]*)")
_LIKE_A_KEY: Final = re.compile(r"[0-9A-Fa-f]{64}")
_KEY: Final = re.compile(r"(?:h4mk-key-|h4_[0-9a-f]{16}_|[0-9A-Fa-f]{64})[^&# ]*")
_HIDDEN: Final = re.compile(rf"{_KEY.pattern}|[?&;]sig=(?!\.\.\.)", re.IGNORECASE)


def without_signature(target: str) -> str:
    """A request's target for a log: a signature in it opens what it signs for whoever reads it.

    Nor a master key that somebody put there, under whatever name: 64 hexadecimal digits; nor a token.
    """
    shown = without_keys(_without_parameters(target))
    # Escapes must not hide one, as in an address within an address: then the whole query goes, or all of it.
    if not _hides(shown):
        return shown
    path = shown.partition("?")[0]
    return f"{path}?..." if not _hides(path) else "..."


def _hides(text: str) -> bool:
    once = unquote(text)
    return any(_HIDDEN.search(one) is not None for one in (once, unquote(once)))


def without_keys(text: str) -> str:
    """A text of a client's in which there is neither a key nor a token."""
    return _KEY.sub("...", text)


def _without_parameters(text: str) -> str:
    return _PARAMETER.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    name = unquote(found[2]).lower()
    if name == "sig" or "master" in name or _LIKE_A_KEY.match(found[3]):
        return f"{found[1]}..."
    return found[0]


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


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as text, in UTC, to the millisecond."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03}Z"


def json_line(record: Mapping[str, Any]) -> str:
    """A record as a line of JSON in ASCII, of at most LONGEST bytes: else its longest texts are cut."""
    fields = dict(record)
    while True:
        text = dumps(fields, default=repr)
        over = len(text) + 1 - LONGEST
        if over <= 0:
            return f"{text}\n"
        texts = {name: len(dumps(value)) for name, value in fields.items() if isinstance(value, str)}
        longest = max(texts, key=lambda name: texts[name], default="")
        if not longest or texts[longest] <= _LEAST:
            return f"{text}\n"
        value, size = fields[longest], texts[longest]
        fields[longest] = value[: max(0, int(len(value) * (1 - over / size)) - 8)] + " ..."


def _render(_logger: object, _method: str, event: EventDict) -> str:
    return json_line(event)[:-1]


def _stamp(_logger: object, _method: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    seconds = time.time() if record is None else record.created
    found: EventDict = {"timestamp": rfc3339(seconds), **event}
    if name := REQUEST_ID.get():
        found["request_id"] = name
    return found


def _without_secret(text: str) -> str:
    return _SECRET.sub(r"\1...", _without_parameters(text))


def _without_secrets(_logger: object, _method: str, event: EventDict) -> EventDict:
    """The last line of defence: nothing of ours logs them, what others say is not in our hands."""
    for key in ("event", "exception"):
        if isinstance(text := event.get(key), str):
            event[key] = _without_secret(text)
    return event


def formatter(log_format: str) -> logging.Formatter:
    """How records are written."""
    if log_format == "console":
        return _Plain("%(asctime)s %(levelname)s %(name)s: %(message)s")
    import structlog  # takes its time, and commands log nothing

    chain: list[Processor] = [
        _stamp,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.format_exc_info,
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        _without_secrets,
        _render,
    ]
    return structlog.stdlib.ProcessorFormatter(processors=chain)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = _without_secret(super().format(record))
        name = REQUEST_ID.get()
        return f"{text} [{name}]" if name and "\n" not in text else text


def configure(config: Config) -> None:
    """Set up the process's logging as the settings ask for it."""
    handler = LineHandler(sys.stderr)
    handler.setFormatter(formatter(config.log_format))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if config.access_log:  # of ours alone: a library's notes are about its own affairs
        logging.getLogger("harmony4").setLevel(logging.INFO)
