from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from maskrcnn.engine import memory

SCRIPT = """
import resource, sys, torch
from maskrcnn.engine.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    held = [torch.ones(n * 2**18) for n in (1, 8, 40)]
for _ in range(6): step()  # until the heap has its shape
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    out = subprocess.run([sys.executable, "-c", SCRIPT, mode], check=True, capture_output=True, text=True)
    return int(out.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_kept_memory_is_not_faulted_in_again() -> None:
    # The least of three: a kernel that is short of memory takes pages back on its own, from anybody.
    assert min(faults("keep") for _ in range(3)) * 10 < faults("return")


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_KEEP_MEMORY", "0")
    assert not memory.keep_freed_memory()


# A process of its own: in this one the heap may already own pages that earlier tests have freed.
GROWTH = """
import torch
from maskrcnn.engine.memory import memory_in_use
cpu = torch.device("cpu")
for _ in range(5):
    before = memory_in_use(cpu)
    held = torch.ones(2**25)
    print((memory_in_use(cpu) - before) / held.nbytes)
    del held
"""


def test_memory_in_use_grows_with_what_is_held() -> None:
    out = subprocess.run([sys.executable, "-c", GROWTH], check=True, capture_output=True, text=True)
    growth = [float(line) for line in out.stdout.split()]
    # The largest of five: meanwhile the kernel may take idle pages of the process back.
    assert len(growth) == 5
    assert 0.9 < max(growth) < 1.5
