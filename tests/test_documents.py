"""TRAK and META as dataclasses: round trips and the schema's edges (H4MK 5, 10)."""

import copy
import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

import independent
from harmony4.crypto import CriticalError, JSONError, LimitError, OrderError, UsageError
from harmony4.h4mk import HistoryEntry, Lost, Meta, Start, Step, StoredTrack, TrackInfo, Trak
from harmony4.h4mk.documents import AncillaryInfo, steps_fit

SMALLEST = Trak((TrackInfo(),))
FULL = Trak(
    (
        TrackInfo(
            "h264,aac", "video", "video/mp4", True, 0, Start(-7, 1001, 30000), 3, "demux", False, "de", "Ö"
        ),
        TrackInfo(masked=True),
    ),
    origin=-(2**60),
    block=16,
    order="arrival",
    mask={"commit": "0a" * 32, "mode": "random"},
)
STORED = StoredTrack(3, 2**60, 1, 900, 800, bytes(range(32)))
META = Meta(
    blocks=3,
    duration=2**55,
    tracks=(STORED, STORED),
    history=(
        HistoryEntry("export", {"fps": "30/1", "gop": 30, "raw": True}),
        HistoryEntry("cut", {}, ({"head": "ff" * 32},)),
    ),
    steps=(Step(5, 2**62), Step(5, 1, 1)),
    lost=(Lost(2, 1), Lost(1, 4), Lost(0, 9), Lost(0, 0, 1)),
    ancillary=(AncillaryInfo(bytes(32), 5, "post"),),
    structure_only=False,
    title="T",
)


@pytest.mark.parametrize("trak", [SMALLEST, FULL])
def test_trak_round_trip(trak):  # H4MK 5
    data = trak.pack()
    assert Trak.unpack(data) == trak
    value = independent.parse_json(data, independent.TRAK_SCHEMA, "TRAK")
    assert independent.canonical(value) == data
    assert value["origin"] == str(trak.origin)


@pytest.mark.parametrize("meta", [META, Meta(0, 0, (STORED,))])
def test_meta_round_trip(meta):  # H4MK 10.1
    data = meta.pack()
    assert Meta.unpack(data) == meta
    independent.parse_json(data, independent.META_SCHEMA, "META")
    assert ("lost" in json.loads(data)) == bool(meta.lost)
    assert ("title" in json.loads(data)) == bool(meta.title)


def test_wide_integers_in_meta():  # H4MK 4
    value = json.loads(META.pack())
    assert value["duration"] == str(2**55) and value["steps"][0] == {
        "pts": 5,
        "shift": str(2**62),
        "track": 0,
    }


def test_the_document_says_what_python_says():
    value = json.loads(FULL.pack())
    assert value["cut"] == {"block": 16, "order": "arrival", "rule": 1}
    assert value["tracks"][0]["start"] == {"den": 30000, "num": 1001, "ticks": -7}
    assert (value["tracks"][0]["lang"], value["tracks"][0]["name"]) == ("de", "Ö")
    assert not {"lang", "name"} & value["tracks"][1].keys()


def changed(document, path, new):
    value = json.loads(document.pack())
    *above, last = path
    place = value
    for step in above:
        place = place[step]
    if new is ...:
        del place[last]
    else:
        place[last] = new
    return independent.canonical(value)


def leaves(value, path=()):
    """The paths of all members and items."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from leaves(item, (*path, key))


OPTIONAL = {("mask",), ("lost",), ("title",), ("tracks", 0, "lang"), ("tracks", 0, "name")}
FREE = {("history", 0, "args", key) for key in ("fps", "gop", "raw")}


@pytest.mark.parametrize("document", [FULL, META], ids=["TRAK", "META"])
def test_every_member_is_required_and_typed(document):  # check V7
    paths = list(leaves(json.loads(document.pack())))
    assert len(paths) > 30
    for path in paths:
        if path not in OPTIONAL | FREE and isinstance(path[-1], str):
            with pytest.raises(JSONError):
                document.unpack(changed(document, path, ...))
        for wrong in (None, [[]], {"x": {"y": 1}}):
            with pytest.raises((JSONError, CriticalError)):
                document.unpack(changed(document, path, wrong))


@pytest.mark.parametrize("document", [FULL, META], ids=["TRAK", "META"])
def test_an_unknown_key_is_critical_everywhere(document):  # H4MK 2.3, 4
    value = json.loads(document.pack())
    places = [(), *(path for path in leaves(value) if isinstance(_at(value, path), dict))]
    assert len(places) >= 6
    for path in places:
        if path[-1:] == ("args",):
            continue
        with pytest.raises(CriticalError):
            document.unpack(changed(document, (*path, "more"), 1))


def _at(value, path):
    for step in path:
        value = value[step]
    return value


@pytest.mark.parametrize(
    ("document", "path", "value", "kind"),
    [
        (SMALLEST, ("tracks",), [], JSONError),
        (SMALLEST, ("cut", "block"), 0, JSONError),
        (SMALLEST, ("cut", "block"), 2**24 + 1, JSONError),
        (SMALLEST, ("cut", "rule"), 2, CriticalError),
        (SMALLEST, ("cut", "order"), "other", CriticalError),
        (SMALLEST, ("origin",), 0, JSONError),
        (SMALLEST, ("origin",), str(2**63), JSONError),
        (SMALLEST, ("tracks", 0, "kind"), "film", CriticalError),
        (SMALLEST, ("tracks", 0, "timing"), "guess", CriticalError),
        (SMALLEST, ("tracks", 0, "media_type"), "", JSONError),
        (SMALLEST, ("tracks", 0, "lang"), "", JSONError),
        (SMALLEST, ("tracks", 0, "stream"), 65536, JSONError),
        (SMALLEST, ("tracks", 0, "start", "den"), 0, JSONError),
        (SMALLEST, ("tracks", 0, "masked"), True, JSONError),  # without `mask`
        (SMALLEST, ("mask",), {"commit": "0a" * 32, "mode": "random"}, JSONError),  # without a masked track
        (FULL, ("mask", "mode"), "none", CriticalError),
        (META, ("blocks",), 2**26, JSONError),
        (META, ("duration",), -1, JSONError),
        (META, ("lost",), [], JSONError),
        (META, ("title",), "", JSONError),
        (META, ("history", 0, "op"), "Export", JSONError),
        (META, ("history", 0, "args", "x"), {"y": 1}, JSONError),
        (META, ("history", 0, "args"), ["x"], JSONError),
        (META, ("ancillary", 0, "tag"), "time", JSONError),
        (META, ("ancillary", 0, "size"), 2**32, JSONError),
    ],
)
def test_values_out_of_range(document, path, value, kind):
    with pytest.raises(kind) as caught:
        document.unpack(changed(document, path, value))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "lost",
    [
        (Lost(1, 5), Lost(1, 3)),  # order
        (Lost(1, 5, 1), Lost(1, 3, 0)),
        (Lost(2, 3), Lost(1, 5)),  # touch
        (Lost(3, 3), Lost(1, 5)),  # overlap
        (Lost(0, 3), Lost(1, 5)),  # behind the end
        (Lost(1, 3), Lost(1, 3)),
        (Lost(1, 3, 2),),  # no such track
        (Lost(0, 0, 7),),
    ],
)
def test_holes_that_cannot_be(lost):  # H4MK 10.2
    with pytest.raises(OrderError):
        replace(META, lost=lost).pack()


def test_steps_fit():  # check V15
    assert steps_fit((), 1) and steps_fit((Step(1, 5), Step(1, 5, 1), Step(2, 5)), 2)
    assert not steps_fit((Step(2, 5), Step(1, 5)), 2)
    assert not steps_fit((Step(1, 5, 1), Step(1, 5)), 2)
    assert not steps_fit((Step(1, 5, 2),), 2)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"title": "x" * 2**20}, LimitError),
        ({"title": "\ud800"}, UsageError),
        ({"title": ""}, JSONError),
        ({"duration": 2**63}, JSONError),
        ({"history": (HistoryEntry("export", {"a": 1.5}),)}, UsageError),
    ],
)
def test_what_cannot_be_read_is_not_written(change, kind):
    with pytest.raises(kind):
        replace(META, **change).pack()


def test_records_are_frozen():
    for record in (SMALLEST, META, SMALLEST.tracks[0], STORED):
        with pytest.raises(FrozenInstanceError):
            setattr(record, fields(record)[0].name, 1)
        assert copy.copy(record) == record
