"""Random numbers that are functions of what they are for, and not of what was drawn before."""

from __future__ import annotations

import hashlib
import os
import random

import numpy as np
import torch
from torch import Tensor

from maskrcnn.errors import plural

#: What a seed's keys are for (any numbers); equal indices of two streams have unrelated keys.
ANCHORS, ROIS = 0x2C6FE96EE78B6955, 0x1FC65DA4B2F1F1D3

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # the constants are those of splitmix64, as int64
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


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


def seed_step(seed: int, step: int, rank: int, micro_step: int = 0) -> None:
    """Seed PyTorch's global generators for one forward pass, so that dropout is a function of its place.

    Anchors and RoIs are sampled by seeds of their images: see :func:`random_keys`.

    Args:
        seed: the run's seed.
        step: optimizer step, from 0.
        rank: this process among all.
        micro_step: forward pass within the step (gradient accumulation), from 0.
    """
    torch.manual_seed(derive_seed("step", seed, step, rank, micro_step))


def random_keys(seed: Tensor, stream: int, index: Tensor) -> Tensor:
    """A random key for every index: those with the largest keys are a random draw, in random order.

    Counter-based (splitmix64: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"):
    a key depends on seed, stream and its own index alone, so it is the same on every device and in a batch of
    any shape.  Different indices below one seed never have one key.

    Args:
        seed: int64 scalar of one image, or [N, 1] of several.
        stream: :data:`ANCHORS` or :data:`ROIS`.
        index: int64 [M].

    Returns:
        int64 [M], or [N, M], any values.
    """
    start = _mix(seed ^ stream)
    return _mix(index * _GAMMA + (start + _GAMMA))


def image_seeds(seeds: Tensor | None, images: int, device: torch.device) -> Tensor:
    """``seeds``, or without them new ones from torch's global generator: int64 [images] on ``device``.

    Raises:
        ValueError: they are of another number of images.
    """
    if seeds is None:
        seeds = torch.randint(1 << 62, (images,))
    if seeds.shape != (images,):
        raise ValueError(f"{plural(images, 'image')} need {plural(images, 'seed')}, got {list(seeds.shape)}")
    return seeds.to(device, non_blocking=True)


def _mix(x: Tensor) -> Tensor:
    """Splitmix64's finaliser, a bijection of 64 bits.  Products of int64 wrap round."""
    x = (x ^ _shifted(x, 30)).mul_(_FIRST)
    x = x.bitwise_xor_(_shifted(x, 27)).mul_(_SECOND)
    return x.bitwise_xor_(_shifted(x, 31))


def _shifted(x: Tensor, bits: int) -> Tensor:
    """``x >> bits`` of the unsigned number: torch's own shift repeats the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)
