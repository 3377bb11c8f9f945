"""server/reading/fields.py: file names for downloads, wishes for digests, and the digest of what is sent."""

from __future__ import annotations

import hashlib
import re
from email.message import Message
from email.utils import collapse_rfc2231_value
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harmony4.crypto.errors import TruncatedError
from harmony4.server.reading.fields import attachment, content_digest, download_name, wants_sha256
from harmony4.server.reading.ranges import ByteRange
from harmony4.server.reading.resource import Resource


@pytest.mark.parametrize(
    ("name", "extension", "expected"),
    [
        ("clip.h4mk", "mp4", "clip.mp4"),
        ("clip.mp4.h4mk", "mp4", "clip.mp4"),
        ("CLIP.MP4.h4mk", "mp4", "CLIP.MP4"),
        ("clip.mp4.h4mk", "m4a", "clip.mp4.m4a"),
        ("talks/2024/day1.h4mk", "webm", "day1.webm"),
        ("mp4.h4mk", "mp4", "mp4.mp4"),
        ("a.h4mk.h4mk", "bin", "a.h4mk.bin"),
        ("talks/day1.h4mk", None, "day1.h4mk"),  # the sealed file itself
    ],
)
def test_download_name(name: str, extension: str | None, expected: str) -> None:
    assert download_name(name, extension) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clip.mp4", 'filename="clip.mp4"'),
        ("two words;a=b'c.mp4", 'filename="two words;a=b\'c.mp4"'),
        # RFC 8187 §3.2.2
        ("£ and € rates", "filename=\"_ and _ rates\"; filename*=UTF-8''%C2%A3%20and%20%E2%82%AC%20rates"),
        ('a"b.mp4', "filename=\"a_b.mp4\"; filename*=UTF-8''a%22b.mp4"),
        ("100%41.mp4", "filename=\"100_41.mp4\"; filename*=UTF-8''100%2541.mp4"),
        ("a\r\nX-Evil: 1.mp4", 'filename="a__X-Evil: 1.mp4"'),
        ("a\0\x1b\x7f\x85b.mp4", 'filename="a____b.mp4"'),
        ("..\\..\\boot.ini", 'filename=".._.._boot.ini"'),
        ("../../x.mp4", 'filename=".._.._x.mp4"'),
        ("a\u202egpj.mp4", 'filename="a_gpj.mp4"'),  # would be shown as a4pm.jpg
        ("a\u2028b.mp4", 'filename="a_b.mp4"'),
        ("\U0001f3ac.mp4", "filename=\"_.mp4\"; filename*=UTF-8''%F0%9F%8E%AC.mp4"),
        ("\udc80.mp4", "filename=\"_.mp4\"; filename*=UTF-8''%3F.mp4"),
    ],
)
def test_attachment(name: str, expected: str) -> None:
    assert attachment(name) == f"attachment; {expected}"


@given(st.text(max_size=40))
@example("'\"%\\;=\r\n")
def test_any_name_survives(name: str) -> None:
    """The standard library's parser of MIME parameters, which is not ours, reads the name back."""
    field = attachment(name)
    assert field == attachment(name)
    assert re.fullmatch(r"[ -~]+", field)
    plain, _, extended = field.removeprefix('attachment; filename="').partition('"')
    assert not set(plain) & set('"\\%/')
    if extended:
        true = re.fullmatch(r"; filename\*=UTF-8''([A-Za-z0-9!#$&+.^_`|~%-]*)", extended)
        assert true is not None
        shown = unquote_to_bytes(true[1]).decode()
    else:
        shown = plain
    assert len(shown) == len(name)
    assert all(ours == theirs or ours in "_?" for ours, theirs in zip(shown, name, strict=True))
    message = Message()
    message["Content-Disposition"] = field.replace(f'filename="{plain}"; ', "")
    parameter = message.get_param("filename", header="content-disposition")
    assert parameter is not None
    assert collapse_rfc2231_value(parameter) == shown


@pytest.mark.parametrize(
    "values",
    [
        ["sha-256=1"],
        ["sha-256=10"],
        ["sha-512=3, sha-256=10"],
        ["sha-512=10,sha-256=1,unixsum=0"],
        [" sha-256=5  "],
        ["sha-512=0\t,\t sha-256=05"],
        ["sha-256=0, sha-256=3"],  # the last one counts (RFC 8941 §4.2.2)
        ["sha-512=10", "sha-256=1"],
        ['sha-256=1;q=0.5; text="a,\\"b";token=*a/b;bytes=:YWI=:;yes;no=?0', "*other=2"],
    ],
)
def test_wants_sha256(values: list[str]) -> None:
    assert wants_sha256(values)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["sha-512=10"],
        ["sha-256=0"],
        ["sha-256=3, sha-256=0"],
        ["sha-256=1", "sha-256=0"],
        # Not what RFC 9530 §4 defines: ignored as a whole.
        ["sha-256"],
        ["sha-256=11"],
        ["sha-256=-1"],
        ["sha-256=1, sha-512=11"],
        ["sha-256=1, sha-512=-1"],
        ["sha-256=1, sha-512"],
        ["sha-256=1.0"],
        ["sha-256=?1"],
        ["sha-256=high"],
        ["sha-256=1,"],
        [",sha-256=1"],
        ["sha-256=1,,sha-512=1"],
        ["sha-256=1 sha-512=1"],
        ["sha-256 = 1"],
        ["SHA-256=1"],
        ["sha-256=1 ;q=1"],
        ["sha-256=1;"],
        ["sha-256=1;q="],
        ['sha-256=1;q="'],
        ["sha-256=:1:"],
        ["sha-256=0000000000000001"],  # 16 digits
        ["sha-256=٣"],
        ["(sha-256=1)"],
        ["sha-256=1", "junk!"],
    ],
)
def test_does_not_want_sha256(values: list[str]) -> None:
    assert not wants_sha256(values)


@given(st.lists(st.text(max_size=40) | st.text('sha-256=10,; "\\*:?', max_size=40), max_size=3))
def test_any_wish(values: list[str]) -> None:
    assert wants_sha256(values) in (True, False)


@given(
    st.dictionaries(
        st.sampled_from(["sha-256", "sha-512", "md5", "a_b.c*"]), st.integers(0, 10), min_size=1, max_size=4
    )
)
def test_wishes_that_are_well_formed(wishes: dict[str, int]) -> None:
    field = ", ".join(f"{name}={wish}" for name, wish in wishes.items())
    assert wants_sha256([field]) == (wishes.get("sha-256", 0) > 0)


class FileOnly:
    """A reader that has nothing but `read_file`: whoever asks it for a mapping fails."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads: list[tuple[int, int]] = []

    def read_file(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        if offset + size > len(self.data):
            raise TruncatedError("the file has become shorter")
        return self.data[offset : offset + size]


DATA = hashlib.shake_256(b"fields").digest(5 * 2**20)
PIECE = 3 * 2**20 + 1


def resource_of(data: bytes) -> tuple[Resource, FileOnly]:
    """A resource whose pieces lie in a file with a gap of 7 bytes between them."""
    stored = b"gap gap" + data[:PIECE] + b"gap gap" + data[PIECE:]

    def pieces(start: int, length: int) -> Any:
        stop = start + length
        if start < PIECE:
            yield start + 7, min(stop, PIECE) - start
        if stop > PIECE:
            yield max(start, PIECE) + 14, stop - max(start, PIECE)

    reader = FileOnly(stored)
    container = cast(Any, SimpleNamespace(reader=reader, name="a.h4mk"))
    return Resource(container, len(data), None, "video/mp4", pieces, False), reader


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [ByteRange(0, 0)],
        [ByteRange(0, len(DATA))],
        [ByteRange(PIECE - 1, PIECE + 1)],
        [b"--", ByteRange(5, 10), b"--", ByteRange(0, 4 * 2**20), b"----"],
    ],
)
async def test_content_digest(parts: list[bytes | ByteRange]) -> None:
    resource, reader = resource_of(DATA)
    body = b"".join(one if isinstance(one, bytes) else DATA[one.start : one.stop] for one in parts)
    assert await content_digest(resource, parts) == hashlib.sha256(body).digest()
    assert max((size for _, size in reader.reads), default=0) <= 256 * 2**10  # memory: one piece at a time


async def test_digesting_stops_when_the_client_has_left() -> None:
    resource, reader = resource_of(DATA)
    assert await content_digest(resource, [ByteRange(0, len(DATA))], lambda: False) is None
    assert sum(size for _, size in reader.reads) == 2**20


async def test_a_file_that_was_cut_short_is_an_error() -> None:
    resource, reader = resource_of(DATA)
    reader.data = reader.data[:1000]
    with pytest.raises(TruncatedError):
        await content_digest(resource, [ByteRange(0, len(DATA))])
