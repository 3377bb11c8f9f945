"""token and sign-url on the command line, and serve's refusal to be open to everybody."""

from __future__ import annotations

import json
import re
import stat
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from commands import ROOM, here, refused, run, small_container, started
from harmony4.server.cli.values import parse_lifetime
from harmony4.server.guard import signing
from harmony4.server.guard.secret import load_secret
from harmony4.server.guard.tokens import TokenFile, check
from harmony4.server.state import State
from processes import served, until

Capture = pytest.CaptureFixture[str]


def file(library: Path) -> TokenFile:
    return TokenFile(State(library / ".harmony4"))


def test_a_token_is_made_listed_and_revoked(tmp_path: Path, capsys: Capture) -> None:
    done = here(capsys, "token", "add", "alice", "--scope", "write,read", "--expires", "30d", "-l", tmp_path)
    assert done.status == 0
    text = done.text.strip()
    assert re.fullmatch(r"h4_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", text)
    assert "not shown again" in done.err
    assert text not in done.err
    (token,) = file(tmp_path).read().values()
    assert check({token.id: token}, text) == token
    assert (token.name, token.scopes) == ("alice", ("read", "write"))
    assert token.expires is not None
    assert abs(token.expires - time.time() - 30 * 86_400) < 60
    assert stat.S_IMODE(file(tmp_path).path.stat().st_mode) == 0o600

    other = json.loads(here(capsys, "token", "add", "bob", "-l", tmp_path, "--json").out)
    assert other.keys() == {"token", "id", "name", "scopes", "created", "expires"}
    assert (other["scopes"], other["expires"]) == (["read"], None)

    listed = here(capsys, "token", "list", "-l", tmp_path)
    rows = [line.split() for line in listed.text.splitlines()]
    assert rows[0] == ["id", "name", "scopes", "created", "expires"]
    assert [row[1] for row in rows[1:]] == ["alice", "bob"]
    as_json = here(capsys, "token", "list", "-l", tmp_path, "--json")
    assert [one["id"] for one in json.loads(as_json.out)["tokens"]] == [token.id, other["id"]]
    for shown in (listed.text, as_json.text):
        assert text.split("_", 2)[2] not in shown
        assert token.digest not in shown

    assert here(capsys, "token", "revoke", token.id, "-l", tmp_path).text == f"revoked {token.id}\n"
    refused(here(capsys, "token", "revoke", token.id, "-l", tmp_path), "no token")
    gone = json.loads(here(capsys, "token", "revoke", other["id"], "-l", tmp_path, "--json").out)
    assert gone["revoked"]["name"] == "bob"
    assert here(capsys, "token", "list", "-l", tmp_path).text == "0 tokens\n"


def test_the_settings_say_where(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "media").mkdir()
    settings = tmp_path / "harmony4.toml"
    settings.write_text('[server]\nlibrary = "media"\nstate = "kept"\n')
    assert here(capsys, "token", "add", "x", "--config", settings).status == 0
    assert len(TokenFile(State(tmp_path / "kept")).read()) == 1
    monkeypatch.setenv("HARMONY4_LIBRARY", str(tmp_path / "media"))
    assert here(capsys, "token", "add", "x").status == 0
    assert len(file(tmp_path / "media").read()) == 1
    assert here(capsys, "token", "list", "--config", settings).text.count("\n") == 2


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["token", "add", "x", "--scope", "root"], ["read, write, mask, admin"], 2),
        (["token", "add", "x", "--scope", ""], ["read, write, mask, admin"], 2),
        (["token", "add", "x", "--expires", "soon"], ["30d"], 2),
        (["token", "add", "x", "--expires", "0s"], ["above 0"], 2),
        (["token", "add"], ["NAME"], 2),
        (["token", "ad"], ["ad"], 2),
        (["token", "add", ""], ["name"], 1),
        (["token", "add", "a\nb"], ["name"], 1),
        (["token", "revoke"], ["ID"], 2),
        (["token", "revoke", "x"], ["no token"], 1),
        (["sign-url"], ["URL"], 2),
        (["sign-url", "video/range"], ["slash"], 1),
        (["sign-url", "/a?sig=5"], ["signature already"], 1),
        (["sign-url", "/a?x=1&x=2"], ["twice"], 1),
        (["sign-url", "/a", "--client", "everybody"], ["IP address", "everybody"], 1),
        (["sign-url", "/a", "--expires", "1"], ["1h"], 2),
    ],
)
def test_what_is_refused(
    arguments: list[str], words: list[str], status: int, tmp_path: Path, capsys: Capture
) -> None:
    where = ["-l", str(tmp_path)] if len(arguments) > 2 or status == 1 else []
    refused(here(capsys, *arguments, *where), *words, status=status)


def test_a_library_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    refused(here(capsys, "token", "list", "-l", tmp_path / "none"), "cannot read the library")
    (tmp_path / "file").write_bytes(b"")
    refused(here(capsys, "token", "add", "x", "-l", tmp_path / "file"), "Not a directory")


def test_signed_urls(tmp_path: Path, capsys: Capture) -> None:
    from yarl import URL

    done = here(
        capsys,
        "sign-url",
        "https://h/video/range?name=ü b.h4mk",
        "--client",
        "::ffff:192.0.2.1",
        "-l",
        tmp_path,
    )
    assert done.err.startswith("note: no server has used")  # most likely it is another folder that was meant
    url = URL(done.text.strip(), encoded=True)
    key = signing.key_of(load_secret(State(tmp_path / ".harmony4")))
    found = signing.check(key, url.raw_path, url.query.items(), time.time(), "192.0.2.1")
    assert found.ip == "192.0.2.1"
    assert abs(found.exp - time.time() - 3600) < 60
    again = here(capsys, "sign-url", "/media", "--expires", "2d", "-l", tmp_path, "--json")
    assert again.err == ""
    as_json = json.loads(again.out)
    assert as_json["url"].startswith(f"/media?exp={as_json['exp']}&sig=")
    assert as_json["ip"] is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30min", 1800), ("1h", 3600), ("30d", 2_592_000), (" 2w ", 1_209_600)]
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert parse_lifetime(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "0d", "1y", "-1h", "1.5h", "999999999w", "1 h"])
def test_wrong_lengths_of_time(text: str) -> None:
    with pytest.raises(ValueError, match="length of time"):
        parse_lifetime(text)


# -- serve


@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_serve_is_not_open_to_everybody(tmp_path: Path, capsys: Capture, more: list[str]) -> None:
    done = here(capsys, "serve", tmp_path, "--host", "0.0.0.0", "--port", "0", *more)
    refused(done, "--public-read", "--auth", "0.0.0.0")
    refused(here(capsys, "serve", tmp_path, "--auth", "--public-read"), "exclude")
    refused(here(capsys, "serve", tmp_path, "--cors-origins", "*"), "cors_origins")
    refused(here(capsys, "serve", tmp_path, "--allowed-hosts", "a:80"), "allowed_hosts")
    assert not (tmp_path / ".harmony4").exists()


def test_demo_is_not_open_to_everybody_either(tmp_path: Path, capsys: Capture) -> None:
    small_container(tmp_path / "mine.h4mk")
    refused(here(capsys, "demo", "-l", tmp_path, "--host", "0.0.0.0", "--port", "0"), "--public-read")


@pytest.mark.parametrize("mode", ["--auth", "--public-read"])
def test_serve_on_any_address(tmp_path: Path, mode: str) -> None:
    small_container(tmp_path / "a.h4mk")
    with started("serve", tmp_path, "--host", "0.0.0.0", "--port", "0", mode, "--json") as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["url"].rpartition(":")[2].strip("/")
        url = f"http://127.0.0.1:{port}/video/seek?name=a.h4mk&pts=0"
        assert ask(url) == (200 if mode == "--public-read" else 401)


def ask(url: str, token: str = "") -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=ROOM) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_workers_share_tokens_and_secret(tmp_path: Path) -> None:
    """Made and revoked by the command, while the server runs: every worker knows soon."""
    small_container(tmp_path / "a.h4mk")
    target = "/video/seek?name=a.h4mk&pts=0"
    with served(tmp_path, "--auth", "--workers", "2") as server:
        url = server.url.rstrip("/") + target
        made = json.loads(run("token", "add", "x", "-l", tmp_path, "--json").out)
        signed = run("sign-url", url, "-l", tmp_path).text.strip()
        for worker in server.workers():
            with server.only(worker):
                until(lambda: ask(url, made["token"]) == 200, "the token's arrival")
                assert ask(signed) == 200
        assert run("token", "revoke", made["id"], "-l", tmp_path).status == 0
        for worker in server.workers():
            with server.only(worker):
                until(lambda: ask(url, made["token"]) == 401, "the token's end")
                assert ask(signed) == 200
