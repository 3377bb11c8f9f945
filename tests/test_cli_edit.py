"""`harmony4 cut`, `concat`, `filter`: what they say, what they refuse, and what they leave behind."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from commands import here, refused, run, small_container
from harmony4.h4mk import H4MKReader, verify


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Two tracks of ten blocks of half a second, which do not decode alone."""
    path = tmp_path / "film.h4mk"
    small_container(path, title="Film")
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """One opaque track: 512 bytes, 64 a second."""
    media, path = tmp_path / "clip.bin", tmp_path / "clip.h4mk"
    media.write_bytes(bytes(range(256)) * 2)
    assert run("export", media, "-o", path, "--block-size", "64", "-q").status == 0
    return path


def test_cut(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cut.h4mk"
    told = here(capsys, "cut", clip, "--from", "1.5s", "--to", "0:03", "-o", out)
    assert (told.status, told.err) == (0, "")
    assert told.text.startswith(f"{out}: 0:00:01.000 to 0:00:03.000, next 0:00:03.000, 0:00:02.000, 2 blocks")
    told = here(capsys, "cut", clip, "--from", "1500ms", "--to", 3_000_000, "-o", out, "--json")
    facts = json.loads(told.text)
    assert facts["tracks"] == [{"track": 0, "pts": 1_000_000, "end": 3_000_000, "next": 3_000_000}]
    assert [facts[name] for name in ("output", "start", "end", "next", "blocks", "duration")] == [
        *(str(out), 1_000_000, 3_000_000, 3_000_000, 2, 2_000_000)
    ]
    report = verify(out)
    assert report.ok
    assert report.head is not None
    assert (facts["head"], facts["size"]) == (report.head.hex(), out.stat().st_size)
    with H4MKReader(out) as reader:
        assert reader.read(0, 1000) == bytes(range(64, 192))
    told = here(capsys, "cut", clip, "--from", "7s", "-o", out)
    assert ", next" not in told.text
    assert here(capsys, "cut", clip, "-o", out, "-q", "--title", "T").text == ""
    assert '"title": "T"' in here(capsys, "inspect", out, "--json").text


def test_concat(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pieces = []
    for start in range(0, 8, 2):
        pieces.append(tmp_path / f"{start}.h4mk")
        words = ("--from", f"{start}s", "--to", f"{start + 2}s", "-o", pieces[-1], "-q")
        assert here(capsys, "cut", clip, *words).status == 0
    out = tmp_path / "all.h4mk"
    told = here(capsys, "concat", *pieces, "-o", out)
    assert (told.status, told.err) == (0, "")
    assert told.text.startswith(f"{out}: 4 inputs, 0:00:08.000, 8 blocks")
    facts = json.loads(here(capsys, "concat", *pieces, "-o", out, "--json").text)
    assert (facts["inputs"], facts["blocks"], facts["duration"]) == (4, 8, 8_000_000)
    with H4MKReader(out) as reader, H4MKReader(clip) as source:
        assert list(reader.tokens()) == list(source.tokens())


def test_filter(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sound.h4mk"
    told = here(capsys, "filter", film, "--track", 1, "-o", out)
    assert (told.status, told.err) == (0, "")
    assert told.text.startswith(f"{out}: 1 track, 0:00:05.000, 10 blocks")
    facts = json.loads(here(capsys, "filter", film, "-t", 1, "-t", 0, "-t", 1, "-o", out, "--json").text)
    assert facts["tracks"] == [0, 1]
    with H4MKReader(out) as reader, H4MKReader(film) as source:
        assert [one.sha256 for one in reader.tracks] == [one.sha256 for one in source.tracks]
        assert reader.meta is not None
        assert reader.meta.title == "Film"


def test_pipes(clip: Path) -> None:
    data = clip.read_bytes()
    piped = run("cut", "-", "--from", "2s", "-o", "-", "--json", stdin=data)
    assert piped.status == 0
    assert json.loads(piped.err)["output"] is None
    assert verify(piped.out).ok
    kept = run("filter", "-", "-t", "0", "-o", "-", stdin=piped.out)
    assert kept.err.startswith("standard output: 1 track")
    assert verify(kept.out).ok
    both = run("concat", clip, clip, "-o", "/dev/stdout", "-q")
    assert (both.status, both.err) == (0, "")
    assert verify(both.out).blocks == 16


def test_more_inputs_than_files_may_be_open(clip: Path, tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))

    done = run("concat", *[clip] * 200, "-o", tmp_path / "out.h4mk", "-q", preexec_fn=limit)
    assert (done.status, done.err) == (0, "")
    assert verify(tmp_path / "out.h4mk").blocks == 1600


def test_what_is_refused(film: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, data = tmp_path / "out.h4mk", clip.read_bytes()
    (tmp_path / "short.h4mk").write_bytes(data[:-1])
    (tmp_path / "text.h4mk").write_text("no container")
    (tmp_path / "link.h4mk").symlink_to(clip)
    both = tmp_path / "both.h4mk"
    assert here(capsys, "bundle", clip, clip, "-o", both, "-q").status == 0
    for words, expected in (
        (("cut", clip, "-o", clip), "the same file"),
        (("cut", clip, "-o", tmp_path / "link.h4mk"), "the same file"),
        (("filter", clip, "-t", 0, "-o", clip), "the same file"),
        (("concat", film, clip, "-o", clip), "the same file"),
        (("concat", clip, "-", "-o", out), "files with names"),
        (("cut", clip, "--from", "8s", "-o", out), "no track has anything in that time"),
        (("cut", clip, "--from", "2s", "--to", "2s", "-o", out), "ends after it begins"),
        (("cut", film, "-o", out), "do not decode alone"),
        (("cut", tmp_path / "short.h4mk", "-o", out), "sealed"),
        (("cut", tmp_path / "none.h4mk", "-o", out), "cannot open"),
        (("filter", clip, "-t", 1, "-o", out), "no such track (expected 0 to 0, found 1)"),
        (("filter", tmp_path / "text.h4mk", "-t", 0, "-o", out), "H4MK"),
        (("concat", clip, film, "-o", out), "input 2, track 0 cannot be put together"),
        (("concat", clip, both, "-o", out), "number of tracks in input 2 (expected 1, found 2)"),
        (
            ("concat", clip, tmp_path / "short.h4mk", "-o", out),
            "sealed container can be put together in input 2",
        ),
        (("concat", clip, tmp_path / "none.h4mk", "-o", out), "none.h4mk"),
        (("concat", clip, tmp_path / "text.h4mk", "-o", out), "text.h4mk"),
        (("cut", clip, "-o", tmp_path), "folder"),
        (("cut", clip, "-o", tmp_path / "none" / "out.h4mk"), "cannot write"),
    ):
        refused(here(capsys, *words), expected)
        assert not out.exists()
        assert clip.read_bytes() == data
    for words in (
        ("cut", clip),
        ("cut", clip, "--from", "soon", "-o", out),
        ("cut", clip, "--from", "-1", "-o", out),
        ("filter", clip, "-o", out),
        ("filter", clip, "-t", "-1", "-o", out),
        ("concat", "-o", out),
    ):
        assert here(capsys, *words).status == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("both.h4mk", "clip.bin", "clip.h4mk", "film.h4mk", "link.h4mk", "short.h4mk", "text.h4mk")
    ]


def test_what_stood_there_stays(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Until all is written and checked."""
    with H4MKReader(clip) as reader:
        at = reader.range_map()[6].position
    data = bytearray(clip.read_bytes())
    data[at] ^= 1
    clip.write_bytes(data)
    out = tmp_path / "out.h4mk"
    out.write_bytes(b"what was there")
    for words in (("cut", clip, "--from", "1s"), ("filter", clip, "-t", 0), ("concat", clip, clip)):
        refused(here(capsys, *words, "-o", out), "fails its CRC")
        assert out.read_bytes() == b"what was there"
    assert here(capsys, "cut", clip, "--to", "6s", "-o", out, "-q").status == 0
    assert verify(out).ok
    assert len(list(tmp_path.iterdir())) == 3


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    shown = here(capsys, "--help").text
    for command, words in (
        ("cut", ("--from", "--to", "--title", "next")),
        ("concat", ("FILE...", "--title")),
        ("filter", ("--track", "--title")),
    ):
        assert f" {command} " in shown
        told = here(capsys, command, "--help")
        assert told.status == 0
        for word in (*words, "--output", "--json", "--quiet"):
            assert word in told.text
