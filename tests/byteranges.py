"""multipart/byteranges, taken apart by the standard library's e-mail parser, which knows nothing of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email import message_from_bytes


@dataclass(frozen=True)
class Part:
    start: int
    stop: int
    """Excluded."""
    size: int
    """Of the whole."""
    content_type: str
    body: bytes


def parts_of(content_type: str, body: bytes) -> list[Part]:
    """The parts of a multipart answer; checks that they are as long as they say and have no other headers."""
    message = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    assert message.get_content_type() == "multipart/byteranges"
    assert not message.defects
    assert not message.preamble
    assert not message.epilogue
    found = []
    for part in message.get_payload():
        assert not isinstance(part, str)
        assert sorted(part.keys()) == ["Content-Range", "Content-Type"]
        numbers = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", part["Content-Range"])
        assert numbers is not None
        start, last, size = map(int, numbers.groups())
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        assert len(payload) == last + 1 - start
        found.append(Part(start, last + 1, size, part["Content-Type"], payload))
    return found
