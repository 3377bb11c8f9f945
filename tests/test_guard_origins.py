"""Host, Origin and Sec-Fetch-Site, and the headers of CORS."""

from __future__ import annotations

import pytest

from harmony4.server.guard.cors import ALLOW, EXPOSE, is_preflight
from harmony4.server.guard.origins import Hosts, check_host, check_origin, host_name, is_foreign


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("example.org", "example.org"),
        ("Example.ORG:8000", "example.org"),
        ("example.org.", "example.org"),
        ("example.org:", "example.org"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("[::1]", "::1"),
        ("a_b.example", "a_b.example"),
        ("", None),
        (":80", None),
        ("::1", None),
        ("[::1", None),
        ("[]", None),
        ("[127.0.0.1]", "127.0.0.1"),
        ("[zz]", None),
        ("a b", None),
        ("a..b", None),
        (".a", None),
        ("a:b", None),
        ("a:123456", None),
        ("a/b", None),
        ("user@a", None),
        ("-a", None),
        ("ä.example", None),
        ("a\n", None),
        ("x" * 64, None),
    ],
)
def test_the_name_in_a_host_header(value: str, name: str | None) -> None:
    assert host_name(value) == name


@pytest.mark.parametrize(
    ("value", "ours"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("LOCALHOST.", True),
        ("a.b.localhost:1", True),
        ("127.0.0.1:8000", True),
        ("10.0.0.5", True),
        ("[::1]:8000", True),
        ("[2001:db8::1]", True),
        ("media.example.org", True),
        ("MEDIA.example.org.:443", True),
        ("a.example.net", True),
        ("a.b.example.net", True),
        ("bound.example", True),
        ("example.net", False),
        ("aexample.net", False),
        ("example.org", False),
        ("x.media.example.org", False),
        ("media.example.org.evil.test", False),
        ("evil.test", False),
        ("localhost.evil.test", False),
        ("notlocalhost", False),
        ("127.0.0.1.evil.test", False),
        ("127.0.0.1.", True),
        ("0x7f.1", False),
        ("127.1", False),
        ("*.example.net", False),
        ("", False),
    ],
)
def test_whom_the_server_answers_to(value: str, ours: bool) -> None:
    hosts = Hosts(["bound.example", "Media.example.org", "*.example.net"])
    for _ in range(2):  # the second time from memory
        assert hosts.allows(value) is ours


def test_the_memory_is_bounded() -> None:
    hosts = Hosts([])
    for number in range(1000):
        assert not hosts.allows(f"{number}.evil.test")
    assert len(hosts._known) < 1000


@pytest.mark.parametrize("text", ["media.example.org", "*.example.org", "Host", "a_b"])
def test_names_for_the_settings(text: str) -> None:
    assert check_host(text) == text


@pytest.mark.parametrize("text", ["", "*", "*.", "a:80", "http://a", "a.", "*.*.a", "a b", "[::1]"])
def test_wrong_names_for_the_settings(text: str) -> None:
    with pytest.raises(ValueError, match="host name"):
        check_host(text)


@pytest.mark.parametrize(
    "text", ["https://example.org", "http://localhost:3000", "http://[::1]:8080", "https://10.0.0.1:444"]
)
def test_origins_for_the_settings(text: str) -> None:
    assert check_origin(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "null",
        "example.org",
        "https://example.org/",
        "https://Example.org",
        "https://example.org:443",
        "http://example.org:80",
        "http://example.org:080",
        "http://example.org:0",
        "http://example.org:65536",
        "https://*.example.org",
        "ftp://example.org",
        "https://user@example.org",
        "https://example.org.",
        "https://example.org\n",
    ],
)
def test_wrong_origins_for_the_settings(text: str) -> None:
    with pytest.raises(ValueError, match="an origin"):
        check_origin(text)


ALLOWED = frozenset({"https://app.example.org"})


@pytest.mark.parametrize(
    ("origin", "site", "host", "foreign"),
    [
        (None, None, "localhost:8000", False),  # a program
        (None, "none", "localhost:8000", False),  # a person, who typed the address
        (None, "same-origin", "localhost:8000", False),
        (None, "same-site", "localhost:8000", True),
        (None, "cross-site", "localhost:8000", True),
        (None, "", "localhost:8000", True),
        ("http://localhost:8000", None, "localhost:8000", False),
        ("http://localhost:8000", "same-origin", "LocalHost:8000", False),
        ("http://localhost:8000", "cross-site", "localhost:8000", True),
        ("http://localhost:8001", None, "localhost:8000", True),
        ("http://localhost:8001", "same-site", "localhost:8000", True),
        ("http://localhost:8001", "same-origin", "localhost:8000", True),
        ("http://localhost", None, "localhost:8000", True),
        ("http://media.example", "same-origin", "media.example:80", False),
        ("https://media.example", "same-origin", "media.example", False),  # a proxy took TLS away
        ("https://media.example", "same-origin", "media.example:443", False),
        ("https://media.example:8443", "same-origin", "media.example:8443", False),
        ("http://media.example:443", None, "media.example", True),
        ("null", None, "localhost:8000", True),
        ("null", "same-origin", "localhost:8000", True),
        ("", None, "localhost:8000", True),
        ("http://evil.test", None, "localhost:8000", True),
        ("http://localhost:8000.evil.test", None, "localhost:8000", True),
        ("file://localhost:8000", None, "localhost:8000", True),
        ("https://app.example.org", "cross-site", "localhost:8000", False),
        ("https://app.example.org:444", "cross-site", "localhost:8000", True),
        ("http://app.example.org", "cross-site", "localhost:8000", True),
        ("https://APP.example.org", "cross-site", "localhost:8000", True),
        ("null", None, "", True),
        ("http://", None, "", False),  # HTTP/1.0 without Host: no browser
    ],
)
def test_whose_page_asks(origin: str | None, site: str | None, host: str, foreign: bool) -> None:
    assert is_foreign(origin, site, host, ALLOWED) is foreign


@pytest.mark.parametrize(
    ("method", "origin", "asked", "so"),
    [
        ("OPTIONS", "https://a", "PATCH", True),
        ("OPTIONS", None, "PATCH", False),
        ("OPTIONS", "https://a", None, False),
        ("GET", "https://a", "PATCH", False),
    ],
)
def test_what_is_a_preflight(method: str, origin: str | None, asked: str | None, so: bool) -> None:
    assert is_preflight(method, origin, asked) is so


def test_pages_can_speak_tus() -> None:
    """All headers of tus 1.0 and the extensions that are spoken, and the address of the job."""
    both = {"Tus-Resumable", "Upload-Length", "Upload-Offset", "Upload-Metadata"}
    asked = both | {"Upload-Checksum", "X-HTTP-Method-Override"}
    told = both | {"Upload-Expires", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"}
    assert asked <= set(ALLOW.split(", "))
    assert told | {"Location", "Harmony4-Job"} <= set(EXPOSE.split(", "))
