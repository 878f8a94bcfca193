"""AP of exactly 0 comes with its likely reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from maskrcnn.evaluation import evaluate_coco, ground_truth_results


def dataset() -> dict[str, Any]:
    annotations = []
    for i in range(6):
        x, y, w, h = 40.0 + 30 * i, 150.0 + 13 * i, 20.0, 12.0
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        annotations.append(
            {"id": i + 1, "image_id": 1, "category_id": 3, "bbox": [x, y, w, h], "segmentation": [polygon]}
        )
    return {
        "images": [{"id": n, "height": 300, "width": 400} for n in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "a"}, {"id": 5, "name": "b"}],
    }


def moved(record: dict[str, Any], bbox: list[float]) -> dict[str, Any]:
    return {**record, "bbox": bbox}


WRONG: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "class indices": (lambda r: {**r, "category_id": 0}, r"use category ids \{0\}, .* lists \{3, 5\}"),
    "other class": (lambda r: {**r, "category_id": 5}, "with classes ignored AP is 1.000"),
    "other image": (lambda r: {**r, "image_id": 2}, "none lies on an image with annotations"),
    "normalised": (
        lambda r: moved(r, [v / 400 for v in r["bbox"]]),
        "within 1 pixel of the origin; are they normalised",
    ),
    "outside": (
        lambda r: moved(r, [r["bbox"][0] + 1000, *r["bbox"][1:]]),
        "outside their images; are they in the original frame",
    ),
    "xyxy": (
        lambda r: moved(r, [*r["bbox"][:2], r["bbox"][0] + r["bbox"][2], r["bbox"][1] + r["bbox"][3]]),
        r"would fit if read differently: are they \[x1, y1, x2, y2\]",
    ),
    "exchanged": (
        lambda r: moved(r, [r["bbox"][i] for i in (1, 0, 3, 2)]),
        "would fit if read differently: are x and y exchanged",
    ),
    "nothing learned": (
        lambda r: moved(r, [300.0, 10.0, 5.0, 5.0]),
        r"none overlaps an annotation of its image by IoU 0.5 \(best score 1.000\)",
    ),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_the_reason_is_named(case: str) -> None:
    spoil, match = WRONG[case]
    found = evaluate_coco(dataset(), [spoil(r) for r in ground_truth_results(dataset())], ("bbox",))
    assert found.figures["bbox"]["AP"] == 0
    (note,) = found.notes
    assert re.search(match, note), note
    assert note.startswith("bbox AP is 0 although there are 6 detections: ")
    assert note in found.table()


def test_empty_masks_are_named() -> None:
    empty = {"size": [300, 400], "counts": [300 * 400]}
    results = [{**r, "segmentation": empty} for r in ground_truth_results(dataset())]
    found = evaluate_coco(dataset(), results)
    assert found.get("bbox/AP") == pytest.approx(1.0)
    assert [n for n in found.notes if "all masks are empty" in n and n.startswith("segm AP")]


def test_no_note_where_all_is_well() -> None:
    assert evaluate_coco(dataset(), ground_truth_results(dataset())).notes == ()
