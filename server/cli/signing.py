"""`sign`, `prove`, `check`: a name under a container, and what can be shown of it without having it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Final

import typer

from harmony4.crypto.errors import FormatError, HarmonyError, LimitError, UsageError
from harmony4.crypto.token import TokenRecord
from harmony4.h4mk.edits.target import AtomicFile, Writable
from harmony4.h4mk.proofs.growth import GROWTH_FORMAT, Grown, verify_growth
from harmony4.h4mk.proofs.proof import CheckedProof, check_proof
from harmony4.h4mk.proofs.prove import Prover
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.signing import SignReport, sign_container, sign_file, stamp_container, stamp_file
from harmony4.h4mk.source import ReadAt
from harmony4.server.cli.check import problem_facts
from harmony4.server.cli.editions import Editions
from harmony4.server.cli.keys import (
    Authorities,
    Certificates,
    Head,
    KeyFile,
    PassphraseFile,
    Remember,
    Revision,
    Revoked,
    Subject,
    Trusted,
    accepted_facts,
    find_authorities,
    make_trust,
    read_file,
    read_signer,
)
from harmony4.server.cli.options import EPILOG, File, Json, Output, Quiet, Track, prose, target_name, usage
from harmony4.server.cli.output import fields, say, say_json
from harmony4.server.cli.progress import Meter
from harmony4.server.cli.streams import (
    STANDARD,
    check_not_same,
    noted,
    open_container,
    put,
    shown,
    sink,
    spooled,
)
from harmony4.server.cli.values import format_duration, parse_pts, plain
from harmony4.server.folder.facts import token_facts

if TYPE_CHECKING:
    from harmony4.crypto.timestamp import TimeStamp

__all__ = ["register"]

LOST: Final = 3

Times = Annotated[
    list[int] | None,
    typer.Option(
        "--pts",
        metavar="PTS",
        parser=usage(parse_pts),
        help="A time: microseconds, or 90s, 1:02:03.5. May be repeated.",
        show_default=False,
    ),
]
Bytes = Annotated[
    tuple[int, int] | None,
    typer.Option(
        "--bytes",
        metavar="FIRST LAST",
        help="A byte range of the track's stream, both ends included.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    panel = "Check"
    app.command("sign", rich_help_panel=panel, epilog=EPILOG, help=prose(sign_command))(sign_command)
    app.command("prove", rich_help_panel=panel, epilog=EPILOG, help=prose(prove_command))(prove_command)
    app.command("check", rich_help_panel=panel, epilog=EPILOG, help=prose(check_command))(check_command)


def sign_command(
    file: File,
    key: KeyFile = None,
    subject: Subject = None,
    revision: Revision = 0,
    cert: Certificates = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            parser=target_name,
            metavar="OUT",
            help="Write the signed container here, and leave FILE as it is. - is standard output.",
            show_default=False,
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
    timestamp_request: Annotated[
        str | None,
        typer.Option(
            "--timestamp-request",
            metavar="OUT.tsq",
            help="Also write what an authority is to be asked for: a time stamp over this signature.",
            show_default=False,
        ),
    ] = None,
    timestamp_token: Annotated[
        str | None,
        typer.Option(
            "--timestamp-token",
            metavar="FILE",
            help="Do not sign: put this time stamp (RFC 3161) behind the signature that it is over. It must "
            "be by an --authority.",
            show_default=False,
        ),
    ] = None,
    authority: Authorities = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Sign a container, or put a time stamp behind its signature.

    Everything in it is checked first. The signature is put behind the seal; blocks, head and tables stay as
    they are, and FILE is replaced only when the signed one is complete and on disk. The same key, subject and
    revision give the same signature, so signing again changes nothing.

    A time stamp shows that the signature was there at a time, by the word of an authority. Send it the
    request (`curl -H 'Content-Type: application/timestamp-query' --data-binary @OUT.tsq ADDRESS -o TOKEN`),
    and run the command once more with --timestamp-token.
    """
    if timestamp_token is not None:
        if key is not None or timestamp_request is not None:
            raise UsageError("a time stamp is put there without a key", expected="--timestamp-token alone")
        act: _Signing | _Stamping = _stamping(timestamp_token, authority)
    elif authority:
        raise UsageError("an authority is for a time stamp", expected="--timestamp-token FILE")
    else:
        act = _Signing(read_signer(key, subject, revision, cert, passphrase_file))
    if output is None and file == STANDARD:
        raise UsageError("what comes from standard input is signed into a file: use -o OUT")
    with contextlib.ExitStack() as stack:
        if output is None:
            path = stack.enter_context(noted(os.path.realpath(file)))
            meter = stack.enter_context(Meter(f"checking {plain(shown(file))}", _size(path), quiet=quiet))
            report = act.file(path, meter)
        else:
            check_not_same(file, output)
            source = stack.enter_context(spooled(file))
            target = stack.enter_context(sink(output))
            meter = stack.enter_context(Meter(f"checking {plain(shown(file))}", source.size(), quiet=quiet))
            if isinstance(target, str):
                whole = AtomicFile(target)
                stack.callback(whole.abort)
                report = act.copy(source, whole, meter)
                whole.commit()
            else:
                report = act.copy(source, target, meter)
    if timestamp_request is not None:
        from harmony4.crypto.timestamp import request_for  # takes its time, and few need it

        put(request_for(report.signature.pack()), timestamp_request)
    what = act.what if report.added else f"{act.what} already"
    _report(report, file if output is None else output, what, json=json, quiet=quiet)


class _Signing:
    what = "signed"

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def file(self, path: str, meter: Meter) -> SignReport:
        return sign_file(path, self._signer, progress=meter)

    def copy(self, source: ReadAt, out: Writable, meter: Meter) -> SignReport:
        return sign_container(source, out, self._signer, progress=meter)


class _Stamping:
    what = "has the time stamp"

    def __init__(self, stamp: TimeStamp) -> None:
        self._stamp = stamp

    def file(self, path: str, _: Meter) -> SignReport:
        return stamp_file(path, self._stamp)

    def copy(self, source: ReadAt, out: Writable, _: Meter) -> SignReport:
        return stamp_container(source, out, self._stamp)


def _stamping(token: str, authority: list[str] | None) -> _Stamping:
    """A time stamp that an authority made. Raises UsageError, FormatError, SealError, SourceError."""
    if not authority:
        raise UsageError("who is believed about the time?", expected="--authority CA.pem")
    from harmony4.crypto.timestamp import TimeStamp  # as above

    stamp = TimeStamp.parse(read_file(token, "the time stamp"))
    stamp.check(find_authorities(authority))
    return _Stamping(stamp)


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a text that is no path is refused later, and better
    except (OSError, ValueError):
        return None


def _report(report: SignReport, output: str, what: str, *, json: bool, quiet: bool) -> None:
    to_stderr, signature = output == STANDARD, report.signature
    if json:
        facts = {
            "output": None if to_stderr else output,
            "head": report.head.hex(),
            "key": signature.key.hex(),
            "subject": signature.subject.hex() if any(signature.subject) else None,
            "revision": signature.revision,
            "added": report.added,
            "signatures": report.signatures,
            "size": report.length,
        }
        say_json(facts, to_stderr=to_stderr)
    elif not quiet:
        name = "standard output" if to_stderr else plain(output)
        say(f"{name}: {what}", f"head {report.head.hex()}", f"key {signature.key.hex()}", to_stderr=to_stderr)


def prove_command(
    file: File,
    output: Output,
    pts: Times = None,
    bytes_: Bytes = None,
    track: Track = 0,
    quiet: Quiet = False,
) -> None:
    """Write a proof of what answers a time, or of which blocks a byte range is in.

    The proof is a small JSON file (about 2 KB for any length of container) that holds the block's token, its
    place in the hash tree, and the container's signatures. Whoever trusts the signer's key can check it
    without the container: `harmony4 check PROOF.json --trust KEY.pub.pem --pts T`.
    """
    if (not pts) == (bytes_ is None):
        raise UsageError(
            "a proof is of times, or of a range of bytes", expected="--pts T, or --bytes FIRST LAST"
        )
    check_not_same(file, output)
    with open_container(file) as reader:
        prover = Prover(reader)
        proof = prover.seek(pts or [], track) if bytes_ is None else prover.range(*_half_open(bytes_), track)
        data = proof.pack()
    put(data, output)
    if not quiet:
        name = "standard output" if output == STANDARD else plain(output)
        signatures = f"{len(proof.signatures)} signatures" if len(proof.signatures) != 1 else "1 signature"
        say(f"{name}: {len(data)} bytes, {signatures}", to_stderr=output == STANDARD)


def _half_open(both: tuple[int, int]) -> tuple[int, int]:
    first, last = both
    if not 0 <= first <= last < 2**63:
        raise UsageError("that is no range of bytes", found=f"{first} to {last}")
    return first, last + 1


def check_command(
    proof: Annotated[str, typer.Argument(metavar="PROOF", help="The proof.", show_default=False)],
    trust: Trusted = None,
    pts: Times = None,
    bytes_: Bytes = None,
    track: Track = 0,
    head: Head = None,
    subject: Subject = None,
    revision: Revision = 0,
    revoked: Revoked = None,
    remember: Remember = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a proof without the container.

    It must show what answers each --pts, or all blocks of --bytes, in a container that a trusted key signed;
    one of `harmony4 diff --proof` must show that a stream only grew.

    With only --trust, every container passes that the key ever signed: say which one with --head, or with
    --subject and the lowest --revision that you accept.

    Exit status 0: proven. 3: not proven. 1: the file or a key cannot be read.
    """
    editions = Editions(remember)
    latest = editions.latest if remember else None
    wanted = make_trust(trust, head=head, subject=subject, revision=revision, revoked=revoked, latest=latest)
    if wanted is None:
        raise UsageError("whom to believe? Give --trust PUB.pem, or --head HEX")
    data = read_file(proof, "the proof").removesuffix(b"\n")
    growth = f'"format":"{GROWTH_FORMAT}"'.encode() in data
    if growth == (bool(pts) or bytes_ is not None):
        raise UsageError(
            "what is to be proven? Give --pts T or --bytes FIRST LAST; nothing where a stream grew"
        )
    try:
        if growth:
            grown = verify_growth(data, wanted)
            _say_grown(grown, proof, json=json, quiet=quiet)
            editions.remember(grown.accepted)
            return
        checked = check_proof(data, wanted)
        facts, lines = _proven(checked, pts or [], bytes_, track)
    except (FormatError, LimitError) as error:
        _refused(error, proof, json=json)
        raise typer.Exit(LOST) from None
    pinned = head is not None or subject is not None
    if json:
        accepted = None if checked.accepted is None else accepted_facts(checked.accepted)
        say_json(
            {
                "ok": True,
                "head": checked.head.hex(),
                "final": checked.final,
                "pinned": pinned,
                "signature": accepted,
                **facts,
            }
        )
    elif not quiet:
        say(f"{plain(proof)}: proven", *lines, *_trust_lines(checked, pinned))
    editions.remember([checked.accepted])


def _say_grown(grown: Grown, proof: str, *, json: bool, quiet: bool) -> None:
    if json:
        facts = {"blocks": list(grown.blocks), "final": list(grown.final)}
        say_json({"ok": True, **facts, "signature": accepted_facts(grown.accepted[1])})
    elif not quiet:
        later = "container" if grown.final[1] else "checkpoint"
        say(
            f"{plain(proof)}: proven",
            f"the later {later} begins with all {grown.blocks[0]} blocks of the earlier one, and has "
            f"{grown.blocks[1]}",
            f"signed by {grown.accepted[1].key.fingerprint.hex()}, revision {grown.accepted[1].revision}",
        )


def _proven(
    checked: CheckedProof, pts: list[int], bytes_: tuple[int, int] | None, track: int
) -> tuple[dict[str, object], list[str]]:
    """What is proven, for programs and for people. Raises SealError where something is not."""
    answers, lines = [], []
    for time in pts:
        answer = checked.seek(time, track)
        key = answer.keyframe
        answers.append(
            {
                "pts": time,
                "place": answer.place,
                "keyframe": None if key is None else {"pts": key[0], "offset": key[1]},
                "token": None if answer.token is None else token_facts(answer.token),
            }
        )
        lines += fields(
            [
                ("time", f"{format_duration(time)}  (pts {time} µs): {_PLACES[answer.place]}"),
                ("keyframe", f"pts {key[0]} µs, offset {key[1]}" if key else "none at or before it"),
                ("block", _block_text(answer.token)),
            ]
        )
    facts: dict[str, object] = {"track": track, "answers": answers}
    if bytes_ is not None:
        blocks = checked.range(*_half_open(bytes_), track)
        facts["blocks"] = [token_facts(one) for one in blocks]
        lines += [f"block  {_block_text(one)}" for one in blocks] or ["no such bytes: the stream ends before"]
    return facts, lines


_PLACES: Final = {
    "inside": "in this block",
    "before": "before the first block",
    "after": "after the end of the track",
    "empty": "in a track without blocks",
}


def _block_text(token: TokenRecord | None) -> str | None:
    if token is None:
        return None
    return (
        f"{token.index} of track {token.track}: bytes {token.offset}-{token.offset + token.size - 1}, "
        f"sha256 {token.digest.hex()}"
    )


def _trust_lines(checked: CheckedProof, pinned: bool) -> list[str]:
    lines = [f"head {checked.head.hex()}"]
    if checked.accepted is not None:
        edition = f", revision {checked.accepted.revision}" if checked.accepted.subject is not None else ""
        lines.append(f"signed by {checked.accepted.key.fingerprint.hex()}{edition}")
    if not checked.final:
        lines.append("note: a checkpoint: what follows it is not shown")
    if not pinned:
        lines.append("note: any container by this key passes; --head or --subject say which one is meant")
    return lines


def _refused(error: HarmonyError, proof: str, *, json: bool) -> None:
    if json:
        say_json({"ok": False, "problem": problem_facts(error)})
    else:
        say(f"{plain(proof)}: NOT proven: {plain(error)}")
