"""Images of a report's gallery: outlines are the objects', and each image keeps to its room."""

from __future__ import annotations

import base64
import re
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco_mask

from maskrcnn.viz.gallery import MOST_OUTLINES, Overlay, Shot, count_items, path_of, shot


def encode(mask: npt.NDArray[np.uint8]) -> dict[str, Any]:
    return dict(coco_mask.encode(np.asfortranarray(mask)))


def filled(d: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    """What an SVG path of relative lines covers, by the rule of even and odd."""
    out = np.zeros((height, width), np.uint8)
    for x, y, steps in re.findall(r"M(-?\d+) (-?\d+)l([^z]*)z", d):
        moves = np.array([int(v) for v in steps.split()]).reshape(-1, 2)
        corners = np.cumsum([[int(x), int(y)], *moves], axis=0)
        part = np.zeros_like(out)
        cv2.fillPoly(part, [corners.astype(np.int32)], 1)
        out ^= part
    return out


def ring() -> npt.NDArray[np.uint8]:
    mask = np.zeros((60, 80), np.uint8)
    cv2.circle(mask, (40, 30), 22, 1, -1)
    cv2.circle(mask, (40, 30), 9, 0, -1)
    return mask


@pytest.mark.parametrize("scale", [2.0, 8.0])
def test_an_outline_runs_along_the_border_of_the_mask_and_its_hole(scale: float) -> None:
    mask = ring()
    drawn = filled(path_of(encode(mask), scale), int(60 * scale), int(80 * scale))
    wanted = cv2.resize(mask, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    overlap = (drawn & wanted).sum() / (drawn | wanted).sum()
    assert overlap > 0.93
    assert not drawn[int(30 * scale), int(40 * scale)]


def test_one_pixel_has_an_outline_and_an_empty_mask_none() -> None:
    mask = np.zeros((10, 12), np.uint8)
    assert path_of(encode(mask), 2.0) == ""
    mask[3, 5] = 1
    assert filled(path_of(encode(mask), 8.0), 80, 96)[24:32, 40:48].mean() > 0.3
    assert path_of((1.0, 2.0, 3.0, 4.0), 2.0) == "M2 4h6v8h-6z"


def outline(kind: str = "missed", label: int = 0, size: str = "s") -> Overlay:
    return Overlay((1.0, 2.0, 8.0, 8.0), "truth", kind, label, size, "told")


def made(side: int, outlines: list[Overlay], room: int) -> Shot:
    image = np.random.default_rng(0).integers(0, 255, (side, side // 2, 3), dtype=np.uint8)
    return shot(image, outlines, title="a", told="b", ranks={2: 5}, room=room)


def test_a_large_image_becomes_as_small_as_its_room() -> None:
    large, small = made(1500, [outline()], 10**7), made(1500, [outline()], 60_000)
    assert (large.height, large.width) == (1024, 512)
    assert small.bytes <= 60_000 < large.bytes and small.width == pytest.approx(small.height / 2, abs=1)
    data = np.frombuffer(base64.b64decode(small.source.partition(",")[2]), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape[:2] == (small.height, small.width)
    scale = small.height / 1500
    x, y, w, h = (round(2 * scale * v) for v in (1, 2, 8, 8))
    assert small.paths[0][0] == f"M{x} {y}h{w}v{h}h{-w}z"
    assert (small.groups, small.ranks) == ((2,), (5,))


def test_a_small_image_stays_as_it_is() -> None:
    assert (made(64, [], 10**6).height, made(64, [], 10**6).width) == (64, 32)


def test_of_very_many_outlines_some_are_left_out_and_that_is_told() -> None:
    one = made(64, [outline()] * (MOST_OUTLINES + 3), 10**6)
    assert len(one.paths) == MOST_OUTLINES
    assert one.told == f"b; {MOST_OUTLINES} of {MOST_OUTLINES + 3} outlines are drawn"


def test_filters_count_images_not_objects() -> None:
    shots = [made(64, [outline(), outline(), outline("met", 3, "l")], 10**6), made(64, [outline()], 10**6)]
    assert count_items(shots, 0) == {"0": 2, "3": 1}
    assert count_items(shots, 1) == {"s": 2, "l": 1}
    assert count_items(shots, 2) == {"missed": 2, "met": 1}
