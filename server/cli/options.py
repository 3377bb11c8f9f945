"""Options that several commands share, spelled once: help texts, parsers, completion."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from harmony4.server.cli.values import parse_block_size

__all__ = [
    "EPILOG",
    "BlockSize",
    "File",
    "Json",
    "Output",
    "Quiet",
    "Title",
    "Track",
    "flag",
    "prose",
    "source_name",
    "target_name",
    "usage",
]

EPILOG: Final = (
    "[bold]Exit status:[/] 0 done · 1 refused, and one line on standard error says why · 2 wrong usage · "
    "3 done, but something was lost or failed verification · 130 interrupted · "
    "141 the reader of a pipe went away."
)


def prose(command: Callable[..., None]) -> str:
    """A command's docstring as its help: one line a paragraph, so that the terminal's width breaks it."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def flag(*names: str, help: str) -> Any:
    """An option that takes no value; typer would show it as one that takes a bool."""
    return typer.Option(*names, metavar="", help=help, show_default=False)


def usage(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser whose ValueError becomes a usage error (exit status 2) with the parser's own sentence."""

    def parser(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return parser


def source_name(text: str) -> str:
    """An input's name; the system's other names of standard input are `-` too."""
    return "-" if text in ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0") else text


def target_name(text: str) -> str:
    """An output's name; the same for standard output, so that the summary does not end up in the data."""
    return "-" if text in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1") else text


File = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        parser=source_name,
        help="The container (.h4mk), or - for standard input.",
        show_default=False,
    ),
]
Json = Annotated[bool, flag("--json", help="Print the facts as JSON instead of text.")]
Quiet = Annotated[
    bool, flag("--quiet", "-q", help="No progress bar and no summary. Errors are always printed.")
]
Track = Annotated[
    int,
    typer.Option(
        "--track",
        "-t",
        metavar="N",
        min=0,
        max=2**16 - 1,
        help="The track, counted from 0.",
    ),
]
Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        parser=target_name,
        metavar="OUT",
        help="The file to write, or - for standard output. It appears complete or not at all.",
        show_default=False,
    ),
]
BlockSize = Annotated[
    int,
    typer.Option(
        "--block-size",
        metavar="SIZE",
        parser=usage(parse_block_size),
        help="Greatest size of a block of media, up to 16MiB (512KiB, 1M, 1000000).",
    ),
]
Title = Annotated[str | None, typer.Option("--title", metavar="TEXT", help="A title, kept in the metadata.")]
