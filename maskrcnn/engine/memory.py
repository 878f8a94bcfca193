"""Memory: keep what the allocator frees, and say how much is in use.

glibc returns every freed block of more than 128 KiB to the kernel at once, and the kernel hands out the next
one zeroed, page by page.  A training step on the CPU frees and asks for the same gigabytes again each time:
34 % of the time of an R50-FPN step of 2 x 800x1066 was page faults (20.4 s; 13.5 s with the memory kept).
PyTorch has no caching allocator for the CPU, so glibc is told to keep the memory.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import resource
import sys
from pathlib import Path

import torch

# malloc.h, parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_INT_MAX = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next step; call once, before large tensors are made.

    ``M_MMAP_THRESHOLD`` takes blocks of up to 1 GiB from the heap instead of fresh mappings (before glibc
    2.35 it stops at 32 MiB, and ``M_MMAP_MAX`` 0 does it for all blocks), ``M_TRIM_THRESHOLD`` at its largest
    (2 GiB) does not give the top of the heap back below that, and ``M_TOP_PAD`` grows the heap 64 MiB at a
    time.  The price is that the process keeps about its peak.  ``MASKRCNN_KEEP_MEMORY=0`` turns it off.

    Returns:
        Whether it was done: False on anything but Linux with glibc, or where the variable says no.
    """
    if os.environ.get("MASKRCNN_KEEP_MEMORY", "1") == "0":
        return False
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    mallopt.restype = ctypes.c_int
    if mallopt(_M_MMAP_THRESHOLD, 2**30) != 1 and mallopt(_M_MMAP_MAX, 0) != 1:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _INT_MAX) == 1 and mallopt(_M_TOP_PAD, 64 * 2**20) == 1)


def memory_in_use(device: torch.device) -> int:
    """Bytes: the peak of allocated GPU memory, or on the CPU this process's resident memory now."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * resource.getpagesize()
    except OSError:  # not Linux
        return peak_memory()


def peak_memory() -> int:
    """Bytes: the most memory of the host that this process ever had.

    (``ru_maxrss`` begins at the size of the process that started this one, so it is asked last.)
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # not Linux: in KiB (bytes on macOS)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def free_memory(*, cuda: bool) -> int:
    """Bytes of the device, or of this machine and container, that nobody uses now."""
    if cuda:
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(min(free, _left_to_container()))


def _left_to_container(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that the control group of a container may still take (v2, else v1); inf without a limit.

    Files that the system keeps in memory of itself are not counted as taken.
    """
    for folder, most, used, kept in (
        (root, "memory.max", "memory.current", "inactive_file "),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
    ):
        try:
            limit, now = (int((folder / name).read_text(encoding="ascii")) for name in (most, used))
            lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
            files = sum(int(line.split()[1]) for line in lines if line.startswith(kept))
            return max(limit - now + files, 0)
        except (OSError, ValueError):  # not there, or "max"
            continue
    return math.inf
