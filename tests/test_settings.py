"""The settings as an operator sees them: `harmony4 config`, its template, and deploy/harmony4.toml."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from commands import here, refused
from harmony4.server.config import Config, load_config
from harmony4.server.settings import template
from needs import ROOT

Capture = pytest.CaptureFixture[str]


def test_the_file_is_the_template() -> None:
    assert (ROOT / "deploy" / "harmony4.toml").read_text("utf-8") == template()


def test_the_template_has_every_setting_and_its_default(tmp_path: Path) -> None:
    text = template()
    assert re.findall(r"^#(\w+) = ", text, re.MULTILINE) == [one.name for one in fields(Config)]
    file = tmp_path / "harmony4.toml"
    file.write_text(text, "utf-8")
    assert load_config(file=file) == Config()
    # With the marks of comments taken away, it says what holds without it.
    said = re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE).replace('= "/a/folder"', '= "elsewhere"')
    file.write_text(said, "utf-8")
    given = load_config(file=file)
    for one in fields(Config):
        expected = tmp_path / "elsewhere" if one.default is None else one.default
        if one.name == "library":
            expected = tmp_path / "."
        assert getattr(given, one.name) == expected, one.name


def test_config_names_its_sources(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "harmony4.toml"
    file.write_text('[server]\nport = 1\nmax_open = 7\ncors_origins = ["https://a.example"]\n')
    monkeypatch.setenv("HARMONY4_PORT", "2")
    found = json.loads(here(capsys, "config", "--config", file, "--json").out)
    assert list(found) == [one.name for one in fields(Config)]
    assert found["port"] == {"value": 2, "source": "HARMONY4_PORT"}
    assert found["max_open"] == {"value": 7, "source": str(file)}
    assert found["cors_origins"] == {"value": ["https://a.example"], "source": str(file)}
    assert found["host"] == {"value": "127.0.0.1", "source": "default"}
    lines = here(capsys, "config", "-c", file).text.splitlines()
    assert lines[0].split() == ["key", "value", "source"]
    assert ["port", "2", "HARMONY4_PORT"] in [line.split() for line in lines]


def test_config_refuses_what_the_server_refuses(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARMONY4_PORT", "eighty")
    refused(here(capsys, "config"), "port", "eighty", "a whole number", "HARMONY4_PORT")


def test_config_prints_the_template(capsys: Capture) -> None:
    assert here(capsys, "config", "--template").text == template()
