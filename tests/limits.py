"""Limits of the process, to be real about full disks and little memory. Tests skip where there are none."""

import subprocess
import sys
from contextlib import contextmanager

import pytest

try:
    import resource
except ImportError:
    resource = None

needs_rlimit = pytest.mark.skipif(resource is None, reason="needs setrlimit")


@contextmanager
def file_size_limit(size):
    """Files cannot grow beyond `size` bytes: writing answers EFBIG, as a full disk answers ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run_python(code, *arguments, feed=None):
    """Run code in a new interpreter; returns its output. Fails with its errors."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, input=feed, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@contextmanager
def many_descriptors(least=0):
    """As many descriptors as the hard limit allows, here and in what is started here.

    Where it allows fewer than `least`, root raises it; for everybody else the test is skipped.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = max(hard, least) if hard != resource.RLIM_INFINITY else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    except (ValueError, OSError) as error:
        pytest.skip(f"needs {least} descriptors, and {hard} are allowed here: {error}")
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
