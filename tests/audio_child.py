"""Digests of the tokens of tests/vectors/sound, in a process with CPU settings in its environment.

python -m audio_child
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from harmony4.tokenize.audio import AudioFFTTokenizer
from harmony4.tokenize.sound import PcmSpec
from make_vectors.sound import NAME, pcm
from needs import VECTORS
from spectrum_child import prepare


def records(case: dict[str, Any], profile: str) -> list[bytes]:
    """The tokens of a case, as they are written."""
    spec = PcmSpec(case["encoding"], case["rate"], case["channels"])
    tokenizer = AudioFFTTokenizer(pcm=spec, profile=profile, channels="each" if case["each"] else "mix")
    return [token.serialize() for token in tokenizer.encode([pcm(case)])]


def digests() -> list[str]:
    """SHA-256 of the records of each case of the vectors."""
    prepare()
    cases = json.loads((VECTORS / NAME).read_bytes())["cases"]
    return [hashlib.sha256(b"".join(records(case, case["profile"]))).hexdigest() for case in cases]


if __name__ == "__main__":
    print(json.dumps(digests()))
