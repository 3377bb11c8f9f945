"""Memory that nobody uses is given back."""

from __future__ import annotations

import subprocess
import sys

from processes import needs_proc

pytestmark = needs_proc

CODE = """
from harmony4.server.serving.allocator import few_arenas, give_back

def anonymous():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Anonymous:"))

few_arenas()
blocks = [bytes(2000) for _ in range(20_000)]
last = bytes(2000)  # above them: what is below it stays until somebody asks
del blocks
before = anonymous()
give_back()
print(before - anonymous())
"""


def test_pages_in_the_midst_of_an_arena() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, timeout=60, check=True)
    assert int(done.stdout) > 20_000  # KiB, of 40 000
