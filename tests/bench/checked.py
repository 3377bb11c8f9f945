"""What other ways to the payload cost: a server with `verify_on_read`, and one that reads what it sends.

`python -m bench.checked strict|reading DIR` is one of these, otherwise as shipped.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.load import Rate, drive, warm, wrk_program
from bench.measure import Place, Table, median, spread
from bench.ranges import GIB, KIB, MIB, PLANS, compare, layout, plausible, size
from bench.servers import cores, ours, own

LENGTHS = (KIB, 64 * KIB, MIB, 16 * MIB)
OTHERS = {"strict": "with `verify_on_read`", "reading": "reading instead of mapping"}


def checked(place: Place) -> Table:
    """Rounds of all three, on both layouts; each ratio is of one round."""
    table, pair = Table(), cores()
    if wrk_program() is None or pair is None:
        table.notes.append("Not measured: it needs wrk and a second core.")
        return table
    plan = replace(
        PLANS[place.quick],
        lengths=LENGTHS,
        rounds=min(5, PLANS[place.quick].rounds),
        seconds=2 - (place.quick > 0),
    )
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="checked-", dir=place.cache)))
        library, plain = home / "library", home / "plain"
        library.mkdir()
        plain.mkdir()
        layouts = [layout(kind, plan, place.cache, plain, library) for kind in plan.layouts]
        servers = [
            stack.enter_context(ours(library, home, pair[0])),
            stack.enter_context(own("bench.checked", library, home, pair[0], "strict")),
            stack.enter_context(own("bench.checked", library, home, pair[0], "reading")),
        ]
        for number, each in enumerate(layouts):
            for length in plan.lengths:
                rates: dict[str, list[Rate]] = {one.name: [] for one in servers}
                warm(each.sealed)
                heads = {one.name: compare(one, each, length) for one in servers}
                for turn in range(plan.rounds):
                    first = turn % len(servers)
                    for one in servers[first:] + servers[:first]:
                        targets, seed = each.targets("ours", length), 1 + turn + 100 * number + length
                        rate = drive(one, targets, length, plan.seconds, seed, pair[1], home)
                        plausible(one, rate, length, heads[one.name])
                        rates[one.name].append(rate)
                for name, title in OTHERS.items():
                    pairs = zip(rates[name], rates["ours"], strict=True)
                    table.add(
                        f"blocks of {each.title}, ranges of {size(length)}: rate {title} ÷ as shipped",
                        f"{spread([mine.per_second / other.per_second for mine, other in pairs])}; "
                        f"{_rate(rates[name], length)}",
                        peer=f"as shipped: {_rate(rates['ours'], length)}",
                    )
    table.notes.append(f"{plan.rounds} rounds of {plan.seconds} s, 8 connections.")
    return table


def _rate(rates: list[Rate], length: int) -> str:
    per_second = median([one.per_second for one in rates])
    return f"{per_second:.0f}/s, {per_second * length / GIB:.2f} GiB/s"


def _serve(way: str, folder: str) -> int:
    from harmony4.server.cli.main import main
    from harmony4.server.reading import payload
    from harmony4.server.serving import connection

    if way == "strict":
        os.environ["HARMONY4_VERIFY_ON_READ"] = "1"
    else:
        for module in (payload, connection):
            module.may_map = lambda transport: False  # type: ignore[assignment]
    return main(["serve", folder, "--port", "0", "--json", "--access-log"])


if __name__ == "__main__":
    sys.exit(_serve(*sys.argv[1:]))
