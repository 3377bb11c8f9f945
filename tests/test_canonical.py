"""Canonical JSON: one encoding for each value, and what is refused (H4MK 4)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import independent
from harmony4.crypto import CriticalError, HarmonyError, JSONError, LimitError, UsageError
from harmony4.h4mk import canonical

WIDE = 2**53


def anything(value, path):
    return value


def decode(data, check=anything):
    return canonical.decode(data, "TEST", check)


def test_the_canonical_form():  # RFC 8785
    value = {"b": [True, False, ""], "a": {"z": -1, "ä": 0}, "\n": 'q"\\\x01/é😀'}
    data = canonical.encode(value, "TEST")
    assert data == '{"\\n":"q\\"\\\\\\u0001/é😀","a":{"z":-1,"ä":0},"b":[true,false,""]}'.encode()
    assert decode(data) == value


def test_wide_integers_are_strings():
    value = {"a": WIDE - 1, "b": WIDE, "c": -WIDE, "d": 1 - WIDE, "e": (2**63 - 1,)}
    data = canonical.encode(value, "TEST")
    assert json.loads(data) == {
        "a": WIDE - 1,
        "b": str(WIDE),
        "c": str(-WIDE),
        "d": 1 - WIDE,
        "e": [str(2**63 - 1)],
    }
    check = canonical.integer(-(2**63), 2**63)
    assert [check(item, "x") for item in json.loads(data)["e"]] == [2**63 - 1]
    assert check(str(-WIDE), "x") == -WIDE


JSON = st.recursive(
    st.booleans() | st.integers(1 - WIDE, WIDE - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyzé", max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
).filter(lambda value: depth(value) <= 8)


def depth(value):
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, inner), default=0)


@given(JSON)
def test_round_trip_and_agreement(value):
    data = canonical.encode(value, "TEST")
    assert decode(data) == value
    assert data == independent.canonical(value)


@pytest.mark.parametrize(
    "text",
    [
        *('{"a":1} ', ' {"a":1}', '{"a": 1}', '{"b":1,"a":1}', '{"a":1,"a":1}', '{"\\u0061":1}', '"\\/"'),
        *("1.0", "1e2", "-0", "01", "1.5", "NaN", "Infinity", "-Infinity", str(WIDE), str(-WIDE), "1" * 5000),
        *(
            '"\\ud800"',
            '{"\\ud800":1}',
            "",
            "{",
            "[1,]",
            "nul",
            "{'a':1}",
            "\ufeff{}",
            '"\n"',
            '["\\é"]',
            '"',
        ),
    ],
)
def test_what_is_not_canonical_is_refused(text):
    with pytest.raises(JSONError) as caught:
        decode(text.encode("utf-8", "surrogatepass"))
    assert caught.value.where == "TEST"


@pytest.mark.parametrize(
    "data", [b"\xff", b'"\xc0\x80"', b'"\xed\xa0\x80"', '"é"'.encode("latin-1"), b"\0\0\0{"]
)
def test_what_is_not_utf_8_is_refused(data):
    with pytest.raises(JSONError):
        decode(data)


def test_depth():  # H4MK 4: at most 8, the outermost is the first
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        inner = "1" if opening[0] == "{" else ""
        decode((opening * 8 + inner + closing * 8).encode())
        with pytest.raises(JSONError, match="deep"):
            decode((opening * 9 + inner + closing * 9).encode())
    brackets_in_text = '{"a":"[[[[[[[[[[\\"[[{{"}'
    assert decode(brackets_in_text.encode()) == {"a": '[[[[[[[[[["[[{{'}
    assert decode(b"[" + b",".join([b"[]"] * 20) + b"]") == [[]] * 20


@pytest.mark.parametrize("text", ["[" * 500_000, '{"a":' * 200_000, '["' + "[" * 500_000 + '"' + "[" * 9])
def test_bombs_cost_a_scan(text):  # H4MK 4: before a recursive parser sees it
    for parse in (decode, lambda data: canonical.loose(data, "TEST")):
        with pytest.raises(JSONError):
            parse(text.encode())


def test_what_a_writer_is_refused():
    for value in (1.5, None, {"a": b"x"}, {"a": object()}, ["\ud800"], {"\ud800": 1}):
        with pytest.raises((UsageError, JSONError)):
            data = canonical.encode(value, "TEST")
            canonical.members({})(decode(data), "TEST")
    assert len(canonical.encode("x" * (2**20 - 2), "TEST")) == 2**20
    with pytest.raises(LimitError):
        canonical.encode("x" * (2**20 - 1), "TEST")


def test_loose_objects_of_the_original_implementation():  # H4MK 23
    assert canonical.loose(b'{ "fps": 29.97, "a": null }', "META") == {"fps": 29.97, "a": None}
    for data in (b"[]", b"1", b"", b"{", b"\xff", b"1" * 5000, '{"a":1}'.encode("utf-16")):
        with pytest.raises(JSONError):
            canonical.loose(data, "META")


def test_loose_is_not_blinded_by_utf_16():
    """In UTF-16 a letter's byte can look like a quotation mark and hide brackets from the scan."""
    hidden = '["∀",' + "[" * 100_000
    with pytest.raises(JSONError):
        canonical.loose(hidden.encode("utf-16-be"), "META")


# ---- checkers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (canonical.text, ["", "x"], [1, True, [], {}]),
        (canonical.filled, ["x"], ["", 1]),
        (canonical.boolean, [True, False], [0, 1, "true"]),
        (canonical.integer(0, 10), [0, 10], [-1, 11, True, "5", 1.0, [], str(WIDE)]),
        (
            canonical.integer(0),
            [str(WIDE), str(2**63 - 1)],
            [str(2**63), "0", "-1", str(WIDE - 1), f"0{WIDE}", "+1"],
        ),
        (
            canonical.integer(-5, 5, decimal=True),
            ["0", "-5"],
            [0, 1, "-0", "00", " 1", "1 ", "6", "", "x", "٣"],
        ),
        (canonical.digest, ["0a" * 32], ["0A" * 32, "0a" * 31, 1, "0a" * 32 + "\n"]),
        (canonical.tag, ["post", "aBCD"], ["Post", "time", "pos", "po1t", 5, "post\n"]),
        (canonical.operation, ["export", "a-1"], ["", "Export", "1a", "-", "a b", 3, "export\n"]),
        (canonical.items(canonical.text, least=1), [["a"], ["a", "b"]], [[], {}, "a", [1]]),
        (
            canonical.members({"a": canonical.text}, {"b": canonical.text}),
            [{"a": ""}, {"a": "", "b": ""}],
            [{}, [], {"b": ""}, {"a": 1}],
        ),
    ],
)
def test_checkers(check, good, bad):
    for value in good:
        check(value, "path")
    for value in bad:
        with pytest.raises(JSONError) as caught:
            check(value, "path")
        assert str(caught.value.where).startswith("path")


@pytest.mark.parametrize("value", ["other", 1, True, None, ["end"], {}])
def test_an_unknown_choice_or_key_is_critical(value):  # H4MK 2.3
    with pytest.raises(CriticalError):
        canonical.choice("end", "arrival")(value, "path")
    with pytest.raises(CriticalError):
        canonical.choice(2)(True, "path")
    with pytest.raises(CriticalError):
        canonical.members({}, {"b": canonical.text})({"c": value}, "path")
    assert canonical.choice("end", 1)(1, "path") == 1


def test_checked_values_come_as_python_has_them():
    check = canonical.members({"a": canonical.items(canonical.digest), "b": canonical.hexdigest})
    assert check({"a": ["0a" * 32], "b": "ff" * 32}, "x") == {"a": (b"\n" * 32,), "b": "ff" * 32}


@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
def test_any_bytes_give_a_value_or_an_error(data):
    try:
        value = decode(data)
    except HarmonyError as error:
        assert error.code == "json"
    else:
        assert independent.canonical(value) == data
