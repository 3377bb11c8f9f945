"""The entry point of `harmony4`: runs one command and turns every way it can end into an exit status.

    0    done
    1    refused; one line on standard error says why
    2    usage: the command line itself is wrong
    3    done, but something was lost or failed verification
    4    done, but the audit log could not be told
    130  interrupted (Ctrl-C); 143: asked to end (SIGTERM); nothing half-made is left behind
    141  the reader of a pipe that was fed data went away (as for any program ended by SIGPIPE)

A traceback is never printed, except in Python's development mode (`python -X dev`, `PYTHONDEVMODE=1`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit status."""
    try:
        with _ended_by(signal.SIGTERM, getattr(signal, "SIGHUP", None)):
            # Imported here, so that a Ctrl-C while Python still loads modules ends as quietly as any other.
            from harmony4.server.serving.hangups import at_a_terminal, held_back

            words = sys.argv[1:] if argv is None else list(argv)
            # A server reads its settings anew when it is told so, even while modules are being loaded.
            serving = words[:1] == ["serve"] and not at_a_terminal()
            with held_back() if serving else contextlib.nullcontext():
                from harmony4.server.cli import frame

                return frame.run(words)
    except KeyboardInterrupt:
        return 130
    except _Ended as ended:
        return 128 + ended.number
    except Exception as error:  # an installation that is broken, most likely
        print(f"error: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    finally:
        _let_go_of_closed_pipes()


class _Ended(BaseException):
    """A signal asked the process to end: unwinds like Ctrl-C, so that temporary files are removed."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextlib.contextmanager
def _ended_by(*signals: signal.Signals | None) -> Iterator[None]:
    """Make signals whose default is to kill the process unwind it instead."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise _Ended(number)

    before: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        for each in signals:
            if each is not None and signal.getsignal(each) is signal.SIG_DFL:
                signal.signal(each, end)
                before.append(each)
    try:
        yield
    finally:
        for each in before:
            signal.signal(each, signal.SIG_DFL)


def _let_go_of_closed_pipes() -> None:
    """Flush what is left; a pipe that cannot take it must not make Python complain while it exits."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


if __name__ == "__main__":
    sys.exit(main())
