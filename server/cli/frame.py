"""The frame around every command: the app itself, `--version`, and errors as one line and an exit status."""

from __future__ import annotations

import errno
import functools
import os
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from harmony4.crypto.errors import HarmonyError
from harmony4.server.cli import (
    bundles,
    check,
    comparing,
    editing,
    fetch,
    keygen,
    look,
    make,
    masking,
    serving,
    signing,
    tokens,
)
from harmony4.server.cli.options import EPILOG
from harmony4.server.cli.streams import COMMAND, FACTS_GONE, UNNOTED, ReaderGone
from harmony4.server.cli.values import plain

__all__ = ["app", "explain", "run"]

_NAMES: Final = ("harmony4", "harmonyø4")
_COMPLETION: Final = "_HARMONY4_COMPLETE"

app = typer.Typer(
    name="harmony4",
    help=(
        "HarmonyØ4 keeps media in H4MK containers: the original bytes, untouched, cut into blocks at "
        "keyframes, with a seek table, hashes and a seal. The same input always gives the same container, "
        "any time can be found in it by a binary search, and the file that went in comes out bit for bit.\n\n"
        "New here? `harmony4 demo` makes a small library and serves it. Then try "
        "`harmony4 export film.mp4 -o film.h4mk`, `harmony4 inspect film.h4mk` and "
        "`harmony4 seek film.h4mk 1:30`.\n\n"
        "Wherever a file is read or written once, in order, `-` is standard input or output: "
        "`cat film.mp4 | harmony4 export - -o - | harmony4 verify -`"
    ),
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"harmony4 {version('harmony4')}")
        raise typer.Exit


@app.callback()
def _root(
    _show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, metavar="", help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options before the command."""


for _group in (
    serving,
    make,
    look,
    check,
    comparing,
    fetch,
    bundles,
    editing,
    keygen,
    masking,
    signing,
    tokens,
):
    _group.register(app)


@functools.cache
def _command() -> TyperGroup:
    """The commands, made from the app once: that takes longer than most of them."""
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    return command


UNTOLD: Final = 4
"""Exit status of what was done and stands in no audit log."""


def run(argv: list[str]) -> int:
    """Run one command line; returns its exit status. Lets KeyboardInterrupt through."""
    UNNOTED.set(None)
    status = 0
    try:
        status = _run(argv)
    finally:  # who interrupts it is told as well
        untold = UNNOTED.get()
        if untold is not None:
            complain(untold)
    return status if untold is None else status or UNTOLD


def _run(argv: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        # A file name that is not UTF-8, or a title that the terminal's encoding lacks, is shown escaped.
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    name = Path(sys.argv[0]).name
    COMMAND.set(next((one for one in argv if not one.startswith("-")), "write"))
    try:
        command = _command()
        if _COMPLETION in os.environ:  # the shell asks, not a person: typer answers and exits
            command.main(argv, prog_name=_NAMES[0], complete_var=_COMPLETION)
        with command.make_context(name if name in _NAMES else _NAMES[0], [*argv] or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as ending:
        return ending.exit_code if argv else 2
    except ReaderGone as gone:
        return gone.status
    except BrokenPipeError:  # of --version; everything else that we print raises ReaderGone
        return FACTS_GONE
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):  # rich's answer where nobody reads the help
            return FACTS_GONE
        raise
    except Exception as error:
        if sys.flags.dev_mode:
            traceback.print_exc()
        message, status = explain(error)
        complain(message)
        return status
    return 0


def complain(message: str) -> None:
    """One line on standard error."""
    if sys.stderr is not None:
        print(f"error: {plain(message)}", file=sys.stderr)


def explain(error: Exception) -> tuple[str, int]:
    """What to say about an error, and the exit status it means."""
    if isinstance(error, HarmonyError):
        return str(error), 1
    if isinstance(error, TyperException):
        return _usage(error), error.exit_code
    if isinstance(error, MemoryError):
        return "out of memory", 1
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        if error.errno == errno.ENOSPC:
            reason = "no space left on device"
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return where + reason, 1
    # Not ours: a bug. Still one line, and enough of it to report.
    return f"internal error, please report it: {type(error).__name__}: {error}", 1


def _usage(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    hint = f"; try {context.command_path} --help" if context is not None else ""
    return " ".join(error.format_message().split()).rstrip(".") + hint
