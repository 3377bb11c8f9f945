"""What `verify_on_read` costs: the same server with it and without it, on the same ranges."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.load import Rate, drive, warm, wrk_program
from bench.measure import Place, Table, median, spread
from bench.ranges import GIB, KIB, MIB, PLANS, compare, layout, plausible, size
from bench.servers import cores, ours

LENGTHS = (KIB, 64 * KIB, MIB, 16 * MIB)


def checked(place: Place) -> Table:
    """Rounds of both, on both layouts; each ratio is of one round."""
    table, pair = Table(), cores()
    if wrk_program() is None or pair is None:
        table.notes.append("Not measured: it needs wrk and a second core.")
        return table
    plan = replace(PLANS[place.quick], lengths=LENGTHS)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="checked-", dir=place.cache)))
        library, plain = home / "library", home / "plain"
        library.mkdir()
        plain.mkdir()
        layouts = [layout(kind, plan, place.cache, plain, library) for kind in plan.layouts]
        usual = stack.enter_context(ours(library, home, pair[0]))
        strict = stack.enter_context(ours(library, home, pair[0], "--verify-on-read", name="strict"))
        for number, each in enumerate(layouts):
            for length in plan.lengths:
                rates: dict[str, list[Rate]] = {"ours": [], "strict": []}
                warm(each.sealed)
                heads = {one.name: compare(one, each, length) for one in (usual, strict)}
                for turn in range(plan.rounds):
                    for one in (usual, strict) if turn % 2 else (strict, usual):
                        targets, seed = each.targets("ours", length), 1 + turn + 100 * number + length
                        rate = drive(one, targets, length, plan.seconds, seed, pair[1], home)
                        plausible(one, rate, length, heads[one.name])
                        rates[one.name].append(rate)
                pairs = zip(rates["strict"], rates["ours"], strict=True)
                speeds = {name: median([one.per_second for one in found]) for name, found in rates.items()}
                table.add(
                    f"blocks of {each.title}, ranges of {size(length)}: rate with `verify_on_read` ÷ without",
                    f"{spread([mine.per_second / other.per_second for mine, other in pairs])}; "
                    f"{speeds['strict']:.0f}/s, {speeds['strict'] * length / GIB:.2f} GiB/s",
                    peer=f"without: {speeds['ours']:.0f}/s, {speeds['ours'] * length / GIB:.2f} GiB/s",
                )
    table.notes.append(f"{plan.rounds} rounds of {plan.seconds} s, 8 connections.")
    return table
