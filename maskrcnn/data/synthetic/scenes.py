"""Synthetic pictures of shapes, with the exact mask of what is seen of each.

Outlines lie at sub-pixel positions and are drawn with ``FINE`` x ``FINE`` sub-pixels a pixel, so edges are
anti-aliased; later shapes cover earlier ones.  Random numbers come from PCG64 alone and pictures are
computed with integers, so a seed gives the same data everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from maskrcnn.data.synthetic.canvas import FINE, Canvas, Ints, Pixels, Shape, coverage
from maskrcnn.data.synthetic.shapes import POSED, SHAPES, Ring, keypoints_of, make_shape
from maskrcnn.structures import rle
from maskrcnn.structures.masks import polygon_area

#: A crowd region is recorded as this class's pixels in one mask.
_CROWD_SPREAD = 0.16


@dataclass(frozen=True)
class Level:
    """How hard the pictures are; lengths are for a picture of 128 pixels and grow with it.

    instances: fewest and most shapes a picture.
    diameters: smallest and largest diameter, pixels; drawn evenly in the logarithm.
    contrast: least and most difference of a shape's gray level to the background behind it, of 255.
    clutter: lines and blobs in the background.
    noise: amplitude of the pixel noise, gray levels.
    min_visible: a shape may not be covered so far that less than this fraction of it is seen.
    crowd, empty: probability of a crowd region, and of a picture without shapes.
    """

    instances: tuple[int, int]
    diameters: tuple[float, float]
    contrast: tuple[int, int]
    clutter: int
    noise: int
    min_visible: float
    crowd: float
    empty: float


LEVELS = {
    "easy": Level((1, 3), (20, 64), (70, 120), 3, 5, 0.8, 0.04, 0.04),
    "medium": Level((1, 6), (12, 64), (50, 110), 8, 9, 0.45, 0.08, 0.05),
    "hard": Level((8, 22), (8, 30), (32, 90), 14, 12, 0.3, 0.15, 0.04),
}
#: Instances of which less than this is seen are not recorded.
_HIDDEN = 0.2
#: No recorded instance has fewer pixels.
_MIN_AREA = 12


@dataclass
class Scene:
    """A picture, uint8 [H, W, 3] RGB, and COCO annotation fields of each recorded shape."""

    image: Pixels
    annotations: list[dict[str, Any]] = field(default_factory=list)


def make_scene(level: Level, size: int, rng: np.random.Generator, keypoints: bool = False) -> Scene:
    """One picture whose longer side has ``size`` pixels; ``keypoints``: of the class that has them alone."""
    classes = (POSED,) if keypoints else tuple(range(len(SHAPES)))
    height, width = ((size, size), (size, size * 3 // 4), (size * 3 // 4, size))[int(rng.integers(3))]
    scale = size / 128
    canvas = Canvas(_background(level, height, width, rng))
    if rng.random() >= level.empty:
        if rng.random() < level.crowd:
            _add_crowd(canvas, level, scale, rng, classes)
        for _ in range(int(rng.integers(level.instances[0], level.instances[1] + 1))):
            _add_shape(canvas, level, scale, rng, classes)
    image = canvas.image + rng.integers(-level.noise, level.noise + 1, canvas.image.shape, dtype=np.int32)
    scene = Scene(np.clip(image, 0, 255).astype(np.uint8))
    for number, shape in enumerate(canvas.shapes, start=1):
        annotation = _annotate(canvas, shape, number)
        if annotation is not None:
            if keypoints:
                annotation |= _keypoints(canvas, shape, number)
            scene.annotations.append(annotation)
    return scene


def _add_shape(
    canvas: Canvas, level: Level, scale: float, rng: np.random.Generator, classes: tuple[int, ...]
) -> None:
    """Put a shape where it hides no other too much; after some tries, none."""
    height, width = canvas.image.shape[:2]
    category = classes[int(rng.integers(len(classes)))]
    outline = make_shape(SHAPES[category], rng)
    smallest, largest = level.diameters
    diameter = smallest * (largest / smallest) ** rng.random()
    radius = max(diameter * scale, 8.0) / 2
    for _ in range(12):
        # The centre lies inside; a shape may be cut by the picture's edge.
        centre = rng.random(2) * (width, height)
        rings = [np.rint((ring * radius + centre) * 100) / 100 for ring in outline]
        stencil = canvas.stencil(rings)
        if stencil is None:
            continue
        mask, x0, y0 = stencil
        if canvas.hides(mask, x0, y0, level.min_visible):
            continue
        points = np.concatenate(rings)
        inside = bool((points >= 0).all() and (points <= (width, height)).all())
        # Of a shape cut by the edge the whole still counts, so nearly all of it outside is "hidden".
        full = int(mask.sum()) if inside else int(abs(_area(rings)) * FINE * FINE)
        canvas.shapes.append(Shape(category, full, rings=rings, inside=inside))
        canvas.paint(mask, x0, y0, _surface(canvas, mask, x0, y0, level, rng))
        return


def _add_crowd(
    canvas: Canvas, level: Level, scale: float, rng: np.random.Generator, classes: tuple[int, ...]
) -> None:
    """A cluster of many tiny shapes of one class, recorded as one crowd region."""
    height, width = canvas.image.shape[:2]
    category = classes[int(rng.integers(len(classes)))]
    spread = _CROWD_SPREAD * max(height, width)
    centre = (0.2 + 0.6 * rng.random(2)) * (width, height)
    canvas.shapes.append(Shape(category, crowd=True))
    for _ in range(int(rng.integers(12, 30))):
        # The sum of uniform numbers is near enough to a bell.
        offset = (rng.random((3, 2)).sum(0) - 1.5) * spread
        radius = max((2.2 + 1.6 * rng.random()) * scale, 2.2)
        stencil = canvas.stencil([r * radius + centre + offset for r in make_shape(SHAPES[category], rng)])
        if stencil is not None:
            canvas.paint(*stencil, _surface(canvas, *stencil, level, rng))


def _surface(canvas: Canvas, mask: Pixels, x0: int, y0: int, level: Level, rng: np.random.Generator) -> Ints:
    """Colours for a shape: unlike what lies behind it, plain, shaded, striped or speckled."""
    h, w = mask.shape[0] // FINE, mask.shape[1] // FINE
    behind = canvas.image[y0 : y0 + h, x0 : x0 + w].reshape(-1, 3).mean(0).astype(np.int32)
    step = int(rng.integers(level.contrast[0], level.contrast[1] + 1))
    gray = int(behind.sum()) // 3
    up = gray < 128 if abs(gray - 128) > 40 else bool(rng.random() < 0.5)
    tint = rng.integers(-45, 46, 3, dtype=np.int32)
    tint -= tint.sum() // 3
    colour = np.empty((h, w, 3), dtype=np.int32)
    colour[:] = behind + (step if up else -step) + tint
    texture = int(rng.integers(4))
    y, x = np.mgrid[0:h, 0:w].astype(np.int32)
    if texture == 1:  # shaded
        a, b = rng.integers(-24, 25, 2).tolist()
        colour += ((x * a) // max(w, 1) + (y * b) // max(h, 1))[:, :, None]
    elif texture == 2:  # striped
        a, b = rng.integers(-3, 4, 2).tolist()
        period, depth = int(rng.integers(6, 13)), int(rng.integers(10, 26))
        colour += np.where((x * a + y * b) // 2 % period < period // 2, depth, -depth)[:, :, None]
    elif texture == 3:  # speckled
        colour += rng.integers(-22, 23, (h, w, 1), dtype=np.int32)
    return np.clip(colour, 0, 255)


def _background(level: Level, height: int, width: int, rng: np.random.Generator) -> Ints:
    """Soft patches of colour, with lines and blobs on them."""
    base = rng.integers(40, 216, 3, dtype=np.int32)
    base = (base + base.sum() // 3) // 2
    grid = base + rng.integers(-28, 29, (5, 5, 3), dtype=np.int32)
    image = _enlarge(grid, height, width)
    canvas = Canvas(image)
    for _ in range(int(rng.integers(level.clutter // 2, level.clutter + 1))):
        depth = rng.integers(-26, 27, 3, dtype=np.int32)
        if rng.random() < 0.5:  # a line across
            a, b = rng.random((2, 2)) * (width, height)
            along = (b - a) / max(math.hypot(*(b - a).tolist()), 1.0)
            side = np.array([-along[1], along[0]]) * (0.4 + 1.2 * rng.random())
            ring = np.stack([a - side, b - side, b + side, a + side])
        else:  # a blob
            angles = np.arange(9) * (2 * math.pi / 9)
            radii = (0.3 + 0.7 * rng.random(9)) * (0.04 + 0.12 * rng.random()) * max(height, width)
            ring = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
            ring += rng.random(2) * (width, height)
        stencil = canvas.stencil([np.rint(ring * 100) / 100])
        if stencil is not None:
            mask, x0, y0 = stencil
            h, w = mask.shape[0] // FINE, mask.shape[1] // FINE
            canvas.paint(mask, x0, y0, image[y0 : y0 + h, x0 : x0 + w] + depth)
    return np.clip(image, 0, 255)


def _enlarge(grid: Ints, height: int, width: int) -> Ints:
    """Bilinear enlargement in integers: int32 [n, n, 3] -> [height, width, 3]."""
    out: Ints = grid
    for axis, length in ((0, height), (1, width)):
        cells = out.shape[axis] - 1
        at = np.arange(length) * cells
        low = np.minimum(at // max(length - 1, 1), cells - 1)
        part = (at - low * (length - 1)).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        a, b = np.take(out, low, axis), np.take(out, low + 1, axis)
        out = ((a * (length - 1 - part) + b * part) // max(length - 1, 1)).astype(np.int32)
    return out


# ---- annotations ------------------------------------------------------------------------------------------


def _annotate(canvas: Canvas, shape: Shape, number: int) -> dict[str, Any] | None:
    """COCO fields of what is seen of a shape; None where that is next to nothing."""
    height, width = canvas.image.shape[:2]
    x0, y0, x1, y1 = shape.window
    seen = (canvas.owner[y0 * FINE : y1 * FINE, x0 * FINE : x1 * FINE] == number).astype(np.uint8)
    fields: dict[str, Any] = {"category_id": category_id(shape.category), "iscrowd": int(shape.crowd)}
    if shape.crowd:
        kernel = np.ones((2 * FINE + 1, 2 * FINE + 1), dtype=np.uint8)
        closed = cv2.morphologyEx(seen, cv2.MORPH_CLOSE, kernel).astype(np.uint8)
        near = (coverage(closed) > 0).astype(np.uint8)
        return _from_bitmap(fields, near, x0, y0, height, width)
    if shape.seen < _HIDDEN * shape.full or shape.seen < _MIN_AREA * FINE * FINE:
        return None
    whole = shape.inside and shape.seen == shape.full and len(shape.rings) == 1
    polygons = [shape.rings[0].reshape(-1).tolist()] if whole else _outline(seen, x0, y0)
    if polygons is None:
        half = (coverage(seen) * 2 >= FINE * FINE).astype(np.uint8)
        return _from_bitmap(fields, half, x0, y0, height, width)
    code = rle.from_polygons([np.asarray(p) for p in polygons], height, width)
    points = np.concatenate([np.asarray(p).reshape(-1, 2) for p in polygons])
    low, high = points.min(0), points.max(0)
    fields["segmentation"] = polygons
    fields["area"] = rle.area(code)
    fields["bbox"] = [round(float(v), 2) for v in (*low, *(high - low))]
    return fields if fields["area"] > 0 else None


def _keypoints(canvas: Canvas, shape: Shape, number: int) -> dict[str, Any]:
    """COCO's ``keypoints``: indices of pixels (centres at + 0.5), flagged hidden where covered."""
    height, width = canvas.image.shape[:2]
    values: list[float] = []
    labelled = 0
    points = np.zeros((4, 2)) if shape.crowd else keypoints_of(shape.rings[0])
    for x, y in points.tolist():
        if shape.crowd or not (0 <= x < width and 0 <= y < height):
            values += [0, 0, 0]
            continue
        labelled += 1
        # A point on the outline: seen where the shape owns a sub-pixel beside it.
        row, column = int(y * FINE), int(x * FINE)
        near = canvas.owner[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        values += [round(x - 0.5, 2), round(y - 0.5, 2), 2 if (near == number).any() else 1]
    return {"keypoints": values, "num_keypoints": labelled}


def _from_bitmap(
    fields: dict[str, Any], part: Pixels, x0: int, y0: int, height: int, width: int
) -> dict[str, Any] | None:
    """Mask as RLE: uncompressed for crowds, as COCO's own files have it, else compressed.

    part: the bitmap of the picture from pixel (x0, y0) on; None is returned where it is empty.
    """
    if not part.any():
        return None
    code = rle.encode_crop(part, x0, y0, height, width)
    counts = rle.runs(code["counts"]).tolist() if fields["iscrowd"] else code["counts"].decode()
    segmentation = {"size": [height, width], "counts": counts}
    box = list(map(int, rle.box(code)))
    return {**fields, "segmentation": segmentation, "area": rle.area(code), "bbox": box}


def _outline(seen: Pixels, x0: int, y0: int) -> list[list[float]] | None:
    """Polygons around the seen sub-pixels, in pixels; None where they have holes that polygons lack.

    seen: the sub-pixels from pixel (x0, y0) on.
    """
    contours, hierarchy = cv2.findContours(seen, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons: list[list[float]] = []
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0], strict=True):
        area = cv2.contourArea(contour)
        if parent >= 0:
            if area >= 2 * FINE * FINE:
                return None
            continue
        corners = cv2.approxPolyDP(contour, 0.8, closed=True).reshape(-1, 2)
        if area < 2 * FINE * FINE or len(corners) < 3:
            continue  # a crumb
        points = (corners.astype(np.float64) + 0.5) / FINE + (x0, y0)
        polygons.append((np.rint(points * 100) / 100).reshape(-1).tolist())
    return polygons or None


def category_id(index: int) -> int:
    """The category id of class ``index``; with gaps, as COCO's own ids have."""
    return (1, 2, 4, 5, 8, 11)[index]


def _area(rings: list[Ring]) -> float:
    """Area inside the first ring and outside the others."""
    first, *holes = map(polygon_area, rings)
    return first - sum(holes)
