"""WebVTT and JSON lines: where they are cut, that no byte is lost, and hostile ones (H4MK 16.10)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import independent
from commands import here
from harmony4.crypto.token import HEADER, KEY
from harmony4.h4mk import H4MKReader, HistoryEntry, verify
from harmony4.server.exporting.bundling import bundle_files
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.folder.facts import content_type, extension
from harmony4.tokenize.text import CUE_LINE, JSON_LINE, Cues, Entry, Records, TextScanner, record
from harmony4.tokenize.video import VideoTransportTokenizer
from media_factory import media
from needs import BUNNY
from serving import LOOPS, running

VTT = b"""WEBVTT - the title

STYLE
::cue { color: red }

NOTE 00:00.000 -> this is no arrow

1
00:01.000 --> 00:02.500 align:left
one

00:01.900 --> 00:09.000
- two
- three

NOTE between

last
100:00:02.000 --> 100:00:03.000
four"""
STARTS = [VTT.index(b"1\n00:01"), VTT.index(b"00:01.9"), VTT.index(b"last")]
FAR = 100 * 3600 * 10**6
LINES = b"".join(
    json.dumps({"pts": pts, "end": pts + 300_000, "text": "é"}).encode() + b"\n"
    for pts in (0, 300_000, 1_100_000, 900_000, 2_200_000)
)


def scan(scanner: TextScanner, data: bytes, step: int | None = None) -> list[Entry]:
    """Entries, with the promise that none comes late."""
    entries: list[Entry] = []
    for at in range(0, len(data), step or len(data) or 1):
        settled = scanner.settled
        found = scanner.feed(data[at : at + step] if step else data)
        assert all(entry.start >= settled for entry in found)
        assert settled <= scanner.settled <= at + (step or len(data))
        entries += found
    settled = scanner.settled
    last = scanner.finish()
    assert all(entry.start >= settled for entry in last)
    return entries + last


def blocks_of(data: bytes, size: int = 2**20, step: int = 7) -> Iterator[tuple[int, int, int, bytes]]:
    """(flags, pts, min_pts, bytes) of each block, out of a source that comes in small pieces."""
    tokenizer = VideoTransportTokenizer(block_size=size)
    for token in tokenizer.encode(data[at : at + step] for at in range(0, len(data), step)):
        yield token.record.flags & (KEY | HEADER), token.record.pts, token.record.min_pts, token.data


# -- WebVTT


def test_a_file_is_cut_at_its_cues() -> None:
    first, _, last = STARTS
    assert (
        list(blocks_of(VTT))
        == [
            (HEADER, 0, 0, VTT[:first]),
            (KEY, 1_000_000, 1_000_000, VTT[first:last]),  # the second cue is too near
            (KEY, FAR + 2_000_000, FAR + 2_000_000, VTT[last:]),
        ]
    )


def test_small_blocks() -> None:
    """Continuations take the latest time before them, and end where a cue opens a block."""
    found = list(blocks_of(VTT, 40))
    assert b"".join(data for *_, data in found) == VTT
    assert max(len(data) for *_, data in found) == 40
    first, second, last = STARTS
    assert [data for flags, *_, data in found if flags & HEADER] == [VTT[:40], VTT[40:80], VTT[80:first]]
    keys = [data[:4] for flags, *_, data in found if flags & KEY]
    assert keys == [b"1\n00", b"last"]
    between = [(pts, least) for flags, pts, least, _ in found if not flags][: (last - first - 1) // 40]
    assert between[0] == (1_000_000, 1_900_000)  # the second cue begins in it
    assert between[1] == (1_900_000, 1_900_000)
    assert second < first + 80


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_ends_of_lines(end: bytes, mark: bytes, step: int) -> None:
    data = mark + VTT.replace(b"\n", end)
    starts = [data.index(one) for one in (b"1" + end + b"00:01", b"00:01.9", b"last")]
    assert [entry.start for entry in scan(Cues(), data, step)] == starts


def test_an_end_of_line_is_not_torn_apart() -> None:
    """A CR at the end of a piece, an empty piece, and its LF in the next one."""
    scanner = Cues()
    found: list[Entry] = []
    for piece in (b"WEBVTT\r", b"", b"\n\r", b"\n", b"00:01.000 --> 00:02.000\r", b"\n"):
        found += scanner.feed(piece)
    assert found == [Entry(10, 1_000_000, 2_000_000)]


@pytest.mark.parametrize(
    ("line", "times"),
    [
        (b"00:01.000 --> 00:02.000", (1_000_000, 2_000_000)),
        (b"00:01.000-->00:02.000", (1_000_000, 2_000_000)),
        (b" \t\f00:01.000\t-->\f00:02.000 line:0", (1_000_000, 2_000_000)),
        (b"00:01.000 --> 00:02.000line:0", (1_000_000, 2_000_000)),
        (b"01:00:00.001 --> 1:00:00.002", (3_600_001_000, 3_600_002_000)),
        (b"00:05.000 --> 00:02.000", (5_000_000, 5_000_000)),  # never shown, and a cue all the same
        (b"123456:59:59.999 --> 00:00.000", (444_445_199_999_000, 444_445_199_999_000)),
        (b"00:01,000 --> 00:02,000", None),  # SubRip
        (b"00:60.000 --> 00:61.000", None),
        (b"60:00.000 --> 61:00.000", None),
        (b"00:60:00.000 --> 00:61:00.000", None),
        (b"0:01.000 --> 0:02.000", None),
        (b"00:01.00 --> 00:02.000", None),
        (b"00:01.000 --> 00:02.0000", None),
        (b"00:01.000 -- > 00:02.000", None),
        (b"x00:01.000 --> 00:02.000", None),
        (b"-00:01.000 --> 00:02.000", None),
        (b"00:01.000 -->", None),
        (b"-->", None),
        (b"\x0000:01.000 --> 00:02.000", None),
        (b"00:01.000 --> 00:02.000\0", (1_000_000, 2_000_000)),
        (b"9999999999999:00:00.000 --> 00:00.000", None),
        (b"9" * 900 + b":00:00.000 --> 00:00.000", None),
        ("٠٠:٠١.٠٠٠ --> 00:02.000".encode(), None),
        (b"00:01.000 --> 00:02.000" + b" " * 10**5, (1_000_000, 2_000_000)),
        (b" " * 1010 + b"00:01.000 --> 00:02.000", None),  # beyond the bytes that count
    ],
)
@pytest.mark.parametrize("name", [b"", b"name\n"])
def test_lines_of_times(line: bytes, times: tuple[int, int] | None, name: bytes) -> None:
    data = b"WEBVTT\n\n" + name + line + b"\nx\n"
    wanted = [] if times is None else [Entry(8, *times)]
    for step in (None, 1, 1000):
        assert scan(Cues(), data, step) == wanted
    assert independent.cues(data) == wanted


@pytest.mark.parametrize(
    ("before", "start"),
    [
        (b"", 0),
        (b"header: x\n", 0),
        (b"\n\nname\n", -5),
        (b"\nx\nno name\n", 0),
        (b"\nbad --> times\n", 0),
        (b"\nname\nbad --> times\n", 0),
        (b"\nname\n\n", 0),
        (b"\n" + b"n" * (CUE_LINE - 1) + b"\n", -CUE_LINE),
        (b"\n" + b"n" * CUE_LINE + b"\n", 0),
        (b"\n" + b"n" * 10**5 + b"\n", 0),
    ],
)
def test_where_a_cue_begins(before: bytes, start: int) -> None:
    data = b"WEBVTT\n" + before
    wanted = len(data) + start
    data += b"00:01.000 --> 00:02.000\nx"
    for step in (None, 1, 100):
        assert [entry.start for entry in scan(Cues(), data, step)] == [wanted]
    assert [place for place, *_ in independent.cues(data)] == [wanted]


def test_no_cues() -> None:
    for data in (b"WEBVTT", b"WEBVTT\n", b"WEBVTT\n\nNOTE nothing\n", b"WEBVTT 00:00.000 --> 00:01.000\n"):
        assert list(blocks_of(data)) == [(HEADER, 0, 0, data)]


def test_memory_does_not_follow_a_line() -> None:
    """A line of 100 MiB: what waits is a block and a piece."""
    waiting = 0
    tokenizer = VideoTransportTokenizer(block_size=2**16)
    made = done = 0

    def pieces() -> Iterator[bytes]:
        nonlocal made, waiting
        for piece in (b"WEBVTT\n\n00:01.000 --> 00:02.000\n", *[bytes(2**16)] * 1600):
            made += len(piece)
            waiting = max(waiting, made - done)
            yield piece

    for token in tokenizer.encode(pieces()):
        done += token.record.size
    assert made == done
    assert waiting < 2**19


PIECES = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"-->",
        b" --> ",
        b"00:01.000 --> 00:03.000",
        b"name",
        b"NOTE ",
        b"x" * 1030,
    ]
    + [b"%02d:%02d.%03d --> 00:09.000 a:b\n" % (n % 3, n * 7 % 60, n) for n in range(40)]
    + [b"\0", b"\xff", b" ", b"\t", b"0", b"12:00:00.000 --> 13:00:00.000"]
)
BODIES = st.lists(PIECES, max_size=40).map(b"".join)


@settings(deadline=None)
@given(
    st.sampled_from([b"WEBVTT", b"\xef\xbb\xbfWEBVTT "]), BODIES, st.integers(1, 3000), st.integers(1, 200)
)
@example(b"WEBVTT", b"\n\nname\r", 1, 1)
def test_any_webvtt(head: bytes, body: bytes, size: int, step: int) -> None:
    """What is cut is what the second implementation cuts, whatever the pieces; and no byte is lost."""
    data = head + b"\n" + body
    rebuilt(data, size, step, independent.cues(data), "webvtt")


def rebuilt(data: bytes, size: int, step: int, entries: list[Any], codec: str) -> None:
    out = io.BytesIO()
    export(io.BytesIO(data), out, ExportOptions(block_size=size))
    blocks, end = independent.text(data, size, entries)
    cues = codec == "webvtt"
    track = {
        "codec": codec,
        "kind": "text" if cues else "tokens",
        "masked": False,
        "media_type": "text/vtt" if cues else "application/jsonl",
        "self_framing": True,
        "span": 1_000_000,
        "start": {"den": 1000 if cues else 1_000_000, "num": 1, "ticks": 0},
        "stream": 0,
        "timing": "demux",
    }
    trak = {"cut": {"block": size, "order": "end", "rule": 1}, "origin": "0", "tracks": [track]}
    entry = {"args": {}, "inputs": [], "op": "export"}
    assert out.getvalue() == independent.build(
        trak, blocks, ends={0: end}, history=[entry], structure_only=cues
    )
    in_pieces = list(blocks_of(data, size, step))
    assert [(one["pts"], one["min_pts"], one["payload"]) for one in blocks] == [one[1:] for one in in_pieces]


# -- JSON lines


def test_lines_are_cut_at_their_times() -> None:
    lines = LINES.splitlines(keepends=True)
    assert list(blocks_of(LINES)) == [
        (KEY, 0, 0, lines[0] + lines[1]),
        (KEY, 1_100_000, 900_000, lines[2] + lines[3]),
        (KEY, 2_200_000, 2_200_000, lines[4]),
    ]


@pytest.mark.parametrize(
    ("line", "times"),
    [
        (b'{"pts":5}', (5, 5)),
        (b'{"pts":5,"end":9}', (5, 9)),
        (b'{"pts":5,"end":3}', (5, 5)),
        (b'{"pts":5,"end":null}', (5, 5)),
        (b'{"pts":5,"end":9.5}', (5, 5)),
        (b'{"pts":5,"end":99999999999999999999}', (5, 5)),
        (b'{"pts":5,"pts":6}', (6, 6)),
        (b'\t{ "pts" : 5 } \r', (5, 5)),
        (b'{"pts":%d}' % 2**62, (2**62, 2**62)),
        (b'{"pts":%d}' % (2**62 + 1), None),
        (b'{"pts":-5}', None),
        (b'{"pts":5.0}', None),
        (b'{"pts":5e0}', None),
        (b'{"pts":true}', None),
        (b'{"pts":"5"}', None),
        (b'{"pts":Infinity}', None),
        (b'{"pts":5,"x":-Infinity}', None),
        (b'[{"pts":5}]', None),
        (b"5", None),
        (b"", None),
        (b'{"\\u0070ts":5}', (5, 5)),
        (b'{"x":"\\n"}', None),
        (b'{"pts":5,"x":' + b"[" * 63 + b"]" * 63 + b"}", (5, 5)),
        (b'{"pts":5,"x":' + b'{"x":' * 63 + b"0" + b"}" * 64, (5, 5)),
        (b'{"pts":5,"x":' + b"[" * 64 + b"]" * 64 + b"}", None),
        (b'{"pts":5,"x":' + b'[{"x":' * 32 + b"0" + b"}]" * 32 + b"}", None),
        (b'{"pts":5,"x":' + b"[" * 900 + b"]" * 900 + b"}", None),
        (b'{"pts":5,"x":[' + b"[]," * 100 + b"{}]}", (5, 5)),
        (b'{"pts":5,"x":' + b"9" * 5000 + b"}", (5, 5)),
        (b'{"pts":5', None),
        (b'{"pts":5}{"pts":5}', None),
        (b'{"pts":' + b"[" * 50_000, None),
        (b'{"pts":' + b"9" * 50_000 + b"}", None),
        (b'{"pts":5,"x":"\xff"}', None),
        (b'{"pts":5,"x":"\\ud800"}', (5, 5)),
    ],
)
def test_records(line: bytes, times: tuple[int, int] | None) -> None:
    assert record(line) == times
    data = b'{"pts":0}\n' + line + b"\n"
    wanted = [Entry(0, 0, 0)] + ([] if times is None else [Entry(10, *times)])
    for step in (None, 1, 1000):
        assert scan(Records(), data, step) == wanted


def test_a_long_line_has_no_time() -> None:
    line = b'{"pts":2000000,"x":"'
    for size, count in ((JSON_LINE - 1, 2), (JSON_LINE, 1)):
        data = b'{"pts":0}\n' + line + b"x" * (size - len(line) - 2) + b'"}\n'
        assert [len(scan(Records(), data, step)) for step in (None, 1000)] == [count, count]
        assert b"".join(data for *_, data in blocks_of(data, 999)) == data


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.fixed_dictionaries(
                {"pts": st.integers(-1, 5_000_000)}, optional={"end": st.integers(0, 2**63), "x": st.text()}
            ).map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")),
        ),
        max_size=30,
    ),
    st.booleans(),
    st.integers(1, 300),
    st.integers(1, 100),
)
def test_any_lines(lines: list[bytes], ended: bool, size: int, step: int) -> None:
    data = b'{"pts": 0}' + b"".join(b"\n" + line for line in lines) + b"\n" * ended
    rebuilt(data, size, step, independent.records(data), "jsonl")


# -- whole


def test_a_film_with_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`bundle` and `split`: a film, its commentary, subtitles and tokens."""
    film = tmp_path / "film.h4mk"
    export(BUNNY, film)
    (tmp_path / "subs.vtt").write_bytes(VTT)
    (tmp_path / "subs.srt").write_bytes(b"1\n00:00:01,000 --> 00:00:02,000\nopaque\n")
    tokens = here(capsys, "tokens", film).text.encode()
    (tmp_path / "film.tokens").write_bytes(tokens)
    out, again = tmp_path / "all.h4mk", tmp_path / "apart"
    names = [film, media("tone.flac"), *(tmp_path / one for one in ("subs.vtt", "subs.srt", "film.tokens"))]
    assert here(capsys, "bundle", *names, "-o", out, "-q").status == 0
    assert verify(out).ok
    with H4MKReader(out) as reader:
        assert [one.info.kind for one in reader.tracks] == ["video", "audio", "text", "data", "tokens"]
        assert reader.meta is not None
        assert not reader.meta.structure_only
        found = reader.locate(1_500_000, 2)
        assert found is not None
        assert (found.pts, reader.read(found.offset, found.size, 2)) == (
            1_000_000,
            VTT[STARTS[0] : STARTS[2]],
        )
        assert reader.header_ranges(2) == ((0, STARTS[0]),)
    assert here(capsys, "split", out, "-o", again, "-q").status == 0
    made = {path.name: path.read_bytes() for path in again.iterdir()}
    assert sorted(made) == ["00.h4mk", "01.flac", "02.vtt", "03.bin", "04.jsonl"]
    assert [made[name] for name in sorted(made)] == [path.read_bytes() for path in names]


def test_who_says_that_there_is_only_structure(tmp_path: Path) -> None:
    """Not of tokens that come from elsewhere, nor of a bundle with a container that does not say so."""
    (tmp_path / "a.tokens").write_bytes(LINES)
    (tmp_path / "a.vtt").write_bytes(VTT)
    for name in ("a.tokens", "a.vtt"):
        export(tmp_path / name, tmp_path / f"{name}.h4mk")
    for sources, only in (
        (["a.vtt", "a.vtt.h4mk"], True),
        (["a.vtt", "a.tokens"], False),
        (["a.vtt", "a.tokens.h4mk"], False),
    ):
        bundle_files([tmp_path / one for one in sources], tmp_path / "out.h4mk")
        with H4MKReader(tmp_path / "out.h4mk") as reader:
            assert reader.meta is not None
            assert reader.meta.structure_only is only
            assert reader.meta.history[0] == HistoryEntry("export", {})


def test_types() -> None:
    assert content_type("text/vtt") == "text/vtt"
    for other in ("text/vttx", "text/html", "text/vtt\n", "xtext/vtt", "application/jsonl"):
        assert content_type(other) == "application/octet-stream"
    assert (extension("text/vtt"), extension("application/jsonl")) == ("vtt", "jsonl")


@pytest.mark.parametrize("loop", LOOPS)
def test_over_http(tmp_path: Path, loop: str) -> None:
    """As a browser's <track> wants it, twice: the second answer takes the express lane."""
    (tmp_path / "subs.vtt").write_bytes(VTT)
    bundle_files([BUNNY, tmp_path / "subs.vtt"], tmp_path / "film.h4mk")
    with running(tmp_path, loop=loop) as server:
        for _ in range(2):
            answer = server.get("/video/range/1.vtt?name=film.h4mk")
            assert (answer.status, answer.body) == (200, VTT)
            assert answer.headers["Content-Type"] == "text/vtt"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
