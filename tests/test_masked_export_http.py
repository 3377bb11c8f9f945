"""`mask=` of `/video/export` and of uploads by tus: containers that are masked with keys of the server."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from harmony4.crypto.mask import MaskSpec
from harmony4.h4mk import H4MKReader
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.guard.tokens import TokenFile, new_token
from harmony4.server.keys import STATE
from harmony4.server.state import State
from masking import ONE, STRANGE, TWO, keyring
from needs import BUNNY
from processes import until
from serving import LOOPS, running
from test_audio_mask_http import unmasked
from test_tus_http import Client, b64, metadata

DATA = BUNNY.read_bytes()
each_loop = pytest.mark.parametrize("loop", LOOPS)


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    return keyring(tmp_path / "ring", films=ONE, more=TWO)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "library").mkdir()
    return tmp_path / "library"


def made(spec: MaskSpec) -> bytes:
    out = io.BytesIO()
    export(io.BytesIO(DATA), out, ExportOptions(mask=spec))
    return out.getvalue()


@each_loop
def test_an_export(root: Path, ring: Path, loop: str) -> None:
    """What `harmony4 export --mask` makes, by name and by id; and it plays."""
    with running(root, loop=loop, keyring=ring) as server:
        target = f"/video/export?name=a.h4mk&mask={ONE.id.hex()},more"
        answer = server.request("POST", target, body=DATA)
        assert answer.status == 201, answer
        assert (root / "a.h4mk").read_bytes() == made(MaskSpec((ONE, TWO)))
        assert server.get("/video/range?name=a.h4mk").body == DATA
        sent_back = server.request("POST", "/video/export?mask=films", body=DATA)
        assert (sent_back.status, sent_back.body) == (200, made(MaskSpec((ONE,))))
        random = server.request("POST", "/video/export?mask=films&random_salt=1", body=DATA)
        assert random.body != sent_back.body
        assert unmasked(random.body, ONE) == DATA
        beside = server.request("POST", "/video/export?mask=films&keep_plaintext=1", body=DATA)
        with H4MKReader(beside.body) as reader:
            assert [one.info.masked for one in reader.tracks] == [True, False]
            assert reader.read(0, 2**62, 1) == DATA
        form = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % pair
            for pair in ((b"mask", b"films"), (b"name", b"form.h4mk"), (b"file", DATA))
        )
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        assert server.request("POST", "/video/export", kind, form + b"--x--\r\n").status == 201
        assert (root / "form.h4mk").read_bytes() == sent_back.body
        job = server.request("POST", "/video/export?mask=films&name=job.h4mk&job=1", body=DATA)
        assert job.status == 202
        number = job.headers["Location"]
        until(lambda: server.get(number).json["state"] == "done", "the job is done")
        assert (root / "job.h4mk").read_bytes() == sent_back.body


def test_exports_that_make_no_sense(root: Path, ring: Path) -> None:
    with running(root, keyring=ring) as server:
        for options, status, problem in (
            ("mask=nobody", 403, "key"),
            (f"mask=films,{STRANGE.id.hex()}", 403, "key"),
            ("mask=", 400, "usage"),
            ("mask=films,", 400, "usage"),
            ("mask=films,films", 400, "usage"),
            (f"mask=films,{ONE.id.hex()}", 400, "usage"),
            (",".join(["mask=films", *"abcdefgh"]), 413, "limit"),
            ("random_salt=1", 400, "usage"),
            ("keep_plaintext=0", 400, "usage"),
            ("mask=films&random_salt=2", 400, "usage"),
        ):
            answer = server.request("POST", f"/video/export?name=a.h4mk&{options}", body=DATA)
            assert (answer.status, answer.problem) == (status, problem), options
        assert not (root / "a.h4mk").exists()


@each_loop
def test_an_upload(root: Path, ring: Path, loop: str) -> None:
    with running(root, loop=loop, keyring=ring, min_free=0) as server:
        client = Client(server.url)
        target = client.new(len(DATA), name="a.h4mk", mask="films,more")
        number = client.patch(target, 0, DATA).headers["Harmony4-Job"]
        assert client.ended(number)["state"] == "done"
        assert (root / "a.h4mk").read_bytes() == made(MaskSpec((ONE, TWO)))
        for values, status in (({"mask": "nobody"}, 403), ({"mask": ""}, 400), ({"random_salt": "1"}, 400)):
            answer = client.create(9, Upload_Metadata=metadata(name="b.h4mk", **values))
            assert answer.status == status


def test_a_key_that_has_gone_meanwhile(root: Path, ring: Path) -> None:
    """The job fails, and nothing unmasked comes into the library."""
    with running(root, keyring=ring, min_free=0) as server:
        client = Client(server.url)
        target = client.new(len(DATA), name="a.h4mk", mask="films")
        (ring / "films.key").unlink()
        until(
            lambda: client.create(9, Upload_Metadata=metadata(name="b.h4mk", mask="films")).status == 403,
            "the key is forgotten",
        )
        job = client.ended(client.patch(target, 0, DATA).headers["Harmony4-Job"])
        assert (job["state"], job["problem"]["type"]) == ("failed", "urn:harmony4:problem:key")
        assert not (root / "a.h4mk").exists()
        assert server.get("/health").status == 200


def test_scopes(root: Path, ring: Path, tmp_path: Path) -> None:
    state = State(tmp_path / "state")

    def token(*scopes: str) -> dict[str, str]:
        made, text = new_token("test", scopes, time.time(), None)
        TokenFile(state).add(made)
        return {"Authorization": f"Bearer {text}"}

    write, both, mask = token("write"), token("write", "mask"), token("mask")
    tus = {
        "Tus-Resumable": "1.0.0",
        "Upload-Length": "9",
        "Upload-Metadata": f"name {b64('u.h4mk')},mask {b64('films')}",
    }
    with running(root, keyring=ring, state=state.path, auth=True) as server:
        for target, headers, body in (
            ("/video/export?name=a.h4mk&mask=films", {}, DATA),
            ("/uploads/", tus, b""),
        ):
            assert server.request("POST", target, write | headers, body).problem == "key"
            assert server.request("POST", target, mask | headers, body).problem == "forbidden"
            assert server.request("POST", target, both | headers, body).status == 201
        assert not list((server.app[STATE].path / "spool").iterdir())
