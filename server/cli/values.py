"""What people type and what they read: times, sizes and frame rates, parsed and printed exactly.

Everything here is integer or decimal arithmetic; a float would round a PTS beyond 2^53 µs, and the same
text must name the same block everywhere. The parsers raise ValueError with a sentence that says what would
have been right; the command line turns that into a usage error (exit status 2).
"""

from __future__ import annotations

import re
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Final

__all__ = [
    "format_count",
    "format_duration",
    "format_size",
    "hole_text",
    "parse_block_size",
    "parse_fps",
    "parse_lifetime",
    "parse_profile",
    "parse_pts",
    "parse_size",
    "plain",
]

_MAX_PTS: Final = 2**63 - 1
_MIN_BLOCK: Final = 1
_MAX_BLOCK: Final = 16 * 2**20
_MAX_RATE: Final = 10**9
"""Numerator and denominator of a frame rate: with any sane gop, what TRAK stores stays below 2^53."""

_PTS_HINT: Final = "use integer microseconds, or 90s, 500ms, 1.5h, 1:02:03.5"
_UNITS: Final = {
    "us": 1,
    "µs": 1,  # U+00B5, the micro sign on keyboards
    "μs": 1,  # U+03BC, the Greek letter that looks like it
    "ms": 10**3,
    "s": 10**6,
    "min": 60 * 10**6,
    "h": 3600 * 10**6,
}
_LIFETIMES: Final = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST_LIFETIME: Final = 36_525 * 86_400
_WITH_UNIT = re.compile(r"([0-9]+)(?:\.([0-9]+))?([a-zµμ]+)")
_CLOCK = re.compile(r"(?:([0-9]+):)?([0-9]+):([0-9]{1,2})(?:\.([0-9]+))?")

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")
_SIZES: Final = {
    "": 1,
    "b": 1,
    "k": 2**10,
    "kib": 2**10,
    "m": 2**20,
    "mib": 2**20,
    "g": 2**30,
    "gib": 2**30,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}


def parse_pts(text: str) -> int:
    """A time in µs: `90000000`, `90s`, `1.5s`, `500ms`, `2min`, `1h`, `1:30`, `1:02:03.5`.

    Digits beyond the microsecond are cut off, as everywhere in the format. Raises ValueError.
    """
    text = text.strip()
    if len(text) > 64:
        raise ValueError(f"that is no time: {_PTS_HINT}")
    if re.fullmatch(r"[0-9]+", text):
        value = int(text)
    elif match := _WITH_UNIT.fullmatch(text):
        whole, fraction, unit = match.groups()
        if unit not in _UNITS:
            raise ValueError(f"unknown unit of time {unit!r}: {_PTS_HINT}")
        value = _scaled(whole, fraction, _UNITS[unit])
    elif match := _CLOCK.fullmatch(text):
        hours, minutes, seconds, fraction = match.groups()
        if int(seconds) > 59 or (hours is not None and int(minutes) > 59):
            raise ValueError("minutes and seconds of a clock time go up to 59")
        whole = str(int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds))
        value = _scaled(whole, fraction, 10**6)
    elif text.startswith("-"):
        raise ValueError("a time is not negative: containers begin at 0")
    elif re.fullmatch(r"[0-9]*\.[0-9]+", text):
        raise ValueError(f"a time without a unit is in whole microseconds; for seconds write {text}s")
    else:
        raise ValueError(f"{plain(text)!r} is no time: {_PTS_HINT}")
    if value > _MAX_PTS:
        raise ValueError("that time is beyond 2^63 microseconds")
    return value


def _scaled(whole: str, fraction: str | None, unit: int) -> int:
    value: int = int(whole + (fraction or "")) * unit // 10 ** len(fraction or "")
    return value


def parse_lifetime(text: str) -> int:
    """How long something holds, in seconds: `90s`, `30min`, `1h`, `30d`, `2w`. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,9})(s|min|h|d|w)", text.strip())
    if match is None:
        raise ValueError(f"{plain(text)!r} is no length of time: use 90s, 30min, 1h, 30d or 2w")
    seconds = int(match[1]) * _LIFETIMES[match[2]]
    if not 0 < seconds <= _LONGEST_LIFETIME:
        raise ValueError("a length of time here is above 0, and at most a hundred years")
    return seconds


def parse_size(text: str) -> int:
    """A size in bytes: `1048576`, `512KiB`, `1MiB`, `1M` (binary), `1MB` (decimal). Raises ValueError."""
    match = _SIZE.fullmatch(text.strip()) if len(text) <= 64 else None
    if match is None or match[2].lower() not in _SIZES:
        raise ValueError(f"{plain(text)!r} is no size: use bytes, or 512KiB, 1MiB, 1M")
    with localcontext() as context:
        context.prec = 100
        value = Decimal(match[1]) * _SIZES[match[2].lower()]
    if value != int(value):
        raise ValueError(f"{plain(text)!r} is not a whole number of bytes")
    return int(value)


def parse_block_size(text: str) -> int:
    """A block's size limit, 1 byte to 16 MiB (H4MK: sizes). Raises ValueError."""
    value = parse_size(text)
    if not _MIN_BLOCK <= value <= _MAX_BLOCK:
        raise ValueError("a block holds 1 byte to 16 MiB")
    return value


def parse_fps(text: str) -> Fraction:
    """Frames per second: `30`, `30000/1001`, `29.97` (exactly 2997/100). Raises ValueError."""
    text = text.strip()
    if len(text) <= 64 and (match := re.fullmatch(r"([0-9]+)/([0-9]+)", text)) and int(match[2]):
        rate = Fraction(int(match[1]), int(match[2]))
    elif len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        rate = Fraction(text)
    else:
        raise ValueError(f"{plain(text)!r} is no frame rate: use 30, 30000/1001 or 29.97")
    if not rate or max(rate.numerator, rate.denominator) > _MAX_RATE:
        raise ValueError("a frame rate is above 0, and neither side of its fraction is above 10^9")
    return rate


def parse_profile(text: str) -> str:
    """The name of a profile of spectral tokens. Raises ValueError."""
    from harmony4.tokenize.audiotoken import PROFILES  # loads NumPy: not for `--help`

    if text not in PROFILES:
        raise ValueError(f"{plain(text)!r} is no profile of a spectrum: use {' or '.join(PROFILES)}")
    return text


def format_duration(microseconds: int) -> str:
    """µs as `H:MM:SS.mmm`; digits beyond the millisecond are cut off."""
    seconds, rest = divmod(microseconds, 10**6)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}.{rest // 1000:03}"


def format_size(size: int) -> str:
    """Bytes for people: `512 B`, `1.0 MiB`, `4.0 TiB`; one decimal, rounded half up."""
    if size < 1024:
        return f"{size} B"
    scale, unit = 1024, "KiB"
    for following in ("MiB", "GiB", "TiB", "PiB", "EiB"):
        if size < scale * 1024:
            break
        scale, unit = scale * 1024, following
    tenths = (size * 20 + scale) // (2 * scale)
    return f"{tenths // 10}.{tenths % 10} {unit}"


def format_count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 block`, `18 000 blocks`, and `18 000` for an empty noun."""
    text = f"{number:,}".replace(",", " ")
    return f"{text} {noun if number == 1 else plural or noun + 's'}" if noun else text


def hole_text(track: int, first: int, count: int) -> str:
    """A hole of a recovered container (META.lost)."""
    if not count:
        return f"the end of track {track}, from block {first} on"
    blocks = f"block {first}" if count == 1 else f"blocks {first} to {first + count - 1}"
    return f"{blocks} of track {track}"


def plain(text: object) -> str:
    """Text from a file or a name, safe on a terminal and on one line: control characters become escapes.

    A container's title can hold escape sequences that move the cursor or rename the window.
    """
    characters = []
    for character in str(text):
        if character.isprintable():
            characters.append(character)
        else:
            characters.append(character.encode("unicode_escape").decode("ascii"))
    return "".join(characters)
