"""The tokens of fixed sounds are the pinned ones, whatever the CPU can do (tests/vectors/sound).

The pinned ones are made without the project (tests/make_vectors/sound.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import Any

import pytest

import audio_child
from harmony4.tokenize.audio import AudioFFTTokenizer
from make_vectors import sound as independent
from needs import ROOT, VECTORS
from test_spectrum_exact import SETTINGS

CASES: list[dict[str, Any]] = json.loads((VECTORS / independent.NAME).read_bytes())["cases"]


def label(case: dict[str, Any]) -> str:
    return "-".join(str(case[name]) for name in ("profile", "rate", "channels", "encoding"))


@pytest.mark.parametrize("case", CASES, ids=label)
def test_tokens_are_the_pinned_ones(case: dict[str, Any]) -> None:
    assert hashlib.sha256(independent.pcm(case)).hexdigest() == case["pcm"]
    records = audio_child.records(case, case["profile"])
    assert (records[0].hex(), records[-1].hex(), len(records)) == (
        case["first"],
        case["last"],
        case["tokens"],
    )
    assert hashlib.sha256(b"".join(records)).hexdigest() == case["sha256"]
    tokens = AudioFFTTokenizer().decode(b"".join(records))
    assert any(token.bins for token in tokens)
    assert tokens[-1].end == case["samples"] * 1_000_000 // case["rate"]


@pytest.mark.parametrize("case", independent.CASES, ids=lambda case: str(case["rate"]))
def test_the_independent_tokens_agree(case: dict[str, Any]) -> None:
    """Not only digests: where something differs, this shows what."""
    for profile in independent.PROFILES:
        ours = audio_child.records(case, profile)
        assert ours == independent.records(case, profile)


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_setting_of_the_cpu_changes_them(setting: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "audio_child"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")} | SETTINGS[setting],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [case["sha256"] for case in CASES]
