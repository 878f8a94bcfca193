"""Randomness as a function of (seed, step, rank), so that a resumed run needs no generator state."""

from __future__ import annotations

import hashlib
import os
import random

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from ``parts``; the same parts give the same seed on every machine, for ever."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_everything(seed: int, *, deterministic: bool = False) -> None:
    """Seed Python, NumPy and PyTorch (every device); initial weights depend on this alone.

    Args:
        seed: any integer.
        deterministic: refuse operators without a deterministic form (``torch.use_deterministic_algorithms``)
            and keep cuDNN from choosing algorithms by timing.  Slower on a GPU.
    """
    base = derive_seed("everything", seed)
    random.seed(base)
    np.random.seed(base % 2**32)  # noqa: NPY002 - for libraries that draw from it
    torch.manual_seed(base)
    if deterministic:
        # cuBLAS documentation, "Results reproducibility": needed for its deterministic workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(deterministic)


def step_generator(seed: int, step: int, rank: int, micro_step: int = 0) -> torch.Generator:
    """The CPU generator for the sampling inside one forward pass.

    It also seeds PyTorch's global generators, so that a part that draws from those (dropout, say) is a
    function of the same numbers.

    Args:
        seed: the run's seed.
        step: optimizer step, from 0.
        rank: this process among all.
        micro_step: forward pass within the step (gradient accumulation), from 0.
    """
    value = derive_seed("step", seed, step, rank, micro_step)
    torch.manual_seed(value)
    return torch.Generator().manual_seed(value)
