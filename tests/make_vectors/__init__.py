"""The test vectors: small containers, right or with one thing wrong, and what to expect of each.

`python -m make_vectors`, in tests/, writes tests/vectors/ anew. Nothing of the project is imported: files are
written chunk by chunk with `independent.py`, by docs/H4MK.md. Beside them stand media that name other files,
and digests of spectra and of the tokens of sounds.
"""

import json
from pathlib import Path

from make_vectors import documents, framing, media, originals, sound, spectrum, tables, tokens, valid
from make_vectors.parts import Collection

__all__ = ["FOLDER", "collect", "files", "there", "write"]

FOLDER = Path(__file__).parents[1] / "vectors"
KEPT = ("README.md", "original-v1.h4mk", "original-v1.json")
"""Not made here."""


def collect():
    """All vectors."""
    vectors = Collection()
    for module in (valid, framing, documents, tokens, tables, originals):
        module.add_all(vectors)
    return vectors


def files():
    """Every file of the folder that is made here: path below it and content."""
    made = {}
    for vector in collect():
        made[f"{vector.name}.h4mk"] = vector.data
        twin = json.dumps(vector.twin(), ensure_ascii=False, indent=2)
        made[f"{vector.name}.json"] = twin.encode() + b"\n"
    return made | media.files() | spectrum.files() | sound.files()


def there():
    """The same of the files that are there."""
    found = (path for path in FOLDER.rglob("*") if path.is_file())
    return {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in found}


def write():
    """Make the folder hold exactly these files and those that are not made here."""
    made = files()
    for name in there().keys() - made.keys() - set(KEPT):
        (FOLDER / name).unlink()
    for name, data in made.items():
        (FOLDER / name).parent.mkdir(exist_ok=True)
        (FOLDER / name).write_bytes(data)
    return made
