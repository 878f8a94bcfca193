"""Randomness as a function of (seed, step, rank), so that a resumed run needs no generator state."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from maskrcnn.structures.seeds import derive_seed


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


def seed_step(seed: int, step: int, rank: int, micro_step: int = 0) -> None:
    """Seed PyTorch's global generators for one forward pass, so that dropout is a function of its place.

    Anchors and RoIs are sampled by seeds of their images: see ``structures.seeds``.

    Args:
        seed: the run's seed.
        step: optimizer step, from 0.
        rank: this process among all.
        micro_step: forward pass within the step (gradient accumulation), from 0.
    """
    torch.manual_seed(derive_seed("step", seed, step, rank, micro_step))
