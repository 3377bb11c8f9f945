"""The tiers and the rules of the house that a machine can check (docs/ARCHITECTURE.md)."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from needs import ROOT

TIERS = ("crypto", "tokenize", "h4mk", "server", "static")
PURE = ("crypto", "tokenize", "h4mk")
NETWORK = {"aiohttp", "aiofiles", "asyncio", "http", "selectors", "socket", "ssl", "urllib", "uvloop"}


def tracked() -> list[Path]:
    """The files of the repository; in an unpacked source archive without git, there is nothing to check."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def sources(*tiers: str) -> list[Path]:
    return sorted(path for tier in tiers for path in (ROOT / tier).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The full names of the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def test_import_linter_passes(tmp_path: Path) -> None:
    links = tmp_path / "links"
    (links / "harmony4").mkdir(parents=True)
    for tier in TIERS:
        (links / "harmony4" / tier).symlink_to(ROOT / tier, target_is_directory=True)
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint, "--no-cache", "--no-logo"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(links)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sources(*PURE), ids=lambda path: str(path.relative_to(ROOT)))
def test_lower_tiers_know_no_network(path: Path) -> None:
    # An event loop is no network: tokens come out of async generators.
    allowed = {"asyncio"} if path.parent.name == "tokenize" and path.stem in ("pipe", "stream") else set()
    assert not {name.partition(".")[0] for name in imported(path)} & NETWORK - allowed


@pytest.mark.parametrize(
    ("tier", "allowed"),
    [
        ("crypto", {"crypto"}),
        ("tokenize", {"crypto", "tokenize"}),
        ("h4mk", {"crypto", "h4mk"}),
        ("server", {"crypto", "tokenize", "h4mk", "server", "static"}),
    ],
)
def test_each_tier_imports_only_what_lies_below(tier: str, allowed: set[str]) -> None:
    for path in sources(tier):
        for name in imported(path):
            if name.partition(".")[0] == "harmony4":
                assert name.split(".")[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_library_needs_no_server() -> None:
    """Importing the tiers below it loads neither aiohttp nor asyncio nor sockets."""
    code = (
        "import sys, harmony4.crypto, harmony4.h4mk, harmony4.tokenize.video; harmony4.h4mk.H4MKReader;"
        "print(*[name for name in ('aiohttp', 'asyncio', 'socket') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_commands_begin_without_what_few_of_them_need() -> None:
    """What takes long to load is loaded by the command that uses it; these took a third of `--version`."""
    heavy = ("aiohttp", "av", "structlog", "yarl", "watchfiles", "prometheus_client", "sqlite3")
    code = f"import sys, harmony4.server.cli.frame; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_standard_tokenize_wins_from_the_root() -> None:
    """With the root on sys.path, where `python -c` and `-m` put it, `tokenize` stays the library's."""
    assert not (ROOT / "tokenize" / "__init__.py").exists()
    code = (
        "import tokenize, inspect, harmony4.tokenize.video as v; print(tokenize.__file__); print(v.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    standard, ours = map(Path, done.stdout.splitlines())
    assert ROOT not in standard.parents
    assert ours == ROOT / "tokenize" / "video.py"


def test_root_is_not_importable_in_tests() -> None:
    assert str(ROOT) not in sys.path


def test_every_package_is_typed_and_packaged() -> None:
    for tier in ("crypto", "tokenize", "h4mk", "server"):
        assert (ROOT / tier / "py.typed").exists()
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for folder in {path.parent for path in sources("crypto", "tokenize", "h4mk", "server", "static")}:
        dotted = "harmony4." + ".".join(folder.relative_to(ROOT).parts)
        assert f'"{dotted}"' in settings, f"{dotted} is missing in [tool.setuptools] packages"


def test_version_stands_in_one_place() -> None:
    version = metadata.version("harmony4")
    for path in sources(*TIERS):
        assert f'"{version}"' not in path.read_text(encoding="utf-8"), path


def test_locks_hold_hashes_and_no_addresses() -> None:
    for path in [*ROOT.glob("requirements*.lock"), *ROOT.glob("tests/**/requirements*.txt")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"://|--(index|extra|find|trusted)", text), path.name
        pins = re.findall(r"^[a-z0-9-]+==\S+", text, re.MULTILINE)
        assert pins
        assert text.count("--hash=sha256:") >= len(pins)


def test_runtime_lock_is_part_of_the_dev_lock() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+==\S+", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))

    assert pins("requirements.lock") <= pins("requirements-dev.lock")


def test_lock_fits_what_is_installed() -> None:
    """The tests run on what is pinned, or their results say nothing about what a newcomer gets."""
    text = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    for name, version in re.findall(r"^([a-z0-9-]+)==(\S+) (?!; )", text, re.MULTILINE):
        if name != "setuptools":  # builds the project; not used while it runs
            assert metadata.version(name) == version, name


def test_no_path_of_a_machine() -> None:
    needles = [f"{place}/".encode() for place in (ROOT, Path.home()) if len(place.parts) > 2]
    for path in tracked():
        content = path.read_bytes()
        for needle in needles:
            assert needle not in content, f"{path.relative_to(ROOT)} holds {needle.decode()}"


def test_the_server_computes_nothing_itself() -> None:
    """No cipher, no key derivation, no CRC, no search: those are the lower tiers' work."""
    theirs = {"bisect", "cryptography", "hmac", "zlib"}
    for path in sources("server"):
        assert not {name.partition(".")[0] for name in imported(path)} & theirs, path.relative_to(ROOT)


def test_no_model_and_no_decoder() -> None:
    """Nothing that learns, and nothing in the tokenizers that opens a codec, but for sound in one place.

    Spectra are of samples, so sound is decoded; no picture ever is.
    """
    pinned = re.findall(
        r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert not {"torch", "tensorflow", "jax", "onnxruntime", "scikit-learn", "opencv-python"} & set(pinned)
    codecs = {"CodecContext", "decode_video", "to_ndarray", "to_image", "reformat", "resample", "VideoFrame"}
    for path in sources("tokenize"):
        demuxes = any(name.partition(".")[0] == "av" for name in imported(path))
        sound = {"CodecContext", "decode"} if path.name == "decode.py" else set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr not in sound:
                opens_codec = node.attr in codecs or (demuxes and node.attr == "decode")
                assert not opens_codec, f"{path.relative_to(ROOT)} line {node.lineno}"


def test_no_rule_about_security_is_waved_through() -> None:
    """ruff's S rules hold for the product: what is let pass names its rule, on its line, and why."""
    for path in sources(*TIERS):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "noqa" in line:
                found = re.search(r"# (ruff: )?noqa: ([A-Z]+[0-9]+(?:, [A-Z]+[0-9]+)*)( - .+)?$", line)
                assert found, f"{path}: {line}"
                if re.search(r"\bS[0-9]", found[2]):
                    assert found[3], f"{path}: {line}"
                    assert not found[1], f"{path}: {line}"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in settings["select"]
    # Assertions are for the type checker; what must hold raises an error of ours.
    assert [rule for rule in settings["ignore"] if rule.startswith("S") and rule[1:].isdigit()] == ["S101"]
    assert set(settings["per-file-ignores"]) == {"tests/**", ".ci/**"}
