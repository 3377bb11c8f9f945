"""`/audio/stream`: spectral tokens of sound that is arriving, and of sound in containers."""

from __future__ import annotations

import io
import json
import os
import random
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from commands import here
from harmony4.crypto.mask import MaskSpec
from harmony4.h4mk import H4MKReader
from harmony4.h4mk.edits.recover import recover
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.keys import LIBRARY, OUTLETS, STATE, STATUS, TALLY
from harmony4.server.streams import computed
from harmony4.tokenize.audio import AudioFFTTokenizer, AudioToken
from harmony4.tokenize.sound import PcmSpec
from masking import ONE, keyring
from media_factory import media
from needs import needs_espeak, needs_ffmpeg
from processes import demuxers, until
from serving import LOOPS, Answer, Server, running
from test_arriving_http import duplex, stalled
from test_sse import parse

each_loop = pytest.mark.parametrize("loop", LOOPS)
URL = "/audio/stream"
MUTE = "ffmpeg -v error -f lavfi -i testsrc2=s=64x48:d=1 -c:v libx264 -g 5"
HOUR = "ffmpeg -v error -f lavfi -i anullsrc=r=8000:cl=mono -t 3600"


def events(answer: Answer) -> list[tuple[str, Any, str]]:
    assert answer.status == 200, answer
    body = answer.body.removeprefix(b"retry: 2000\n\n")
    return [(name, json.loads(data), number) for name, data, number in parse(body)]


def tokens_of(path: Path, **options: Any) -> list[AudioToken]:
    with path.open("rb") as file:
        return list(AudioFFTTokenizer(**options).encode(file))


def spools(server: Server) -> list[Path]:
    folder = server.app[STATE].path / "spool"
    return list(folder.iterdir()) if folder.exists() else []


def wav(samples: bytes, *, rate: int = 8000, channels: int = 1, size: int | None = None) -> bytes:
    block = 2 * channels % 2**16
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * block % 2**32, block, 16)
    data = struct.pack("<4sI", b"data", len(samples) if size is None else size) + samples
    chunks = b"WAVEfmt " + struct.pack("<I", len(head)) + head + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


@needs_ffmpeg
@needs_espeak
@each_loop
@pytest.mark.parametrize("name", ["speech.wav", "audio.m4a", "plain.mp4", "plain.webm", "audio.ts"])
@pytest.mark.parametrize("profile", ["structure", "detail"])
def test_real_sound(tmp_path: Path, loop: str, name: str, profile: str) -> None:
    path = media(name)
    expected = tokens_of(path, profile=profile)
    assert expected
    with running(tmp_path, loop=loop) as server:
        (first, meta, _), *tokens, (last, done, end) = events(
            server.request("POST", f"{URL}?profile={profile}", body=path.read_bytes())
        )
        assert (first, last, end) == ("meta", "done", "00000000-0-end")
        assert [data for _, data, _ in tokens] == [token.metadata() for token in expected]
        assert [number for _, _, number in tokens] == [f"00000000-0-{n}" for n in range(len(tokens))]
        assert (meta["profile"], meta["structure_only"]) == (profile, profile == "structure")
        assert meta["bit_exact"] == expected[0].exact
        assert (done["tokens"], done["duration"]) == (len(tokens), expected[-1].end)
        until(lambda: not spools(server), "clearing up")


@needs_ffmpeg
@needs_espeak
def test_each_form(tmp_path: Path) -> None:
    path = media("speech.wav")
    expected = tokens_of(path)
    with running(tmp_path) as server:
        records = server.request("POST", URL, {"Accept": "application/octet-stream"}, path.read_bytes())
        assert records.body == b"".join(token.serialize() for token in expected)
        assert AudioFFTTokenizer().decode(records.body) == expected
        lines = server.request("POST", URL, {"Accept": "application/x-ndjson"}, path.read_bytes())
        found = [json.loads(line) for line in lines.body.splitlines()]
        assert [one["data"] for one in found if one["event"] == "token"] == [
            one.metadata() for one in expected
        ]


@needs_ffmpeg
def test_channels(tmp_path: Path) -> None:
    path = tmp_path / "two.wav"
    make = "ffmpeg -v error -f lavfi -i sine=f=440:d=2 -f lavfi -i sine=f=880:d=2 -filter_complex amerge"
    subprocess.run([*make.split(), path], check=True)
    with running(tmp_path) as server:
        for each in (0, 1):
            _, *tokens, _ = events(server.request("POST", f"{URL}?each={each}", body=path.read_bytes()))
            expected = tokens_of(path, channels="each" if each else "mix")
            assert [data for _, data, _ in tokens] == [token.metadata() for token in expected]
            assert {data["channel"] for _, data, _ in tokens} == ({0, 1} if each else {None})


def test_raw_pcm(tmp_path: Path) -> None:
    samples = b"".join(struct.pack("<h", (n * n) % 30_000 - 15_000) for n in range(20_000))
    with running(tmp_path) as server:
        target = f"{URL}?pcm=s16le&rate=8000&channels=2"
        _, *tokens, _ = events(server.request("POST", target, body=samples))
        expected = AudioFFTTokenizer(pcm=PcmSpec("s16le", 8000, 2)).encode([samples])
        assert [data for _, data, _ in tokens] == [token.metadata() for token in expected]


@each_loop
def test_tokens_come_while_the_sound_is_arriving(tmp_path: Path, loop: str) -> None:
    second = b"".join(struct.pack("<h", (n * 37) % 20_000 - 10_000) for n in range(8000))
    with (
        running(tmp_path, loop=loop) as server,
        duplex(server, f"{URL}?pcm=s16le&rate=8000&channels=1") as one,
    ):
        for _ in range(6):  # what is read at a time has to be full
            one.send(second)
        lines = one.lines()
        assert next(lines)["event"] == "meta"
        assert next(lines)["data"]["index"] == 0
        one.send(b"")
        assert [line["event"] for line in lines][-1] == "done"


@each_loop
@pytest.mark.parametrize("form", ["RIFF", "RIFF without a size", "RF64"])
def test_tokens_come_while_a_file_is_arriving(tmp_path: Path, loop: str, form: str) -> None:
    """Each second brings its tokens, whatever the head says of the seconds behind it."""
    second, seconds = random.Random(1).randbytes(16_000), 20
    data = wav(second * seconds, size=2**32 - 1 if form != "RIFF" else None)
    if form == "RF64":
        sizes = struct.pack("<QQQI", 0, 16_000 * seconds, 0, 0)
        data = b"RF64" + bytes([255] * 4) + b"WAVEds64" + struct.pack("<I", 28) + sizes + data[12:]
    head = len(data) - 16_000 * seconds
    expected = [token.metadata() for token in AudioFFTTokenizer(profile="detail").encode([data])]
    with running(tmp_path, loop=loop) as server, duplex(server, f"{URL}?profile=detail") as one:
        one.send(data[:head] + second * 6)  # what is read at a time has to be full
        lines = one.lines()
        assert next(lines)["event"] == "meta"
        assert next(lines)["data"] == expected[0]
        for _ in range(6, seconds):
            one.send(second)
        one.send(b"")
        assert [line["data"] for line in lines][:-1] == expected[1:]


def test_the_sound_may_come_as_a_form(tmp_path: Path) -> None:
    data = wav(random.Random(1).randbytes(160_000))
    form = (
        b"--x\r\nContent-Disposition: form-data; name=profile\r\n\r\ndetail\r\n"
        b"--x\r\nContent-Disposition: form-data; name=file; filename=a.wav\r\n\r\n" + data + b"\r\n--x--\r\n"
    )
    with running(tmp_path) as server:
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        by_form = server.request("POST", URL, kind, form)
        plain = server.request("POST", f"{URL}?profile=detail", body=data)
        assert len(events(plain)) > 100
        assert events(by_form) == events(plain)


@each_loop
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_listener_that_stops_reading(tmp_path: Path, loop: str, method: str) -> None:
    """More than the buffers on the way hold, and after a while the connection is cut, and all is cleared."""
    data = wav(bytes(2 * 256 * 32 * 800), channels=32)  # 10 MB of answer and more
    root = tmp_path / "library"
    root.mkdir()
    target = f"{URL}?profile=detail&each=1"
    if method == "GET":
        export(io.BytesIO(data), root / "a.h4mk")
        target, data = f"{target}&name=a.h4mk", b""
    with (
        running(root, loop=loop, write_timeout=0.5) as server,
        stalled(server, target, data, method),
    ):
        until(lambda: server.app[TALLY].counts["broken|stuck"] == 1, "cutting off")
        until(lambda: not spools(server) and not server.app[OUTLETS], "clearing up")
        containers = server.app[LIBRARY]._containers.values()
        until(lambda: not any(one.users for one in containers), "letting the container go")


SILENCE = bytes(16_000)
REFUSED = [
    (URL, b"nobody knows what this is", 422, "media"),
    (URL, b"", 422, "media"),
    (f"{URL}?pcm=s16le&rate=8000&channels=1", SILENCE + b"x", 422, "media"),
    (f"{URL}?pcm=s24le&rate=8000&channels=2", SILENCE, 422, "media"),
    (f"{URL}?pcm=s16le&rate=0&channels=1", SILENCE, 400, "usage"),
    (f"{URL}?pcm=s16le&rate=8000&channels=0", SILENCE, 400, "usage"),
    (f"{URL}?pcm=s16le&rate=8000&channels=10000", SILENCE, 400, "usage"),
    (f"{URL}?pcm=s17le&rate=8000&channels=1", SILENCE, 400, "usage"),
    (f"{URL}?pcm=s16le&rate=8000", SILENCE, 400, "usage"),
    (f"{URL}?rate=8000", SILENCE, 400, "usage"),
    (f"{URL}?rate=x&pcm=u8&channels=1", SILENCE, 400, "usage"),
    (f"{URL}?profile=everything", SILENCE, 400, "usage"),
    (f"{URL}?each=2", SILENCE, 400, "usage"),
    (f"{URL}?stream=-1", SILENCE, 400, "usage"),
    (f"{URL}?name=a.h4mk", SILENCE, 400, "usage"),
    (URL, wav(SILENCE, rate=0), 422, "media"),
    (URL, wav(SILENCE, channels=0), 422, "media"),
    (URL, wav(SILENCE, channels=10_000), 413, "limit"),
    (URL, wav(SILENCE)[:30], 422, "media"),
]


@pytest.mark.parametrize(("target", "body", "status", "code"), REFUSED)
def test_what_is_refused(tmp_path: Path, target: str, body: bytes, status: int, code: str) -> None:
    """An odd count may come when tokens have been sent already."""
    with running(tmp_path) as server:
        answer = server.request("POST", target, body=body)
        if answer.status == 200:
            *_, (name, problem, _) = events(answer)
            assert (name, problem["status"], problem["type"].rpartition(":")[2]) == ("problem", status, code)
        else:
            assert (answer.status, answer.problem) == (status, code)
        until(lambda: not spools(server), "clearing up")


@needs_ffmpeg
def test_pictures_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    subprocess.run([*MUTE.split(), path], check=True)
    with running(tmp_path) as server:
        answer = server.request("POST", URL, body=path.read_bytes())
        assert (answer.status, answer.problem) == (422, "media")
        assert "no sound" in answer.json["detail"]
        export(path, tmp_path / "mute.h4mk")
        answer = server.get(f"{URL}?name=mute.h4mk")
        assert (answer.status, answer.problem) == (422, "media")


@needs_ffmpeg
def test_a_bomb(tmp_path: Path) -> None:
    """Hours of silence in few bytes: the limit ends it."""
    path = tmp_path / "silence.flac"
    subprocess.run([*HOUR.split(), path], check=True)
    assert path.stat().st_size < 2**20
    with running(tmp_path, decode_samples=8000 * 600) as server:
        answer = server.request("POST", URL, body=path.read_bytes())
        *_, (name, problem, _) = events(answer)
        assert (name, problem["type"]) == ("problem", "urn:harmony4:problem:limit")


@pytest.mark.parametrize("count", [5000, 5001])
def test_plain_samples_are_counted(tmp_path: Path, count: int) -> None:
    """PCM needs no decoder; the bound is the same, and an export that stores its tokens makes nothing."""
    data = wav(bytes(2 * count))
    with running(tmp_path, decode_samples=5000) as server:
        sent = server.request("POST", URL, body=data)
        made = server.request("POST", "/video/export?name=a.h4mk&spectrum=structure", body=data)
        if count > 5000:
            assert (sent.problem, made.problem) == ("limit", "limit")
            assert not list(tmp_path.glob("*.h4mk"))
            assert server.request("POST", "/video/export?name=a.h4mk", body=data).status == 201
        else:
            assert (events(sent)[-1][0], made.status) == ("done", 201)


def test_a_body_that_stops_in_the_middle(tmp_path: Path) -> None:
    with running(tmp_path, read_timeout=0.3) as server:
        with duplex(server, f"{URL}?pcm=s16le&rate=8000&channels=1") as one:
            for _ in range(10):
                one.send(SILENCE)
            *_, last = one.lines()
            assert (last["event"], last["data"]["type"]) == ("problem", "urn:harmony4:problem:timeout")
        until(lambda: not spools(server), "clearing up")


# ---- of containers ---------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path) -> Path:
    export(media("speech.wav"), tmp_path / "speech.h4mk")
    export(media("plain.mp4"), tmp_path / "film.h4mk")
    return tmp_path


@needs_ffmpeg
@needs_espeak
def test_of_a_container(library: Path) -> None:
    with running(library) as server:
        for name, source in (("speech.h4mk", "speech.wav"), ("film.h4mk", "plain.mp4")):
            for profile in ("structure", "detail"):
                answer = server.get(f"{URL}?name={name}&profile={profile}")
                (_, meta, _), *tokens, (_, done, _) = events(answer)
                expected = tokens_of(media(source), profile=profile)
                assert [data for _, data, _ in tokens] == [token.metadata() for token in expected]
                assert (meta["name"], meta["track"], meta["profile"]) == (name, 0, profile)
                assert done["tokens"] == len(expected)
                assert server.get(f"{URL}?name={name}&profile={profile}").body == answer.body
        until(lambda: not spools(server), "clearing up")


@needs_ffmpeg
@needs_espeak
def test_from_a_time_and_coming_back(library: Path) -> None:
    url = f"{URL}?name=speech.h4mk&profile=detail"
    with running(library) as server:
        (_, _, _), *tokens, (_, _, end) = events(server.get(url))
        for start in (0, 500_000, 1_234_567):
            _, *found, _ = events(server.get(f"{url}&from={start}"))
            assert found == [one for one in tokens if one[1]["end"] > start]
        for index in (0, 7, len(tokens) - 1):
            name, *found, _ = events(server.get(url, Last_Event_ID=tokens[index][2]))
            assert name[0] == "meta"
            assert found == tokens[index + 1 :]
        assert server.get(url, Last_Event_ID=end).status == 204
        # An index counts in these tokens alone.
        other = server.get(f"{URL}?name=speech.h4mk", Last_Event_ID=tokens[3][2])
        (first, _, _), (second, _, _), *_ = events(other)
        assert (first, second) == ("reset", "meta")


@needs_ffmpeg
@needs_espeak
def test_stored_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as computed ones, from wherever, where they are of the profile that is asked for."""
    export(media("plain.ts"), tmp_path / "a.h4mk", ExportOptions(spectrum="detail"))
    url = f"{URL}?name=a.h4mk&profile=detail"
    with running(tmp_path) as server, H4MKReader(tmp_path / "a.h4mk") as reader:
        origin = reader.trak.origin
        assert origin > 0
        for more in ("", "&from=2000000"):
            (_, meta, _), *stored, (_, done, _) = events(server.get(url + more))
            (_, other, _), *computed, (_, same, _) = events(server.get(f"{url}{more}&track=0"))
            assert (meta["stored"], other["stored"]) == (True, False)
            assert [data for _, data, _ in stored] == [data for _, data, _ in computed]
            assert done["tokens"] == same["tokens"]
            assert {key: other[key] for key in meta if key != "stored"} == {
                key: meta[key] for key in meta if key != "stored"
            }
        assert stored[0][1]["end"] - origin > 2_000_000 >= stored[0][1]["pts"] - origin - 50_000
        assert events(server.get(f"{URL}?name=a.h4mk"))[0][1]["stored"] is False
        _, *rest, _ = events(server.get(url, Last_Event_ID=stored[3][2]))
        assert rest == stored[4:]
        sent = server.get(url, Accept="application/x-ndjson").body.splitlines()
    one = here(capsys, "tokens", "--spectrum", tmp_path / "a.h4mk")
    assert one.out == here(capsys, "tokens", "--spectrum", "-t", "1", tmp_path / "a.h4mk").out
    assert [json.loads(line) for line in one.out.splitlines()] == [
        json.loads(line)["data"] for line in sent[1:-1]
    ]


@needs_ffmpeg
@needs_espeak
def test_what_is_not_there(library: Path) -> None:
    with running(library) as server:
        assert server.get(URL).problem == "usage"
        assert server.get(f"{URL}?name=no.h4mk").problem == "not-found"
        assert server.get(f"{URL}?name=speech.h4mk&track=3").problem == "not-found"
        assert server.get(f"{URL}?name=speech.h4mk&profile=x").problem == "usage"
        assert server.get(f"{URL}?name=speech.h4mk&from=x").problem == "usage"
        assert server.get(f"{URL}?name=speech.h4mk", Accept="text/html").problem == "accept"
        assert server.get(f"{URL}?name=speech.h4mk&stream=9").status == 422


@needs_ffmpeg
@needs_espeak
def test_a_container_that_is_damaged(library: Path) -> None:
    path = library / "speech.h4mk"
    with H4MKReader(path) as reader:
        position, _size = next(iter(reader.extents(reader.stream_size() - 1, 1)))
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with running(library) as server:
        answer = server.get(f"{URL}?name=speech.h4mk")
        if answer.status == 200:
            *_, (name, problem, _) = events(answer)
            assert (name, problem["type"]) == ("problem", "urn:harmony4:problem:checksum")
        else:
            assert answer.problem == "checksum"


@pytest.mark.parametrize("lost", [0, 40, None])
@pytest.mark.parametrize("masked", [False, True])
def test_a_recovered_container(tmp_path: Path, lost: int | None, masked: bool) -> None:  # H4MK 18.5
    """Around a hole nothing is decoded: all that follows it would come at another time. None: no hole, but
    the end is missing, and what is there has its times."""
    data = wav(random.Random(1).randbytes(16_000 * 60))
    root = tmp_path / "library"
    root.mkdir()
    mask = MaskSpec((ONE,), mode="random") if masked else None
    whole, holed = tmp_path / "whole.h4mk", tmp_path / "holed.h4mk"
    export(io.BytesIO(data), whole, ExportOptions(block_size=10_000, mask=mask))
    stored = bytearray(whole.read_bytes())
    with H4MKReader(whole) as reader:
        count = len(reader.token_array())
        place = count - 9 if lost is None else lost
        start, size = reader.range_map()[place].offset, reader.range_map()[place].size
        ((at, _),) = reader.extents(start, size)
    if lost is None:
        del stored[at:]
    else:
        stored[at] ^= 1
    holed.write_bytes(stored)
    recover(holed, root / "a.h4mk")
    with H4MKReader(root / "a.h4mk") as reader:
        assert reader.lost
        assert len(reader.token_array()) == (place if lost is None else count - 1)
    ring = keyring(tmp_path / "ring", one=ONE)
    with running(root, keyring=ring) as server:
        for more in ("", "&from=50000000", "&profile=detail&track=0"):
            answer = server.get(f"{URL}?name=a.h4mk{more}")
            if lost is None:
                (_, _, _), *tokens, (end, _, _) = events(answer)
                profile = "detail" if "detail" in more else "structure"
                with io.BytesIO(data) as file:
                    expected = [token.metadata() for token in AudioFFTTokenizer(profile=profile).encode(file)]
                wanted = [one for one in expected if "from" not in more or one["end"] > 50_000_000]
                assert end == "done"
                assert 5 < len(tokens) <= len(wanted)
                # The last frame may be half silence.
                assert [one for _, one, _ in tokens][:-1] == wanted[: len(tokens) - 1]
            else:
                assert (answer.status, answer.problem) == (404, "not-found")
                assert answer.json["detail"] == f"bytes {start} to {start + size - 1} of track 0 are lost"
        assert not spools(server)


def test_damage_behind_the_first_tokens_is_counted(tmp_path: Path) -> None:
    """As ranges count it: the status is out by then."""
    data = wav(random.Random(1).randbytes(16_000 * 200))
    export(io.BytesIO(data), tmp_path / "a.h4mk", ExportOptions(block_size=10_000))
    stored = bytearray((tmp_path / "a.h4mk").read_bytes())
    with H4MKReader(tmp_path / "a.h4mk") as reader:
        ((at, _),) = reader.extents(len(data) - 20_000, 1)
    stored[at] ^= 1
    (tmp_path / "a.h4mk").write_bytes(stored)
    with running(tmp_path) as server:
        target = f"{URL}?name=a.h4mk&profile=detail"
        (_, _, _), (name, _, _), *_, (last, problem, _) = events(server.get(target))
        assert (name, last, problem["type"]) == ("token", "problem", "urn:harmony4:problem:checksum")
        counts = server.app[TALLY].counts
        assert (counts["damaged|read"], counts["broken|failed"]) == (1, 1)
        # What a client sent is no damage of ours.
        sent = server.request("POST", f"{URL}?pcm=s16le&rate=8000&channels=1", body=data + b"x")
        assert events(sent)[-1][0] == "problem"
        assert (counts["damaged|read"], counts["broken|failed"]) == (1, 1)


@needs_ffmpeg
@each_loop
def test_a_listener_that_leaves(tmp_path: Path, loop: str) -> None:
    """Within a second the decoder has ended, and the container is given back."""
    # Three hours, of which somebody wants the last second: tokens that are not sent are computed first.
    quiet = "ffmpeg -v error -f lavfi -i anullsrc=r=8000:cl=mono -t 10800 -c:a flac"
    subprocess.run([*quiet.split(), tmp_path / "long.flac"], check=True)
    export(tmp_path / "long.flac", tmp_path / "a.h4mk")
    with running(tmp_path, loop=loop) as server:
        with socket.create_connection(server.address, timeout=30) as one:
            target = f"{URL}?name=a.h4mk&profile=detail&from=10799000000"
            one.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            until(lambda: bool(spools(server)) and demuxers(os.getpid()) != [], "decoding")
            container = server.app[LIBRARY]._containers["a.h4mk"]
        until(lambda: not (container.users or spools(server) or demuxers(os.getpid())), "leaving", seconds=1)


@needs_ffmpeg
@needs_espeak
def test_no_folder_to_compute_in(tmp_path: Path) -> None:
    """Said clearly, by stored tokens not at all: they need none."""
    export(media("speech.wav"), tmp_path / "a.h4mk", ExportOptions(spectrum="detail"))
    url = f"{URL}?name=a.h4mk&profile=detail"
    with running(tmp_path) as server:
        server.app[STATE].path.mkdir(exist_ok=True)
        (server.app[STATE].path / "listeners").touch()  # where a folder should be
        refused = server.get(f"{url}&track=0")
        assert (refused.status, refused.problem) == (507, "storage")
        assert refused.json["detail"] == "the server's own folder cannot be written to"
        (_, meta, _), *_, (last, _, _) = events(server.get(url))
        assert (meta["stored"], last) == (True, "done")


@needs_ffmpeg
def test_no_room_to_compute_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An MP4 with its index at the end has to be spooled, out of a container as well."""
    monkeypatch.setattr(computed, "LOOK", 2**20)
    data = media("stereo-moovend.m4a").read_bytes()
    index = data.rindex(b"moov") - 4
    free = 24 * 2**20
    (tmp_path / "long.m4a").write_bytes(data[:index] + struct.pack(">I4s", free, b"free") + bytes(free - 8))
    with (tmp_path / "long.m4a").open("ab") as file:
        file.write(data[index:])
    export(tmp_path / "long.m4a", tmp_path / "a.h4mk")
    (tmp_path / "long.m4a").unlink()
    quota = (tmp_path / "a.h4mk").stat().st_size + 2**20
    with running(tmp_path, quota=quota, min_free=0) as server:
        refused = server.get(f"{URL}?name=a.h4mk")
        assert (refused.status, refused.problem) == (507, "full")
        until(lambda: not spools(server), "clearing up")
    with running(tmp_path, min_free=0) as server:
        assert events(server.get(f"{URL}?name=a.h4mk"))[-1][0] == "done"


@needs_ffmpeg
@needs_espeak
def test_a_server_that_stops(library: Path) -> None:
    """Not 503, after which an EventSource would never ask again; records have no words to come back."""
    with running(library) as server:
        url = f"{URL}?name=speech.h4mk"
        server.app[STATUS].stopping = True
        ((name, data, _),) = events(server.get(url))
        assert (name, data["retry"]) == ("restart", 1000)
        assert json.loads(server.get(url, Accept="application/x-ndjson").body)["event"] == "restart"
        refused = server.get(url, Accept="application/octet-stream")
        assert (refused.status, refused.problem) == (503, "stopping")
