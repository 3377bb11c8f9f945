"""Signed URLs: what is signed, and everything that must not hold."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from harmony4.server.guard import sessions, signing
from harmony4.server.guard.signing import BadSignature, Signature, check, sign, signed_url

SECRET = bytes(range(32))
KEY = signing.key_of(SECRET)
TARGET = "/video/range/0.mp4?name=talks/day1.h4mk&v=0123456789abcdef"
CLIENT = "192.0.2.7"


def ask(url: str, now: float = 1000, address: str = CLIENT, key: bytes = KEY) -> Signature:
    """What a server makes of a request for this URL."""
    parts = URL(url, encoded=True)
    return check(key, parts.raw_path, parts.query.items(), now, address)


def test_a_signed_url() -> None:
    url = signed_url(KEY, TARGET, Signature(2000))
    assert url.startswith(TARGET + "&exp=2000&sig=")
    assert ask(url) == Signature(2000)
    assert ask(url, now=1999.9) == Signature(2000)
    whole = signed_url(KEY, f"https://media.example.org:8443{TARGET}#t=5", Signature(2000))
    assert whole == f"https://media.example.org:8443{url}"


def test_keys_differ_by_use() -> None:
    assert len({signing.key_of(SECRET), sessions.key_of(SECRET), SECRET}) == 3


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/container", "/container"),
        ("/container?name=ü ß&.h4mk", "/container"),
        ("/container?name=a%2Fb%26c%3Dd+e.h4mk", "/container"),
        ("/video/seek?pts=5&name=x&empty=", "/video/seek"),
        ("http://h/", "/"),
        ("http://h", ""),
    ],
)
def test_any_address_can_be_signed(target: str, path: str) -> None:
    url = signed_url(KEY, target, Signature(2000, CLIENT))
    assert ask(url) == Signature(2000, CLIENT)
    assert urlsplit(url).path == path


def test_order_and_encoding_do_not_matter() -> None:
    url = signed_url(KEY, "/container?name=a b/ü.h4mk&v=1", Signature(2000))
    path, _, query = url.partition("?")
    assert ask(f"{path}?{'&'.join(reversed(query.split('&')))}") == Signature(2000)
    assert ask(url.replace("a%20b/", "%61+b%2F")) == Signature(2000)


@pytest.mark.parametrize("target", ["container?name=x", "/a?x=1&x=1", "/a?sig=1", "/a?exp=1", "/a?ip=1", ""])
def test_addresses_that_cannot_be_signed(target: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        signed_url(KEY, target, Signature(2000))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda url: url[:-1], "not whole"),
        (lambda url: url + "A", "not whole"),
        (lambda url: url + "=", "not whole"),
        (lambda url: url[:-43], "not whole"),
        (lambda url: url.partition("&sig")[0], "not whole"),
        (lambda url: url[:-1] + ("A" if url[-1] != "A" else "B"), "not of this"),
        (lambda url: url[:-43] + "A" * 43, "not of this"),
        (lambda url: url.replace("exp=2000", "exp=9000"), "not of this"),
        (lambda url: url.replace("exp=2000", "exp=02000"), "not of this"),
        (lambda url: url.replace("exp=2000&", ""), "not whole"),
        (lambda url: url.replace("exp=2000", "exp=-1"), "not whole"),
        (lambda url: url.replace("exp=2000", "exp=٢٠٠٠"), "not whole"),
        (lambda url: url.replace("exp=2000", "exp=9" + "0" * 12), "not whole"),
        (lambda url: url.replace("day1", "day2"), "not of this"),
        (lambda url: url.replace("/video/range/0.mp4", "/video/range/1.mp4"), "not of this"),
        (lambda url: url.replace("/video/range/0.mp4", "/container"), "not of this"),
        (lambda url: url.replace("/video", "//video"), "not of this"),
        (lambda url: url + "&download=1", "not of this"),
        (lambda url: url.replace("&v=0123456789abcdef", ""), "not of this"),
        (lambda url: url + "&name=other.h4mk", "twice"),
        (lambda url: url.replace("?", "?name=other.h4mk&"), "twice"),
        (lambda url: url + "&exp=9000", "twice"),
        (lambda url: url + "&" + url.partition("&s")[2].replace("ig", "sig"), "twice"),
        (lambda url: url + "&ip=" + CLIENT, "not of this"),
        (lambda url: url.replace("name=", "Name="), "not of this"),
    ],
)
def test_forged_truncated_and_retargeted(change: object, says: str) -> None:
    assert callable(change)
    url = signed_url(KEY, TARGET, Signature(2000))
    with pytest.raises(BadSignature, match=says):
        ask(change(url))


def test_expired() -> None:
    url = signed_url(KEY, TARGET, Signature(2000))
    with pytest.raises(BadSignature, match="expired"):
        ask(url, now=2000)
    with pytest.raises(BadSignature, match="not of this"):  # a forger does not even learn that
        ask(url, now=2000, key=bytes(32))


@pytest.mark.parametrize(
    ("signed", "address", "holds"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.7", "", False),
        ("2001:db8::1", "2001:0db8:0:0::1", True),
        ("fe80::1", "fe80::1%eth0", True),
        ("2001:db8::1", "2001:db8::2", False),
    ],
)
def test_bound_to_a_client(signed: str, address: str, holds: bool) -> None:
    url = signed_url(KEY, TARGET, Signature(2000, signing.plain_address(signed)))
    if holds:
        assert ask(url, address=address).ip == signing.plain_address(signed)
        return
    with pytest.raises(BadSignature, match="another client"):
        ask(url, address=address)
    with pytest.raises(BadSignature, match="not of this"):
        ask(url.replace(f"&ip={signed}", ""), address=address)


def test_fields_cannot_be_shifted() -> None:
    """What is one message is one list of fields."""
    lists: list[tuple[str, list[tuple[str, str]]]] = [
        ("/a", [("b", "c")]),
        ("/ab", [("", "c")]),
        ("/a", [("bc", "")]),
        ("/a", [("", "bc")]),
        ("/a", [("b", "c"), ("", "")]),
        ("/a", []),
        ("/abc", []),
    ]
    assert len({sign(KEY, *one) for one in lists}) == len(lists)


pairs = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda n: n not in ("exp", "ip", "sig")), st.text()
)


@given(pairs, st.integers(2000, 10**12 - 1))
def test_whatever_is_signed_holds(query: dict[str, str], ends: int) -> None:
    query = {
        name: value
        for name, value in query.items()
        if not any(0xD800 <= ord(character) < 0xE000 for character in name + value)
    }
    url = str(URL("/container").with_query(query))
    assert ask(signed_url(KEY, url, Signature(ends))) == Signature(ends)
