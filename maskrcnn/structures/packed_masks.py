"""The instance masks of a batch as a few tensors, from which targets are made where the model is.

Legend: N = images, G = instances an image at most, V = vertices, Q = polygons, X = columns of all bitmaps,
C = changes in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskrcnn.structures.masks import Bitmap, FloatArray, InstanceMasks, IntArray

#: No length is padded to less.
_SHORTEST = 256


@dataclass(frozen=True)
class PackedMasks:
    """N * G instances in the network frames of their images: instance g of image n is row n G + g.

    An instance is polygons, or a bitmap that is stored by what changes down its columns: about as long as
    its outline, and a pixel is read without a search.  Where lengths are padded, nothing refers to the rest.

    points: float64 [V, 2], the vertices of all polygons in a row, pixels.
    polygon_ends: int64 [Q], where in ``points`` each polygon ends.
    changes: int32 [C], for each column of a bitmap the rows at which its value changes, 0 above, ascending.
    column_ends: int64 [X], where in ``changes`` each column ends.
    instances: int64 [N G, 3], where in ``polygon_ends`` and in ``column_ends`` each instance ends, and the
        height of its bitmap; one of polygons has no columns, one with neither is empty.
    placing: float64 [N G, 4], sx, sy, tx, ty: a bitmap's point (x, y) lies at (sx x + tx, sy y + ty), pixels.
    per_image: G.
    drawn: whether polygons are kept as such, to be drawn inside RoIs; else all instances are bitmaps.
    """

    points: Tensor
    polygon_ends: Tensor
    changes: Tensor
    column_ends: Tensor
    instances: Tensor
    placing: Tensor
    per_image: int
    drawn: bool

    @staticmethod
    def of(masks: Sequence[InstanceMasks | None], *, drawn: bool, padded: bool = False) -> PackedMasks:
        """The masks of a batch, image after image, on the CPU; None stands for an image without instances.

        drawn: keep polygons; else they become bitmaps of the frame, as pycocotools draws them.
        padded: round every length up to one of a short list, and G too, so that shapes come again.
        """
        per_image = max((len(m) for m in masks if m is not None), default=0)
        per_image = _some_rows(per_image) if padded else per_image
        packer = _Packer(len(masks) * per_image)
        for image, of_image in enumerate(masks):
            if of_image is not None:
                packer.add(of_image, image * per_image, drawn)
        return packer.finish(per_image, drawn, _long if padded else lambda length: length)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """In the order of the fields."""
        return (
            *(self.points, self.polygon_ends, self.changes, self.column_ends),
            *(self.instances, self.placing),
        )

    def to(self, device: torch.device | str) -> PackedMasks:
        """On ``device`` (asynchronously from pinned memory)."""
        return self._each(lambda values: values.to(device, non_blocking=True))

    def pin_memory(self) -> PackedMasks:
        return self._each(lambda values: values.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> PackedMasks:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def bitmap(self, row: int) -> tuple[Bitmap, tuple[float, float, float, float]]:
        """The bitmap [h, w] of a row, [0, 0] where it has none, and its placing.  On the CPU."""
        first, last = (0 if r < 0 else int(self.instances[r, 1]) for r in (row - 1, row))
        ends = self.column_ends[max(first - 1, 0) : last].numpy()
        if first == 0:
            ends = np.concatenate((np.zeros(1, dtype=np.int64), ends))
        height, width = int(self.instances[row, 2]), last - first
        toggles = np.zeros((width, height), dtype=np.uint8)
        toggles[np.repeat(np.arange(width), np.diff(ends)), self.changes[ends[0] : ends[-1]].numpy()] = 1
        bitmap = np.bitwise_xor.accumulate(toggles, axis=1).T
        sx, sy, tx, ty = self.placing[row].tolist()
        return np.ascontiguousarray(bitmap), (sx, sy, tx, ty)


class _Packer:
    """Gathers the parts of ``count`` instances."""

    def __init__(self, count: int) -> None:
        self.points: list[FloatArray] = [np.zeros((0, 2))]
        self.polygons: list[IntArray] = [np.zeros(0, dtype=np.int64)]
        self.changes: list[IntArray] = [np.zeros(0, dtype=np.int64)]
        self.columns: list[IntArray] = [np.zeros(0, dtype=np.int64)]
        #: Polygons, columns and height of each.
        self.sizes = np.zeros((count, 3), dtype=np.int64)
        self.placing = np.tile([1.0, 1.0, 0.0, 0.0], (count, 1))

    def add(self, masks: InstanceMasks, first: int, drawn: bool) -> None:
        """The instances of one image; the first of them is row ``first``."""
        if drawn:
            points, polygon_ends, instance_ends = masks.packed_polygons(np.arange(len(masks)))
            self.points.append(points)
            self.polygons.append(np.diff(polygon_ends, prepend=0))
            self.sizes[first : first + len(masks), 0] = np.diff(instance_ends, prepend=0)
        for i in range(len(masks)):
            if not drawn or not masks.is_polygon(i):
                self._add_bitmap(first + i, *masks.placed_bitmap(i))

    def _add_bitmap(self, row: int, bitmap: Bitmap, placing: tuple[float, float, float, float]) -> None:
        self.placing[row] = placing
        if not bitmap.size:
            return
        height, width = bitmap.shape
        columns = np.ascontiguousarray(bitmap.T)
        changed = columns.copy()
        changed[:, 1:] ^= columns[:, :-1]
        column, place = np.divmod(np.flatnonzero(changed), height)
        self.changes.append(place)
        self.columns.append(np.bincount(column, minlength=width))
        self.sizes[row, 1:] = width, height

    def finish(self, per_image: int, drawn: bool, length: Callable[[int], int]) -> PackedMasks:
        def padded(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
            values = np.concatenate(parts)
            room = length(len(values)) - len(values)
            return np.pad(values, [(0, room), *[(0, 0)] * (values.ndim - 1)]) if room else values

        instances = np.concatenate((np.cumsum(self.sizes[:, :2], axis=0), self.sizes[:, 2:]), axis=1)
        return PackedMasks(
            torch.from_numpy(padded(self.points)),
            torch.from_numpy(np.cumsum(padded(self.polygons))),
            torch.from_numpy(padded(self.changes).astype(np.int32)),
            torch.from_numpy(np.cumsum(padded(self.columns))),
            torch.from_numpy(instances),
            torch.from_numpy(self.placing),
            per_image,
            drawn,
        )


def _some_rows(count: int) -> int:
    """The next of 0, 1, 2, 3, 4, 6, 8, 12, ...: powers of two and one and a half times those."""
    power = 1 << (count - 1).bit_length() if count else 0
    return power // 4 * 3 if count <= power // 4 * 3 else power


def _long(length: int) -> int:
    """The next power of two: a graph of fixed shapes is used again where these are few."""
    return max(1 << (length - 1).bit_length() if length else 0, _SHORTEST)
