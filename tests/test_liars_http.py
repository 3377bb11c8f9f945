"""Uploads that are not what they say: texts that name other files and addresses, and media that a demuxer
hangs on. Nothing else is opened, nobody else waits, and the demuxer is gone.
"""

from __future__ import annotations

import ctypes
import http.client
import http.server
import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.intake import desk
from harmony4.server.sandboxing.sandbox import Limits
from media_factory import media
from needs import BUNNY, needs_ffmpeg
from processes import cpu_seconds, demuxers, needs_proc, until
from programs import run_program
from serving import LOOPS, Answer, Server, running

STALL: Final = 1.5
"""Seconds that a demuxer may do nothing here."""


def made(data: bytes) -> bytes:
    """The container of `harmony4 export`."""
    out = io.BytesIO()
    export(io.BytesIO(data), out, ExportOptions())
    return out.getvalue()


def spools(library: Path) -> list[Path]:
    return list((library / ".harmony4" / "spool").glob("*"))


# -- texts that name files and addresses


class Bait:
    """A file and a web server that nobody has any business with, and who came nevertheless."""

    _EVENTS: Final = 0x00000001 | 0x00000020  # IN_ACCESS, IN_OPEN (inotify(7))

    def __init__(self, folder: Path, port: int, asked: list[str]) -> None:
        self.file = folder / "secret.ts"
        self.file.write_bytes(b"G" + b"secret" * 1000)
        self.url = f"http://127.0.0.1:{port}"
        self._asked = asked
        libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._inotify >= 0
        watch = libc.inotify_add_watch(self._inotify, os.fsencode(self.file), self._EVENTS)
        assert watch >= 0, os.strerror(ctypes.get_errno())

    def taken(self) -> list[str]:
        """What was asked for or opened since the last look, by anybody."""
        found, self._asked[:] = list(self._asked), []
        with suppress(BlockingIOError):
            data = os.read(self._inotify, 2**16)
            found += [f"opened {self.file}"] * bool(data)
        return found

    def close(self) -> None:
        os.close(self._inotify)


@pytest.fixture
def bait(tmp_path: Path) -> Iterator[Bait]:
    if not sys.platform.startswith("linux"):
        pytest.skip("only inotify tells who opens a file")
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.02,))
        thread.start()
        one = Bait(tmp_path, other.server_address[1], asked)
        try:
            yield one
        finally:
            one.close()
            other.shutdown()
            thread.join()


HLS = """#EXTM3U
#EXT-X-TARGETDURATION:10
#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"
#EXTINF:5,
{file}
#EXTINF:5,
file://{file}
#EXTINF:5,
{url}/m3u8.ts
#EXT-X-ENDLIST
"""
MASTER = """#EXTM3U
#EXT-X-STREAM-INF:BANDWIDTH=1
{url}/variant.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=2
{file}
"""
CONCAT = "ffconcat version 1.0\nfile '{url}/concat.ts'\nfile '{file}'\nduration 3\n"
DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT5S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" minBufferTime="PT1S">
<Period>
<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}/dash.mp4</BaseURL>
<SegmentBase indexRange="0-9"><Initialization range="0-9"/></SegmentBase></Representation></AdaptationSet>
<AdaptationSet mimeType="video/mp4"><Representation id="2" bandwidth="1"><BaseURL>file://{file}</BaseURL>
<SegmentBase indexRange="0-9"><Initialization range="0-9"/></SegmentBase></Representation></AdaptationSet>
</Period></MPD>
"""
SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=-
c=IN IP4 127.0.0.1
t=0 0
m=video 5004 RTP/AVP 96
a=rtpmap:96 H264/90000
a=control:{url}/sdp
"""
TEXTS = {"m3u8": HLS, "m3u8 of m3u8": MASTER, "ffconcat": CONCAT, "dash": DASH, "sdp": SDP}
READERS = {"m3u8": ["hls"], "m3u8 of m3u8": ["hls"], "ffconcat": ["concat", "-safe", "0"], "dash": ["dash"]}
"""Those of FFmpeg's demuxers that would follow such a text. (The one for SDP waits for packets at a port.)"""
# A text whose first line has the name of a box in its fifth to eighth byte passes for an MP4.
DISGUISES = {"m3u8": b"#EXTfree\n", "ffconcat": b"#ff skip\n", "dash": b"<!--moov-->", "sdp": b"v=0\nwide\n"}


def text_of(kind: str, bait: Bait) -> bytes:
    return TEXTS[kind].format(url=bait.url, file=bait.file).encode()


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_are_opaque(bait: Bait, tmp_path: Path, kind: str) -> None:
    """Whatever they call themselves: bytes like others, and nothing of what they name is opened."""
    text = text_of(kind, bait)
    (tmp_path / "library").mkdir()
    with running(tmp_path / "library", min_free=0) as server:
        form = (
            b'--b0\r\nContent-Disposition: form-data; name="file"; filename="film.mp4"\r\n'
            b"Content-Type: video/mp4\r\n\r\n" + text + b"\r\n--b0--\r\n"
        )
        headers = {"Content-Type": "multipart/form-data; boundary=b0"}
        answers = [
            server.request("POST", "/video/export?name=film.mp4.h4mk", {"Content-Type": "video/mp4"}, text),
            server.request("POST", "/video/export?name=form.h4mk", headers, form),
        ]
        for answer, name in zip(answers, ("film.mp4.h4mk", "form.h4mk"), strict=True):
            assert answer.status == 201, answer
            assert answer.json["timing"] == "hint"
            assert (tmp_path / "library" / name).read_bytes() == made(text)
            assert server.get(f"/video/range?name={name}").body == text
    assert bait.taken() == []


@pytest.mark.parametrize("kind", DISGUISES)
def test_texts_that_pass_for_an_mp4(bait: Bait, tmp_path: Path, kind: str) -> None:
    """The demuxer is told that they are one, so it looks for boxes and for nothing else."""
    text = DISGUISES[kind] + text_of(kind, bait)
    (tmp_path / "library").mkdir()
    with running(tmp_path / "library", min_free=0) as server:
        answer = server.request("POST", "/video/export?name=film.h4mk", body=text)
        assert (answer.status, answer.problem) == (422, "media"), answer
        assert str(bait.file) not in answer.body.decode()
    assert [path.name for path in (tmp_path / "library").iterdir()] == [".harmony4"]
    assert spools(tmp_path / "library") == []
    assert bait.taken() == []


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return (8 + len(body)).to_bytes(4, "big") + kind + body


def elsewhere(path: Path) -> bytes:
    """An MP4 whose samples are said to lie in another file, which its data reference names."""
    data = BUNNY.read_bytes()
    here = box(b"url ", b"\0\0\0\1")  # "in this file"
    assert here in data
    there = box(b"url ", b"\0\0\0\0", b"file://" + os.fsencode(path) + b"\0")
    # As many bytes more in each box around it, from the inside to the outside.
    more, at = len(there) - len(here), data.index(here)
    moov = data.index(b"moov") - 4
    changed = bytearray(data)
    for kind in (b"dref", b"dinf", b"minf", b"mdia", b"trak"):
        start = data.rindex(kind, moov, at) - 4
        changed[start : start + 4] = (int.from_bytes(data[start : start + 4], "big") + more).to_bytes(
            4, "big"
        )
    changed[moov : moov + 4] = (int.from_bytes(data[moov : moov + 4], "big") + more).to_bytes(4, "big")
    changed[at : at + len(here)] = there
    return bytes(changed)


def test_media_that_lie_elsewhere(bait: Bait, tmp_path: Path) -> None:
    """Refused, or a container of the bytes that were sent; the other file stays closed."""
    data = elsewhere(bait.file)
    (tmp_path / "library").mkdir()
    with running(tmp_path / "library", min_free=0) as server:
        answer = server.request("POST", "/video/export?name=film.h4mk", body=data)
        assert answer.status in (201, 422), answer
        if answer.status == 201:
            assert server.get("/video/range?name=film.h4mk").body == data
    assert bait.taken() == []


@needs_ffmpeg
@pytest.mark.parametrize("kind", READERS)
def test_the_bait_would_be_taken(bait: Bait, tmp_path: Path, kind: str) -> None:
    """By FFmpeg, were it let: it is the server that keeps it from doing so."""
    path = tmp_path / "text"
    path.write_bytes(text_of(kind, bait))
    allowed = ("-v", "error", "-protocol_whitelist", "file,http,tcp,crypto")
    reader = ("-f", *READERS[kind], "-i", path)
    run_program("ffmpeg", *allowed, *reader, "-f", "null", "-", folder=tmp_path, status=None)
    assert bait.taken() != []


# -- a demuxer that hangs


@contextmanager
def hanging(server: Server, library: Path, data: bytes, *, whole: bool) -> Iterator[socket.socket]:
    """An upload whose demuxer stands still, with as much in front of it as fits. `whole`: all has arrived."""
    before = set(demuxers(os.getpid()))
    with socket.create_connection(server.address, timeout=60) as connection:
        head = "POST /video/export?name=hangs.h4mk HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        parts = [data, b""] if whole else [data[:50_000]]
        for part in parts:
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        until(lambda: bool(set(demuxers(os.getpid())) - before), "the demuxer's start")
        (pid,) = set(demuxers(os.getpid())) - before
        os.kill(pid, signal.SIGSTOP)
        if not whole:
            part = data[50_000:] * 3
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))  # and more is promised
        yield connection
    assert pid not in demuxers(os.getpid())
    assert not Path(f"/proc/{pid}").exists()  # not even as one that nobody has counted


def answer_on(connection: socket.socket) -> Answer:
    """The next answer that comes."""
    found = http.client.HTTPResponse(connection, method="POST")
    found.begin()
    return Answer(found.status, found.headers, found.read())


@needs_proc
@needs_ffmpeg
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("name", "whole"), [("plain.ts", False), ("moovend.mp4", True)])
def test_a_demuxer_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str, name: str, whole: bool
) -> None:
    """On media that still come, whose sender is told before they have come, and on a file. Meanwhile others
    are served."""
    monkeypatch.setattr(desk, "Limits", partial(Limits, stall=STALL))
    data = media(name).read_bytes()
    with running(tmp_path, loop=loop, min_free=0) as server:
        began = time.monotonic()
        with hanging(server, tmp_path, data, whole=whole) as connection:
            other = server.request("POST", "/video/export?name=other.h4mk", body=data)
            assert other.status == 201, other
            assert (tmp_path / "other.h4mk").read_bytes() == made(data)
            answer = answer_on(connection)
            assert time.monotonic() - began < 10 * STALL
            assert (answer.status, answer.problem) == (422, "media"), answer
            assert "no progress" in answer.json["detail"]
        (job,) = [one for one in server.get("/jobs").json["jobs"] if one["name"] == "hangs.h4mk"]
        assert (job["state"], job["problem"]) == ("failed", answer.json)
        assert server.request("POST", "/video/export?name=hangs.h4mk", body=data).status == 201
        assert (tmp_path / "hangs.h4mk").read_bytes() == made(data)
    assert spools(tmp_path) == []
    assert demuxers(os.getpid()) == []


@needs_proc
def test_a_job_whose_demuxer_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the answer: the job says it."""
    monkeypatch.setattr(desk, "Limits", partial(Limits, stall=STALL))
    with running(tmp_path, min_free=0) as server:
        answer = server.request("POST", "/video/export?name=a.h4mk&job=1", body=BUNNY.read_bytes())
        assert answer.status == 202
        until(lambda: bool(demuxers(os.getpid())), "the demuxer's start")
        for pid in demuxers(os.getpid()):
            os.kill(pid, signal.SIGSTOP)
        place = answer.headers["Location"]
        until(lambda: server.get(place).json["state"] == "failed", "the job's end", 10 * STALL)
        assert server.get(place).json["problem"]["type"] == "urn:harmony4:problem:media"
        assert demuxers(os.getpid()) == []
    assert spools(tmp_path) == []
    assert list(tmp_path.glob("*.h4mk")) == []


@needs_proc
def test_a_job_is_cancelled_while_its_demuxer_is_silent(tmp_path: Path) -> None:
    """As soon as somebody says so: not when the demuxer has been silent for too long."""
    with running(tmp_path, min_free=0) as server:
        answer = server.request("POST", "/video/export?name=a.h4mk&job=1", body=BUNNY.read_bytes())
        until(lambda: bool(demuxers(os.getpid())), "the demuxer's start")
        for pid in demuxers(os.getpid()):
            os.kill(pid, signal.SIGSTOP)
        place = answer.headers["Location"]
        assert server.request("DELETE", place).status == 202
        until(lambda: server.get(place).json["state"] == "cancelled", "the job's end", Limits().stall / 2)
        assert demuxers(os.getpid()) == []
    assert spools(tmp_path) == []


# -- a demuxer that has too much to do


def laborious() -> bytes:
    """A film with its index at the end, and beside it a track of three million samples of a byte.

    They are really there. The demuxer goes past all of them, for some seconds, and none is a packet that
    anybody wants.
    """
    count, data = 3 * 10**6, BUNNY.read_bytes()
    at = data.index(b"moov") - 4
    assert at + int.from_bytes(data[at : at + 4], "big") == len(data)
    size = count.to_bytes(4, "big")
    one = (1).to_bytes(4, "big")
    kind = box(b"avc1", bytes(6), b"\0\1", bytes(16), b"\1\x40\0\xb4", bytes(50))
    table = box(
        b"stbl",
        box(b"stsd", bytes(4), one, kind),
        box(b"stts", bytes(4), one, size, one),
        box(b"stsc", bytes(4), one, one, size, one),
        box(b"stsz", bytes(4), one, size),
        box(b"stco", bytes(4), one, (at + 8).to_bytes(4, "big")),
    )
    track = box(
        b"trak",
        box(b"tkhd", bytes(12), (9).to_bytes(4, "big"), bytes(4), size, bytes(60)),
        box(
            b"mdia",
            box(b"mdhd", bytes(12), (1000).to_bytes(4, "big"), size, bytes(4)),
            box(b"hdlr", bytes(8), b"vide", bytes(13)),
            box(b"minf", table),
        ),
    )
    return data[:at] + box(b"mdat", bytes(count)) + box(b"moov", data[at + 8 :], track)


@needs_proc
@pytest.mark.parametrize("loop", LOOPS)
def test_a_demuxer_that_is_busy_for_too_long(tmp_path: Path, loop: str) -> None:
    """It works until the kernel ends it; its sender is told why, and others are served meanwhile."""
    data = laborious()
    with running(tmp_path, loop=loop, min_free=0, demux_cpu=1) as server, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(server.request, "POST", "/video/export?name=busy.h4mk", (), data)
        until(lambda: sent.done() or any(cpu_seconds(pid) > 0.5 for pid in demuxers(os.getpid())), "its work")
        assert server.get("/health").status == 200
        answer = sent.result(60)
        assert (answer.status, answer.problem) == (422, "media"), answer
        assert "it took more than 1 s of CPU time" in answer.json["detail"]
        assert demuxers(os.getpid()) == []
        (job,) = server.get("/jobs").json["jobs"]
        assert (job["state"], job["problem"]) == ("failed", answer.json)
        # The next one has a second of its own.
        good = server.request("POST", "/video/export?name=good.h4mk", body=BUNNY.read_bytes())
        assert good.status == 201, good
    assert spools(tmp_path) == []
    assert [path.name for path in tmp_path.glob("*.h4mk")] == ["good.h4mk"]


def test_it_was_nothing_but_work(tmp_path: Path) -> None:
    """With more time the same film is one like others."""
    data = laborious()
    with running(tmp_path, min_free=0) as server:
        answer = server.request("POST", "/video/export?name=busy.h4mk", body=data)
        assert (answer.status, answer.json["timing"]) == (201, "demux"), answer
        assert server.get("/video/range?name=busy.h4mk").body == data
