"""The documentation is true: what the code has is described, and the examples run."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from harmony4.crypto import errors
from harmony4.server.app import create_app
from harmony4.server.cli.frame import app as commands
from harmony4.server.config import PREFIX, Config
from harmony4.server.errors import PROBLEMS
from harmony4.server.openapi import document
from needs import BUNNY, ROOT, needs_curl

DOCS = ROOT / "docs"
API = (DOCS / "API.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
HOUSE = [
    "H4MK",
    "ARCHITECTURE",
    "API",
    "QUICK_START_API",
    "DEPLOYMENT",
    "SECURITY",
    "PERFORMANCE",
    "FOUNDING",
]


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    """The text below a heading of API.md, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", API, re.MULTILINE | re.DOTALL)
    assert found, f"API.md has no section {heading!r}"
    return found[1]


def test_every_page_exists_and_says_something() -> None:
    for name in HOUSE:
        assert len((DOCS / f"{name}.md").read_text(encoding="utf-8").split()) > 150, name


def test_every_route_is_described(tmp_path: Path) -> None:
    table = section("Routes")
    for route in create_app(Config(library=tmp_path)).router.routes():
        assert route.resource is not None
        path = re.sub(r":[^}]*", "", route.resource.canonical)
        rows = [row for row in table.splitlines() if f"`{path}`" in row or f"`{path}?" in row]
        assert rows, f"{path} is not described"
        if route.method != "HEAD":
            methods = rows[0].split("|")[2]
            assert route.method in methods.replace(",", "").split(), f"{route.method} {path} is not described"


def test_every_parameter_of_a_route_is_described() -> None:
    table = section("Routes")
    for path, methods in document()["paths"].items():
        row = next(row for row in table.splitlines() if f"`{path}`" in row or f"`{path}?" in row)
        for method in methods.values():
            for parameter in method["parameters"]:
                if parameter["in"] == "query":
                    assert re.search(rf"[?&]{parameter['name']}=", row), f"{path}: {parameter['name']}"


def command_names() -> list[str]:
    group = typer.main.get_command(commands)
    return sorted(group.commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", command_names())
def test_every_command_and_option_is_described(name: str) -> None:
    group = typer.main.get_command(commands)
    text = section(f"harmony4 {name}")
    command = group.commands[name]  # type: ignore[attr-defined]
    below = getattr(command, "commands", {})
    for verb in below:
        assert f"`harmony4 {name} {verb}" in text, f"{name} {verb} is not described"
    for parameter in [*command.params, *(one for each in below.values() for one in each.params)]:
        for option in [*parameter.opts, *parameter.secondary_opts]:
            if option.startswith("--") and option != "--help":
                assert re.search(rf"`{option}[` ]", text), f"{name}: {option} is not described"


def test_no_command_is_described_that_is_not_there() -> None:
    assert sorted(re.findall(r"^### harmony4 ([a-z-]+)$", API, re.MULTILINE)) == command_names()


def test_every_setting_is_described() -> None:
    text = (DOCS / "DEPLOYMENT.md").read_text(encoding="utf-8")
    for setting in fields(Config):
        default = str(setting.default).lower() if isinstance(setting.default, bool) else str(setting.default)
        row = f"| `{setting.name}` | `{PREFIX}{setting.name.upper()}` | `{default}` |"
        assert row in text, row


def test_every_error_is_described() -> None:
    table = section("Problems")
    classes = [getattr(errors, name) for name in errors.__all__]
    for kind in classes:
        assert re.search(rf"^\| `{kind.code}` \| `{kind.__name__}` \|", table, re.MULTILINE), kind
    for code, (status, _) in PROBLEMS.items():
        shown = "any" if code == "http" else status
        assert re.search(rf"^\| `{code}` \| [^|]*\| {shown} \|", table, re.MULTILINE), code


@pytest.mark.parametrize(
    "module", ["crypto.token", "h4mk", "tokenize.tokens", "tokenize.video", "tokenize.audio"]
)
def test_every_public_name_is_described(module: str) -> None:
    text = section("Python API")
    for name in importlib.import_module(f"harmony4.{module}").__all__:
        assert re.search(rf"`{name}\b", text), f"{module}.{name} is not described"


def tables_of_threats() -> list[list[str]]:
    """The rows of the tables in SECURITY.md whose last column names tests."""
    text = (DOCS / "SECURITY.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\|[^\n]*\| shown by \|\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [table.splitlines() for table in tables]


def test_every_row_of_the_threat_tables_names_tests_that_exist() -> None:
    """Tests that pytest collects: of each file, or of each function, that a row names, at least one."""
    main, masking = tables_of_threats()
    assert len(main) >= 25
    assert len(masking) >= 8
    wanted = {}
    for row in main + masking:
        named = re.findall(r"`(tests/\w+\.py(?:::\w+)?)`", row.rsplit("|", 2)[1])
        assert named, row
        wanted |= dict.fromkeys(named, row)
    files = sorted({name.partition("::")[0] for name in wanted})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    found = {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}
    found |= {line.partition("::")[0] for line in found}
    for name, row in wanted.items():
        assert name in found, (name, row)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_first_screen_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first_screen = text.split("\n## ")[0]
    assert len(first_screen.splitlines()) < 20
    lines = [line for block in blocks(first_screen, "sh") for line in block.splitlines()]
    assert [line.split("#")[0].strip() for line in lines] == ["make demo", "make test"]
    for target in ("demo", "test"):
        made = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr


@contextmanager
def served(line: str, folder: Path, environ: dict[str, str]) -> Iterator[str]:
    """Run a `harmony4 serve` line of a page on a free port; gives the address it listens on."""
    command = line.removesuffix("&").replace("--port 8000", "--port 0 --json")
    assert command != line
    server = subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=folder, env=environ, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"]
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert server.returncode == 0


def run_blocks(page: Path, folder: Path) -> None:
    """Run a page's shell and Python examples in order, as a reader would who has a film.mp4."""
    shutil.copy(BUNNY, folder / "film.mp4")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environ = os.environ | {"PATH": path, "PYTHONSAFEPATH": "1", "NO_COLOR": "1"}
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    examples = [(kind, code) for kind, code in found if not code.startswith(("make ", "git "))]
    first = next(number for number, (_, code) in enumerate(examples) if "harmony4 serve" in code)
    _run_all(examples[:first], folder, environ)
    serve = [line for line in examples[first][1].splitlines() if line.startswith("harmony4 serve")]
    assert len(serve) == 1, "a page's examples share one server"
    with served(serve[0], folder, environ) as url:
        rest = [(kind, code.replace(serve[0], "")) for kind, code in examples[first:]]
        _run_all(
            [(kind, code.replace("http://127.0.0.1:8000/", url)) for kind, code in rest], folder, environ
        )


def _run_all(examples: list[tuple[str, str]], folder: Path, environ: dict[str, str]) -> None:
    for kind, code in examples:
        command = ["bash", "-euo", "pipefail", "-c", code]
        if kind == "python":
            command = [sys.executable, "-P", "-W", "error", "-c", code]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


@needs_curl
@pytest.mark.parametrize("page", ["README.md", "docs/QUICK_START_API.md"])
def test_examples_of_a_page_run(page: str, tmp_path: Path) -> None:
    run_blocks(ROOT / page, tmp_path)
