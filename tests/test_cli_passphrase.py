"""Passphrases of keys: typed on a terminal, twice for a new key, and never shown."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from commands import HARMONY4, ROOM, refused, run, small_container
from harmony4.server.masking.keys import KEY, KEY_FILE, PASSPHRASE, read_key_file

PHRASE = "correct horse"


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in (KEY, KEY_FILE, PASSPHRASE)}


class Terminal:
    """A command with a terminal of its own, and somebody who types."""

    def __init__(self, *arguments: object) -> None:
        self.ours, self._theirs = os.openpty()

        def take() -> None:  # a shell's background jobs, and so the tests in one, ignore Ctrl-C
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            fcntl.ioctl(self._theirs, termios.TIOCSCTTY, 0)

        self.shown = b""
        self.process = subprocess.Popen(
            [str(HARMONY4), *map(str, arguments)],
            stdin=subprocess.DEVNULL,  # what is typed comes from the terminal, not from there
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean(),
            start_new_session=True,
            preexec_fn=take,
        )

    def answer(self, prompt: str, text: str) -> None:
        """Wait until it asks, then type a line."""
        deadline = time.monotonic() + ROOM
        at = len(self.shown)
        while prompt.encode() not in self.shown[at:]:
            assert select.select([self.ours], [], [], max(0, deadline - time.monotonic()))[0], self.shown
            self.shown += os.read(self.ours, 4096)
        os.write(self.ours, text.encode())

    def close(self) -> None:
        os.close(self.ours)
        os.close(self._theirs)

    def end(self) -> tuple[int, str]:
        out, _ = self.process.communicate(timeout=ROOM)
        return self.process.returncode, out.decode()


@contextmanager
def terminal(*arguments: object) -> Iterator[Terminal]:
    made = Terminal(*arguments)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait(ROOM)
        assert made.process.stdout is not None
        made.process.stdout.close()
        made.close()


def test_a_passphrase_is_typed_twice_and_asked_for_once(tmp_path: Path) -> None:
    with terminal("keygen", "--passphrase", "-o", tmp_path / "a.key") as it:
        it.answer("Passphrase: ", PHRASE + "\n")
        it.answer("The same again: ", PHRASE + "\n")
        status, said = it.end()
        assert (status, "locked by a passphrase" in said) == (0, True)
        assert PHRASE.encode() not in it.shown + said.encode()
    assert read_key_file(tmp_path / "a.key", lambda: PHRASE).id.hex() in said
    small_container(tmp_path / "a.h4mk")
    arguments = (tmp_path / "a.h4mk", "-o", tmp_path / "m.h4mk", "-k", tmp_path / "a.key")
    with terminal("mask", *arguments) as it:
        it.answer(f"Passphrase of {tmp_path / 'a.key'}: ", PHRASE + "\n")
        status, said = it.end()
        assert status == 0, said
        assert PHRASE.encode() not in it.shown + said.encode()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["one\n", "two\n"], "the two passphrases differ"),
        (["\n"], "an empty passphrase"),
        (["\x04"], "no passphrase was given"),
    ],
)
def test_passphrases_that_will_not_do(tmp_path: Path, typed: list[str], words: str) -> None:
    with terminal("keygen", "--passphrase", "-o", tmp_path / "a.key") as it:
        for prompt, text in zip(("Passphrase: ", "The same again: "), typed, strict=False):
            it.answer(prompt, text)
        status, said = it.end()
    assert (status, said.count("\n")) == (1, 1)
    assert said.startswith("error: ")
    assert words in said
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_at_the_prompt_ends_it(tmp_path: Path) -> None:
    with terminal("keygen", "--passphrase", "-o", tmp_path / "a.key") as it:
        it.answer("Passphrase: ", "\x03")
        status, said = it.end()
    assert status == 130
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_nobody_is_asked(tmp_path: Path) -> None:
    """And what stands on standard input is not taken for an answer."""
    new = ("keygen", "--passphrase", "-o", tmp_path / "a.key")
    refused(run(*new, stdin=b"x\nx\n", env=clean(), start_new_session=True), "no terminal", PASSPHRASE)
    assert run(*new, env=clean() | {PASSPHRASE: PHRASE}, start_new_session=True).status == 0
    small_container(tmp_path / "a.h4mk")
    mask = ("mask", tmp_path / "a.h4mk", "-o", tmp_path / "m.h4mk", "-k", tmp_path / "a.key")
    refused(
        run(*mask, stdin=PHRASE.encode(), env=clean(), start_new_session=True),
        "the key has a passphrase",
        PASSPHRASE,
    )
