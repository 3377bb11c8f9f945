"""Settings of the server: defaults, then a TOML file, then the environment, then flags; each checked.

    [server]                      # harmony4.toml
    library = "/srv/media"
    port = 8000

The same keys are `HARMONY4_LIBRARY`, `HARMONY4_PORT`, … in the environment. `load_config` merges the four
sources and names the key, the value and what was expected where one of them is wrong.
"""

# ruff: noqa: RUF009 - `_setting` gives a field, not a value

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NoReturn

from harmony4.crypto.errors import SourceError, UsageError
from harmony4.server.guard.origins import check_host, check_origin
from harmony4.server.masking.keys import KEY, KEY_FILE, PASSPHRASE

__all__ = ["PREFIX", "Config", "load_config", "load_settings"]

PREFIX: Final = "HARMONY4_"
_NO_SETTINGS: Final = frozenset({KEY, KEY_FILE, PASSPHRASE})
"""Variables with the prefix that are no settings: secrets, and what leads to them."""


def _setting(default: object, text: str, within: tuple[float, float] | None = None) -> Any:
    """A setting: what it is when nobody says otherwise, what it is for, its least and greatest value."""
    return field(default=default, metadata={"help": text, "range": within})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of one server. Raises UsageError for a value that cannot be."""

    library: Path = _setting(Path(), "folder with the containers")
    host: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(8000, "port to listen on; 0 takes a free one", (0, 65535))
    workers: int = _setting(1, "processes that serve; 0 takes one for each processor", (0, 256))
    max_open: int = _setting(256, "containers kept open while nobody reads them", (1, 100_000))
    cache: Path | None = _setting(None, "folder for what is known of containers; none: only in memory")
    state: Path | None = _setting(None, "the server's own folder; none: `.harmony4`, hidden in the library")
    keyring: Path | None = _setting(None, "folder with master keys, one in each `NAME.key`; none: no keys")
    write_timeout: float = _setting(
        30.0, "seconds without progress until a reader is cut off", (0.05, 86_400)
    )
    read_timeout: float = _setting(
        60.0, "seconds for a request's head, and without a byte of its body", (0.05, 86_400)
    )
    keepalive_timeout: float = _setting(75.0, "seconds an idle connection stays open", (0, 86_400))
    stop_timeout: float = _setting(
        10.0, "seconds that running requests get when the server stops", (0, 86_400)
    )
    stop_delay: float = _setting(
        0.0, "seconds before that in which /ready says 503 and everything is answered still", (0, 3600)
    )
    verify_on_read: bool = _setting(False, "check each block's CRC and SHA-256 before any of it is sent")
    max_upload: int = _setting(0, "bytes of one upload; 0 sets no such limit", (0, 2**63 - 1))
    max_uploads: int = _setting(64, "uploads at once, all clients and workers", (1, 1024))
    max_uploads_per_client: int = _setting(32, "uploads at once from one address", (1, 1024))
    quota: int = _setting(0, "bytes that the library may hold, trash included; 0: no limit", (0, 2**63 - 1))
    min_free: int = _setting(2**30, "bytes that stay free on the disk", (0, 2**63 - 1))
    demux_memory: int = _setting(2**30, "bytes of address space for one demuxer", (2**28, 2**40))
    demux_cpu: int = _setting(600, "CPU seconds for one demuxer", (1, 86_400))
    decode_samples: int = _setting(
        2**32, "samples that a sound may decode to, all channels together", (1, 2**63 - 1)
    )
    upload_ttl: float = _setting(
        86_400.0, "seconds after its last byte that an unfinished upload is kept", (1, 31_536_000)
    )
    stream_spill: int = _setting(
        2**30,
        "bytes of an answer that may wait on disk for its reader; behind a proxy, of the body as well",
        (0, 2**63 - 1),
    )
    job_ttl: float = _setting(86_400.0, "seconds that a finished job is remembered", (0, 31_536_000))
    trash_retention: float = _setting(
        604_800.0, "seconds that deleted containers can be restored", (0, 315_360_000)
    )
    access_log: bool = _setting(False, "log every request to standard error")
    log_format: str = _setting("console", "how the log is written: console, for people, or json")
    trusted_proxies: tuple[str, ...] = _setting(
        (), "addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed"
    )
    max_streams: int = _setting(
        0, "answers and streams that a worker has under way at once; 0: no limit", (0, 1_000_000)
    )
    max_streams_per_client: int = _setting(
        0, "the same for one client, by its token or address; 0: no limit", (0, 1_000_000)
    )
    max_connections_per_client: int = _setting(
        0, "connections of one address to a worker, proxies excepted; 0: no limit", (0, 1_000_000)
    )
    scrub_rate: int = _setting(
        0, "bytes a second of the library that are verified in the background; 0: none", (0, 2**40)
    )
    scrub_pause: float = _setting(
        86_400.0, "seconds from the end of one round over the library to the next", (0.05, 31_536_000)
    )
    auth: bool = _setting(False, "everything needs a token")
    public_read: bool = _setting(False, "everybody may read; the rest needs a token")
    allowed_hosts: tuple[str, ...] = _setting(
        (), "names that the server is called by, beside its address and localhost"
    )
    cors_origins: tuple[str, ...] = _setting(
        (), "origins whose pages may use the server, such as https://example.org"
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            bounds = setting.metadata.get("range")
            if bounds is not None and not (math.isfinite(value) and bounds[0] <= value <= bounds[1]):
                raise _wrong(setting.name, f"{bounds[0]} to {bounds[1]}", value)
        if not _PRINTABLE.fullmatch(self.host):
            raise _wrong("host", "an address, or a name of one", self.host)
        if self.auth and self.public_read:
            raise UsageError("the settings auth and public_read exclude each other", expected="one of them")
        if self.log_format not in ("console", "json"):
            raise _wrong("log_format", "console or json", self.log_format)
        checks = (
            ("allowed_hosts", check_host),
            ("cors_origins", check_origin),
            ("trusted_proxies", _check_network),
        )
        for name, check in checks:
            for text in getattr(self, name):
                try:
                    check(text)
                except ValueError as error:
                    raise _wrong(name, str(error), text) from None

    @property
    def mode(self) -> str:
        """Who may do what: `auth`, `public_read` or `open`."""
        return "auth" if self.auth else "public_read" if self.public_read else "open"


def load_config(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Config:
    """Merge the sources, later ones win: defaults < `file` (TOML) < `environ` < `flags` (None: not given).

    Raises UsageError for an unknown key or a wrong value, SourceError where the file cannot be read. Other
    variables of the environment than those that begin with HARMONY4_ are none of our business.
    """
    return load_settings(file=file, environ=environ, flags=flags)[0]


def load_settings(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> tuple[Config, dict[str, str]]:
    """As `load_config`, and for each setting that somebody gave who it was: a file, a variable, an option."""
    merged: dict[str, object] = {}
    sources: dict[str, str] = {}
    if file is not None:
        for key, value in _read(file).items():
            merged[key] = _convert(key, value, file.name)
            sources[key] = str(file)
        for key, value in merged.items():
            if isinstance(value, Path):
                # A relative folder in a file is relative to that file, wherever the server is started.
                merged[key] = file.parent / value
    for name, text in (environ or {}).items():
        if name.startswith(PREFIX) and name not in _NO_SETTINGS:
            key = name.removeprefix(PREFIX).lower()
            merged[key] = _convert(key, text, name)
            sources[key] = name
    for key, value in (flags or {}).items():
        if value is not None:
            sources[key] = f"--{key.replace('_', '-')}"
            merged[key] = _convert(key, value, sources[key])
    settings: dict[str, Any] = merged
    try:
        return Config(**settings), sources
    except _WrongSettingError as error:
        where = Path(sources[error.key]).name if error.key in sources else None
        raise UsageError(error.message, where=where, expected=error.expected, found=error.found) from None


def _read(file: Path) -> dict[str, object]:
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SourceError(f"cannot read the settings: {error.strerror}", where=str(file)) from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"the settings are not valid TOML: {error}", where=str(file)) from error
    unknown = table.keys() - {"server"}
    section = table.get("server", {})
    if unknown or not isinstance(section, dict):
        raise UsageError(
            "unknown setting", where=str(file), expected="[server]", found=", ".join(sorted(unknown))
        )
    return section


_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
_NUMBER: Final = re.compile(
    r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?", re.ASCII
)
_PRINTABLE: Final = re.compile(r"[!-~]+")
_SHOWN: Final = 80
"""Characters of a wrong value that a message shows."""
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_TEXTS: Final = "tuple[str, ...]"
_FALSE: Final = frozenset({"0", "false", "no", "off"})


def _convert(key: str, value: object, where: str) -> object:
    """A value from a file, the environment or a flag as the type its setting has."""
    kinds = {setting.name: setting.type for setting in fields(Config)}
    kind = kinds.get(key)
    if kind is None:
        likely = difflib.get_close_matches(key, kinds, 3) or sorted(kinds)
        raise UsageError(f"unknown setting {key[:_SHOWN]!r}", where=where, expected=", ".join(likely))
    text = isinstance(value, str)
    try:
        if kind == "bool" and isinstance(value, bool):
            return value
        if kind == "bool" and isinstance(value, str) and value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        if kind == "int" and not isinstance(value, bool) and (text or isinstance(value, int)):
            return int(str(value)) if not text or _WHOLE.fullmatch(str(value)) else _refuse()
        if kind == "float" and not isinstance(value, bool) and (text or isinstance(value, (int, float))):
            return float(str(value)) if not text or _NUMBER.fullmatch(str(value)) else _refuse()
        if kind == "str" and text:
            return value
        if kind in ("Path", "Path | None") and isinstance(value, (str, Path)) and str(value):
            return Path(value)
        if kind == _TEXTS and text:
            return tuple(one.strip() for one in str(value).split(",") if one.strip())
        if kind == _TEXTS and isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
            return tuple(value)
    except ValueError:
        pass
    named = {
        "bool": "true or false",
        "int": "a whole number",
        "float": "a number",
        "Path": "a path",
        "Path | None": "a path",
        _TEXTS: "texts, with commas between them or as a list",
    }
    raise _wrong(key, named.get(str(kind), "text"), value, where)


class _WrongSettingError(UsageError):
    """A value that its setting cannot have."""

    key = ""


def _wrong(key: str, expected: str, found: object, where: str | None = None) -> UsageError:
    shown = repr(found)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    error = _WrongSettingError(f"the setting {key} is wrong", where=where, expected=expected, found=shown)
    error.key = key
    return error


def _refuse() -> NoReturn:
    raise ValueError


def _check_network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("an address, or a network such as 10.0.0.0/8 or fd00::/8") from None
