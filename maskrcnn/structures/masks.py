"""Ground-truth instance masks of one image, kept small and resampled late.

An instance is polygons or a run-length code (RLE), as stored, plus one affine map from the stored frame
to the current frame.  Transforms only compose that map, so nothing is resampled before the mask is read
inside a RoI (:mod:`maskrcnn.modeling.roi.mask_targets`), and memory grows with the objects and not with
the pixels of the image.

Legend: G = instances, P = vertices, Q = polygons.  A polygon vertex is a continuous point
(x, y) in the convention of :mod:`maskrcnn.structures.boxes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskrcnn.errors import plural
from maskrcnn.structures import rle
from maskrcnn.structures.rle import RLE

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
Bitmap: TypeAlias = npt.NDArray[np.uint8]

_IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


class InstanceMasks:
    """G instance masks in one frame of ``height`` x ``width`` pixels; immutable.  Arrays are not copied.

    Args:
        points: float64 [P, 2], the vertices of all polygons in a row, pixels.
        polygon_ends: int64 [Q], where in ``points`` each polygon ends.
        instance_ends: int64 [G], where in ``polygon_ends`` each instance ends; an RLE instance has none.
        rles: G entries, None for an instance of polygons.
        affines: float64 [G, 2, 3], stored frame -> current frame; None: the same frame.
    """

    def __init__(
        self,
        height: int,
        width: int,
        points: FloatArray,
        polygon_ends: IntArray,
        instance_ends: IntArray,
        rles: Sequence[RLE | None],
        affines: FloatArray | None = None,
    ) -> None:
        self.height = height
        self.width = width
        self._points = points
        self._polygon_ends = polygon_ends
        self._instance_ends = instance_ends
        self._rles = tuple(rles)
        same = np.broadcast_to(_IDENTITY, (len(instance_ends), 2, 3))
        self._affines = same if affines is None else affines

    @staticmethod
    def from_coco(segmentations: Sequence[Any], height: int, width: int) -> InstanceMasks:
        """Masks from COCO ``segmentation`` values.

        segmentations: G entries, each a list of flat polygons ``[x1, y1, x2, y2, ...]`` or an RLE
            (``counts`` compressed as str or bytes, or a list of run lengths), of an image of
            ``height`` x ``width`` pixels.

        Raises:
            ValueError: a polygon has no 3 vertices, or an RLE does not fit the image.
        """
        flat: list[FloatArray] = []
        polygon_ends: list[int] = []
        instance_ends: list[int] = []
        rles: list[RLE | None] = []
        total = 0
        for segmentation in segmentations:
            if isinstance(segmentation, dict):
                rles.append(rle.normalise(segmentation, height, width))
            else:
                rles.append(None)
                for polygon in segmentation:
                    array = np.asarray(polygon, dtype=np.float64).reshape(-1)
                    if array.size < 6 or array.size % 2:
                        raise ValueError(
                            f"a polygon needs at least 3 (x, y) pairs, got {plural(array.size, 'number')}"
                        )
                    flat.append(array)
                    total += array.size // 2
                    polygon_ends.append(total)
            instance_ends.append(len(polygon_ends))
        points = np.concatenate(flat).reshape(-1, 2) if flat else np.zeros((0, 2))
        ends = np.asarray(polygon_ends, dtype=np.int64), np.asarray(instance_ends, dtype=np.int64)
        return InstanceMasks(height, width, points, *ends, rles)

    @staticmethod
    def cat(parts: Sequence[InstanceMasks]) -> InstanceMasks:
        """The instances of several sets that share one frame, in order.

        Raises:
            ValueError: no parts, or frames of different sizes.
        """
        if not parts or any((p.height, p.width) != (parts[0].height, parts[0].width) for p in parts):
            raise ValueError("cat needs at least one set of masks, all of one frame size")
        points_before = np.cumsum([0] + [len(p._points) for p in parts])
        polygons_before = np.cumsum([0] + [len(p._polygon_ends) for p in parts])
        return InstanceMasks(
            parts[0].height,
            parts[0].width,
            np.concatenate([p._points for p in parts]),
            np.concatenate([p._polygon_ends + n for p, n in zip(parts, points_before, strict=False)]),
            np.concatenate([p._instance_ends + n for p, n in zip(parts, polygons_before, strict=False)]),
            [entry for p in parts for entry in p._rles],
            np.concatenate([p._affines for p in parts]),
        )

    def plain(self) -> dict[str, Any]:
        """Themselves as tensors, numbers and text, for a file: see :meth:`of_plain`."""
        arrays = (self._points, self._polygon_ends, self._instance_ends, self._affines)
        names = ("points", "polygon_ends", "instance_ends", "affines")
        rles = [None if r is None else {**r, "counts": r["counts"].decode("ascii")} for r in self._rles]
        tensors = {n: torch.from_numpy(np.array(a)) for n, a in zip(names, arrays, strict=True)}
        return {"height": self.height, "width": self.width, "rles": rles, **tensors}

    @staticmethod
    def of_plain(plain: Mapping[str, Any]) -> InstanceMasks:
        """What :meth:`plain` gave.

        Raises:
            KeyError, TypeError, ValueError: it did not.
        """
        height, width = plain["height"], plain["width"]
        sizes = (None if r is None else (r, *r["size"]) for r in plain["rles"])
        rles = [None if of is None else rle.normalise(*of) for of in sizes]
        names = ("points", "polygon_ends", "instance_ends")
        points, polygon_ends, instance_ends = (plain[name].numpy() for name in names)
        affines = plain["affines"].numpy()
        return InstanceMasks(height, width, points, polygon_ends, instance_ends, rles, affines)

    def __len__(self) -> int:
        return len(self._instance_ends)

    def __repr__(self) -> str:
        polygons = sum(entry is None for entry in self._rles)
        return f"InstanceMasks({self.height}x{self.width}, {polygons} polygon, {len(self) - polygons} RLE)"

    def is_polygon(self, index: int) -> bool:
        """Whether instance ``index`` is stored as polygons (False: as RLE)."""
        return self._rles[index] is None

    def select(self, indices: Sequence[int]) -> InstanceMasks:
        """The instances with these indices, in this order."""
        index = np.asarray(indices, dtype=np.int64).reshape(-1)
        polygons, instance_ends = gather_ranges(self._instance_ends, index)
        points, polygon_ends = gather_ranges(self._polygon_ends, polygons)
        return InstanceMasks(
            self.height,
            self.width,
            self._points[points],
            polygon_ends,
            instance_ends,
            [self._rles[i] for i in index.tolist()],
            self._affines[index],
        )

    # ---- transforms: all exact, none touches a pixel ----------------------------------------------------

    def transform(self, matrix: npt.ArrayLike, height: int, width: int) -> InstanceMasks:
        """Apply an affine map and set the new frame.

        matrix: [2, 3]; a point (x, y) of this frame goes to ``matrix @ (x, y, 1)``, in pixels.
        """
        m = np.asarray(matrix, dtype=np.float64)
        affines = m[:, :2] @ self._affines
        affines[:, :, 2] += m[:, 2]
        return InstanceMasks(
            height, width, self._points, self._polygon_ends, self._instance_ends, self._rles, affines
        )

    # ---- reading ----------------------------------------------------------------------------------------

    def polygons(self, index: int) -> list[FloatArray]:
        """The polygons [n, 2] of instance ``index`` in the current frame; empty for an RLE instance."""
        first = 0 if index == 0 else int(self._instance_ends[index - 1])
        ends = self._polygon_ends[first : self._instance_ends[index]].tolist()
        start = 0 if first == 0 else int(self._polygon_ends[first - 1])
        found = []
        for end in ends:
            found.append(_apply(self._affines[index], self._points[start:end]))
            start = end
        return found

    def boxes(self) -> Tensor:
        """The tight boxes of the parts inside the frame: float32 [G, 4] xyxy; zeros where none is."""
        out = np.zeros((len(self), 4))
        for i in range(len(self)):
            if self._rles[i] is None:
                clipped = [_clip_polygon(p, self.height, self.width) for p in self.polygons(i)]
                points = np.concatenate(clipped) if clipped else np.zeros((0, 2))
                if len(points):
                    out[i, :2], out[i, 2:] = points.min(0), points.max(0)
                continue
            bitmap, (sx, sy, tx, ty) = self._oriented(i)
            rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
            # The pixels of the bitmap that meet the frame; the rest was cropped away.
            rows = rows[((rows + 1) * sy + ty > 0) & (rows * sy + ty < self.height)]
            columns = columns[((columns + 1) * sx + tx > 0) & (columns * sx + tx < self.width)]
            seen = bitmap[rows[:, None], columns] if len(rows) and len(columns) else np.zeros((0, 0))
            if seen.any():
                rows, columns = rows[seen.any(1)], columns[seen.any(0)]
                out[i] = (
                    columns[0] * sx + tx,
                    rows[0] * sy + ty,
                    (columns[-1] + 1) * sx + tx,
                    (rows[-1] + 1) * sy + ty,
                )
        limits = [self.width, self.height, self.width, self.height]
        return torch.from_numpy(np.clip(out, 0, limits).astype(np.float32))

    def areas(self) -> Tensor:
        """Areas in square pixels of the current frame, float32 [G]; parts outside the frame count too."""
        scale = np.abs(np.linalg.det(self._affines[:, :, :2])) if len(self) else np.zeros(0)
        out = np.zeros(len(self))
        for i, entry in enumerate(self._rles):
            if entry is not None:
                out[i] = rle.area(entry) * scale[i]
                continue
            for polygon in self.polygons(i):
                out[i] += polygon_area(polygon)
        return torch.from_numpy(out.astype(np.float32))

    def tile(
        self, index: int, height: int | None = None, width: int | None = None
    ) -> tuple[Bitmap, int, int]:
        """Instance ``index``, uint8 0/1 [h, w], frame pixels around its box, with its corner (x0, y0)."""
        height, width = self.height if height is None else height, self.width if width is None else width
        if self._rles[index] is None:
            # Drawn in the whole frame: a shifted polygon would round differently at ties.
            code = rle.from_polygons([p.reshape(-1) for p in self.polygons(index)], height, width)
            return rle.decode_crop(code, margin=1)
        source, (sx, sy, tx, ty) = self._oriented(index)
        x0, y0 = max(int(np.floor(tx)), 0), max(int(np.floor(ty)), 0)
        x1 = min(int(np.ceil(tx + sx * source.shape[1])), width)
        y1 = min(int(np.ceil(ty + sy * source.shape[0])), height)
        if x1 <= x0 or y1 <= y0:
            return np.zeros((0, 0), dtype=np.uint8), 0, 0
        # Pixel centres to pixel centres: index u of the tile reads index (u + 0.5 + x0 - tx) / sx - 0.5.
        back = np.array([[1 / sx, 0, (0.5 + x0 - tx) / sx - 0.5], [0, 1 / sy, (0.5 + y0 - ty) / sy - 0.5]])
        values = cv2.warpAffine(
            np.ascontiguousarray(source) * np.uint8(255),
            back,
            (x1 - x0, y1 - y0),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
        )
        return (values >= 128).astype(np.uint8), x0, y0

    def replace(self, index: Sequence[int], rles: Sequence[RLE]) -> InstanceMasks:
        """The same masks, those at ``index`` taken from ``rles``, codes of the current frame."""
        n = len(rles)
        none, ends = np.zeros(0, dtype=np.int64), np.zeros(n, dtype=np.int64)
        new = InstanceMasks(self.height, self.width, np.zeros((0, 2)), none, ends, rles)
        order = np.arange(len(self))
        order[np.asarray(index, dtype=np.int64)] = len(self) + np.arange(n)
        return InstanceMasks.cat([self, new]).select(order.tolist())

    def to_bitmaps(self, height: int | None = None, width: int | None = None) -> Tensor:
        """Full bitmaps: uint8 0/1 [G, height, width], the frame's size by default.  For small uses."""
        h, w = self.height if height is None else height, self.width if width is None else width
        out = np.zeros((len(self), h, w), dtype=np.uint8)
        for i in range(len(self)):
            tile, x0, y0 = self.tile(i, h, w)
            out[i, y0 : y0 + tile.shape[0], x0 : x0 + tile.shape[1]] = tile
        return torch.from_numpy(out)

    def to_rles(self, height: int | None = None, width: int | None = None) -> list[RLE]:
        """COCO's compressed RLE of each mask in the current frame (polygons as pycocotools draws them)."""
        h, w = self.height if height is None else height, self.width if width is None else width
        found: list[RLE] = []
        for i, entry in enumerate(self._rles):
            if entry is None:
                found.append(rle.from_polygons([p.reshape(-1) for p in self.polygons(i)], h, w))
            elif np.array_equal(self._affines[i], _IDENTITY) and entry["size"] == [h, w]:
                found.append(entry)
            else:
                found.append(rle.encode_crop(*self.tile(i, h, w), h, w))
        return found

    def packed_polygons(self, indices: IntArray) -> tuple[FloatArray, IntArray, IntArray]:
        """The polygons of the instances ``indices`` (int64 [R]) in a row, in the current frame.

        Returns float64 [P, 2], the vertices; int64 [Q], where in them each polygon ends; int64 [R], where in
        the polygons each instance ends (an RLE instance has none).
        """
        polygons, instance_ends = gather_ranges(self._instance_ends, indices)
        take, polygon_ends = gather_ranges(self._polygon_ends, polygons)
        per_instance = np.diff(instance_ends, prepend=0)
        row = np.repeat(np.repeat(np.arange(len(indices)), per_instance), np.diff(polygon_ends, prepend=0))
        return _apply(self._affines[indices][row], self._points[take]), polygon_ends, instance_ends

    def placed_bitmap(self, index: int) -> tuple[Bitmap, tuple[float, float, float, float]]:
        """A 0/1 bitmap [h, w] around instance ``index``, and where it lies: its point (x, y) is at
        (sx x + tx, sy y + ty) of the current frame, for the (sx, sy, tx, ty) that come with it.

        An RLE is read at its stored scale, unless it was turned or sheared: then it is resampled once, as
        polygons are drawn, in the current frame.  A pixel of background is kept on each side inside the
        image, so that reading the crop equals reading the whole.
        """
        if self._rles[index] is not None:
            return self._oriented(index)
        bitmap, x0, y0 = self.tile(index)
        return bitmap, (1.0, 1.0, float(x0), float(y0))

    # ---- inner parts ------------------------------------------------------------------------------------

    def _oriented(self, i: int) -> tuple[Bitmap, tuple[float, float, float, float]]:
        """:meth:`placed_bitmap` of RLE instance ``i``, turned as the current frame: sx, sy > 0."""
        entry = self._rles[i]
        assert entry is not None
        bitmap, x0, y0 = rle.decode_crop(entry, margin=1)
        m = self._affines[i]
        if not axis_aligned(m):
            return self._turned(bitmap, x0, y0, m)
        tx, ty = (m[:, :2] @ np.array([x0, y0], dtype=np.float64) + m[:, 2]).tolist()
        if m[0, 0] == 0:
            bitmap = bitmap.T
            sx, sy = float(m[0, 1]), float(m[1, 0])
        else:
            sx, sy = float(m[0, 0]), float(m[1, 1])
        if sx < 0:
            bitmap, tx, sx = bitmap[:, ::-1], tx + sx * bitmap.shape[1], -sx
        if sy < 0:
            bitmap, ty, sy = bitmap[::-1], ty + sy * bitmap.shape[0], -sy
        return bitmap, (sx, sy, tx, ty)

    def _turned(
        self, source: Bitmap, x0: int, y0: int, m: FloatArray
    ) -> tuple[Bitmap, tuple[float, float, float, float]]:
        """A bitmap [h, w] with its corner at (x0, y0) of the stored frame, through any ``m`` [2, 3], in
        pixels of the current frame, of which one more is kept around it.
        """
        height, width = source.shape
        corners = np.array([[x, y] for x in (x0, x0 + width) for y in (y0, y0 + height)], dtype=np.float64)
        moved = _apply(m, corners)
        limit = [self.width + 1, self.height + 1]
        low = np.clip(np.floor(moved.min(0)), -1, limit).astype(int)
        high = np.clip(np.ceil(moved.max(0)), -1, limit).astype(int)
        if not source.size or (high <= low).any():
            return np.zeros((0, 0), dtype=np.uint8), (1.0, 1.0, 0.0, 0.0)
        inverse = np.linalg.inv(m[:, :2])
        # Pixel centres to pixel centres, as in `tile`.
        shift = inverse @ (low + 0.5 - m[:, 2]) - (x0, y0) - 0.5
        values = cv2.warpAffine(
            np.ascontiguousarray(source) * np.uint8(255),
            np.column_stack((inverse, shift)),
            tuple((high - low).tolist()),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
        )
        return (values >= 128).astype(np.uint8), (1.0, 1.0, float(low[0]), float(low[1]))


def axis_aligned(matrix: FloatArray) -> bool:
    """Whether a map [2, 3] is of scales, flips, quarter turns and shifts."""
    m = matrix
    return bool((m[0, 1] == 0 and m[1, 0] == 0) or (m[0, 0] == 0 and m[1, 1] == 0))


def polygon_area(points: FloatArray) -> float:
    """Square pixels inside a polygon [n, 2], by the shoelace formula."""
    x, y = points.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def _apply(affine: FloatArray, points: FloatArray) -> FloatArray:
    """``affine`` ([2, 3], or [P, 2, 3] one a point) on ``points`` [P, 2]."""
    x, y = points.T
    rows = (affine[..., i, :] for i in (0, 1))
    return np.stack([row[..., 0] * x + row[..., 1] * y + row[..., 2] for row in rows], axis=1)


def gather_ranges(ends: IntArray, index: IntArray) -> tuple[IntArray, IntArray]:
    """Expand ranges: range i is [ends[i - 1], ends[i]).

    Returns the members of the ranges ``index`` in a row, and where each of them ends in that row.
    """
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends])[index]
    sizes = ends[index] - starts
    new_ends = np.cumsum(sizes)
    total = int(new_ends[-1]) if len(new_ends) else 0
    members = np.arange(total) + np.repeat(starts - (new_ends - sizes), sizes)
    return members, new_ends


def _clip_polygon(points: FloatArray, height: float, width: float) -> FloatArray:
    """The polygon cut to the frame (Sutherland and Hodgman 1974); right in its bounds for any polygon."""
    for axis, limit, sign in ((0, 0.0, 1.0), (0, width, -1.0), (1, 0.0, 1.0), (1, height, -1.0)):
        if not len(points):
            break
        depth = (points[:, axis] - limit) * sign
        inside = depth >= 0
        if inside.all():
            continue
        following, next_depth = np.roll(points, -1, axis=0), np.roll(depth, -1)
        crosses = inside != (next_depth >= 0)
        ratio = np.zeros(len(points))
        np.divide(depth, depth - next_depth, out=ratio, where=crosses)
        cut = points + (following - points) * ratio[:, None]
        cut[:, axis] = np.where(crosses, limit, cut[:, axis])
        # Each edge gives its inside start, then its crossing.
        both = np.stack((points, cut), axis=1).reshape(-1, 2)
        points = both[np.stack((inside, crosses), axis=1).reshape(-1)]
    return points
