"""cut, concat and filter a second time, from the text of H4MK 17.5 to 17.8, for containers without holes.

Like `independent.py`, which this stands on, it shares no code with the project.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import independent
from independent import HEADER, KEY, sha

Facts = dict[str, Any]


def read(data: bytes) -> Facts:
    """What a container says, with the blocks of each track, and its ancillary chunks."""
    facts = independent.check(data)
    pairs = list(zip(facts["tokens"], facts["payloads"], strict=True))
    facts["blocks"] = [
        [pair for pair in pairs if pair[0]["track"] == track] for track in range(len(facts["trak"]["tracks"]))
    ]
    facts["ancillary"] = [
        (tag.encode(), data[at + 12 : at + 12 + size])
        for tag, at, size in facts["chunks"]
        if tag[0].islower() and tag != "part"
    ]
    return facts


def written(
    facts: Facts, tracks: list[list[tuple[dict[str, Any], bytes]]], ends: dict[int, int], **more: Any
) -> bytes:
    """The container of these blocks: (what a token says of time and kind, payload), by track."""
    trak = {**facts["trak"], "cut": {**facts["trak"]["cut"], "order": "end"}, **more.pop("trak", {})}
    blocks = [
        {
            "payload": payload,
            "pts": token["pts"],
            "min_pts": token["min_pts"],
            "key": bool(token["flags"] & KEY),
            "header": bool(token["flags"] & HEADER),
            "track": track,
        }
        for track, pairs in enumerate(tracks)
        for token, payload in pairs
    ]
    more.setdefault("title", facts["meta"].get("title"))
    more.setdefault("ancillary", facts["ancillary"])
    return independent.build(trak, blocks, ends=ends, **more)


def entry(op: str, args: dict[str, Any], *inputs: Facts) -> dict[str, Any]:
    return {"args": args, "inputs": [{"head": one["head"].hex()} for one in inputs], "op": op}


def shifted(token: dict[str, Any], time: int) -> dict[str, Any]:
    if token["flags"] & HEADER:
        return token
    return {**token, "pts": token["pts"] + time, "min_pts": max(0, token["min_pts"] + time)}


def added(steps: list[dict[str, int]], track: int, pts: int) -> int:
    """The sum of a track's shifts up to a time."""
    return sum(one["shift"] for one in steps if one["track"] == track and one["pts"] <= pts)


def in_order(steps: list[dict[str, int]]) -> list[dict[str, int]]:
    return sorted(steps, key=lambda one: (one["pts"], one["track"]))


def time_range(
    pairs: list[tuple[dict[str, Any], bytes]], a: int, b: int | None
) -> tuple[int, int, int] | None:
    """H4MK 18.4: the first block, the first that is not taken, and until when all is shown."""
    keys = [place for place, (token, _) in enumerate(pairs) if token["flags"] & KEY]
    time = [token["pts"] for token, _ in pairs]
    if not keys:
        return None
    before = [place for place in keys if time[place] <= a]
    if not before and b is not None and b <= time[keys[0]]:
        return None
    end = pairs[-1][0]["end"]
    if a >= end and a > time[keys[-1]]:
        return None
    start = before[-1] if before else keys[0]
    for place in keys:
        least = min(pairs[place][0]["min_pts"], time[place])
        if b is not None and time[place] >= b and least >= b:
            return start, place, least
    return start, len(pairs), end


def cut(data: bytes, a: int = 0, b: int | None = None) -> bytes:
    """H4MK 17.6"""
    facts = read(data)
    ranges = [time_range(pairs, a, b) for pairs in facts["blocks"]]
    least = []
    for pairs, found in zip(facts["blocks"], ranges, strict=True):
        if found:
            tokens = [token for token, _ in pairs[found[0] : found[1]]]
            first = [one for one in tokens if one["key_pts"] == tokens[0]["pts"]]
            least += [min(one["min_pts"] for one in first), tokens[0]["pts"]]
    z = min(least)
    meta, tracks, ends, sums, steps = facts["meta"], [], {}, {}, []
    for track, (pairs, found) in enumerate(zip(facts["blocks"], ranges, strict=True)):
        if not found:
            tracks.append([])
            continue
        start, stop, shown = found
        header = [pair for pair in pairs if pair[0]["flags"] & HEADER]
        tracks.append([*header, *((shifted(token, -z), payload) for token, payload in pairs[start:stop])])
        ends[track] = shown - z
        first = pairs[start][0]["pts"]
        sums[track] = added(meta["steps"], track, first)
        last = pairs[stop][0]["pts"] if stop < len(pairs) else 2**63
        steps += [
            {**one, "pts": one["pts"] - z}
            for one in meta["steps"]
            if one["track"] == track and first < one["pts"] < last
        ]
    m = min(sums.values())
    steps += [{"pts": 0, "shift": s - m, "track": track} for track, s in sums.items() if s > m]
    args = {"at": z, "from": a} | ({} if b is None else {"to": b})
    return written(
        facts,
        tracks,
        ends,
        trak={"origin": str(int(facts["trak"]["origin"]) + z - m)},
        steps=in_order(steps),
        history=[*meta["history"], entry("cut", args, facts)],
        structure_only=meta["structure_only"],
    )


def keep_tracks(data: bytes, *kept: int) -> bytes:
    """H4MK 17.8"""
    facts = read(data)
    kept = tuple(sorted(set(kept)))
    meta, infos = facts["meta"], [facts["trak"]["tracks"][track] for track in kept]
    steps = [{**one, "track": kept.index(one["track"])} for one in meta["steps"] if one["track"] in kept]
    return written(
        facts,
        [facts["blocks"][track] for track in kept],
        {new: facts["blocks"][old][-1][0]["end"] for new, old in enumerate(kept) if facts["blocks"][old]},
        trak={"tracks": infos},
        steps=steps,
        history=[*meta["history"], entry("filter", {"tracks": ",".join(map(str, kept))}, facts)],
        structure_only=meta["structure_only"] or all(one["kind"] != "tokens" for one in infos),
    )


def goes_on(one: Facts, other: Facts) -> bool:
    if not one["meta"]["history"] or not other["meta"]["history"]:
        return False
    first, second = one["meta"]["history"][-1], other["meta"]["history"][-1]
    return (
        first["op"] == second["op"] == "cut"
        and first["inputs"] == second["inputs"]
        and "to" in first["args"]
        and first["args"]["to"] == second["args"].get("from")
        and all(is_time(one["args"].get("at")) for one in (first, second))
    )


def is_time(value: object) -> bool:
    """A number, beyond 2^53 in decimal (H4MK 10.3)."""
    return type(value) is int or (
        isinstance(value, str) and re.fullmatch("[1-9][0-9]{15,18}", value) is not None
    )


def concat(*sources: bytes) -> bytes:
    """H4MK 17.7"""
    inputs = [read(one) for one in sources]
    meets = [False, *(goes_on(one, other) for one, other in pairwise(inputs))]
    starts: list[int] = []
    for place in range(len(inputs)):
        if meets[place]:
            at, before = (
                int(inputs[number]["meta"]["history"][-1]["args"]["at"]) for number in (place, place - 1)
            )
            starts.append(starts[-1] + at - before)
            continue
        start = 0
        for d, other in zip(starts, inputs, strict=False):
            keys = [token["pts"] for token in other["tokens"] if token["flags"] & KEY]
            start = max(start, d + max(other["duration"], max(keys, default=-1) + 1))
        starts.append(start)
    count = len(inputs[0]["blocks"])
    tracks: list[list[tuple[dict[str, Any], bytes]]] = [[] for _ in range(count)]
    ends: dict[int, int] = {}
    steps = list(inputs[0]["meta"]["steps"])
    history: list[Any] = []
    had = [-1] * count
    for place, (one, d) in enumerate(zip(inputs, starts, strict=True)):
        for item in one["meta"]["history"]:
            if item not in history:
                history.append(item)
        for track, pairs in enumerate(one["blocks"]):
            keys = [token["pts"] + d for token, _ in pairs if token["flags"] & KEY]
            if not meets[place]:
                had[track] = -1
            new = [
                pair
                for pair in pairs
                if (not tracks[track] if pair[0]["flags"] & HEADER else pair[0]["pts"] + d >= 0)
                and (
                    pair[0]["flags"] & HEADER
                    or pair[0]["key_pts"] > 2**63
                    or pair[0]["key_pts"] + d > had[track]
                )
            ]
            had[track] = max([had[track], *keys])
            body = [token for token, _ in new if not token["flags"] & HEADER]
            if body and place:
                first = body[0]["pts"]
                mine = one["meta"]["steps"]
                steps = [step for step in steps if step["track"] != track or step["pts"] < first + d]
                now = sum(step["shift"] for step in steps if step["track"] == track)
                jump = int(inputs[0]["trak"]["origin"]) - int(one["trak"]["origin"]) + d
                jump += added(mine, track, first) - now
                steps += [{"pts": first + d, "shift": jump, "track": track}] if jump else []
                steps += [
                    {**step, "pts": step["pts"] + d}
                    for step in mine
                    if step["track"] == track and step["pts"] > first
                ]
            if new:
                ends[track] = pairs[-1][0]["end"] + d
            tracks[track] += [(shifted(token, d), payload) for token, payload in new]
    titles = {one["meta"].get("title") for one in inputs}
    ancillary = {(tag, sha(payload)): (tag, payload) for one in inputs for tag, payload in one["ancillary"]}
    block = max(one["trak"]["cut"]["block"] for one in inputs)
    return written(
        inputs[0],
        tracks,
        ends,
        trak={"cut": {"block": block, "order": "end", "rule": 1}},
        title=titles.pop() if len(titles) == 1 else None,
        ancillary=list(ancillary.values()),
        steps=in_order(steps),
        history=[*history, entry("concat", {}, *inputs)],
        structure_only=all(one["meta"]["structure_only"] for one in inputs),
    )
