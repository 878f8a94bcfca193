"""The RPN's reference boxes (Ren et al. 2015, section 3.1.1; a size a level: Lin et al. 2017, section 4.1).

Legend: A = anchors a cell, Hl, Wl = cells of level l.  All boxes xyxy, pixels of the padded network frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.config.ranges import Positive, Share
from maskrcnn.errors import ConfigError, plural
from maskrcnn.structures.boxes import numbers

T = TypeVar("T")


def base_anchors(
    sizes: Sequence[float], ratios: Sequence[float], *, rounded: bool = False
) -> list[list[float]]:
    """Anchors around (0, 0): for every size, every ratio.  A xyxy quadruples.

    Args:
        sizes: square roots of the anchors' areas, pixels.
        ratios: height / width.
        rounded: round the corners to whole pixels, half to even, as torchvision does.
    """
    anchors = []
    for size in sizes:
        for ratio in ratios:
            half_height = size * math.sqrt(ratio) / 2
            half_width = size / math.sqrt(ratio) / 2
            box = [-half_width, -half_height, half_width, half_height]
            anchors.append([float(round(v)) for v in box] if rounded else box)
    return anchors


def grid_anchors(
    base: Tensor, height: int, width: int, stride: tuple[float, float], offset: float = 0.0
) -> Tensor:
    """The base anchors at every cell, row by row, the A anchors of a cell together.

    Args:
        base: [A, 4] around (0, 0).
        height, width: cells.
        stride: pixels a cell, (vertical, horizontal).
        offset: where in a cell the centre lies: 0 its upper left corner, 0.5 its middle.

    Returns:
        [height * width * A, 4].
    """
    ys = (torch.arange(height, dtype=base.dtype, device=base.device) + offset) * stride[0]
    xs = (torch.arange(width, dtype=base.dtype, device=base.device) + offset) * stride[1]
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    shifts = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=-1)
    return (shifts[:, :, None, :] + base).reshape(-1, 4)


class AnchorGenerator:
    """Anchors for a pyramid.

    Args:
        strides: pixels a cell of every level.
        true_stride: False steps by padded image size // cells instead of ``strides``, as torchvision does;
            the two differ at p6 where 64 does not divide the padded size.
        sizes and the rest: see :class:`AnchorConfig`.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float],
        strides: Sequence[int],
        *,
        offset: float = 0.0,
        rounded: bool = False,
        true_stride: bool = True,
        boxes: Sequence[Sequence[tuple[float, float]]] | None = None,
    ) -> None:
        self.strides = list(strides)
        base = [base_anchors(s, ratios, rounded=rounded) for s in sizes]
        if boxes is not None:
            base = [[[-w / 2, -h / 2, w / 2, h / 2] for w, h in level] for level in boxes]
        self.base = [torch.tensor(level, dtype=torch.float64) for level in base]
        self._sides = [[side for box in level for side in box] for level in base]
        self.offset = offset
        self.true_stride = true_stride
        self.per_cell = len(base[0])
        self._cache: dict[object, list[Tensor]] = {}
        self._indices: dict[object, Tensor] = {}

    def __call__(
        self, features: Sequence[Tensor], padded_size: tuple[int, int], dtype: torch.dtype
    ) -> list[Tensor]:
        """One [Hl * Wl * A, 4] a level, in ``dtype`` on the features' device.  Do not write into them.

        Args:
            features: one [N, C, Hl, Wl] a level; only their sizes matter.
            padded_size: (height, width) of the image tensor.
        """
        sizes = tuple((f.shape[2], f.shape[3]) for f in features)

        def make() -> list[Tensor]:
            levels = []
            for (height, width), base, stride in zip(sizes, self._sides, self.strides, strict=True):
                step = (stride, stride)
                if not self.true_stride:
                    step = (padded_size[0] // height, padded_size[1] // width)
                boxes = numbers(base, features[0], dtype).view(-1, 4)
                levels.append(grid_anchors(boxes, height, width, step, self.offset))
            return levels

        return _kept(self._cache, (sizes, padded_size, dtype), features[0], make)

    def index(self, features: Sequence[Tensor]) -> Tensor:
        """A number for each anchor that its level, shape and cell decide, whatever the padded size.

        Args:
            features: one [N, C, Hl, Wl] a level; only their sizes matter.

        Returns:
            int64 [A_all], all different, in the order of the anchors.
        """
        device = features[0].device

        def make() -> Tensor:
            levels = []
            for level, feature in enumerate(features):
                y, x = (torch.arange(side, device=device) for side in feature.shape[2:])
                shape = level * self.per_cell + torch.arange(self.per_cell, device=device)
                levels.append(((shape << 40) + (y[:, None, None] << 20) + x[:, None]).flatten())
            return torch.cat(levels)

        return _kept(self._indices, tuple(f.shape[2:] for f in features), features[0], make)


def _kept(cache: dict[object, T], key: Hashable, like: Tensor, make: Callable[[], T]) -> T:
    """``make()``, kept for the device of ``like`` [...]; what a tracer sees has no numbers to be kept."""
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        return make()
    key = (key, like.device)
    if key not in cache:
        if len(cache) >= 16:  # bounded: multi-scale training sees many sizes
            cache.pop(next(iter(cache)))
        cache[key] = make()
    return cache[key]


@dataclass(frozen=True, kw_only=True)
class AnchorConfig(Config):
    """Anchor shapes; the defaults are FPN's (Lin et al. 2017, section 4.1)."""

    #: Sizes (square root of the area, pixels) of each level, finest first.
    sizes: tuple[tuple[Positive, ...], ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    #: Height / width.
    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    #: (width, height) of every anchor of each level, pixels, in place of sizes and ratios: for a checkpoint
    #: whose anchors are none of theirs, as those that its framework rounded.
    boxes: tuple[tuple[tuple[Positive, Positive], ...], ...] | None = None
    #: Position of the centre in its cell, 0 to 1 (Detectron2 and torchvision: 0).
    offset: Share = 0.0
    #: Round corners to whole pixels (torchvision; Detectron2 does not).
    rounded: bool = False
    #: Step by the level's stride; false: by padded image size // cells (torchvision).
    true_stride: bool = True

    def build(self, strides: Sequence[int]) -> AnchorGenerator:
        """
        Raises:
            ConfigError: the sizes do not fit the levels.
        """
        if self.boxes is not None:
            if len(self.boxes) != len(strides) or len({len(b) for b in self.boxes}) != 1 or not self.boxes[0]:
                raise ConfigError(
                    f"model.rpn.anchors.boxes needs a list for each of the {plural(len(strides), 'level')} of"
                    " model.rpn.levels, all of the same length, at least 1"
                )
        elif len(self.sizes) != len(strides):
            raise ConfigError(
                f"model.rpn.anchors.sizes has {plural(len(self.sizes), 'entry')} for"
                f" {plural(len(strides), 'level')} (strides {', '.join(map(str, strides))}); give one list"
                " of sizes a level of model.rpn.levels"
            )
        if len({len(s) for s in self.sizes}) != 1 or not self.sizes[0] or not self.ratios:
            raise ConfigError(
                "model.rpn.anchors.sizes and model.rpn.anchors.ratios: every level needs the same number (at"
                " least 1) of sizes, and at least one ratio, because the levels share one head"
            )
        return AnchorGenerator(strides=strides, **self.arguments())
