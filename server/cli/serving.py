"""`demo` and `serve`: a library of containers over HTTP."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Final

import typer

from harmony4.crypto.errors import StorageError
from harmony4.server.cli.demo_plan import DEMOS
from harmony4.server.cli.options import EPILOG, Json, Quiet, flag, prose
from harmony4.server.cli.output import columns, json_text, say, write
from harmony4.server.cli.progress import Meter
from harmony4.server.cli.streams import noted
from harmony4.server.cli.values import format_count, format_duration, format_size
from harmony4.server.serving.hangups import at_a_terminal, held_back

__all__ = ["register"]

_DEMO_PORT: Final = 8404

Host = Annotated[
    str | None,
    typer.Option(
        "--host", metavar="ADDRESS", help="Address to listen on \\[default: 127.0.0.1, this machine only]."
    ),
]
LogRequests = Annotated[
    bool | None,
    typer.Option(
        "--access-log/--no-access-log", help="Log every request on standard error.", show_default=False
    ),
]

Auth = Annotated[
    bool | None,
    typer.Option("--auth/--no-auth", help="Everything needs a token (harmony4 token).", show_default=False),
]
PublicRead = Annotated[
    bool | None,
    typer.Option(
        "--public-read/--no-public-read",
        help="Everybody may read; writing needs a token.",
        show_default=False,
    ),
]
AllowedHosts = Annotated[
    str | None,
    typer.Option(
        "--allowed-hosts",
        metavar="NAMES",
        help="Names that the server is called by, with commas between them; *.example.org for all below it.",
    ),
]
CorsOrigins = Annotated[
    str | None,
    typer.Option(
        "--cors-origins",
        metavar="ORIGINS",
        help="Origins whose pages may use the server, such as https://example.org, with commas between them.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    panel = "Serve"
    app.command(rich_help_panel=panel, epilog=EPILOG, help=prose(demo))(demo)
    app.command(rich_help_panel=panel, epilog=EPILOG, help=prose(serve))(serve)
    app.command("config", rich_help_panel=panel, epilog=EPILOG, help=prose(show_config))(show_config)


def demo(
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            "-p",
            metavar="N",
            min=0,
            max=65535,
            help=rf"Port to listen on; 0 takes a free one \[default: {_DEMO_PORT}, or a free one].",
        ),
    ] = None,
    host: Host = None,
    library: Annotated[
        Path, typer.Option("--library", "-l", metavar="DIR", help="Folder of the demo library.")
    ] = Path("demo-library"),
    serve_it: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Serve the library, or only make it.")
    ] = True,
    access_log: LogRequests = None,
    auth: Auth = None,
    public_read: PublicRead = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a small library of real media, if there is none, and serve it.

    Two films with sound and a piece of music are drawn, encoded and exported to containers: a clock that
    shows each frame's own time, with a keyframe every one or two seconds and a tone every second. The second
    start uses the library that is there. Put your own containers into the folder and they are served too.

    At a loopback address the page has a switch that lets this server lie: it sends one wrong bit, and Check
    finds it.

    Open the address that is printed; Ctrl-C stops the server.
    """
    made = _make_library(library, quiet=quiet or json)
    if not serve_it:
        names = sorted(path.name for path in library.glob("*.h4mk"))
        if json:
            say(json_text({"library": str(library), "containers": names, "made": made}))
        elif not quiet:
            say(f"{format_count(len(names), 'container')} in {library}")
        return
    if port is None:
        port = _DEMO_PORT if _is_free(host or "127.0.0.1", _DEMO_PORT) else 0
    flags: dict[str, object] = {
        "library": library,
        "port": port,
        "host": host,
        "access_log": access_log,
        "auth": auth,
        "public_read": public_read,
    }
    _run(flags, json=json, quiet=quiet, demo=True)


def serve(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="Folder with the containers \\[default: the current one].",
            show_default=False,
        ),
    ] = None,
    host: Host = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            "-p",
            metavar="N",
            min=0,
            max=65535,
            help="Port to listen on; 0 takes a free one \\[default: 8000].",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            "-w",
            metavar="N",
            min=0,
            max=256,
            help="Processes that serve; 0 takes one for each processor \\[default: 1].",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="Settings (TOML, table \\[server]); HARMONY4_… variables and options win over it.",
        ),
    ] = None,
    keyring: Annotated[
        Path | None,
        typer.Option(
            "--keyring",
            metavar="DIR",
            help="Folder with the keys of masked containers, NAME.key each.",
            show_default=False,
        ),
    ] = None,
    access_log: LogRequests = None,
    auth: Auth = None,
    public_read: PublicRead = None,
    allowed_hosts: AllowedHosts = None,
    cors_origins: CorsOrigins = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve the containers below a folder over HTTP: pages, byte ranges, seeks.

    A container is addressed by its path below the folder, such as talks/day1.h4mk. Files that are added,
    replaced or removed while the server runs are picked up. Ctrl-C and SIGTERM stop it; requests that run
    get a moment to finish. With several workers, one that crashes is replaced, and requests on the others
    go on.

    Whoever uses this machine may read and write. Another address than a loopback one is refused unless
    --public-read or --auth says who else may do what; `harmony4 token add` makes tokens.
    """
    flags: dict[str, object] = {
        "library": directory,
        "host": host,
        "port": port,
        "workers": workers,
        "keyring": keyring,
        "access_log": access_log,
        "auth": auth,
        "public_read": public_read,
        "allowed_hosts": allowed_hosts,
        "cors_origins": cors_origins,
    }
    _run(flags, json=json, quiet=quiet, file=config)


def show_config(
    file: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Settings (TOML, table \\[server])."),
    ] = None,
    template: Annotated[
        bool, flag("--template", help="Print a settings file with every setting and its default instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the settings that a server would have, and where each of them comes from.

    Defaults, then the file, then HARMONY4_… variables; options of `harmony4 serve` win over all of them.
    What is wrong is refused as the server refuses it.
    """
    from harmony4.server.config import load_settings
    from harmony4.server.settings import effective
    from harmony4.server.settings import template as settings_file

    if template:
        write(settings_file(), sys.stdout)
        return
    rows = effective(*load_settings(file=file, environ=os.environ))
    if json:
        say(json_text({row["key"]: {"value": row["value"], "source": row["source"]} for row in rows}))
        return
    table = [(row["key"], json_text(row["value"], indent=None), row["source"]) for row in rows]
    say(*columns(table, head=("key", "value", "source")))


def _run(
    flags: dict[str, object], *, json: bool, quiet: bool, file: Path | None = None, demo: bool = False
) -> None:
    # SIGHUP means the settings, and waits until somebody can say so; at a terminal it ends the server.
    with nullcontext() if at_a_terminal() else held_back():
        _run_now(flags, json=json, quiet=quiet, file=file, demo=demo)


def _run_now(flags: dict[str, object], *, json: bool, quiet: bool, file: Path | None, demo: bool) -> None:
    # Only here: aiohttp takes longer to load than most commands take to run.
    from harmony4.server import logs
    from harmony4.server.app import run
    from harmony4.server.config import load_config
    from harmony4.server.state import State

    config = load_config(file=file, environ=os.environ, flags=flags)
    logs.configure(config)
    # A library that is only read may lie where nothing can be written; who names a folder means to use it.
    if config.state is not None and not State.of(config.state, config.library).is_writable():
        logging.getLogger("harmony4.server").warning(
            "state: %s cannot be written: uploads, changes and new tokens will be refused", config.state
        )

    def ready(url: str) -> None:
        if json:
            say(json_text({"url": url, "library": str(config.library)}, indent=None))
        elif not quiet:
            say(f"serving {config.library} at {url} (Ctrl-C stops)")

    run(
        config,
        ready=ready,
        reload=lambda: load_config(file=file, environ=os.environ, flags=flags),
        demo=demo,
    )


def _is_free(host: str, port: int) -> bool:
    try:
        with socket.create_server((host, port)):
            return True
    except OSError as error:
        return error.errno != errno.EADDRINUSE


def _make_library(folder: Path, *, quiet: bool) -> list[str]:
    """Make what is missing of the demo library; returns the names made.

    A folder that holds other containers is somebody's library: it is left as it is.
    """
    names = {f"{demo.name}.h4mk" for demo in DEMOS}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in folder.iterdir() if path.suffix == ".h4mk"}
    except OSError as error:
        raise StorageError(f"cannot make the library {folder}: {error.strerror}") from error
    if there - names or there == names:
        return []
    from harmony4.server.cli.demo_media import make_media
    from harmony4.server.exporting.ingest import ExportOptions, export

    made = []
    with tempfile.TemporaryDirectory(prefix="harmony4-demo-") as scratch:
        for demo in DEMOS:
            name = f"{demo.name}.h4mk"
            if name in there:
                continue
            media = Path(scratch) / demo.name
            label = f"drawing {demo.name}"
            with Meter(label, quiet=quiet, unit="s of media") as meter:
                make_media(demo, media, meter)
            with noted(os.path.realpath(folder / name)) as path:
                result = export(media, path, ExportOptions(title=demo.title))
            made.append(name)
            if not quiet:
                seal = result.seal
                say(
                    f"made {folder / name}: {demo.title}, {format_duration(seal.duration)}, "
                    f"{format_count(seal.blocks, 'block')}, {format_size(seal.length)}"
                )
    return made
