"""Objects by size and place, background images, limits."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskrcnn.evaluation.report.pairing import Pairing, pair
from maskrcnn.evaluation.report.surroundings import background_figures, limit_figures, object_figures
from tests.evaluation.report.cases import overlaps_of
from tests.evaluation.test_coco import tiny


def result(box: list[float], image: int = 10, score: float = 0.9) -> dict[str, Any]:
    return {"image_id": image, "category_id": 4, "bbox": box, "score": score}


def scene() -> dict[str, Any]:
    """On 100 x 120 pixels: sides 12, 4 x 9, 40, 12; the third reaches the right edge, the last is a crowd."""
    content = tiny(images=3, each=1)
    boxes = [
        [5.0, 10.0, 12.0, 12.0],
        [50.0, 50.0, 4.0, 9.0],
        [79.5, 20.0, 40.0, 40.0],
        [5.0, 60.0, 12.0, 12.0],
    ]
    first = content["annotations"][0]
    content["annotations"] = [
        first | {"id": i + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": int(i == 3)}
        for i, box in enumerate(boxes)
    ]
    return content


def paired(content: dict[str, Any], results: list[dict[str, Any]]) -> Pairing:
    return pair(overlaps_of(content, results, "bbox"), 100)


def test_objects_by_size_and_place() -> None:
    pairing = paired(scene(), [result([5.0, 10.0, 12.0, 12.0]), result([79.5, 20.0, 40.0, 40.0], score=0.3)])
    found = object_figures(pairing, pairing.overlaps.score >= 0.5)
    sizes = {
        (row["low"], row["high"]): (row["count"], row["found"]) for row in found["sizes"] if row["count"]
    }
    assert sizes == {(0, 8): (1, 0.0), (8, 16): (1, 1.0), (32, 64): (1, 0.0)}
    assert found["sizes"][-1] == {"low": 512, "high": None, "count": 0, "found": None}
    assert found["border"] == {"count": 1, "found": 0.0}
    assert found["inside"] == {"count": 2, "found": 0.5}
    every = object_figures(pairing, np.ones(2, dtype=bool))
    assert every["border"] == {"count": 1, "found": 1.0}


def test_false_positives_on_background() -> None:
    results = [
        result([5.0, 10.0, 12.0, 12.0]),
        result([5.0, 10.0, 12.0, 12.0], image=12, score=0.6),
        result([5.0, 50.0, 12.0, 12.0], image=12, score=0.7),
        result([5.0, 50.0, 12.0, 12.0], image=11, score=0.2),
    ]
    found = overlaps_of(scene(), results, "bbox")
    assert background_figures(found, found.score >= 0.5) == {
        "images": 2,
        "with_detections": 1,
        "detections": 2,
        "worst": [{"image_id": 12, "detections": 2, "score": 0.7}],
    }
    assert background_figures(overlaps_of(tiny(), results, "bbox"), np.ones(4, dtype=bool)) is None


def test_limits() -> None:
    found = overlaps_of(scene(), [result([5.0, 10.0, 12.0, 12.0]), result([50.0, 50.0, 4.0, 4.0])], "bbox")
    sizes = {10: (50, 60), 11: (50, 60), 12: (50, 60)}  # half: sides 6, 2, 20, and the crowd's
    assert limit_figures(found, 2, sizes) == {
        "cap": 2,
        "images_at_cap": 1,
        "images_over_cap": 1,
        "tiny": 2,
        "tiny_pixels": 8,
    }
    untold = limit_figures(found, 3, None)
    assert (untold["images_at_cap"], untold["images_over_cap"], untold["tiny"]) == (0, 0, None)
    wide = dict.fromkeys(sizes, (100, 240))  # twice as wide: sides 24 x 12, 8 x 9, 80 x 40
    assert limit_figures(found, 2, wide)["tiny"] == 0
