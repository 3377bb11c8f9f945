"""`diff`: where two containers part."""

from __future__ import annotations

from typing import Annotated

import typer

from harmony4.crypto.token import LAST, TokenRecord
from harmony4.h4mk.edits.diff import Diff, Parting, diff
from harmony4.h4mk.proofs.growth import prove_growth
from harmony4.server.cli.options import EPILOG, Json, prose, source_name, target_name
from harmony4.server.cli.output import say, say_json
from harmony4.server.cli.streams import STANDARD, check_not_same, open_container, put
from harmony4.server.cli.values import format_count, format_duration
from harmony4.server.folder.facts import token_facts

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("diff", rich_help_panel="Check", epilog=EPILOG, help=prose(diff_command))(diff_command)


def diff_command(
    first: Annotated[
        str, typer.Argument(metavar="A", parser=source_name, help="A container.", show_default=False)
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", parser=source_name, help="Another one.", show_default=False)
    ],
    most: Annotated[
        int, typer.Option("--most", "-n", metavar="N", min=0, max=1000, help="Differences that are shown.")
    ] = 20,
    proof: Annotated[
        str | None,
        typer.Option(
            "--proof",
            parser=target_name,
            metavar="OUT",
            help="Write the proof that B goes on from A's last checkpoint that both have.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say where two containers part, or that one continues the other.

    The hash trees are compared, so a block that differs is found with a few small reads in files of any
    length. What is written in the trees is believed; `harmony4 verify` checks that it is true.

    A sealed container's last block of each track says that it is the last. So a longer container of the same
    stream has another token there, and the blocks before it are what can be shown to be the same.

    With --proof, signatures are put to use: whoever trusts the key can check, without either file, that the
    blocks of one checkpoint are the first blocks of what was signed later (`harmony4 check OUT --trust KEY`).
    """
    for name in (first, second):
        check_not_same(name, proof or "")
    with open_container(first) as one, open_container(second) as other:
        found = diff(one, other, most=most)
        if proof is not None:
            put(prove_growth(one, other).pack(), proof)
    if json:
        say_json(
            {
                "same": found.same,
                "continues": found.continues,
                "same_tracks": found.same_tracks,
                "blocks": list(found.blocks),
                "common": found.common,
                "ends": found.ends,
                "differences": [_facts(one) for one in found.partings],
            },
            to_stderr=proof == STANDARD,
        )
    else:
        say(_verdict(found), *map(_line, found.partings), to_stderr=proof == STANDARD)


def _verdict(found: Diff) -> str:
    if found.same:
        return "A and B are the same container"
    common = f"the first {format_count(found.common, 'block')} are the same"
    if not found.partings and found.blocks[0] == found.blocks[1]:
        return f"A and B have the same {format_count(found.common, 'block')}; what is around them differs"
    tracks = "" if found.same_tracks else "; the tracks are described differently (TRAK)"
    if found.continues:
        at_end = found.common == found.ends < found.blocks[0]
        end = f" (A ends its first track at block {found.ends})" if at_end else ""
        return f"B continues A: {common}{end}"
    return f"A and B part: {common}{tracks}"


def _facts(one: Parting) -> dict[str, object]:
    return {
        "leaf": one.leaf,
        "first": None if one.first is None else token_facts(one.first),
        "second": None if one.second is None else token_facts(one.second),
    }


def _line(one: Parting) -> str:
    return f"  block {one.leaf} of the file: A has {_text(one.first)}, B has {_text(one.second)}"


def _text(token: TokenRecord | None) -> str:
    if token is None:
        return "none"
    last = ", the last one" if token.flags & LAST else ""
    return (
        f"block {token.index} of track {token.track} at {format_duration(token.pts)} "
        f"({token.size} bytes, {token.digest.hex()[:16]}…{last})"
    )
