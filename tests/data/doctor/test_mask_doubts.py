"""Boxes against masks, and holes: every mistake is recognised, and sound data give no word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data import CocoDataset
from maskrcnn.data.annotation_reader import read_annotations
from maskrcnn.data.doctor import Doubt, mask_doubts
from maskrcnn.data.doctor.mask_doubts import (
    all_inside,
    box_doubt,
    empty_doubt,
    hole_doubt,
    ious,
    polygons,
    unit_doubt,
)
from maskrcnn.data.fault_report import FaultReport
from maskrcnn.data.index import AnnotationIndex
from maskrcnn.structures import rle

SIZE = (60, 80)
"""(height, width)."""


def content(count: int = 12, *, coded: bool = False, scale: float = 1.0) -> dict[str, Any]:
    """Triangles, as polygons or run-length codes, one annotation an image."""
    rng = np.random.default_rng(0)
    annotations = []
    for k in range(count):
        x, y = rng.integers(2, 35, 2).tolist()
        w, h = rng.integers(8, 20, 2).tolist()
        triangle = [scale * v for v in (x, y, x + w, y + h / 2, x + w / 3, y + h)]
        code = rle.from_polygons([np.asarray(triangle)], *SIZE)
        box = rle.box(code) if coded else (x, y, w, h)
        annotations.append(
            {
                "id": 100 + k,
                "image_id": k,
                "category_id": 1,
                "bbox": list(box) if coded else [scale * v for v in box],
                "segmentation": {**code, "counts": code["counts"].decode()} if coded else [triangle],
            }
        )
    return {
        "images": [
            {"id": k, "file_name": f"{k}.png", "height": SIZE[0], "width": SIZE[1]} for k in range(count)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "triangle"}],
    }


def read(source: dict[str, Any]) -> AnnotationIndex:
    return read_annotations(source, FaultReport("", None))


def of_boxes(source: dict[str, Any]) -> Doubt | None:
    index = read(source)
    return box_doubt(index, polygons(index))


def of_holes(source: dict[str, Any]) -> Doubt | None:
    index = read(source)
    return hole_doubt(index, polygons(index))


def test_polygon_boxes_are_those_of_their_points() -> None:
    source = content(5)
    source["annotations"][1]["segmentation"] = [[1.123456, 2, 8, 3, 4, 9.5], [10, 12, 14.25, 12, 11, 20]]
    index = read(source)
    parts = polygons(index)
    flat = [np.asarray(p).reshape(-1, 2) for a in source["annotations"] for p in a["segmentation"]]
    assert parts.owners.tolist() == [0, 1, 1, 2, 3, 4]
    for p, points in enumerate(flat):
        assert np.allclose(parts.points(p), points, rtol=0, atol=1e-12)
        assert np.allclose(parts.boxes[p], [*points.min(0), *points.max(0)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("coded", [False, True])
def test_boxes_that_fit_raise_no_doubt(coded: bool) -> None:
    assert of_boxes(content(coded=coded)) is None
    assert of_boxes(content(0)) is None


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], "[x1, y1, x2, y2] written as [x, y, width, height]"),
        (lambda x, y, w, h: [x, SIZE[0] - y - h, w, h], "y measured from the lower edge"),
        (lambda x, y, w, h: [x, SIZE[0] - y, w, h], "y measured from the lower edge"),
        (lambda x, y, w, h: [y, x, h, w], "x and y exchanged"),
        (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], "x and y of the centre instead of the corner"),
        (lambda x, y, w, h: [x / SIZE[1], y / SIZE[0], w / SIZE[1], h / SIZE[0]], "normalised to [0, 1]"),
        (
            lambda x, y, w, h: [x / SIZE[1], y / SIZE[0], (x + w) / SIZE[1], (y + h) / SIZE[0]],
            "[x1, y1, x2, y2] normalised to [0, 1]",
        ),
        (
            lambda x, y, w, h: [(x + w / 2) / SIZE[1], (y + h / 2) / SIZE[0], w / SIZE[1], h / SIZE[0]],
            "x and y of the centre, normalised to [0, 1]",
        ),
    ],
)
def test_the_likely_mistake_is_found(wrong: Callable[..., list[float]], words: str, coded: bool) -> None:
    source = content(coded=coded)
    for annotation in source["annotations"]:
        annotation["bbox"] = wrong(*annotation["bbox"])
    doubt = of_boxes(source)
    assert doubt is not None
    assert doubt.total == 12
    assert doubt.count > 6
    assert f"they look like {words}" in doubt.cost
    # The advice: without 'bbox', it is taken from the mask.
    for annotation in source["annotations"]:
        del annotation["bbox"]
    assert of_boxes(source) is None


def test_one_wrong_box_of_many_is_named_without_a_guess() -> None:
    source = content()
    source["annotations"][7]["bbox"] = [60, 50, 5, 5]
    doubt = of_boxes(source)
    assert doubt is not None
    assert (doubt.count, doubt.total, doubt.ids) == (1, 12, (107,))
    assert "1 of 12 annotations (annotation 107 of image 7); the RPN" in str(doubt)


@pytest.mark.parametrize(
    "shape",
    [
        [[30, 30] * 3],
        [[30, 30, 40, 30, 35, 30]],
        [[100, 10, 120, 10, 120, 20]],
        {"size": list(SIZE), "counts": [SIZE[0] * SIZE[1]]},
    ],
)
def test_a_mask_of_nothing_is_told(shape: Any) -> None:
    source = content()
    index = read(source)
    assert empty_doubt(index, polygons(index)) is None
    source["annotations"][7]["segmentation"] = shape
    index = read(source)
    doubt = empty_doubt(index, polygons(index))
    assert doubt is not None and of_boxes(source) is None
    assert (doubt.count, doubt.total, doubt.ids) == (1, 12, (107,))
    del source["annotations"][7]  # the advice followed
    index = read(source)
    assert empty_doubt(index, polygons(index)) is None


def test_boxes_and_masks_of_fractions_are_told() -> None:
    source = content(scale=1 / 80)
    index = read(source)
    assert of_boxes(source) is None, "boxes and masks agree"
    doubt = unit_doubt(index)
    assert doubt is not None and (doubt.count, doubt.total) == (12, 12)
    assert "they look normalised to [0, 1]" in str(doubt)
    assert unit_doubt(read(content())) is None
    assert unit_doubt(read({**source, "annotations": []})) is None


def test_a_rounded_box_of_a_tiny_object_fits() -> None:
    source = content(1)
    source["annotations"][0]["segmentation"] = [[10.9, 10.9, 12.1, 10.9, 12.1, 12.1, 10.9, 12.1]]
    source["annotations"][0]["bbox"] = [10, 10, 3, 3]
    assert of_boxes(source) is None


def test_of_many_run_length_codes_a_sample_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_doubts, "MOST_CODES", 4)
    source = content(coded=True)
    for annotation in source["annotations"]:
        annotation["bbox"] = [70, 55, 5, 5]
    doubt = of_boxes(source)
    assert doubt is not None
    assert (doubt.count, doubt.total, doubt.of) == (4, 4, "annotations looked at")


def ring(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def with_hole(source: dict[str, Any], number: int, outer: float = 20, inner: float = 8) -> dict[str, Any]:
    annotation = source["annotations"][number]
    annotation["segmentation"] = [ring(50, 20, 3), ring(10, 10, outer), ring(14, 14, inner)]
    annotation["bbox"] = [10, 10, 43, outer]
    return annotation  # type: ignore[no-any-return]


def test_a_hole_as_a_polygon_is_told_and_a_code_holds_it() -> None:
    source = content()
    hole = with_hole(source, 3)
    doubt = of_holes(source)
    assert doubt is not None
    assert (doubt.count, doubt.total, doubt.ids) == (1, 12, (103,))
    mask = rle.decode(rle.from_polygons([np.asarray(p, dtype=float) for p in hole["segmentation"]], *SIZE))
    assert mask[18, 18] == 1  # COCO's union has filled it
    mask[14:22, 14:22] = 0
    hole["segmentation"] = {"size": list(SIZE), "counts": rle.encode(mask)["counts"].decode()}
    assert of_holes(source) is None
    # The other way to write it: one outline that runs round the hole.
    hole["segmentation"] = [[10, 10, 30, 10, 30, 30, 10, 30, 10, 14, 14, 14, 14, 22, 22, 22, 22, 14, 10, 14]]
    assert of_holes(source) is None
    drawn = rle.decode(rle.from_polygons([np.asarray(hole["segmentation"][0], dtype=float)], *SIZE))
    assert drawn[18, 18] == 0
    assert drawn[26, 26] == drawn[12, 12] == 1


def test_parts_beside_each_other_are_no_holes() -> None:
    source = content()
    # The second one's box lies in that of the first, an L, but not in the L itself.
    corner = [10, 10, 14, 10, 14, 26, 30, 26, 30, 30, 10, 30]
    for annotation in source["annotations"]:
        annotation["segmentation"] = [corner, ring(18, 14, 6), ring(18, 14, 6)]
    assert of_holes(source) is None


def test_rare_nested_parts_are_told_only_if_the_areas_say_hole() -> None:
    source = content(150)
    annotation = with_hole(source, 3)
    assert of_holes(source) is None
    annotation["area"] = 400 + 9
    assert of_holes(source) is None
    annotation["area"] = 400 + 9 - 64
    doubt = of_holes(source)
    assert doubt is not None and doubt.count == 1


def test_of_too_many_nested_parts_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_doubts, "MOST_PAIRS", 3)
    source = content(10)
    for k in range(10):
        with_hole(source, k)
    doubt = of_holes(source)
    assert doubt is not None
    assert (doubt.count, doubt.total) == (3, 10)
    assert "at least: 3 of 10" in str(doubt)


def test_inside_means_every_point() -> None:
    square = np.asarray(ring(0, 0, 10)).reshape(-1, 2)
    assert all_inside(np.asarray(ring(0, 0, 5)).reshape(-1, 2), square)  # on the edge
    assert all_inside(np.asarray(ring(2, 3, 5)).reshape(-1, 2), square)
    assert not all_inside(np.asarray(ring(6, 6, 5)).reshape(-1, 2), square)
    assert ious(np.array([[0, 0, 2, 2.0]]), np.array([[1, 0, 3, 2.0]])).tolist() == [pytest.approx(1 / 3)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_no_doubt_about_coco(shared_data: Callable[[str], Path], split: str) -> None:
    root = shared_data("coco")
    dataset = CocoDataset(root / f"{split}2017", root / "annotations" / f"instances_{split}2017.json")
    parts = polygons(dataset.index)
    assert box_doubt(dataset.index, parts) is None
    assert hole_doubt(dataset.index, parts) is None
    assert empty_doubt(dataset.index, parts) is None
    assert unit_doubt(dataset.index) is None
    # How far the threshold is from what is sound.
    rows, masks = mask_doubts.mask_boxes(dataset.index, parts)
    boxes = dataset.index.boxes[rows]
    boxes[:, 2:] += boxes[:, :2]
    assert ious(boxes, masks).min() > 0.9
