"""Canonical JSON (RFC 8785, integers only) and the small checkers that TRAK and META are built from.

A JSON chunk has exactly one encoding: it is parsed, checked against its schema and encoded again, and
anything but the same bytes is refused. So is a key nobody specified (H4MK 4).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import rfc8785

from harmony4.crypto.errors import CriticalError, HarmonyError, JSONError, LimitError, UsageError
from harmony4.h4mk.layout import JSON_LIMIT

__all__ = [
    "Check",
    "boolean",
    "choice",
    "decode",
    "digest",
    "encode",
    "hexdigest",
    "integer",
    "items",
    "members",
    "operation",
    "tag",
    "text",
]

MAX_DEPTH: Final = 8
MAX_INTEGER: Final = 2**53 - 1

Check = Callable[[Any, str], Any]
"""Takes a parsed value and its JSON path, returns the value as Python has it, raises JSONError."""


def encode(value: object, what: str) -> bytes:
    """The canonical bytes. Integers beyond ±(2^53-1) become decimal strings.

    Raises LimitError above 1 MiB, UsageError for what JSON cannot carry (lone surrogates, floats).
    """
    try:
        data = rfc8785.dumps(_narrow(value, what))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise UsageError(f"{what} has a value that canonical JSON cannot carry") from error
    if len(data) > JSON_LIMIT:
        raise LimitError(f"{what} is too large", expected=f"<= {JSON_LIMIT} bytes", found=len(data))
    return data


def decode(data: bytes, what: str, check: Check) -> Any:
    """Parse canonical JSON and run `check` over it. Raises JSONError."""
    _check_depth(data, what)
    try:
        value = json.loads(
            data.decode(),
            parse_float=_refuse,
            parse_constant=_refuse,
            parse_int=_integer,
            object_pairs_hook=_pairs,
        )
        again = rfc8785.dumps(value)
    except HarmonyError as error:
        raise JSONError(error.message, where=what, found=error.found) from None
    except (ValueError, rfc8785.CanonicalizationError) as error:
        raise JSONError("not valid JSON", where=what) from error
    if again != data:
        raise JSONError("not in canonical form (RFC 8785)", where=what)
    return check(value, what)


def loose(data: bytes, what: str) -> dict[str, Any]:
    """Any JSON object, for files of the original implementation. Raises JSONError."""
    _check_depth(data, what)
    try:
        # As UTF-8: json guesses UTF-16 and UTF-32 from bytes, in which the scan for depth is blind.
        value = json.loads(data.decode())
    except ValueError as error:
        raise JSONError("not valid JSON", where=what) from error
    if not isinstance(value, dict):
        raise JSONError("must be an object", where=what, found=type(value).__name__)
    return value


def _narrow(value: Any, what: str) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= MAX_INTEGER else str(value)
    if isinstance(value, Mapping):
        return {str(key): _narrow(item, what) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_narrow(item, what) for item in value]
    raise UsageError(f"{what} cannot hold a {type(value).__name__}")


_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def _check_depth(data: bytes, what: str) -> None:
    # Before parsing, so that ten thousand brackets cost a scan and not the parser's stack.
    depth = 0
    for mark in _MARKS.finditer(data):
        first = data[mark.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise JSONError("nested too deeply", where=what, expected=f"<= {MAX_DEPTH} levels")
        elif first in b"]}":
            depth -= 1


def _refuse(literal: str) -> object:
    raise JSONError("only integers are numbers here", found=literal[:40])


def _integer(literal: str) -> int:
    if len(literal) > 17 or abs(value := int(literal)) > MAX_INTEGER:
        raise JSONError("an integer beyond 2^53-1 must be a string", found=literal[:40])
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise JSONError("a key stands twice")
    return value


def text(value: Any, path: str) -> str:
    """Any string."""
    if not isinstance(value, str):
        raise JSONError("must be a string", where=path, found=type(value).__name__)
    return value


def filled(value: Any, path: str) -> str:
    """A string that is not empty: what is absent is left out."""
    if not text(value, path):
        raise JSONError("must not be empty", where=path)
    return str(value)


def boolean(value: Any, path: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise JSONError("must be true or false", where=path, found=type(value).__name__)
    return value


_DECIMAL = re.compile(r"0|-?[1-9][0-9]{0,18}")


def integer(least: int = 0, most: int = 2**63 - 1, *, decimal: bool = False) -> Check:
    """An integer, or its decimal string where it is beyond ±(2^53-1) (always a string with `decimal`)."""

    def check(value: Any, path: str) -> int:
        number = value
        if isinstance(value, str) and _DECIMAL.fullmatch(value):
            number = int(value)
            if abs(number) <= MAX_INTEGER and not decimal:
                raise JSONError("must be a number, not a string", where=path, found=value)
        elif decimal or not isinstance(value, int) or isinstance(value, bool):
            raise JSONError("must be an integer", where=path, found=type(value).__name__)
        if not least <= number <= most:
            raise JSONError("out of range", where=path, expected=f"{least} to {most}", found=number)
        return int(number)

    return check


def choice(*allowed: object) -> Check:
    """One of the given values; another one is from a later specification, so it is critical."""

    def check(value: Any, path: str) -> Any:
        if not any(value == one and type(value) is type(one) for one in allowed):
            expected = " or ".join(str(one) for one in allowed)
            raise CriticalError("unknown value", where=path, expected=expected, found=str(value)[:40])
        return value

    return check


def digest(value: Any, path: str) -> bytes:
    """64 lower-case hex digits, as 32 bytes."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise JSONError("must be a SHA-256 in lower-case hex", where=path)
    return bytes.fromhex(value)


def hexdigest(value: Any, path: str) -> str:
    """A SHA-256 that stays text."""
    return digest(value, path).hex()


def operation(value: Any, path: str) -> str:
    """The name of an operation in a history."""
    if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9-]*", value):
        raise JSONError("must be the name of an operation", where=path)
    return value


def tag(value: Any, path: str) -> str:
    """The tag of an ancillary chunk before SEEK: `time` belongs to signatures (H4MK 14.2)."""
    if not isinstance(value, str) or not re.fullmatch(r"(?!time)[a-z][A-Za-z]{3}", value):
        raise JSONError("must be an ancillary tag", where=path)
    return value


def items(check: Check, *, least: int = 0) -> Check:
    """A list whose items all satisfy `check`, as a tuple."""

    def check_list(value: Any, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) < least:
            raise JSONError(f"must be a list of at least {least}", where=path)
        return tuple(check(item, f"{path}[{number}]") for number, item in enumerate(value))

    return check_list


def members(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these keys and no others; the checked values under the same keys."""
    known = {**required, **(optional or {})}

    def check(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise JSONError("must be an object", where=path, found=type(value).__name__)
        for key in value:
            if key not in known:
                raise CriticalError("unknown key", where=f"{path}.{str(key)[:40]}")
        for key in required:
            if key not in value:
                raise JSONError("a required key is missing", where=f"{path}.{key}")
        return {key: known[key](item, f"{path}.{key}") for key, item in value.items()}

    return check
