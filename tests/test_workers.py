"""Several processes on one socket: they answer, drain, are replaced, and leave with their parent."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import termios
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest

from commands import HARMONY4, refused, run
from harmony4.server.serving import workers
from processes import Line, Served, alive, needs_proc, served, until
from serving import LOOPS, write_container

pytestmark = needs_proc
each_loop = pytest.mark.parametrize("loop", LOOPS)

FILM = random.Random(3).randbytes(2**20)
BLOCKS = 24
RANGE = "/video/range?name=film.h4mk"
MEDIA = b"1\n00:00:00,000 --> 00:00:01,000\nhello\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with a film of 24 MiB: more than the buffers on the way hold."""
    folder = tmp_path_factory.mktemp("library")
    write_container(folder / "film.h4mk", [FILM] * BLOCKS)
    return folder


def begin(server: Served) -> Line:
    """A film that has begun, on a connection that takes no more of it for now."""
    line = server.connect(small=True)
    line.ask(RANGE)
    status, headers = line.head()
    assert (status, headers["content-length"]) == (200, str(BLOCKS * 2**20))
    return line


def finish(line: Line) -> bool:
    """Take the rest; whether it was all there."""
    return line.body(BLOCKS * 2**20) == FILM * BLOCKS


@each_loop
def test_each_worker_answers(library: Path, loop: str) -> None:
    with served(library, "--workers", 3, loop=loop) as server:
        found = server.workers()
        assert len(found) == 3
        for worker in found:
            with server.only(worker):
                assert server.get("/health")[0] == 200
                assert server.get(f"{RANGE}&track=1")[0] == 404
        assert server.workers() == found
        assert server.stop() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("count", [1, 2])
@each_loop
def test_an_answer_survives_the_end(library: Path, loop: str, count: int, number: int) -> None:
    with served(library, "--workers", count, loop=loop) as server:
        lines = [begin(server) for _ in range(4)]
        server.process.send_signal(number)
        until(server.refuses, "the end of listening")
        for line in lines:
            assert finish(line)
            assert line.body(1) == b""
            line.close()
        assert server.process.wait(30) == 0
        assert server.process.stderr.read() == b""


@pytest.mark.parametrize("count", [1, 2])
@each_loop
def test_a_conversation_is_not_broken_off(library: Path, tmp_path: Path, loop: str, count: int) -> None:
    """Half a request is a request; one who talks is told to stop talking; one who is silent is left alone."""
    # Longer than this test may be held up between two requests.
    code = "import harmony4.server.serving.acceptor as acceptor; acceptor.GRACE = 2.0\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    with served(library, "--workers", count, loop=loop, path=str(tmp_path)) as server:
        half, silent, talking, fresh, stream = (server.connect() for _ in range(5))
        for line in (half, silent, talking):
            assert line.get("/health")[0] == 200
        stream.close()
        stream = begin(server)  # holds the end off until everything has been looked at
        half.send(b"GET /health HTTP/1.1\r\nHo")
        server.process.send_signal(signal.SIGTERM)
        answers = []
        while not answers or answers[-1][1].get("connection") != "close":
            talking.ask("/ready")
            answers.append(talking.answer())
        assert {status for status, _, _ in answers[:-1]} <= {200}
        assert answers[-1][0] == 503
        assert b"urn:harmony4:problem:stopping" in answers[-1][2]
        assert talking.body(1) == b""
        until(server.refuses, "the end of listening")
        assert silent.body(1) == b""  # closed, not reset
        assert fresh.body(1) == b""
        half.send(b"st: localhost\r\n\r\n")
        status, headers, body = half.answer()
        assert (status, headers["connection"], body) == (200, "close", b'{"status": "ok"}')
        assert finish(stream)
        assert server.process.wait(30) == 0
        for line in (half, silent, talking, fresh, stream):
            line.close()


@each_loop
def test_a_player_is_told_in_the_express_lane_too(library: Path, tmp_path: Path, loop: str) -> None:
    """Requests that are answered without aiohttp's machinery end their connection like the others."""
    code = "import harmony4.server.serving.acceptor as acceptor; acceptor.GRACE = 2.0\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    with served(library, "--workers", 2, loop=loop, path=str(tmp_path)) as server, server.connect() as line:
        asked, closing = 0, False
        while not closing:
            start = asked * 1000 % 2**19
            line.ask(RANGE, f"Range: bytes={start}-{start + 99}")
            status, headers, body = line.answer()
            assert (status, body) == (206, FILM[start : start + 100])
            closing = headers.get("connection") == "close"
            asked += 1
            if asked == 50:
                server.process.send_signal(signal.SIGTERM)
        assert asked > 50
        assert line.body(1) == b""
        assert server.process.wait(30) == 0


@each_loop
def test_connections_that_wait_are_served_at_the_end(library: Path, loop: str) -> None:
    """What the kernel has accepted for a server that stops gets its answer."""
    with served(library, "--workers", 2, loop=loop) as server:
        found = server.workers()
        for pid in found:
            os.kill(pid, signal.SIGSTOP)
        lines = [server.connect() for _ in range(50)]
        for line in lines:
            line.ask("/health")
        server.process.send_signal(signal.SIGTERM)
        for pid in found:
            os.kill(pid, signal.SIGCONT)
        assert {line.answer()[0] for line in lines} == {200}
        for line in lines:
            line.close()
        assert server.process.wait(30) == 0


@pytest.mark.parametrize("count", [1, 2])
@each_loop
def test_a_client_that_takes_nothing_holds_nobody_up(library: Path, loop: str, count: int) -> None:
    with (
        served(library, "--workers", count, loop=loop, HARMONY4_STOP_TIMEOUT="0.2") as server,
        begin(server) as line,
    ):
        assert server.stop() == (0, "")
        try:
            assert not finish(line)
        except ConnectionResetError:
            pass


@each_loop
def test_a_worker_that_is_killed_is_replaced(library: Path, loop: str) -> None:
    with served(library, "--workers", 2, loop=loop) as server:
        doomed, other = server.workers()
        with server.only(doomed):
            lost = begin(server)
        with server.only(other):
            kept = begin(server)
        os.kill(doomed, signal.SIGKILL)
        until(lambda: len({*server.workers()} - {doomed}) == 2, "the replacement")
        try:
            assert not finish(lost)
        except ConnectionResetError:
            pass
        assert finish(kept)
        (successor,) = {*server.workers()} - {other}
        with server.only(successor):
            assert server.get("/health")[0] == 200
        for line in (lost, kept):
            line.close()
        status, err = server.stop()
        assert status == 0
        assert err.count("\n") == 1, err
        assert "SIGKILL; another one takes its place" in err


def test_no_connection_is_refused_while_workers_are_replaced(library: Path) -> None:
    with served(library, "--workers", 2) as server:
        lost = 0
        for number in range(400):
            if number % 100 == 50:
                for pid in server.workers():  # all of them: nobody is there to accept
                    os.kill(pid, signal.SIGKILL)
            with server.connect() as line:  # raises if it is refused
                try:
                    assert line.get("/health")[0] == 200
                except (ConnectionError, EOFError):
                    lost += 1  # accepted by a worker in the moment of its death
        assert lost <= 8
        assert server.stop()[0] == 0


@each_loop
def test_a_worker_that_is_asked_to_leave_finishes_first(library: Path, loop: str) -> None:
    """SIGTERM to a worker: its answers end, another one takes its place, the server goes on."""
    with served(library, "--workers", 2, loop=loop) as server:
        leaving, other = server.workers()
        with server.only(leaving):
            line = begin(server)
        os.kill(leaving, signal.SIGTERM)
        until(lambda: len(server.workers()) == 3, "its successor")
        assert finish(line)
        line.close()
        until(lambda: not alive(leaving), "its end")
        assert other in server.workers()
        assert server.get("/health")[0] == 200
        assert server.stop() == (0, "")


@each_loop
def test_workers_end_with_their_parent(library: Path, loop: str) -> None:
    """Nobody told them: they notice, finish what runs and are gone, and so is the socket."""
    with served(library, "--workers", 2, loop=loop) as server:
        found = server.workers()
        with begin(server) as line:
            server.process.kill()
            server.process.wait(30)
            until(server.refuses, "the end of listening")
            assert finish(line)
        until(lambda: not any(alive(pid) for pid in found), "the end of the workers")


def test_a_worker_that_hangs_is_killed(library: Path, tmp_path: Path) -> None:
    """One that does not even leave when asked (it stands still here) does not hold up the end for ever."""
    code = "import harmony4.server.serving.workers as w; w.MARGIN = 0.1\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    with served(library, "--workers", 2, path=str(tmp_path), HARMONY4_STOP_TIMEOUT="0.1") as server:
        found = server.workers()
        os.kill(found[0], signal.SIGSTOP)
        status, err = server.stop()
        assert status == 0
        assert "did not leave in time" in err
        assert not any(alive(pid) for pid in found)


def in_a_worker(folder: Path, code: str) -> dict[str, str]:
    """The environment in which every worker runs `code` before anything else."""
    lines = ["import os, sys", 'if "harmony4.server.serving.worker" in sys.orig_argv:', f"    {code}"]
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    return os.environ | {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os._exit(7)", ["the workers do not start", "status 7"]),
        ("os.kill(os.getpid(), 9)", ["the workers do not start", "SIGKILL"]),
        ("sys.modules['aiohttp.web_protocol'] = None", ["the workers do not start", "web_protocol"]),
    ],
)
def test_workers_that_cannot_start(library: Path, tmp_path: Path, code: str, words: list[str]) -> None:
    refused(run("serve", library, "--port", 0, "--workers", 2, env=in_a_worker(tmp_path, code)), *words)


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    refused(run("serve", tmp_path / "none", "--port", 0, "--workers", 2), "No such file")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(run("serve", tmp_path, "--port", port, "--workers", 2), "port")


def test_workers_that_cannot_start_any_more(tmp_path: Path) -> None:
    """A worker that dies at its start again and again ends the server, after a few tries."""
    root = tmp_path / "library"
    write_container(root / "a.h4mk", [b"x"])
    with served(root, "--workers", 2) as server:
        doomed, _ = server.workers()
        shutil.rmtree(root)
        os.kill(doomed, signal.SIGKILL)
        _, err = server.process.communicate(timeout=60)
        *tries, last = err.decode().splitlines()
        assert server.process.returncode == 1
        assert len(tries) == workers.PATIENCE
        assert re.fullmatch("error: the workers do not start: cannot read the library: No such file.*", last)


def test_one_worker_for_each_processor(library: Path) -> None:
    assert workers.count(0) >= 1
    with served(library, "--workers", 0) as server:
        wanted = workers.count(0)
        assert len(server.workers()) == (wanted if wanted > 1 else 0)
        assert server.get("/health")[0] == 200


def test_other_ways_to_say_it(library: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('[server]\nworkers = 2\nhost = "::1"\n')
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        (tmp_path / "settings.toml").write_text("[server]\nworkers = 2\n")
    with served(library, "--config", tmp_path / "settings.toml") as server:
        assert len(server.workers()) == 2
        assert server.get("/health")[0] == 200
    with served(library, HARMONY4_WORKERS="2") as server:
        assert len(server.workers()) == 2


def test_the_folder_is_the_one_of_the_start(library: Path, tmp_path: Path) -> None:
    """A worker that is started later serves the same folder, wherever a link leads by then."""
    write_container(tmp_path / "other" / "b.h4mk", [b"x"])
    (tmp_path / "link").symlink_to(library)
    with served(tmp_path / "link", "--workers", 2) as server:
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to(tmp_path / "other")
        before = server.workers()
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(server.workers()) == 2 and before[0] not in server.workers(), "the replacement")
        (successor,) = {*server.workers()} - {*before}
        with server.only(successor):
            assert server.get("/video/info?name=film.h4mk")[0] == 200


def test_access_lines_stay_whole(library: Path) -> None:
    """Whatever clients send, a line of one worker never stands inside another's, and none is endless."""
    sizes = (10, 1000, 3000, 7000)
    with served(library, "--workers", 2, "--access-log") as server:

        def talk(number: int) -> None:
            with server.connect() as line:
                for turn in range(40):
                    agent = f"<{number}.{turn}." + "x" * sizes[turn % 4] + ">"
                    line.ask("/health", f"User-Agent: {agent}")
                    assert line.answer()[0] == 200

        with ThreadPoolExecutor(5) as pool:
            drained = pool.submit(server.process.stderr.read)
            list(pool.map(talk, range(6), timeout=60))
            server.process.terminate()
            lines = drained.result(30).decode().splitlines()
    seen = set()
    for line in lines:
        assert len(line) < 4096
        found = re.fullmatch(
            r'\S+ - - \[[^]]+\] "GET /health HTTP/1.1" 200 \d+ "-" "<(\d)\.(\d+)\.x+(>" [0-9.]+| \.\.\.)',
            line,
        )
        assert found, line
        assert found[3].startswith(">") == (int(found[2]) % 4 < 3)
        seen.add((int(found[1]), int(found[2])))
    assert seen == set(itertools.product(range(6), range(40)))


def test_sighup_brings_new_settings_and_cuts_nobody_off(library: Path, tmp_path: Path) -> None:
    file = tmp_path / "harmony4.toml"
    file.write_text("[server]\nstop_timeout = 60\n")

    def status(server: Served, host: str) -> int:
        with server.connect() as line:
            line.send(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            return line.answer()[0]

    log = tmp_path / "log"
    with log.open("wb") as out, served(library, "--workers", 2, "--config", file, log=out) as server:
        before = server.workers()
        with begin(server) as film:
            assert status(server, "new.example") == 421
            file.write_text(
                '[server]\nstop_timeout = 60\nallowed_hosts = ["new.example"]\nhost = "0.0.0.0"\n'
            )
            server.process.send_signal(signal.SIGHUP)
            until(lambda: len(set(server.workers()) - set(before)) == 2, "two new workers")
            until(lambda: status(server, "new.example") == 200, "the new settings")
            assert finish(film)
        until(lambda: not set(server.workers()) & set(before), "the old ones' end")
        after = server.workers()
        file.write_text("[server]\nport = 'none'\n")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: b"the settings stay as they are" in log.read_bytes(), "looking at them")
        assert status(server, "new.example") == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert b"the settings were read anew" in log.read_bytes()
    assert len(after) == 2


@contextmanager
def being_replaced(
    library: Path, tmp_path: Path, how: str, delay: int, count: int
) -> Iterator[tuple[Served, list[Line]]]:
    """A worker that is on its way out and has `count` connections that it will not close for a while."""
    # Longer than the test may be held up between two requests.
    code = "import harmony4.server.serving.acceptor as acceptor; acceptor.GRACE = 5.0\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    settings = {"path": str(tmp_path), "HARMONY4_STOP_DELAY": str(delay)}
    with served(library, "--workers", 2, **settings) as server, ExitStack() as stack:
        worker = server.workers()[0]
        with server.only(worker):
            stream = begin(server)  # its end is held off until all is looked at
            lines = [stack.enter_context(server.connect()) for _ in range(count + 1)]
            assert all(line.get("/ready")[0] == 200 for line in lines)
        if how == "SIGHUP":
            server.process.send_signal(signal.SIGHUP)
        else:
            os.kill(worker, signal.SIGTERM)
        for line in itertools.cycle(list(lines)):  # nobody is silent meanwhile
            line.ask("/ready")
            status, said, _ = line.answer()
            assert status == 200
            if said.get("connection") == "close":
                break
        lines.remove(line)
        yield server, lines
        assert finish(stream)
        stream.close()


@pytest.mark.parametrize(("how", "delay"), [("SIGHUP", 1), ("SIGTERM to the worker", 0)])
def test_a_worker_that_is_replaced_does_all_it_did(
    library: Path, tmp_path: Path, how: str, delay: int
) -> None:
    """Who has a connection to it that was open before is not told that the server stops: it goes on."""
    with being_replaced(library, tmp_path, how, delay, 1) as (_, [line]):
        head = f"POST /video/export HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(MEDIA)}\r\n\r\n"
        line.send(head.encode() + MEDIA)
        status, said, body = line.answer()
        assert (status, said["connection"], body[:4]) == (200, "close", b"H4MK"), body


def test_a_worker_that_is_replaced_hears_that_the_server_stops(library: Path, tmp_path: Path) -> None:
    with being_replaced(library, tmp_path, "SIGHUP", 0, 5) as (server, lines):
        server.process.send_signal(signal.SIGTERM)
        until(server.refuses, "the end of listening")
        assert 503 in [line.get("/ready")[0] for line in lines]


def test_settings_that_workers_cannot_start_with(library: Path, tmp_path: Path) -> None:
    """They change nothing: the same workers go on, and successors have the settings of before."""
    file, log = tmp_path / "harmony4.toml", tmp_path / "log"
    good = '[server]\nallowed_hosts = ["localhost"]\n'
    file.write_text(good)
    wrong = good.replace("localhost", "new.example") + f'keyring = "{tmp_path}/none"\n'
    with log.open("wb") as out, served(library, "--workers", 2, "--config", file, log=out) as server:
        before = server.workers()
        for turn in (1, 2):
            file.write_text(wrong)
            server.process.send_signal(signal.SIGHUP)
            until(lambda turn=turn: log.read_bytes().count(b"the settings stay as they are: ") == turn, "no")
            until(lambda: server.workers() == before, "the end of the new ones")
            assert server.get("/health")[0] == 200
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(server.workers()) == 2 and before[0] not in server.workers(), "the replacement")
        (successor,) = {*server.workers()} - {*before}
        with server.only(successor):
            assert server.get("/health")[0] == 200  # and not 421
        file.write_text(good.replace("localhost", "127.0.0.1"))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: b"the settings were read anew" in log.read_bytes(), "settings that are right")
        until(lambda: not {*server.workers()} & {before[1], successor}, "the old ones' end")
        assert len(server.workers()) == 2
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_sighup_ends_no_worker(library: Path, tmp_path: Path) -> None:
    """Whoever goes by names sends it to all of them, also to those that are being born."""
    environment = in_a_worker(tmp_path, "import signal; os.kill(os.getpid(), signal.SIGHUP)")
    log = tmp_path / "log"
    path = environment["PYTHONPATH"]
    with log.open("wb") as out, served(library, "--workers", 2, path=path, log=out) as server:
        before = server.workers()
        for pid in before:
            os.kill(pid, signal.SIGHUP)
        for pid in before:
            with server.only(pid):
                assert server.get("/health")[0] == 200
        assert server.workers() == before
    assert log.read_bytes() == b""


@pytest.mark.parametrize("number", [1, 2])
def test_sighup_while_the_server_starts(library: Path, tmp_path: Path, number: int) -> None:
    """It ends nothing, and what it asks for is done when there is somebody to do it."""
    lines = [
        "import os, signal, sys",
        "class Hook:",
        "    def find_spec(self, name, path=None, target=None):",
        '        if name == "aiohttp":',
        "            sys.meta_path.remove(self)",
        "            os.kill(os.getpid(), signal.SIGHUP)",
        'if "serve" in sys.orig_argv:',
        "    sys.meta_path.insert(0, Hook())",
    ]
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    log = tmp_path / "log"
    said = [b"this server goes on with what it has", b"the settings were read anew"][number - 1]
    with (
        log.open("wb") as out,
        served(library, "--workers", number, path=str(tmp_path), log=out) as server,
    ):
        until(lambda: said in log.read_bytes(), "what it asks for")
        assert server.get("/health")[0] == 200


def test_sighup_on_one_processor(library: Path, tmp_path: Path) -> None:
    """`workers = 0` has a parent there, too."""
    file = tmp_path / "harmony4.toml"
    file.write_text("[server]\nworkers = 0\n")
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    try:
        with served(library, "--config", file) as server:
            (before,) = server.workers()
            server.process.send_signal(signal.SIGHUP)
            until(lambda: before not in server.workers() and len(server.workers()) == 1, "another worker")
            assert server.get("/health")[0] == 200
    finally:
        os.sched_setaffinity(0, mine)


def test_sighup_ends_no_server_of_one_process(library: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out, served(library, log=out) as server:
        server.process.send_signal(signal.SIGHUP)
        until(lambda: b"this server goes on with what it has" in log.read_bytes(), "saying so")
        assert server.get("/health")[0] == 200


@contextmanager
def at_a_terminal(library: Path, count: int, log: IO[bytes], hangup: object) -> Iterator[tuple[Served, int]]:
    """A server that a terminal of its own started, and the descriptor of the terminal's other side.

    `hangup` is what it does about SIGHUP before it says otherwise.
    """

    def begin() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, hangup)  # type: ignore[arg-type]

    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [str(HARMONY4), "serve", str(library), "--port", "0", "--json", "--workers", str(count)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
        preexec_fn=begin,
    )
    os.close(theirs)
    try:
        assert process.stdout is not None
        yield Served(process, json.loads(process.stdout.readline())["url"]), ours
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("count", [1, 2])
def test_the_terminal_is_closed(library: Path, tmp_path: Path, count: int) -> None:
    """The server ends with it as politely as by SIGTERM."""
    log = tmp_path / "log"
    with log.open("wb") as out, at_a_terminal(library, count, out, signal.SIG_DFL) as (server, terminal):
        workers = server.workers()
        with begin(server) as line:
            os.close(terminal)
            until(server.refuses, "the end of listening")
            assert finish(line)
        assert server.process.wait(60) == 0
        until(lambda: not any(map(alive, workers)), "the workers' end")
    assert log.read_bytes() == b""


@pytest.mark.parametrize("count", [1, 2])
def test_nohup_at_a_terminal(library: Path, tmp_path: Path, count: int) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out, at_a_terminal(library, count, out, signal.SIG_IGN) as (server, terminal):
        os.close(terminal)
        server.process.send_signal(signal.SIGHUP)
        (line,) = re.findall(r"SigIgn:\t(\w+)", Path(f"/proc/{server.process.pid}/status").read_text())
        assert int(line, 16) & 1 << signal.SIGHUP - 1
        assert server.get("/health")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert log.read_bytes() == b""


def test_the_parents_log_follows_the_settings(library: Path, tmp_path: Path) -> None:
    file, log = tmp_path / "harmony4.toml", tmp_path / "log"
    file.write_text("[server]\n")
    with log.open("wb") as out, served(library, "--workers", 2, "--config", file, log=out) as server:
        for turn, form in enumerate(("json", "console"), 1):
            file.write_text(f'[server]\nlog_format = "{form}"\n')
            server.process.send_signal(signal.SIGHUP)
            until(lambda turn=turn: log.read_bytes().count(b"were read anew") == turn, form)  # type: ignore[misc]
    first, second = log.read_text().splitlines()
    assert json.loads(first)["event"].startswith("the settings were read anew")
    assert " WARNING harmony4.server: the settings were read anew" in second


def impatient(folder: Path, held: Path) -> str:
    """A path with which workers stop while `held` exists, and settings have to be read soon.

    Workers have to be ready soon once the parent gets SIGUSR1.
    """
    lines = [
        "import os, signal, sys",
        'if "serve" in sys.orig_argv:',
        "    from harmony4.server.serving import workers",
        "    workers._READ = 3.0",
        '    signal.signal(signal.SIGUSR1, lambda *_: setattr(workers, "_PROOF", 3.0))',
        f'if "harmony4.server.serving.worker" in sys.orig_argv and os.path.exists({str(held)!r}):',
        "    os.kill(os.getpid(), signal.SIGSTOP)",
    ]
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_new_workers_that_hang(library: Path, tmp_path: Path) -> None:
    """They are ended, and the others serve on."""
    log, held = tmp_path / "log", tmp_path / "held"
    path = impatient(tmp_path, held)
    with log.open("wb") as out, served(library, "--workers", 2, path=path, log=out) as server:
        before = server.workers()
        held.touch()
        server.process.send_signal(signal.SIGUSR1)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.workers()) == 4, "new workers")
        new = set(server.workers()) - set(before)
        said = b"the settings stay as they are: a new worker was not ready within 3 s"
        until(lambda: said in log.read_bytes(), "giving up")
        until(lambda: not any(map(alive, new)), "the new ones' end")
        assert server.workers() == before
        assert server.get("/health")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert log.read_bytes().count(b"\n") == 1


def test_a_successor_that_hangs(library: Path, tmp_path: Path) -> None:
    """It is ended, and has a successor of its own."""
    log, held = tmp_path / "log", tmp_path / "held"
    path = impatient(tmp_path, held)
    with log.open("wb") as out, served(library, "--workers", 2, path=path, log=out) as server:
        victim, other = server.workers()
        held.touch()
        server.process.send_signal(signal.SIGUSR1)
        os.kill(victim, signal.SIGKILL)
        said = b"a worker was not ready within 3 s while it was starting; trying again"
        until(lambda: said in log.read_bytes(), "giving up")
        held.unlink()
        until(lambda: len(server.workers()) == 2, "a successor that does not hang")
        assert other in server.workers()
        assert server.get("/health")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_a_first_worker_that_hangs(library: Path, tmp_path: Path) -> None:
    """The server says so and ends, as it does when one fails at once."""
    held = tmp_path / "held"
    path = impatient(tmp_path, held)
    customized = tmp_path / "sitecustomize.py"
    customized.write_text(customized.read_text().replace("workers._READ", "workers._PROOF"))
    held.touch()
    done = run("serve", library, "--port", 0, "--workers", 2, env=os.environ | {"PYTHONPATH": path})
    # The other one may have started a moment later: then the log says before it that it had to be killed.
    *_, last = done.err.splitlines()
    assert (done.status, last) == (
        1,
        "error: the workers do not start: a worker was not ready within 3 s",
    )
    assert "Traceback" not in done.err


def test_settings_that_hang(library: Path, tmp_path: Path) -> None:
    """They hold up neither the workers' successors nor the next settings."""
    file, log = tmp_path / "harmony4.toml", tmp_path / "log"
    file.write_text("[server]\n")
    path = impatient(tmp_path, tmp_path / "held")
    arguments = ("--workers", 2, "--config", file)
    with log.open("wb") as out, served(library, *arguments, path=path, log=out) as server:
        victim, other = server.workers()
        file.unlink()
        os.mkfifo(file)  # nobody writes to it: who opens it waits
        server.process.send_signal(signal.SIGHUP)
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(server.workers()) == 2 and victim not in server.workers(), "the replacement")
        said = b"the settings stay as they are: they could not be read within 3 s"
        until(lambda: said in log.read_bytes(), "giving up")
        file.unlink()
        file.write_text("[server]\n")
        asked = 0

        def taken() -> bool:
            nonlocal asked
            found = log.read_bytes()
            if found.count(b"stay as they are") > asked:  # 3 s may be short for a machine that is busy
                asked += 1
                server.process.send_signal(signal.SIGHUP)
            return b"the settings were read anew" in found

        until(taken, "settings that can be read")
        until(lambda: other not in server.workers(), "the old ones' end")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_numbers_of_a_killed_server_are_removed(library: Path, tmp_path: Path) -> None:
    def folders() -> list[Path]:
        return sorted(tmp_path.glob("harmony4-numbers-*"))

    with served(library, "--workers", 2, TMPDIR=str(tmp_path)) as server:
        server.kill()
    (left,) = folders()
    old = left.stat().st_mtime - 3600
    os.utime(left, (old, old))
    with served(library, "--workers", 2, TMPDIR=str(tmp_path)) as running:
        assert left not in folders()
        (mine,) = folders()
        os.utime(mine, (old, old))
        with served(library, "--workers", 2, TMPDIR=str(tmp_path)) as other:
            assert mine in folders()  # somebody uses it
            assert other.stop()[0] == 0
        assert running.stop()[0] == 0
    assert folders() == []
