"""The servers that are compared: ours as shipped, nginx, and what else a user of Python would pick.

Each is one process (nginx: with the master that waits) on the first core; what asks them runs on the last.
All of them listen on 127.0.0.1 and write a line per request into an access log.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.measure import ROOT, harmony4, quietly, tree

STARTING = 20
"""Seconds that a server gets until it accepts connections."""

NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  types {{ video/mp4 mp4; }}
  default_type application/octet-stream;
  access_log {log} combined buffer=64k flush=1s;
  keepalive_requests 100000000;  # the others do not count either
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  {options}
  server {{
    listen 127.0.0.1:{port};
    root {folder};
    {place}
  }}
}}
"""
SENDFILE = "sendfile on;"
"""Without `tcp_nopush`, which makes nginx hold the end of a range back for 40 ms on a kept connection."""
BEST = (
    "sendfile off; output_buffers 1 1m; open_file_cache max=1000 inactive=600s; open_file_cache_valid 600s;"
)
MP4 = "location / { mp4; mp4_buffer_size 1m; mp4_max_buffer_size 128m; }"
"""Its own limit of 10 MiB is too small for the sample tables of ten hours."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def cpu(self) -> float:
        """CPU seconds that its processes have used."""
        ticks = 0
        for pid in tree(self.process.pid):
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
                ticks += sum(int(one) for one in text.rpartition(")")[2].split()[11:13])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self, *, alone: bool = False) -> dict[str, int]:
        """Bytes of `VmRSS`, `RssAnon`, `RssFile`: summed over its processes, or of the first one `alone`."""
        found = {"VmRSS": 0, "RssAnon": 0, "RssFile": 0}
        for pid in [self.process.pid] if alone else tree(self.process.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
                    key, _, value = line.partition(":")
                    if key in found:
                        found[key] += int(value.split()[0]) * 1024
        return found

    def disk(self) -> int:
        """Bytes that its processes have had fetched from the disk."""
        total = 0
        for pid in tree(self.process.pid):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))
        return total


def cores() -> tuple[int, int] | None:
    """The core for servers and the one for what asks them; None where there is only one."""
    able = sorted(os.sched_getaffinity(0))
    return (able[0], able[-1]) if len(able) > 1 else None


def nginx_program() -> str | None:
    """It lives in sbin, which is not on everybody's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin")


def installed(module: str) -> bool:
    """Whether a peer is there (`make bench` installs tests/bench/requirements.txt)."""
    return importlib.util.find_spec(module) is not None


@contextlib.contextmanager
def ours(library: Path, home: Path, core: int, *options: str) -> Iterator[Server]:
    """`harmony4 serve` as a user starts it, with its access log in a file."""
    command = [harmony4(), "serve", os.fspath(library), "--port", "0", "--json", "--access-log", *options]
    with _python("ours", command, home, core) as server:
        yield server


@contextlib.contextmanager
def everywhere(library: Path, home: Path) -> Iterator[Server]:
    """`harmony4 serve` on all cores."""
    command = [harmony4(), "serve", os.fspath(library), "--port", "0", "--json", "--access-log"]
    with _python("ours", command, home, None) as server:
        yield server


@contextlib.contextmanager
def own(module: str, library: Path, home: Path, core: int, way: str) -> Iterator[Server]:
    """A server of ours that a module of these benchmarks starts another way."""
    command = [sys.executable, "-P", "-m", module, way, os.fspath(library)]
    with _python(way, command, home, core) as server:
        yield server


@contextlib.contextmanager
def peer(kind: str, folder: Path, home: Path, core: int, *more: str) -> Iterator[Server]:
    """A program of `peers.py`."""
    command = [sys.executable, "-P", "-m", "bench.peers", kind, os.fspath(folder), *more]
    with _python(kind, command, home, core) as server:
        yield server


@contextlib.contextmanager
def _python(name: str, command: Sequence[str], home: Path, core: int | None) -> Iterator[Server]:
    """A program that says in JSON, in its first line, where it listens. `core`: None for all of them."""
    log = home / f"{name}.log"
    tests = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": os.fspath(tests)}
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            preexec_fn=(lambda: os.sched_setaffinity(0, {core})) if core is not None else None,
        )
    with quietly(process):
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {name} did not start: {log.read_text(errors='replace')[-2000:]}")
        port = int(str(json.loads(line)["url"]).rstrip("/").rpartition(":")[2])
        yield Server(name, port, process, log)


@contextlib.contextmanager
def nginx(name: str, folder: Path, home: Path, core: int, options: str, place: str = "") -> Iterator[Server]:
    """nginx with one worker. It cannot take any free port and tell, so one is looked for before."""
    program = nginx_program()
    assert program is not None
    home = home / name
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    log = home / "access.log"
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker may not read what belongs to root
    text = NGINX.format(user=user, home=home, log=log, options=options, port=port, folder=folder, place=place)
    text = text.replace("@inner@", str(port))  # of an nginx that asks itself
    (home / "nginx.conf").write_text(text, encoding="utf-8")
    command = [program, "-p", os.fspath(home), "-c", "nginx.conf", "-e", os.fspath(home / "error.log")]
    with (home / "output").open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, preexec_fn=lambda: os.sched_setaffinity(0, {core})
        )
    with quietly(process):
        until = time.monotonic() + STARTING
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    why = (home / "output").read_text() + (home / "error.log").read_text()
                    raise SystemExit(f"error: nginx did not start: {why[-2000:]}") from None
                time.sleep(0.05)
        yield Server(name, port, process, log)


@contextlib.contextmanager
def behind(
    name: str, folder: Path, home: Path, core: int, upstream: int | None, *, keep: bool
) -> Iterator[Server]:
    """nginx with `deploy/nginx.conf` before the server at a port of loopback.

    Without one it stands before itself, which serves what lies in `folder` under the same URLs: what these
    settings cost where the bytes cost nothing. `keep`: whether its cache keeps slices. It limits nobody: all
    clients have one address here.
    """
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    inner = "@inner@"
    text = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
    for old, new in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("127.0.0.1:8000", f"127.0.0.1:{upstream or inner}"),
        ("/var/cache/nginx/harmony4", os.fspath(home / name / "cache")),
        ("/var/log/nginx/harmony4.log", os.fspath(home / name / "front.log")),
        ("rate=200r/s", "rate=10000000r/s"),
        ("rate=50r/s", "rate=10000000r/s"),
        ("burst=800", "burst=100000"),
        ("burst=200", "burst=100000"),
        ("limit_conn harmony4_clients 64;", "limit_conn harmony4_clients 10000;"),
    ):
        if old not in text:
            raise SystemExit(f"error: deploy/nginx.conf has no {old!r} any more")
        text = text.replace(old, new)
    if not keep:
        text = text.replace("proxy_cache harmony4;", "proxy_cache off;")
    place = "location /video/range { rewrite ^ /$arg_name break; }"
    with nginx(name, folder, home, core, text, place) as server:
        yield replace(server, port=port, log=home / name / "front.log")
