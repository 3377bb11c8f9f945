"""Coverage-guided fuzzing of everything that takes a container: reader, verify, recover, ChunkStream.

Run it, with the other target, by `make fuzz` (`make fuzz FUZZ_TIME=600`: ten minutes each), which installs
atheris. By hand, from the repository's root:

    PYTHONPATH=.link:tests .venv/bin/python tests/fuzz/fuzz_container.py \
        -max_total_time=600 -artifact_prefix=.build/fuzz/ .build/fuzz/container tests/vectors

(`.link` lets atheris see the packages: `make .link`.) A finding is a file `crash-…` or `timeout-…` in
.build/fuzz/; given as the only argument it is tried again. Keep it as a vector (tests/make_vectors/) or as a
test once it is understood.

More than half of the mutations work on chunks and put CRCs right again, most of these VERI, head and TAIL as
well: otherwise nearly every input would end at its first checksum.
"""

import contextlib
import random
import sys

import atheris

with atheris.instrument_imports(include=["harmony4"]):
    import fuzzing


def _mutate(data, size, seed):
    chance = random.Random(seed)
    parts = fuzzing.split(data)
    if len(parts) < 3 or chance.random() < 0.4:
        return atheris.Mutate(data, size)
    number = chance.randrange(1, len(parts))
    action = chance.random()
    if action < 0.1:
        parts.insert(chance.randrange(1, len(parts) + 1), parts[number])
    elif action < 0.2:
        parts.append(parts.pop(number))
    elif action < 0.3:
        del parts[number]
    elif action < 0.65 and len(parts[number]) > 20:
        part = bytearray(parts[number])
        width = chance.choice((1, 2, 4, 8))
        at = chance.randrange(12, len(part) - width + 1)
        value = chance.choice(fuzzing.EXTREMES) % 2 ** (8 * width)
        part[at : at + width] = value.to_bytes(width, "big")
        parts[number] = bytes(part)
    else:
        part = parts[number]
        parts[number] = part[:12] + atheris.Mutate(part[12:] or b"\0", max(1, len(part) - 12 + 16))
    made = fuzzing.repaired(parts, seal=chance.random() < 0.8)
    return made if len(made) <= size else atheris.Mutate(data, size)


def _once(data):
    fuzzing.check(data)
    with contextlib.suppress(IndexError):
        assert fuzzing.events(data, [data[-1]]) == fuzzing.events(data, [len(data)])


if __name__ == "__main__":
    atheris.Setup([*sys.argv, "-timeout=20", "-rss_limit_mb=1024"], _once, custom_mutator=_mutate)
    atheris.Fuzz()
