"""The settings as an operator sees them: which value holds, who said so, and a file with all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from harmony4.server.config import PREFIX, Config

__all__ = ["effective", "template"]

_HEAD = """\
# Settings of the server, each with its default. Written by `harmony4 config --template`; docs/DEPLOYMENT.md
# says more. Environment variables (HARMONY4_PORT, ...) and options of the command line win over this file.
# Relative folders are relative to this file.

[server]
"""


def template() -> str:
    """A settings file with everything in it, all of it commented out: as it stands it changes nothing."""
    lines = [_HEAD]
    for setting in fields(Config):
        bounds = setting.metadata["range"]
        within = "" if bounds is None else f" ({bounds[0]} to {bounds[1]})"
        lines.append(f"# {setting.metadata['help']}{within}\n")
        if setting.default is None:
            lines.append(f'#{setting.name} = "/a/folder"\n\n')
        else:
            lines.append(f"#{setting.name} = {_toml(setting.default)}\n\n")
    return "".join(lines).rstrip("\n") + "\n"


def effective(config: Config, sources: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each setting with its value, its variable and its source (`default`, a file, a variable, an option)."""
    return [
        {
            "key": setting.name,
            "value": _plain(getattr(config, setting.name)),
            "source": sources.get(setting.name, "default"),
            "variable": f"{PREFIX}{setting.name.upper()}",
        }
        for setting in fields(Config)
    ]


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _toml(value: object) -> str:
    # What JSON writes of these types is TOML as well: texts, numbers, true and false, lists of texts.
    return json.dumps(_plain(value), ensure_ascii=False)
