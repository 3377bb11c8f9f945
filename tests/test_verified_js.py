"""static/verified.js in Debian's Chromium: nothing but what was signed, from servers that lie (H4MK 22)."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page

from chromium import chromium
from harmony4.crypto.mask import MaskSpec, MasterKey
from harmony4.crypto.signing import SigningKey
from harmony4.h4mk import H4MKBuilder, H4MKReader
from harmony4.h4mk.proofs.signature import Signer
from lying import Lie, lying
from masking import masked_container
from needs import needs_chromium
from serving import VIDEO, Server, running

pytestmark = needs_chromium

KEY, OTHER = SigningKey.from_number(5), SigningKey.from_number(6)
PEM = KEY.public.pem().decode()
TRUST = {"keys": [PEM], "subject": "talk", "revision": 3}
COUNT, MANY = 30, 2500
BLOCKS = [bytes([65 + n]) * (1000 + n % 7) for n in range(COUNT)]
WHOLE = b"".join(BLOCKS)


def write(path: Path, blocks: list[bytes], revision: int = 3, key: SigningKey = KEY) -> None:
    signer = Signer(key, "talk", revision) if revision else None
    with H4MKBuilder.to_path(path, [VIDEO, VIDEO, VIDEO], signer=signer) as builder:
        for number, payload in enumerate(blocks):
            builder.add_block(payload, number * 1_000_000, key=number % 3 == 0)
            builder.add_block(payload[:40], number * 1_000_000, track=1, key=True)
        builder.finish(ends={0: len(blocks) * 1_000_000})


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    write(root / "a.h4mk", BLOCKS)
    write(root / "old.h4mk", [b"old" * 300, *BLOCKS[1:]], 2)
    write(root / "other.h4mk", [b"other" * 200, *BLOCKS[1:]])
    write(root / "theirs.h4mk", BLOCKS, key=OTHER)
    write(root / "unsigned.h4mk", BLOCKS, 0)
    write(root / "many.h4mk", [b"%07d" % number for number in range(MANY)])
    return root


@pytest.fixture(scope="module")
def server(library: Path) -> Iterator[Server]:
    with running(library, allowed_hosts=("example.test",)) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium("--host-resolver-rules=MAP example.test 127.0.0.1") as one:
        yield one


SCRIPT = """async () => {
  Object.assign(globalThis, await import("./static/harmony4.js"));
  globalThis.told = async (call) => {
    try {
      return await call();
    } catch (error) {
      return error instanceof Harmony4Error ? [error.code, error.message] : String(error.stack);
    }
  };
  globalThis.base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}"""


def opened(browser: Browser, url: str) -> Page:
    page = browser.new_page()
    page.goto(url)
    page.evaluate(SCRIPT)
    return page


@pytest.fixture(scope="module")
def page(browser: Browser, server: Server) -> Page:
    return opened(browser, server.url)


def reads(page: Page, url: str, ranges: list[list[int]], trust: dict[str, Any] = TRUST) -> list[Any]:
    """What one VerifiedSource says to these ranges, one after the other."""
    script = """async ([url, ranges, trust]) => {
      const made = await told(() => new VerifiedSource(url, { trust: new Trust(trust) }));
      if (Array.isArray(made)) return [made];
      const found = [];
      for (const [start, stop] of ranges) {
        found.push(await told(async () => base64(await made.read(start, stop))));
      }
      return found;
    }"""
    found = page.evaluate(script, [url, ranges, trust])
    return [base64.b64decode(one) if isinstance(one, str) else one for one in found]


@pytest.mark.parametrize(
    "url", ["video/range?name=a.h4mk", "video/range/0.mp4?name=a.h4mk&v=1", "container?name=a.h4mk"]
)
def test_ranges(page: Page, url: str) -> None:
    size = len(WHOLE)
    ranges = [
        [0, 1],
        [5, 2500],
        [size - 1, size],
        [size - 1, size + 9],
        [size, size + 1],
        [0, size],
        [999, 1001],
    ]
    assert reads(page, url, ranges) == [WHOLE[start:stop] for start, stop in ranges]


def test_tracks_and_heads(page: Page, library: Path) -> None:
    with H4MKReader(library / "a.h4mk") as reader:
        head = reader.head.hex()
    sound = b"".join(block[:40] for block in BLOCKS)
    assert reads(page, "video/range?name=a.h4mk&track=1", [[3, 100]], {"head": head}) == [sound[3:100]]
    assert reads(page, "video/range?name=a.h4mk&track=2", [[3, 100]]) == [b""]
    script = """async ([trust, track]) => {
      const url = new URL("video/range?name=a.h4mk", document.baseURI);
      const { bytes, head, accepted } = await fetchVerified(url, { trust: new Trust(trust), track });
      return [base64(bytes), head, accepted.key, accepted.revision];
    }"""
    found = page.evaluate(script, [TRUST, 1])
    assert found == [base64.b64encode(sound).decode(), head, KEY.public.fingerprint.hex(), 3]


def test_more_blocks_than_one_proof_has(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    whole = b"".join(b"%07d" % number for number in range(MANY))
    found = reads(page, "video/range?name=many.h4mk", [[0, len(whole) + 1], [0, 7], [7 * 2000, 7 * 2001]])
    assert found == [whole, whole[:7], whole[7 * 2000 : 7 * 2001]]
    assert 3 <= sum("/video/proof" in url for url in asked) <= 30


def test_seeks(page: Page) -> None:
    script = """async ([url, times, trust]) => {
      const source = new VerifiedSource(url, { trust: new Trust(trust) });
      return Promise.all(times.map((pts) => told(async () => {
        const { place, keyframe } = await source.seek(pts);
        return [place, keyframe && keyframe.pts];
      })));
    }"""
    found = page.evaluate(script, ["video/range?name=a.h4mk", [0, 5_500_000, 10**9], TRUST])
    assert found == [["inside", 0], ["inside", 3_000_000], ["after", 27_000_000]]
    assert page.evaluate(script, ["video/range?name=a.h4mk&track=2", [5], TRUST]) == [["empty", None]]


def test_whom_not_to_believe(page: Page) -> None:
    for name in ("old", "theirs", "unsigned"):
        (found,) = reads(page, f"video/range?name={name}.h4mk", [[0, 9]])
        assert found[0] == "seal", found
    (found,) = reads(page, "video/range?name=missing.h4mk", [[0, 9]])
    assert found[0] == "not-found"
    for wrong in ("video/range", "media?name=a.h4mk", "http://"):
        assert reads(page, wrong, [])[0][0] == "usage"
    found = reads(page, "video/range?name=a.h4mk", [[5, 5], [-1, 5]])
    assert [one[0] for one in found] == ["usage", "usage"]


def test_masked_containers_are_proven_as_they_are_stored(page: Page, library: Path) -> None:
    spec = MaskSpec((MasterKey(bytes(range(32))),))
    masked_container(library / "masked.h4mk", library / "a.h4mk", spec)
    with H4MKReader(library / "masked.h4mk") as reader:
        head, stored = reader.head.hex(), reader.read(0, len(WHOLE))
    assert reads(page, "video/range?name=masked.h4mk", [[10, 3000]], {"head": head}) == [stored[10:3000]]


# ---- servers that lie ------------------------------------------------------------------------------------


def lied(browser: Browser, server: Server, lie: Lie, send: Any = lambda path: path) -> Any:
    """What reading the whole stream, in three parts, comes to."""
    with lying(server.url, lie, send) as url:
        page = opened(browser, url)
        parts = [[0, 10_000], [10_000, 20_000], [20_000, len(WHOLE)]]
        found = reads(page, "video/range?name=a.h4mk", parts)
        page.close()
    return found


def test_an_honest_proxy(browser: Browser, server: Server) -> None:
    assert b"".join(lied(browser, server, lambda _path, _at, body: body)) == WHOLE


def _spoil(change: Any) -> Lie:
    """Change the stream: what a request gets is cut out of the changed one."""
    spoilt = change(WHOLE)
    return lambda path, at, body: spoilt[at : at + len(body)] if "/video/range" in path else body


def test_one_bit(browser: Browser, server: Server) -> None:
    at = len(b"".join(BLOCKS[:13])) + 5
    flip = _spoil(lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    first, second, third = lied(browser, server, flip)
    assert first == WHOLE[:10_000] and third == WHOLE[20_000:]
    assert second[0] == "seal" and "block 13 of track 0" in second[1]


def test_two_blocks_swapped(browser: Browser, server: Server) -> None:
    assert len(BLOCKS[15]) == len(BLOCKS[1])
    blocks = [*BLOCKS]
    blocks[1], blocks[15] = blocks[15], blocks[1]
    first, second, third = lied(browser, server, _spoil(lambda _: b"".join(blocks)))
    assert first[0] == "seal" and "block 1 of track 0" in first[1]
    assert second[0] == "seal" and "block 15 of track 0" in second[1]
    assert third == WHOLE[20_000:]


def test_fewer_or_more_bytes(browser: Browser, server: Server) -> None:
    for lie in (
        lambda path, _, body: body[:-1] if "/video/range" in path else body,
        lambda path, _, body: body + b"!" if "/video/range" in path else body,
    ):
        assert {one[0] for one in lied(browser, server, lie)} == {"source"}


@pytest.mark.parametrize(("name", "code"), [("other", "source-changed"), ("old", "seal"), ("theirs", "seal")])
def test_replaced_midway(browser: Browser, server: Server, name: str, code: str) -> None:
    """Another container by the same signer, an older edition, and one by somebody else."""
    seen: list[str] = []

    def send(path: str) -> str:
        if "name=a.h4mk&track=0&" not in path:  # the page has requests of its own
            return path
        seen.append(path.partition("?")[0])
        later = seen.count("/video/range") > 1 or (
            seen[-1] == "/video/proof" and seen.count("/video/proof") > 1
        )
        return path.replace("a.h4mk", f"{name}.h4mk") if later else path

    first, second, _ = lied(browser, server, lambda _path, _at, body: body, send)
    assert first == WHOLE[:10_000]
    assert second[0] == code, second


def test_bytes_of_another_container(browser: Browser, server: Server) -> None:
    def send(path: str) -> str:
        return path.replace("a.h4mk", "other.h4mk") if "/video/range" in path else path

    found = lied(browser, server, lambda _path, _at, body: body, send)
    assert found[0][0] == "seal" and "block 0 of track 0" in found[0][1]


def test_proofs_of_other_things(browser: Browser, server: Server) -> None:
    """The neighbouring keyframe, another range, another track."""
    for before, after in (("range=bytes%3D[0-9]+-[0-9]+", "range=bytes%3D500-1999"), ("track=0", "track=1")):

        def send(path: str, before: str = before, after: str = after) -> str:
            return re.sub(before, after, path) if "/video/proof" in path else path

        for found in lied(browser, server, lambda _path, _at, body: body, send):
            assert found[0] == "seal", found

    def neighbour(path: str) -> str:
        return path.replace("pts=5500000", "pts=8500000")

    with lying(server.url, send=neighbour) as url:
        page = opened(browser, url)
        script = """(wanted) => told(() => {
          const trust = new Trust(wanted);
          return new VerifiedSource("video/range?name=a.h4mk", { trust }).seek(5500000);
        })"""
        assert page.evaluate(script, TRUST)[0] == "seal"
        page.close()


def test_anything_in_place_of_a_proof(browser: Browser, server: Server) -> None:
    for answer, code in ((b"", "json"), (b"{}", "json"), (b"<html>", "json"), (b" " * 2**21, "json")):

        def lie(path: str, _at: int, body: bytes, answer: bytes = answer) -> bytes:
            return answer if "/video/proof" in path else body

        assert {one[0] for one in lied(browser, server, lie)} == {code}


# ---- the container itself --------------------------------------------------------------------------------


def test_a_signature_is_asked_for_when_a_container_is_opened(page: Page, library: Path) -> None:
    script = """([name, trust]) => told(async () => {
      const url = `container?name=${name}.h4mk`;
      const { head, accepted } = await Container.open(url, { trust: new Trust(trust) });
      return [head, accepted && accepted.revision];
    })"""
    heads = {}
    for name in ("a", "old", "theirs", "unsigned"):
        with H4MKReader(library / f"{name}.h4mk") as reader:
            heads[name] = reader.head.hex()
    assert page.evaluate(script, ["a", TRUST]) == [heads["a"], 3]
    assert page.evaluate(script, ["old", {"keys": [PEM]}]) == [heads["old"], 2]
    assert page.evaluate(script, ["unsigned", {"head": heads["unsigned"]}]) == [heads["unsigned"], None]
    for name in ("old", "theirs", "unsigned"):
        assert page.evaluate(script, [name, TRUST])[0] == "seal"
    assert page.evaluate(script, ["a", {"head": heads["old"]}])[0] == "seal"


# ---- where browsers have no cryptography -----------------------------------------------------------------


def test_plain_http_cannot_check(browser: Browser, server: Server) -> None:
    page = opened(browser, f"http://example.test:{urlsplit(server.url).port}")
    assert page.evaluate("crypto.subtle === undefined")
    script = """async (trust) => {
      const believed = new Trust(trust);
      const source = new VerifiedSource("video/range?name=a.h4mk", { trust: believed });
      const { leafHash, verifyInclusion, verifySign } = await import("./static/proof.js");
      const hash = new Uint8Array(32);
      const calls = [
        () => checkProof({}, believed), () => verifySeek({}, 0, 0, believed),
        () => verifyRange({}, 0, 1, 0, believed),
        () => source.read(0, 1), () => source.seek(0),
        () => fetchVerified("video/range?name=a.h4mk", { trust: believed }),
        () => leafHash(new Uint8Array(128)), () => verifyInclusion(hash, 0, 1, [], hash),
        () => verifySign(new Uint8Array(128), new Uint8Array(144), new Uint8Array(91)),
      ];
      return Promise.all(calls.map(told));
    }"""
    found = page.evaluate(script, TRUST)
    page.close()
    assert len(found) == 9
    for code, message in found:
        assert code == "unsupported" and message.startswith("cannot check here: ")
