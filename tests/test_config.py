"""server/config.py: defaults < TOML < environment < flags; errors name key, value and expectation."""

from __future__ import annotations

from pathlib import Path

import pytest

from harmony4.crypto.errors import HarmonyError, SourceError, UsageError
from harmony4.server.config import Config, load_config


def test_defaults() -> None:
    config = load_config()
    assert config == Config()
    assert (config.host, config.port) == ("127.0.0.1", 8000)


def test_order_of_sources(tmp_path: Path) -> None:
    file = tmp_path / "harmony4.toml"
    file.write_text(
        '[server]\nport = 1001\nmax_open = 7\nhost = "::1"\nlibrary = "media"\naccess_log = true\n'
    )
    environ = {"HARMONY4_PORT": "1002", "HARMONY4_MAX_OPEN": "8", "PORT": "5"}
    config = load_config(file=file, environ=environ, flags={"port": 1003, "write_timeout": None})
    assert (config.host, config.max_open, config.port) == ("::1", 8, 1003)
    assert config.access_log
    assert config.library == tmp_path / "media"  # relative to the file that says so
    assert load_config(file=file, flags={"library": "here"}).library == Path("here")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"port": 70000}, ["port", "0 to 65535", "70000"]),
        ({"port": "eighty"}, ["--port", "a whole number", "eighty"]),
        ({"port": True}, ["--port", "a whole number", "True"]),
        ({"port": 1.5}, ["--port", "1.5"]),
        ({"write_timeout": "nan"}, ["write_timeout", "nan"]),
        ({"write_timeout": "soon"}, ["--write-timeout", "a number", "soon"]),
        ({"access_log": "maybe"}, ["--access-log", "true or false", "maybe"]),
        ({"host": ""}, ["host", "an address"]),
        ({"library": ""}, ["library", "a path"]),
        ({"library": 5}, ["library", "a path", "5"]),
        ({"auth": True, "public_read": True}, ["auth", "public_read", "exclude"]),
        ({"allowed_hosts": "media.example.org:80"}, ["allowed_hosts", "host name", "media.example.org:80"]),
        ({"allowed_hosts": 5}, ["--allowed-hosts", "commas", "5"]),
        ({"allowed_hosts": ["a", 5]}, ["--allowed-hosts", "commas"]),
        ({"cors_origins": "https://a,https://b/"}, ["cors_origins", "an origin", "https://b/"]),
        ({"cors_origins": "*"}, ["cors_origins", "an origin", "*"]),
        ({"colour": "red"}, ["colour", "--colour", "max_open"]),
    ],
)
def test_wrong_values(flags: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(flags=flags)
    for word in words:
        assert word in str(caught.value)


def test_environment() -> None:
    config = load_config(environ={"HARMONY4_ACCESS_LOG": "Yes", "HARMONY4_WRITE_TIMEOUT": "2.5"})
    assert config.access_log
    assert config.write_timeout == 2.5
    assert not load_config(environ={"HARMONY4_ACCESS_LOG": "off"}).access_log
    with pytest.raises(UsageError, match="HARMONY4_PROT"):
        load_config(environ={"HARMONY4_PROT": "1"})


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("port = 1", UsageError),
        ("[server]\nport = [1]", UsageError),
        ("[server]\nport", UsageError),
        ("server = 1", UsageError),
        ("[server]\nprot = 1", UsageError),
        ("\udcff", UsageError),
        (None, SourceError),
    ],
)
def test_wrong_files(tmp_path: Path, text: str | None, kind: type[HarmonyError]) -> None:
    file = tmp_path / "harmony4.toml"
    if text is not None:
        file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(kind, match=r"harmony4\.toml"):
        load_config(file=file)


def test_lists_of_text(tmp_path: Path) -> None:
    file = tmp_path / "harmony4.toml"
    file.write_text('[server]\nallowed_hosts = ["a.example", "*.b.example"]\ncors_origins = "https://c"\n')
    config = load_config(file=file)
    assert config.allowed_hosts == ("a.example", "*.b.example")
    assert config.cors_origins == ("https://c",)
    environ = {"HARMONY4_ALLOWED_HOSTS": " x.example , y.example,", "HARMONY4_CORS_ORIGINS": ""}
    config = load_config(file=file, environ=environ)
    assert config.allowed_hosts == ("x.example", "y.example")
    assert config.cors_origins == ()
    assert load_config(file=file, flags={"allowed_hosts": ["z"]}).allowed_hosts == ("z",)


def test_modes() -> None:
    assert Config().mode == "open"
    assert Config(auth=True).mode == "auth"
    assert Config(public_read=True).mode == "public_read"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"log_format": "xml"}, ["log_format", "console or json", "xml"]),
        ({"trusted_proxies": "10.0.0.0/8,proxy.example"}, ["trusted_proxies", "proxy.example"]),
        ({"max_streams": -1}, ["max_streams", "0 to 1000000", "-1"]),
    ],
)
def test_wrong_values_of_an_operator(flags: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(flags=flags)
    for word in words:
        assert word in str(caught.value)


WRONG = [
    # Setting, value as TOML, the value as a variable has it (None: it cannot), what was expected.
    ("port", "70000", "70000", "0 to 65535"),
    ("port", '"80a"', "80a", "a whole number"),
    ("port", "1.5", "1.5", "a whole number"),
    ("port", "true", "true", "a whole number"),
    ("port", '"8_0"', "8_0", "a whole number"),
    ("port", '" 80"', " 80", "a whole number"),
    ("port", '"٣"', "٣", "a whole number"),
    ("port", '""', "", "a whole number"),
    ("port", f'"{"9" * 5000}"', "9" * 5000, "a whole number"),
    ("workers", "-1", "-1", "0 to 256"),
    ("max_open", "0", "0", "1 to 100000"),
    ("host", '""', "", "an address"),
    ("host", "5", None, "text"),
    ("host", '"a\\u0001b"', "a\x01b", "an address"),
    ("host", '"a b"', "a b", "an address"),
    ("library", '""', "", "a path"),
    ("library", "[]", None, "a path"),
    ("state", '""', "", "a path"),
    ("write_timeout", '"soon"', "soon", "a number"),
    ("write_timeout", "nan", None, "0.05 to 86400"),
    ("write_timeout", "inf", None, "0.05 to 86400"),
    ("write_timeout", '"1_0"', "1_0", "a number"),
    ("write_timeout", "0", "0", "0.05 to 86400"),
    ("stop_delay", "1e9", "1e9", "0 to 3600"),
    ("auth", '"maybe"', "maybe", "true or false"),
    ("auth", "1.0", None, "true or false"),
    ("log_format", '"xml"', "xml", "console or json"),
    ("trusted_proxies", '["10.0.0.300"]', "10.0.0.300", "an address, or a network such as"),
    ("trusted_proxies", '["10.0.0.5/8"]', "10.0.0.5/8", "an address, or a network such as"),
    ("allowed_hosts", '["http://a"]', "http://a", "a host name without a port"),
    ("allowed_hosts", "[1]", None, "texts, with commas between them or as a list"),
    ("cors_origins", '["*"]', "*", "an origin such as https://example.org"),
    ("quota", "9223372036854775808", "9223372036854775808", "0 to 9223372036854775807"),
    ("max_upload", '"5GiB"', "5GiB", "a whole number"),
]


@pytest.mark.parametrize(("key", "toml", "text", "expected"), WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, key: str, toml: str, text: str | None, expected: str) -> None:
    """The key, the value, what was expected, and who said it: the file, or the variable."""
    file = tmp_path / "harmony4.toml"
    file.write_text(f"[server]\n{key} = {toml}\n", "utf-8")
    variable = f"HARMONY4_{key.upper()}"
    sources: list[tuple[str, dict[str, object]]] = [("harmony4.toml", {"file": file})]
    if text is not None:
        sources.append((variable, {"environ": {variable: text}}))
    for where, source in sources:
        with pytest.raises(UsageError) as caught:
            load_config(**source)  # type: ignore[arg-type]
        said = str(caught.value)
        assert said.startswith(f"the setting {key} is wrong in {where} (expected {expected}"), said
        assert ", found " in said
        assert len(said) < 300
        assert said.isprintable()


def test_an_unknown_setting_is_guessed() -> None:
    with pytest.raises(UsageError, match=r"unknown setting 'prot' in HARMONY4_PROT \(expected port\b"):
        load_config(environ={"HARMONY4_PROT": "80"})
