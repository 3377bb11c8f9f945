"""docs/FOUNDING.md keeps its word: every row of the founding document is there, every reference exists."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from needs import ROOT

PAGE = (ROOT / "docs" / "FOUNDING.md").read_text(encoding="utf-8")
TOPICS = (
    "Ingest over HTTP",
    "Bundles and players",
    "Token streams",
    "Masking",
    "Proofs",
    "The page",
    "Running it for others",
)

# The rows of the founding document, section by section, in its own words.
ROWS = {
    "Principles": [
        "Structure before meaning",
        "Time is explicit",
        "Determinism beats heuristics",
        "Transport ≠ synthesis",
        "Auditability is non-optional",
        "Safety by construction",
        "Containers are the contract",
    ],
    "Tiers": [
        "Tier 1: API Layer (`api/`)",
        "Tier 2: Transport (`container/`)",
        "Tier 3: Tokenization (`tokenizers/`)",
        "Tier 4: Utilities (`utils/`)",
        "CLI Tool (`cli/`)",
        "External libs (fastapi, numpy, cryptography)",
        "No circular dependencies",
    ],
    "Files": [
        "`utils/crypto.py`",
        "`utils/hashing.py`",
        "`tokenizers/base.py`",
        "`tokenizers/video_transport.py`",
        "`tokenizers/audio_fft.py`",
        "`tokenizers/video.py`",
        "`container/h4mk.py`",
        "`container/seek.py`",
        "`container/chunks.py`",
        "`container/reader.py`",
        "`api/main.py`",
        "`api/video.py`",
        "`api/audio.py`",
        "`api/video_range.py`",
        "`cli/main.py`",
        "`cli/__init__.py`",
        "`Dockerfile`",
        "`docker-compose.yml`",
        "`requirements.txt`",
    ],
    "Types": [
        "`MaskSpec`",
        "`Token`",
        "`Tokenizer`",
        "`VideoBlockToken`",
        "`AudioToken`",
        "`VideoTokenizer`",
        "`VideoTransportTokenizer`",
        "`AudioFFTTokenizer`",
        "`H4MKBuilder`",
        "`SeekTable`",
        "`SeekEntry`",
        "`H4MKReader`",
        "`ChunkInfo`",
        "`CoreChunk`",
        "`ChunkStream`",
        "FastAPI routers",
        "Pydantic models for validation",
        "Response builders",
    ],
    "Format": [
        "Magic `H4MK`, version 1",
        "Chunks: tag, size, crc, payload",
        "`CORE`",
        "`SEEK`",
        "`META`",
        "`SAFE`",
        "`VERI`",
        "SEEK entry: PTS (8B) + offset (8B)",
        "Binary search: largest PTS ≤ target",
    ],
    "Invariants and forbidden lists": [
        "Tokens are non-identity",
        "Utilities: importing from tokenizers, container, or api",
        "Utilities: media interpretation",
        "Utilities: network I/O",
        "Tokenization: storing to disk",
        "Tokenization: network I/O",
        "Tokenization: encryption",
        "Transport: media semantics",
        "Transport: FFTs, codecs, synthesis",
        "Transport: API routing",
        "API: crypto logic",
        "API: token math",
        "API: container logic",
    ],
    "Endpoints": [
        "`POST /video/stream`",
        "`POST /video/export`",
        "`GET /video/range`",
        "`GET /video/seek`",
        "`GET /video/info`",
        "`POST /audio/stream`",
        "`POST /audio/mask`",
        "`GET /health`",
    ],
    "Commands": [
        "`harmonyø4 inspect <file.h4mk>`",
        "`harmonyø4 seek <file.h4mk> <pts>`",
        "`harmonyø4 export <input> -o <output>`",
        "`[project.scripts] harmonyø4`",
    ],
    "Containerization": [
        "Dockerfile: python slim, port 8000",
        "docker-compose: build, ports, healthcheck",
        "One-command deployment",
    ],
    "Paths through the system": [
        "Write: tokenize → container → stream",
        "Write: file on disk or memory",
        "Write: POST /video/export streams back to client",
        "Read: parse magic + version, extract all chunks, verify CRCs, index",
        "Read: seek → keyframe entry",
        "Read: Range header → byte slice → 206",
        "Read: file hex-encoded in the request",
        "Mask: HKDF(master_key, salt), XOR, reversible, deterministic",
        "Mask: SAFE masked, CORE plaintext for comparison, VERI hash of both",
    ],
    "Performance model": [
        "Tokenize 1 minute video: O(n)",
        "Build H4MK: O(n)",
        "SEEK to PTS: O(log k)",
        "HTTP Range lookup: O(1)",
        "Verify CRC: O(n)",
        "XOR mask: O(n)",
        "Scalability: seconds → hours → multi-TB",
    ],
    "Test suites": [
        "`test_crypto.py`",
        "`test_seek.py`",
        "`test_h4mk.py`",
        "`test_audio_api.py`",
        "`test_video_api.py`",
        "`test_harmony4_integration.py`",
        "Target: 100% coverage on Tier 2–4",
    ],
    "What it is, what it is not": [
        "Deterministic tokenization",
        "Provable seeking (O(log n))",
        "Auditable containers",
        "Transport-first security",
        "Safety by construction (is)",
        "Not a codec (no compression)",
        "Not a model (no ML)",
        "Not a generator (no synthesis)",
        "Not an identity system (no biometrics)",
        "Not encryption (only masked transport)",
    ],
    "Future extensions": [
        "Signed Chunks (`container/signer.py`)",
        "Merkle-Verified SEEK (`container/merkle.py`)",
        "Cross-Modal Bundles (`container/bundle.py`)",
        "HTTP Range Optimization (`api/video_range_optimized.py`)",
    ],
    "Documents": [
        "`README.md`",
        "`ARCHITECTURE.md`",
        "`FINAL_SUMMARY.md`",
        "`DEPLOYMENT_READY.md`",
        "`HARMONY4_UPGRADE.md`",
        "`QUICK_START_API.md`",
    ],
    "Summary": ["Clean", "Safe", "Fast", "Auditable", "Extensible", "Deterministic"],
}


def sections() -> dict[str, list[list[str]]]:
    """Heading -> the cells of its table's rows."""
    found: dict[str, list[list[str]]] = {}
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("|")]
        found[heading] = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
    return found


@functools.cache
def functions_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


def references(text: str) -> list[str]:
    """The code spans that name a file of this project, and the links to its pages."""
    spans = re.findall(r"`(\.?\w[\w./-]*/[\w./:-]*|[\w-]+\.(?:md|toml|lock)|Makefile)`", text)
    return spans + [f"docs/{link}" for link in re.findall(r"\]\(([\w.]+\.md)\)", text)]


def missing(reference: str) -> bool:
    file, _, test = reference.partition("::")
    path = ROOT / file
    if not path.exists():
        return True
    return bool(test) and test not in functions_in(file)


@pytest.mark.parametrize("section", ROWS)
def test_every_row_is_there(section: str) -> None:
    assert [row[0] for row in sections()[section]] == ROWS[section]


def test_no_section_without_rows_of_the_document() -> None:
    assert list(sections()) == list(ROWS)


@pytest.mark.parametrize(
    ("section", "row"), [(name, row) for name, rows in sections().items() for row in rows], ids=lambda x: x[0]
)
def test_each_row_shows_plans_or_explains(section: str, row: list[str]) -> None:
    assert len(row) == 3, f"{section}: three cells, found {len(row)}"
    evidence = row[2]
    planned = re.findall(r"\*\*planned:\*\* ([^·]+)", evidence)
    replaced = re.findall(r"\*\*replaced:\*\* (.+)", evidence)
    shown = [reference for reference in references(evidence) if "tests/" in reference or ".ci" in reference]
    for names in planned:
        named = re.findall(r"\*([^*]+)\*", names)
        assert named, f"planned without a topic: {evidence}"
        assert set(named) <= set(TOPICS), named
    for reason in replaced:
        assert len(reason) > 15, "replaced without a reason"
    assert planned or replaced or shown, f"{row[0]}: neither shown, planned nor replaced"


def test_what_is_named_exists() -> None:
    cells = [cell for rows in sections().values() for row in rows for cell in row[1:]]
    named = {reference for cell in cells for reference in references(cell)}
    assert len(named) > 30
    assert sorted(filter(missing, named)) == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "DEPLOYMENT.md", "SECURITY.md", "API.md"])
def test_what_other_pages_name_exists(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = {one for one in references(text) if one.startswith(("tests/", ".ci/", "docs/"))}
    assert sorted(filter(missing, named)) == []
