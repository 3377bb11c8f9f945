"""`mask`, `unmask`, `rekey`: containers and streams that only a key opens."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from typing import Annotated, BinaryIO, Final

import typer

from harmony4.crypto.errors import UsageError
from harmony4.crypto.mask import SALT_SIZE, MaskSpec, MasterKey, xor_mask
from harmony4.h4mk import MaskReport, mask_container, rekey_container, unmask_container
from harmony4.h4mk.edits.target import AtomicFile, Writable, write_all
from harmony4.server.cli.keyfiles import KeyFiles, need_masters, read_masters
from harmony4.server.cli.options import (
    EPILOG,
    Json,
    Output,
    Quiet,
    flag,
    prose,
    source_name,
    usage,
)
from harmony4.server.cli.output import say, say_json
from harmony4.server.cli.progress import Meter
from harmony4.server.cli.seals import report_seal
from harmony4.server.cli.streams import STANDARD, check_not_same, in_order, open_container, shown, sink
from harmony4.server.cli.values import format_count, format_size, hole_text, plain

__all__ = ["KeepPlaintext", "RandomSalt", "make_spec", "register", "spec_facts", "spec_line", "spec_notes"]

LOST: Final = 3
_PIECE: Final = 2**20
_VISIBLE: Final = (
    "sizes, times and keyframes of all blocks, codecs, media types and the title stay visible; "
    "a known film can be recognised by them"
)

Input = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        parser=source_name,
        help="The container (.h4mk), with --raw any file; or - for standard input.",
        show_default=False,
    ),
]
Raw = Annotated[
    bool,
    flag("--raw", help="Any bytes, not a container: as many bytes come out. Nothing tells if they change."),
]
RandomSalt = Annotated[
    bool,
    flag(
        "--random-salt",
        help="A new file key each time. Without it the same content and key give the same file.",
    ),
]
KeepPlaintext = Annotated[
    bool,
    flag(
        "--keep-plaintext",
        help="Every track a second time, not masked, for comparison: whoever has the file has the media.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    for name, command in (("mask", mask_command), ("unmask", unmask_command), ("rekey", rekey_command)):
        app.command(name, rich_help_panel="Keys", epilog=EPILOG, help=prose(command))(command)


# -- mask


def mask_command(
    file: Input,
    output: Output,
    key_file: KeyFiles = None,
    random_salt: RandomSalt = False,
    keep_plaintext: KeepPlaintext = False,
    raw: Raw = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Mask a container's media, so that only who has a key can read them.

    Each of several keys opens it. Anybody can still verify the file and find times in it; sizes, times,
    codecs and the title stay visible. Signatures are dropped, as they sign the other bytes. `harmony4 unmask`
    gives the container back, bit for bit.

    With --raw any bytes are masked as they stream through. The salt that is printed then is needed to unmask
    them; it is no secret.
    """
    check_not_same(file, output)
    if raw:
        if keep_plaintext:
            raise UsageError("with --raw there is nothing beside the masked bytes")
        masters = need_masters(key_file, "masking")
        if len(masters) > 1:
            raise UsageError("with --raw there is one key", found=f"{len(masters)} keys")
        salt = secrets.token_bytes(SALT_SIZE)
        size = _filter(file, output, masters[0].raw_key(salt), "masking", quiet)
        _report_raw(output, "masked", size, masters[0], salt, json=json, quiet=quiet)
        return
    spec = make_spec(key_file, random_salt, keep_plaintext)
    with open_container(file) as reader, sink(output) as target, Meter("masking", quiet=quiet) as meter:
        media = sum(track.bytes for track in reader.tracks)
        kept = len(reader.meta.ancillary) if reader.meta is not None else 0
        made = mask_container(reader, target, spec, progress=meter)
    facts = {
        **spec_facts(spec),
        "signatures_dropped": made.signed,
        "parts_dropped": made.parts,
        "plain_bytes": media if keep_plaintext else 0,
    }
    notes = [*spec_notes(spec, media), *_dropped(made)]
    if kept > made.parts:
        left = kept - made.parts
        notes.append(
            f"{format_count(left, 'ancillary chunk')} {'stays' if left == 1 else 'stay'} readable, as before"
        )
    report_seal(made.seal, output, facts, spec_line(spec), notes, json=json, quiet=quiet)


def make_spec(key_file: list[str] | None, random_salt: bool, keep_plaintext: bool) -> MaskSpec:
    """What the options ask for. Raises SourceError, KeyRefusedError, UsageError, LimitError."""
    masters = need_masters(key_file, "masking")
    return MaskSpec(masters, "random" if random_salt else "deterministic", keep_plaintext)


def spec_facts(spec: MaskSpec) -> dict[str, object]:
    """What a program wants to know of a mask."""
    return {
        "mode": spec.mode,
        "keys": sorted(key.id.hex() for key in spec.keys),
        "visible": _VISIBLE,
        "plaintext": spec.keep_plaintext,
    }


def spec_notes(spec: MaskSpec, media: int | None = None) -> list[str]:
    """What a person should know of it; `media`: how many bytes are masked."""
    notes = [_VISIBLE]
    if spec.keep_plaintext:
        size = "" if media is None else f", {format_size(media)},"
        notes.append(
            f"--keep-plaintext: whoever has the file has all of the media{size} without any key; never pass "
            "such a file on as a masked one"
        )
    return notes


def spec_line(spec: MaskSpec) -> str:
    ids = ", ".join(sorted(key.id.hex() for key in spec.keys))
    return f"masked ({spec.mode}), opened by {'key' if len(spec.keys) == 1 else 'each of the keys'} {ids}"


def _dropped(report: MaskReport) -> Iterator[str]:
    if report.signed:
        yield "the signatures were dropped: they sign the container as it was"
    if report.parts:
        yield (
            f"{format_count(report.parts, 'ancillary chunk')} with digests of the media were dropped: "
            "`harmony4 split` cannot take this bundle apart any more"
        )


# -- unmask


def _salt(text: str) -> bytes:
    if not re.fullmatch(f"[0-9A-Fa-f]{{{2 * SALT_SIZE}}}", text):
        raise ValueError(f"a salt has {2 * SALT_SIZE} hexadecimal digits")
    return bytes.fromhex(text)


def unmask_command(
    file: Input,
    output: Output,
    key_file: KeyFiles = None,
    raw: Raw = False,
    salt: Annotated[
        bytes | None,
        typer.Option(
            "--salt",
            metavar="HEX",
            parser=usage(_salt),
            help="With --raw: the salt that `mask --raw` printed.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make the container again that was masked.

    A key that does not open it is refused before anything is written. Every block's tag is checked: one that
    was changed, moved or left out is refused, and no file is left. Where the masked container knows what it
    was made from, the result is compared with that.
    """
    check_not_same(file, output)
    if raw != (salt is not None):
        raise UsageError("--raw and --salt belong together")
    masters = need_masters(key_file, "unmasking")
    if salt is not None:
        if len(masters) > 1:
            raise UsageError("with --raw there is one key", found=f"{len(masters)} keys")
        size = _filter(file, output, masters[0].raw_key(salt), "unmasking", quiet)
        _report_raw(output, "unmasked", size, masters[0], salt, json=json, quiet=quiet)
        return
    with open_container(file) as reader, sink(output) as target, Meter("unmasking", quiet=quiet) as meter:
        made = unmask_container(reader, target, masters, progress=meter)
    facts: dict[str, object] = {"exact": made.exact, "whole": made.whole, "signatures_dropped": made.signed}
    if made.exact:
        said = "bit for bit the container that was masked"
    elif made.whole:
        said = "every block is authentic, and none is missing; there was no container before it was masked"
    else:
        said = "every block is authentic; changed since it was masked, so nothing shows that none is missing"
    lost = [f"lost: {hole_text(one.track, one.first, one.count)}" for one in made.seal.lost]
    facts["lost"] = [{"track": one.track, "first": one.first, "count": one.count} for one in made.seal.lost]
    notes = [said, *_dropped(made), *lost]
    report_seal(made.seal, output, facts, "unmasked", notes, json=json, quiet=quiet)
    if lost and not made.whole:  # else they were lost before it was masked
        raise typer.Exit(LOST)


# -- any bytes


def _filter(file: str, output: str, key: bytes, doing: str, quiet: bool) -> int:
    """Mask or unmask bytes as they come; returns how many. Memory: a piece of 1 MiB."""
    done = 0
    with (
        in_order(file) as source,
        sink(output) as target,
        _written(target) as out,
        Meter(f"{doing} {plain(shown(file))}", quiet=quiet) as meter,
    ):
        while data := source.read(_PIECE):
            write_all(out, xor_mask(data, key, done))
            done += len(data)
            meter(done)
    return done


@contextlib.contextmanager
def _written(target: BinaryIO | str) -> Iterator[Writable]:
    if not isinstance(target, str):
        yield target
        return
    file = AtomicFile(target)
    try:
        yield file
        file.commit()
    finally:
        file.abort()


def _report_raw(
    output: str, done: str, size: int, key: MasterKey, salt: bytes, *, json: bool, quiet: bool
) -> None:
    to_stderr = output == STANDARD
    masked = done == "masked"
    if json:
        facts = {
            "output": None if to_stderr else output,
            "bytes": size,
            "key": key.id.hex(),
            "salt": salt.hex(),
        }
        say_json(facts, to_stderr=to_stderr)
    elif not quiet:
        say(
            f"{'standard output' if to_stderr else plain(output)}: {done}, {format_count(size, 'byte')}, "
            f"key {key.id.hex()}",
            *(
                [
                    f"salt {salt.hex()}",
                    "note: keep the salt with the bytes: `harmony4 unmask --raw --salt` needs it",
                ]
                if masked
                else []
            ),
            "note: nothing shows whether the bytes were changed, or the key is another one",
            to_stderr=to_stderr,
        )
    elif masked:  # without it the bytes are lost
        say(f"salt {salt.hex()}", to_stderr=to_stderr)


# -- rekey


def _key_id(text: str) -> bytes:
    if not re.fullmatch("[0-9A-Fa-f]{32}", text):
        raise ValueError("a key id has 32 hexadecimal digits; `harmony4 inspect` lists them")
    return bytes.fromhex(text)


def rekey_command(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            parser=source_name,
            help="The masked container, or - for standard input.",
            show_default=False,
        ),
    ],
    output: Output,
    key_file: KeyFiles = None,
    add: Annotated[
        list[str] | None,
        typer.Option("--add", metavar="KEY", help="A key file: this key opens it, too.", show_default=False),
    ] = None,
    remove: Annotated[
        list[bytes] | None,
        typer.Option(
            "--remove",
            metavar="ID",
            parser=usage(_key_id),
            help="A key id: this key does not open it any more.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Change who can open a masked container. OUT may be FILE itself.

    Only the key slots and the seal are written anew: blocks, identity and signatures stay as they are, and
    nothing is decrypted. Copies that were made before can still be opened with the keys they had. Whoever
    could open the file may have kept its own key, which does not change: to lock somebody out, unmask it
    and mask it again with --random-salt.
    """
    if not add and not remove:
        raise UsageError("there is nothing to do without --add or --remove")
    if STANDARD in (file, output):
        check_not_same(file, output)
    masters = need_masters(key_file, "rekeying")
    added = read_masters(add or [])
    with open_container(file) as reader, sink(output) as target, Meter("rekeying", quiet=quiet) as meter:
        made = rekey_container(reader, target, masters, add=added, remove=remove or (), progress=meter)
        head = reader.head
    assert head is not None  # only sealed containers are given other keys
    ids = [one.hex() for one in made.keys]
    to_stderr = output == STANDARD
    if json:
        facts = {
            "output": None if to_stderr else output,
            "head": head.hex(),
            "keys": ids,
            "added": [one.hex() for one in made.added],
            "removed": [one.hex() for one in made.removed],
        }
        say_json(facts, to_stderr=to_stderr)
    elif not quiet:
        notes = ["note: copies from before stay readable with the keys they had"]
        if made.removed:
            notes.append(
                "note: whoever opened it with a removed key may have kept the key of the file itself; "
                "to change that one, unmask it and mask it again with --random-salt"
            )
        say(
            f"{'standard output' if to_stderr else plain(output)}: opened by "
            f"{'key' if len(ids) == 1 else 'each of the keys'} {', '.join(ids)}",
            f"head {head.hex()}",
            *notes,
            to_stderr=to_stderr,
        )
