"""What a chain of transforms that only resizes does to the size of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.data.interfaces import Transform
from maskrcnn.data.transforms.moving import apply_transforms
from maskrcnn.errors import DataError
from maskrcnn.structures import ImageInfo, RawSample, Targets

#: (height, width) of an image in the original frame -> in the network frame, pixels.
Resize = Callable[[int, int], tuple[int, int]]


def network_sizes(sizes: npt.NDArray[Any], resize: Resize) -> npt.NDArray[np.int64]:
    """The sizes [N, 2] (height, width) in the network frame; each that there is goes through once.

    Raises:
        DataError: see :func:`resize_of`.
    """
    old, which = np.unique(sizes, axis=0, return_inverse=True)
    new = np.array([resize(int(h), int(w)) for h, w in old], dtype=np.int64).reshape(-1, 2)
    return new[which.reshape(-1)]


def resize_of(transforms: Sequence[Transform], where: str) -> Resize:
    """What a chain of transforms does to an image's size, found by sending one through.

    Raises (when called):
        DataError: the chain also crops, pads or mirrors: then there is no one scale.
    """

    def resize(height: int, width: int) -> tuple[int, int]:
        # The box is the left half: a mirror moves it, a crop or a pad changes its share of the frame.
        box = torch.tensor([[0.0, 0.0, width / 2, float(height)]])
        targets = Targets(box, torch.zeros(1, dtype=torch.int64), None, torch.zeros(1, dtype=torch.int64))
        image = np.zeros((height, width, 3), dtype=np.uint8)
        sample = RawSample(image, ImageInfo(0, "", height, width), targets)
        out = apply_transforms(transforms, sample, np.random.default_rng(0))
        h, w = out.size
        want = torch.tensor([[0.0, 0.0, w / 2, float(h)]])
        if out.targets.boxes.shape != want.shape or not torch.allclose(out.targets.boxes, want, atol=0.01):
            raise DataError(f"{where} does more than resize, so that boxes have no one network scale")
        return h, w

    return resize
