"""deploy/: nginx and systemd-analyze read it for real; the rest is held against the code.

`deploy/check.sh` (a step of .ci/run) goes through the steps of the Dockerfile.
"""

from __future__ import annotations

import http.client
import json
import re
import shlex
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harmony4.server.config import Config, load_config
from needs import ROOT, needs_nginx, needs_systemd
from processes import until
from programs import nginx, run_program
from serving import running, write_container

DEPLOY = ROOT / "deploy"
NGINX = (DEPLOY / "nginx.conf").read_text("utf-8")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
COMPOSE = (DEPLOY / "compose.yaml").read_text("utf-8")
UNIT = (DEPLOY / "harmony4.service").read_text("utf-8")
TOP = "media.example.org"


def example(folder: Path, text: str = NGINX) -> str:
    return text.replace("/var/log/nginx/harmony4.log", str(folder / "access.log"))


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=fields), timeout=30) as answer:
            return answer.status, dict(answer.headers.items()), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers.items()), error.read()


# -- nginx


@needs_nginx
def test_nginx_serves_slices_and_names_the_client(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    film = bytes(range(256)) * 2**13
    write_container(tmp_path / "library" / "a.h4mk", [film])
    settings = {"trusted_proxies": ("127.0.0.1",), "access_log": True, "allowed_hosts": (TOP,)}
    with (
        running(tmp_path / "library", **settings) as server,
        nginx(tmp_path / "nginx", example(tmp_path), server.address) as proxy,
    ):
        target = json.loads(get(f"{proxy.url}/media", Host=TOP)[2])["items"][0]["range_url"]
        for state in ("MISS", "HIT"):
            status, headers, body = get(
                f"{proxy.url}{target}", Range="bytes=100-299", X_Forwarded_For="6.6.6.6"
            )
            assert (status, body, headers["X-Cache-Status"]) == (206, film[100:300], state)
        assert get(f"{proxy.url}{target}&sig=secret", Range="bytes=0-9")[0] == 206
        status, _, body = get(f"{proxy.url}/metrics")
        assert status == 200
        assert b"harmony4_requests_total" in body
        until(lambda: "/metrics" in (tmp_path / "access.log").read_text(), "nginx's log")
        assert "secret" not in (tmp_path / "access.log").read_text()
        # A refused request has one name in both logs and in the answer.
        status, headers, _ = get(f"{proxy.url}/video/info?name=none.h4mk")
        assert status == 404
        until(lambda: f" {headers['X-Request-Id']}\n" in (tmp_path / "access.log").read_text(), "its name")
    log = capfd.readouterr().err
    assert "127.0.0.1 - - [" in log
    assert "6.6.6.6" not in log
    assert "secret" not in log


@needs_nginx
def test_nginx_lets_nobody_wait_in_vain(tmp_path: Path) -> None:
    """Many ask for the same at once: one fetches what may be kept, and what may not is fetched by each.

    If those waited for each other, nginx would let them go after five seconds.
    """
    film = bytes(range(256)) * 2**12
    write_container(tmp_path / "library" / "a.h4mk", [film])
    with (
        running(tmp_path / "library") as server,
        nginx(tmp_path / "nginx", example(tmp_path), server.address) as proxy,
    ):
        target = json.loads(get(f"{proxy.url}/media")[2])["items"][0]["range_url"]
        for url, fields, states in (
            (f"{target}&n=1", {}, {"MISS", "HIT"}),
            (f"{target}&n=2", {"Authorization": "Bearer x"}, {"BYPASS"}),
            (f"{target}&n=3", {"Cookie": "harmony4_session=x"}, {"BYPASS"}),
            (f"{target}&n=4", {"Cookie": "others=x"}, {"MISS", "HIT"}),
            (f"{target}&masked=1", {}, {"MISS", "HIT"}),
            (f"{target}&masked=0", {}, {"BYPASS"}),
            (f"{target}&sig=x", {}, {"BYPASS"}),
            ("/video/range?name=a.h4mk", {}, {"BYPASS"}),
        ):
            with ThreadPoolExecutor(16) as pool:
                answers = list(
                    pool.map(lambda _, url=url, fields=fields: get(proxy.url + url, **fields), range(16))
                )
            for status, headers, body in answers:
                assert (status, body) == (200, film)
                assert headers["X-Cache-Status"] in states, (url, headers)


@needs_nginx
def test_nginx_passes_events_on_as_they_come(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    with (
        running(tmp_path / "library") as server,
        nginx(tmp_path / "nginx", example(tmp_path), server.address) as proxy,
        socket.create_connection(proxy.address, timeout=30) as one,
    ):
        one.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = b""
        while b"\r\n\r\n" not in said or said.endswith(b"\r\n\r\n"):
            said += one.recv(2**16)
        write_container(tmp_path / "library" / "new.h4mk", [b"x"])
        while b"new.h4mk" not in said:
            piece = one.recv(2**16)
            assert piece
            said += piece


@needs_nginx
def test_nginx_limits_one_client(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    slow = NGINX.replace("rate=200r/s", "rate=1r/s").replace("burst=800", "burst=2")
    assert slow != NGINX
    with (
        running(tmp_path / "library") as server,
        nginx(tmp_path / "nginx", example(tmp_path, slow), server.address) as proxy,
    ):
        found = [get(f"{proxy.url}/health")[0] for _ in range(40)]
    assert found[:3] == [200] * 3
    assert set(found[3:]) == {200, 429} or set(found[3:]) == {429}


def with_tls() -> str:
    """The file with TLS, made by the command of docs/DEPLOYMENT.md."""
    text = (ROOT / "docs" / "DEPLOYMENT.md").read_text("utf-8")
    found = re.search(r"sed -e '(.*?)' -e '(.*?)' ", text)
    assert found
    command = ["sed", "-e", found[1], "-e", found[2], str(DEPLOY / "nginx.conf")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needs_nginx
def test_nginx_redirects_to_tls(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    start = with_tls().index("server {\n    listen 80 default_server;")
    text = with_tls()[start:].partition("\n}\n")[0] + "\n}\n"
    text = text.replace("listen 80 default_server;", "listen 80;")
    text += f"# 127.0.0.1:8000 {tmp_path}/cache /var/cache/nginx/harmony4\n"
    with nginx(tmp_path / "nginx", text, ("127.0.0.1", 1)) as proxy:
        connection = http.client.HTTPConnection(*proxy.address, timeout=30)
        connection.request("GET", "/video/range?name=a.h4mk", headers={"Host": TOP})
        answer = connection.getresponse()
        answer.read()
        connection.close()
    assert answer.status == 308
    assert answer.headers["Location"] == f"https://{TOP}/video/range?name=a.h4mk"


@needs_nginx
def test_nginx_with_tls(tmp_path: Path) -> None:
    """The marks taken away, as docs/DEPLOYMENT.md does it; the redirect is looked at by the test before."""
    write_container(tmp_path / "library" / "a.h4mk", [b"one", b"two"])
    certificate = self_signed(tmp_path)
    redirect, _, text = with_tls().partition("server {\n    listen 80 default_server;")
    text = redirect + text.partition("\n}\n")[2]
    assert text.count("listen ") == 1  # nothing is served without TLS
    text = text.replace("listen 443 ssl;", "listen 80;")
    text = text.replace("/etc/ssl/harmony4", str(tmp_path))
    assert "ssl_protocols" in text
    with (
        running(tmp_path / "library", public_read=True) as server,
        nginx(tmp_path / "nginx", example(tmp_path, text), server.address, tls=True) as proxy,
    ):
        trust = ssl.create_default_context(cafile=str(certificate))

        def get(target: str) -> bytes:
            """The body; every answer says that TLS is to be used from now on, and says it once."""
            with urllib.request.urlopen(f"{proxy.url}{target}", timeout=30, context=trust) as answer:
                assert answer.headers.get_all("Strict-Transport-Security") == ["max-age=31536000"], target
                found: bytes = answer.read()
            return found

        assert json.loads(get("/health")) == {"status": "ok"}
        (item,) = json.loads(get("/media"))["items"]
        for _ in range(2):  # from the server, then from the cache
            assert get(item["range_url"]) == b"onetwo"
        assert get("/video/range?name=a.h4mk") == b"onetwo"
        assert get("/container?name=a.h4mk") == (tmp_path / "library" / "a.h4mk").read_bytes()
        # Also what is refused.
        missing = (f"/{route}?name=none.h4mk" for route in ("video/range", "container", "video/info"))
        for target, status in ((one, 404) for one in missing):
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(target)
            with refused.value as error:
                assert (error.code, error.headers.get_all("Strict-Transport-Security")) == (
                    status,
                    ["max-age=31536000"],
                )


def self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    import ipaddress

    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "fullchain.pem").write_bytes(made.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "privkey.pem").write_bytes(private)
    return folder / "fullchain.pem"


def test_connections_outlast_nginx() -> None:
    """Else nginx sends a request on a connection that the server closes at that very moment."""
    found = re.search(r"upstream .*?keepalive_timeout (\d+)s;", NGINX, re.DOTALL)
    assert found
    assert int(found[1]) < Config().keepalive_timeout
    waits = re.search(r"proxy_read_timeout (\d+)s;", NGINX)
    assert waits
    assert int(waits[1]) > Config().write_timeout


# -- systemd


@needs_systemd
def test_the_unit_is_hardened(tmp_path: Path) -> None:
    done = run_program(
        "systemd",
        *("security", "--offline=true", "--no-pager", "--threshold=20", DEPLOY / "harmony4.service"),
        folder=tmp_path,
    )
    found = re.search(r"exposure level for harmony4\.service: ([\d.]+)", done.out.decode())
    assert found, done.out
    assert float(found[1]) <= 2.0
    assert "Unknown" not in done.err


def test_times_to_stop() -> None:
    """What kills waits for longer than the server takes: its delay, its time-out, and a margin."""
    stop = Config().stop_timeout
    assert int(re.search(r"TimeoutStopSec=(\d+)", UNIT)[1]) >= stop + 10  # type: ignore[index]
    delay = int(re.search(r'HARMONY4_STOP_DELAY: "(\d+)"', COMPOSE)[1])  # type: ignore[index]
    assert int(re.search(r"stop_grace_period: (\d+)s", COMPOSE)[1]) >= stop + delay + 10  # type: ignore[index]


# -- the image


def settings_of(words: list[str]) -> Config:
    return load_config(environ=dict(word.split("=", 1) for word in words if word.startswith("HARMONY4_")))


def test_settings_that_are_given_exist() -> None:
    image = settings_of(shlex.split(" ".join(re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE))))
    assert image.public_read
    assert str(image.state) == "/state"
    compose = dict(re.findall(r"^      (HARMONY4_\w+): \"?(?:\$\{\w+:-)?([^\"}\n]*)", COMPOSE, re.MULTILINE))
    assert settings_of([f"{key}={value}" for key, value in compose.items()]).trusted_proxies == ("127.0.0.1",)
    (named,) = re.findall(r"^EnvironmentFile=/etc/harmony4/(.*)$", UNIT, re.MULTILINE)
    unit = settings_of(shlex.split((DEPLOY / named).read_text("utf-8"), comments=True))
    assert str(unit.cache) == f"/var/cache/{re.findall('^CacheDirectory=(.*)$', UNIT, re.MULTILINE)[0]}"
    assert str(unit.state) == f"/var/lib/{re.findall('^StateDirectory=(.*)$', UNIT, re.MULTILINE)[0]}"
    assert f"serve {unit.library} " in UNIT


def test_the_page_from_nothing_to_tls(tmp_path: Path) -> None:
    """Of its commands: the settings that they write are valid, and all files that they name are there."""
    page = (ROOT / "docs" / "DEPLOYMENT.md").read_text("utf-8")
    commands = page.split("## From a bare Debian to TLS", 1)[1]
    commands = commands.split("```sh\nuseradd", 1)[1].split("```", 1)[0]
    added = re.search(r"<<'END'\n(.*?)^END$", commands, re.MULTILINE | re.DOTALL)
    assert added
    file = tmp_path / "harmony4.toml"
    file.write_text((DEPLOY / "harmony4.toml").read_text("utf-8") + added[1], "utf-8")
    config = load_config(file=file)
    assert (config.mode, config.trusted_proxies) == ("public_read", ("127.0.0.1",))
    named = re.findall(r"deploy/[\w.]+|requirements\.lock", commands)
    assert len(named) >= 4
    assert all((ROOT / one).exists() for one in named)
    done = subprocess.run(["bash", "-n", "-c", commands], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def lint(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "Dockerfile").write_text(text, "utf-8")
    command = [Path(sys.executable).with_name("hadolint"), "--no-color", folder / "Dockerfile"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    done = lint(DOCKERFILE, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # And it would: a version that is not named, a shell form, a package index left behind.
    done = lint("FROM python\nRUN apt-get install curl\nCMD harmony4 serve\n", tmp_path)
    assert done.returncode == 1
    assert {"DL3006", "DL3008", "DL3025"} <= set(re.findall(r"DL\d+", done.stdout))


def check_compose(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "compose.yaml").write_text(text, "utf-8")
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run(
        [*command, folder / "compose.yaml"], capture_output=True, text=True, timeout=60, check=False
    )


def test_compose_is_what_the_schema_of_compose_takes(tmp_path: Path) -> None:
    done = check_compose(COMPOSE, tmp_path)
    assert done.returncode == 0, done.stdout
    done = check_compose(COMPOSE.replace("read_only:", "readonly:"), tmp_path)
    assert done.returncode == 1
    assert "readonly" in done.stdout


def test_what_else_is_asked_of_the_dockerfile() -> None:
    lines = DOCKERFILE.replace("\\\n", " ").splitlines()
    words = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    bases = [rest.split()[0] for name, rest in words if name == "FROM"]
    assert len(bases) == 2  # what builds is not what runs
    for base in bases:
        assert re.fullmatch(r"python:3\.\d+-slim-\w+", base)  # a version, never `latest`
    assert [rest for name, rest in words if name == "USER"] == ["10001:10001"]
    order = [name for name, _ in words]
    assert order.index("USER") > len(order) - 1 - order[::-1].index("RUN")  # nothing runs as root after it
    text = "\n".join(f"{name} {rest}" for name, rest in words)
    for never in ("curl", "wget", "apt-get", "sudo", "ADD ", "chmod 777", "pip install -U"):
        assert never not in text, never
    for name, rest in words:
        if name == "CMD":
            assert json.loads(rest)[0] == "/opt/harmony4/bin/harmony4"
        if name == "HEALTHCHECK":
            assert json.loads(rest.split("CMD", 1)[1])[0].startswith("/opt/harmony4/bin/python")
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in (ROOT / ".dockerignore").read_text().splitlines()
    assert "--require-hashes" in text


def test_compose_keeps_what_it_promises() -> None:
    for each in COMPOSE.split("\n  nginx:\n"):
        assert "read_only: true" in each
        assert "cap_drop: [ALL]" in each
        assert "no-new-privileges:true" in each
        assert "mem_limit:" in each
        assert "pids_limit:" in each
    assert "condition: service_healthy" in COMPOSE


def test_the_unit_is_started_again_however_often_it_failed() -> None:
    head = UNIT.split("[Unit]\n", 1)[1].split("\n[", 1)[0].splitlines()
    assert {"StartLimitIntervalSec=0", "RequiresMountsFor=/srv/media"} <= {*head}
