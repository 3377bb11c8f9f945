"""Programs that others wrote, run against a server: to their end, or beside a test.

    done = run_program("curl", "-sf", server.url, folder=tmp_path)
    with nginx(tmp_path, documented("## Behind nginx"), server.address) as proxy:
        ...

They get an environment of their own: no settings of the user's, no proxies, messages in English.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from needs import ROOT, program

ROOM: Final = 60
"""Seconds that any program may take here."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    status: int
    out: bytes
    err: str


def environment(folder: Path) -> dict[str, str]:
    """What a program gets to see: a home without settings, and nothing of ours."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8"}


def command(marker: str, *arguments: object) -> list[str]:
    """A command line that starts the program behind a marker of `needs.PROGRAMS`."""
    found = program(marker)
    assert found is not None
    return [found, *map(str, arguments)]


def run_program(
    marker: str, *arguments: object, folder: Path, status: int | None = 0, feed: bytes | None = None
) -> Ended:
    """Run a program in `folder`; it must end with `status` (None: with any). `feed` comes through a pipe."""
    done = subprocess.run(
        command(marker, *arguments),
        cwd=folder,
        env=environment(folder),
        **({"stdin": subprocess.DEVNULL} if feed is None else {"input": feed}),
        capture_output=True,
        timeout=ROOM,
        check=False,
    )
    ended = Ended(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
    assert status is None or ended.status == status, ended.err
    return ended


def documented(heading: str, language: str = "nginx") -> list[str]:
    """The examples below a heading of docs/DEPLOYMENT.md, as they are printed there."""
    text = (ROOT / "docs" / "DEPLOYMENT.md").read_text(encoding="utf-8")
    section = text.split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


@dataclass
class Proxy:
    """An nginx that runs."""

    url: str
    """Without a slash at the end."""
    address: tuple[str, int]
    folder: Path
    process: subprocess.Popen[Any]
    _start: Callable[[], subprocess.Popen[Any]]

    def reload(self) -> None:
        """What `nginx -s reload` does: other workers take over, and the old ones finish."""
        self.process.send_signal(signal.SIGHUP)

    def restart(self, patience: float) -> None:
        """What a service manager does: ask it to finish, end it if it takes too long, start it anew."""
        self.process.send_signal(signal.SIGQUIT)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            _end(self.process)
        self.process = self._start()

    @property
    def errors(self) -> str:
        """What it has logged so far."""
        return (self.folder / "error.log").read_text()


@contextmanager
def nginx(
    folder: Path, text: str, upstream: tuple[str, int], *, tls: bool = False, connections: int = 64
) -> Iterator[Proxy]:
    """Run nginx with the example `text` (a `server` block and what stands around it) until the block is left.

    The example's addresses and folder are put right: it listens on a free port of loopback, asks `upstream`,
    and caches below `folder`. It inherits a socket that listens already: nobody has to wait for it.
    """
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        for old, new in (
            ("listen 80;", f"listen {address[0]}:{address[1]}{' ssl' * tls};"),
            ("127.0.0.1:8000", f"{upstream[0]}:{upstream[1]}"),
            ("/var/cache/nginx/harmony4", str(folder / "cache")),
        ):
            assert old in text, old
            text = text.replace(old, new)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        lines = [
            "daemon off; worker_processes 1; pid nginx.pid; error_log error.log info;",
            "user root;" if os.geteuid() == 0 else "",  # else nobody's workers cannot enter the folder
            f"events {{ worker_connections {connections}; }}",
            "http { access_log off;",
            *(f"{kind}_temp_path {kind};" for kind in kinds),
            f"{text} }}",
        ]
        (folder / "nginx.conf").write_text("\n".join(lines))

        def start() -> subprocess.Popen[Any]:
            with (folder / "out").open("ab") as out:
                return subprocess.Popen(
                    command("nginx", "-p", folder, "-e", "error.log", "-c", folder / "nginx.conf"),
                    env={**environment(folder), "NGINX": f"{listener.fileno()};"},
                    pass_fds=(listener.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                )

        url = f"http{'s' * tls}://{address[0]}:{address[1]}"
        proxy = Proxy(url, address, folder, start(), start)
        try:
            yield proxy
            assert proxy.process.poll() is None, (folder / "out").read_text()
        finally:
            _end(proxy.process)


def _end(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)  # its workers leave with it
    try:
        process.wait(ROOM)
    finally:
        process.kill()
