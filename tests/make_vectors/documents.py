"""TRAK and META: canonical form and schema (H4MK 4, 5, 10; check V7)."""

import copy

from independent import canonical
from make_vectors.parts import TITLE, TRACK, TRAK, container, kept

DESTROYED = kept(4)  # recover puts a generic TRAK in its place


def add_all(vectors):
    """Add the vectors of this module."""
    _trak_form(vectors)
    _trak_schema(vectors)
    _meta_form(vectors)
    _meta_schema(vectors)


def _replaced(old, new):
    def change(data):
        assert data.count(old) >= 1, old
        return data.replace(old, new, 1)

    return change


def _trak_form(vectors):
    def add(name, text, change, expect="json", spec="4"):
        data = container(trak_json=change)
        vectors.add(f"trak-{name}", spec, expect, text, data, open=expect, recover=DESTROYED)

    add("white-space", "a space after a comma", _replaced(b",", b", "))
    add("newline-behind", "a newline at the end", lambda data: data + b"\n")
    add("second-value", "a second value behind the object", lambda data: data + b"{}")
    add("unsorted", "keys not sorted", _replaced(b'"order":"end","rule":1', b'"rule":1,"order":"end"'))
    add("key-twice", "a key twice with one value", _replaced(b'"rule":1', b'"rule":1,"rule":1'))
    add("key-twice-differs", "a key twice with two values", _replaced(b'"rule":1', b'"rule":2,"rule":1'))
    add("float", "a float that is whole", _replaced(b'"span":0', b'"span":0.0'))
    add("exponent", "a number with an exponent", _replaced(b'"num":1', b'"num":1e0'))
    add("nan", "NaN", _replaced(b'"span":0', b'"span":NaN'))
    add("infinity", "-Infinity", _replaced(b'"ticks":126000', b'"ticks":-Infinity'))
    add("leading-zero", "a leading zero", _replaced(b'"span":0', b'"span":00'))
    add("plus", "a plus sign", _replaced(b'"num":1', b'"num":+1'))
    add("minus-zero", "-0", _replaced(b'"span":0', b'"span":-0'))
    add("null", "null", _replaced(b'"span":0', b'"span":null'))
    add("wide-number", "2^53 as a number", _replaced(b'"ticks":126000', b'"ticks":9007199254740992'))
    add("huge-number", "a number of 500 digits", _replaced(b'"ticks":126000', b'"ticks":' + b"9" * 500))
    add("narrow-string", "126000 as a string", _replaced(b'"ticks":126000', b'"ticks":"126000"'))
    add(
        "wider-than-64-bits",
        "2^63 as a string",
        _replaced(b'"ticks":126000', b'"ticks":"9223372036854775808"'),
    )
    add("escaped-letter", "an escape that is not needed", _replaced(b"video/mp4", b"video\\/mp4"))
    add(
        "escaped-unicode",
        "an escape where the character itself belongs",
        _replaced(b"video/mp4", b"vid\\u0065o/mp4"),
    )
    add("raw-control", "a control character that is not escaped", _replaced(b"h264", b"h\x01264"))
    add("capital-escape", "an escape in capital digits", _replaced(b"h264", b"h\\u001B"))
    add("bad-utf-8", "a byte that is not UTF-8", _replaced(b"h264", b"h\xff264"))
    add("overlong-utf-8", "an overlong form", _replaced(b"h264", b"h\xc0\xaf264"))
    add("surrogate-utf-8", "a surrogate in UTF-8", _replaced(b"h264", b"h\xed\xa0\x80264"))
    add("lone-surrogate", "an escaped lone surrogate", _replaced(b"h264", b"h\\ud800264"))
    add("byte-order-mark", "a byte order mark", lambda data: b"\xef\xbb\xbf" + data)
    add("utf-16", "UTF-16", lambda data: data.decode().encode("utf-16-le"))
    add("array", "an array instead of the object", lambda data: b"[" + data + b"]")
    add("string", "a string instead of the object", lambda _: b'"TRAK"')
    add("not-json", "no JSON", lambda _: b"tracks: 1")
    add("open-end", "an object without its end", lambda data: data[:-1])
    deep = b"[" * 6 + b"]" * 6
    add("nine-deep", "nine levels", _replaced(b'"codec":"h264,aac"', b'"codec":' + deep))
    add("bomb", "five thousand brackets", lambda _: b"[" * 5000)
    add("bomb-objects", "objects nested two thousand times", lambda _: b'{"a":' * 2000 + b"1" + b"}" * 2000)


def _trak_schema(vectors):
    def add(name, text, change, expect="json"):
        trak = copy.deepcopy(TRAK)
        change(trak)
        data = container(trak_json=lambda _: canonical(trak))
        vectors.add(f"trak-{name}", "5", expect, text, data, open=expect, recover=DESTROYED)

    def track(**more):
        return lambda trak: trak["tracks"][0].update(more)

    def cut(**more):
        return lambda trak: trak["cut"].update(more)

    def start(**more):
        return lambda trak: trak["tracks"][0]["start"].update(more)

    add("unknown-key", "an unknown key", lambda trak: trak.update(extra=1), "critical")
    add("unknown-track-key", "an unknown key of a track", track(color="red"), "critical")
    add("unknown-kind", "a kind of track that nobody knows", track(kind="smell"), "critical")
    add("unknown-timing", "an unknown timing", track(timing="guess"), "critical")
    add("unknown-order", "an unknown order", cut(order="start"), "critical")
    add("unknown-rule", "a cutting rule of the future", cut(rule=2), "critical")
    add("missing-key", "cut.rule is missing", lambda trak: trak["cut"].pop("rule"))
    add("missing-origin", "origin is missing", lambda trak: trak.pop("origin"))
    add("origin-number", "origin as a number", lambda trak: trak.update(origin=1400000))
    add("origin-plus", "origin with a plus sign", lambda trak: trak.update(origin="+5"))
    add("origin-minus-zero", 'origin "-0"', lambda trak: trak.update(origin="-0"))
    add("no-tracks", "no track", lambda trak: trak.update(tracks=[]))
    add("block-0", "cut.block 0", cut(block=0))
    add("block-too-large", "cut.block 2^24+1", cut(block=2**24 + 1))
    add("block-true", "true where an integer belongs", cut(block=True))
    add("masked-0", "0 where a boolean belongs", track(masked=0))
    add("span-negative", "a negative span", track(span=-1))
    add("stream-65536", "stream 65536", track(stream=65536))
    add("den-0", "a time base with denominator 0", start(den=0))
    add("num-negative", "a time base with a negative numerator", start(num=-1))
    add("lang-empty", "an empty lang instead of none", track(lang=""))
    add("name-number", "a name that is a number", track(name=7))
    add("media-type-empty", "an empty media type", track(media_type=""))
    mask = {"commit": "ab" * 32, "mode": "deterministic"}
    add("mask-unused", "mask without a masked track", lambda trak: trak.update(mask=mask))
    add("mask-missing", "a masked track without mask", track(masked=True))
    bad = {"tracks": [{**TRACK, "masked": True}], "mask": {**mask, "mode": "secret"}}
    add("mask-mode", "an unknown mode of masking", lambda trak: trak.update(bad), "critical")
    capital = {"tracks": [{**TRACK, "masked": True}], "mask": {**mask, "commit": "AB" * 32}}
    add("mask-capital", "a digest in capitals", lambda trak: trak.update(capital))


def _meta_form(vectors):
    def add(name, text, change):
        vectors.add(f"meta-{name}", "4", "json", text, container(meta_json=change), open="json")

    add("white-space", "a space after a colon", _replaced(b":", b": "))
    add("key-twice", "a key twice", _replaced(b'"blocks":4', b'"blocks":4,"blocks":4'))
    add("float", "a float", _replaced(b'"duration":1080000', b'"duration":1080000.0'))
    add("bad-utf-8", "a byte that is not UTF-8", _replaced("ö".encode(), b"\xf6"))
    add("lone-surrogate", "an escaped lone surrogate", _replaced("ö".encode(), b"\\udc00"))
    add(
        "escaped-unicode", "an escape where the character itself belongs", _replaced("ö".encode(), b"\\u00f6")
    )
    add("bomb", "five thousand brackets", lambda _: b'{"a":' + b"[" * 5000)
    add("not-json", "no JSON", lambda data: b"\0" * len(data))


def _meta_schema(vectors):
    def add(name, text, change, expect="json", spec="10.1", **more):
        data = container(change_meta=change)
        vectors.add(f"meta-{name}", spec, expect, text, data, open=expect, **more)

    def track(**more):
        return lambda meta: meta["tracks"][0].update(more)

    def entry(**more):
        return lambda meta: meta["history"][0].update(more)

    add("unknown-key", "an unknown key", lambda meta: meta.update(tool="x"), "critical")
    add("unknown-track-key", "an unknown key of a track", track(codec="x"), "critical")
    add("missing-key", "steps is missing", lambda meta: meta.pop("steps"))
    add("title-empty", "an empty title instead of none", lambda meta: meta.update(title=""))
    add("title-array", "a title that is an array", lambda meta: meta.update(title=[TITLE]))
    add("lost-empty", "an empty list of losses instead of none", lambda meta: meta.update(lost=[]))
    add("no-tracks", "no track", lambda meta: meta.update(tracks=[]))
    add("bytes-negative", "a negative sum", track(bytes=-1))
    add("bytes-true", "true where an integer belongs", track(bytes=True))
    add("digest-short", "a digest of 63 digits", track(sha256="a" * 63))
    add("digest-capital", "a digest in capitals", track(sha256="A" * 64))
    add("structure-1", "1 where a boolean belongs", lambda meta: meta.update(structure_only=1))
    add("op-capital", "an operation in capitals", entry(op="Export"), spec="10.3")
    add("op-empty", "an operation without a name", entry(op=""), spec="10.3")
    add("args-array", "an argument that is an array", entry(args={"fps": []}), spec="10.3")
    add("args-null", "an argument that is null", entry(args={"fps": None}), spec="10.3")
    add("input-head", "an input whose head is no digest", entry(inputs=[{"head": "x"}]), spec="10.3")
    add(
        "ancillary-time",
        "an ancillary chunk with the tag time",
        lambda meta: meta.update(ancillary=[{"sha256": "a" * 64, "size": 1, "tag": "time"}]),
        spec="14.2",
    )
    add(
        "ancillary-critical",
        "an ancillary chunk with a critical tag",
        lambda meta: meta.update(ancillary=[{"sha256": "a" * 64, "size": 1, "tag": "Pstr"}]),
        spec="14.2",
    )
