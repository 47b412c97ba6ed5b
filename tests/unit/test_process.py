from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from rwsa import process


def test_the_users_own_settings_are_kept() -> None:
    variables = {"OMP_WAIT_POLICY": "ACTIVE"}
    process.prepare(variables)
    assert variables == {"OMP_WAIT_POLICY": "ACTIVE"}


def test_a_process_is_set_up_before_torch_is_imported() -> None:
    program = """
import os, sys
import rwsa.cli
assert "torch" not in sys.modules
rwsa.cli.process.prepare()
print(os.environ["OMP_WAIT_POLICY"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "PASSIVE\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_memory_stays_with_the_process() -> None:
    """Two buffers of 20 MB after one another fault in their pages once, not twice."""
    program = """
import ctypes, resource, sys
from rwsa import process
if sys.argv[1] == "prepared":
    process.prepare()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
for _ in range(20):
    block = libc.malloc(20_000_000)
    ctypes.memset(block, 1, 20_000_000)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
    command = [sys.executable, "-c", program]
    plain, prepared = (int(subprocess.check_output([*command, how])) for how in ("plain", "prepared"))
    assert prepared < 0.8 * plain
