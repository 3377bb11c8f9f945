"""Scopes, the table of routes, and sessions: decisions without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from harmony4.server.app import create_app
from harmony4.server.config import Config
from harmony4.server.guard import sessions
from harmony4.server.guard.policy import EXCEPTIONS, OPEN, needed_scope
from harmony4.server.guard.scopes import ALL, implied, parse_scopes
from harmony4.server.guard.tokens import Token, new_token

SECRET = bytes(range(32))


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ([], set()),
        (["read"], {"read"}),
        (["write"], {"read", "write"}),
        (["mask"], {"mask"}),
        (["mask", "write"], {"read", "write", "mask"}),
        (["admin"], ALL),
    ],
)
def test_what_scopes_imply(given: list[str], allowed: set[str]) -> None:
    assert implied(given) == allowed


def test_scopes_as_text() -> None:
    assert parse_scopes("write,read") == ("read", "write")
    assert parse_scopes(" admin ") == ("admin",)
    for text in ("", "read,", "Read", "read write", "root"):
        with pytest.raises(ValueError, match="read, write, mask, admin"):
            parse_scopes(text)


@pytest.mark.parametrize(
    ("method", "route", "scope"),
    [
        ("GET", "/", None),
        ("GET", "/static/{file}", None),
        ("POST", "/session", None),
        ("GET", "/media", "read"),
        ("HEAD", "/container", "read"),
        ("GET", None, "read"),
        ("POST", None, "write"),
        ("POST", "/video/seek", "read"),
        ("POST", "/video/range", "write"),
        ("POST", "/video/stream", "write"),
        ("DELETE", "/media", "write"),
        ("GET", "/jobs/{id}", "write"),
        ("HEAD", "/media/trash", "write"),
        ("HEAD", "/jobs", "write"),
        ("DELETE", "/media/trash", "admin"),
        ("BREW", "/media", "write"),
        ("OPTIONS", "/media", None),
    ],
)
def test_what_a_route_needs(method: str, route: str | None, scope: str | None) -> None:
    assert needed_scope(method, route) == scope


def test_what_everybody_may_see_where_reading_is_free(tmp_path: Path) -> None:
    """All of it: a route that is new is somebody's decision, and not the table's default."""
    routes = create_app(Config(library=tmp_path)).router.routes()
    assert {
        (route.method, route.resource.canonical)
        for route in routes
        if route.resource is not None and needed_scope(route.method, route.resource.canonical) == "read"
    } == {
        ("POST", "/video/seek"),
        *(
            (method, route)
            for method in ("GET", "HEAD")
            for route in (
                "/video/range",
                "/video/range/{track}.{ext}",
                "/video/keyframes",
                "/video/info",
                "/video/seek",
                "/video/proof",
                "/video/hls",
                "/video/hls/index.m3u8",
                "/video/hls/{track}.m3u8",
                "/video/dash",
                "/video/dash/manifest.mpd",
                "/container",
                "/media",
            )
        ),
        ("HEAD", "/uploads/{id}"),
        ("GET", "/video/stream"),
        ("GET", "/audio/stream"),
    }


def test_the_table_names_routes_that_exist(tmp_path: Path) -> None:
    existing = {
        (route.method, route.resource.canonical)
        for route in create_app(Config(library=tmp_path)).router.routes()
        if route.resource is not None
    }
    assert EXCEPTIONS.keys() <= existing
    assert {path for _, path in existing} >= OPEN


# -- sessions


def token(expires: int | None = None, name: str = "x") -> Token:
    return new_token(name, ["read"], 0, expires)[0]


def test_a_session_and_its_end() -> None:
    key, one = sessions.key_of(SECRET), token()
    value, ends = sessions.make(key, one, 1000.9)
    assert ends == 1000 + sessions.LIFETIME
    tokens = {one.id: one}
    assert sessions.check(key, value, tokens, ends - 0.1) == (one, ends)
    assert sessions.check(key, value, tokens, ends) is None
    assert sessions.check(key, value, {}, 1000) is None  # revoked
    other = token()
    assert sessions.check(key, value, {one.id: other}, 1000) is None  # the same id with another secret
    assert sessions.check(sessions.key_of(bytes(32)), value, tokens, 1000) is None


def test_a_session_ends_with_its_token() -> None:
    key, one = sessions.key_of(SECRET), token(expires=1500)
    value, ends = sessions.make(key, one, 1000)
    assert ends == 1500
    assert sessions.check(key, value, {one.id: one}, 1499) is not None


def test_forged_sessions() -> None:
    key, one = sessions.key_of(SECRET), token()
    value, ends = sessions.make(key, one, 1000)
    tokens = {one.id: one}
    mac = value.rpartition(".")[2]
    for wrong in (
        "",
        value[:-1],
        value + "A",
        value.replace(str(ends), str(ends + 1)),
        f"{one.id}.{ends}.{'A' * 43}",
        f"{one.id}.{ends}",
        f"{token().id}.{ends}.{mac}",
        f"{one.id}.{ends}.{mac[:-1]}é",
    ):
        assert sessions.check(key, wrong, tokens, 1000) is None, wrong
