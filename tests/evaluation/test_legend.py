"""Figures that are easily misread are explained beside the table; others are not."""

from __future__ import annotations

from typing import Any

import pytest

from maskrcnn.evaluation import evaluate_coco
from maskrcnn.evaluation.eval_result import EvalResult, legend

SIDES = {"small": 20, "medium": 50, "large": 120}


def truth(images: int, objects: int, sides: list[int], classes: int = 1) -> dict[str, Any]:
    """``objects`` squares an image, their sides in turn."""
    annotations: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        for k in range(objects):
            side = sides[len(annotations) % len(sides)]
            x, y = 130 * (k % 10), 130 * (k // 10)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1 + k % classes,
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]],
                }
            )
    return {
        "images": [
            {"id": i + 1, "file_name": f"{i}.png", "height": 1300, "width": 1300} for i in range(images)
        ],
        "categories": [{"id": 1 + k, "name": f"class {k}"} for k in range(classes)],
        "annotations": annotations,
    }


def found(content: dict[str, Any], tmp_path: Any) -> Any:
    import json

    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in content["annotations"]
    ]
    return evaluate_coco(path, results, iou_types=("bbox",))


def told_of(result: EvalResult) -> list[str]:
    return legend(result.figures, result.images, [e.ground_truth for e in result.per_class["bbox"]])


@pytest.mark.parametrize("missing", list(SIDES))
def test_a_size_that_is_not_there_is_named(missing: str, tmp_path: Any) -> None:
    sides = [side for name, side in SIDES.items() if name != missing]
    result = found(truth(2, 4, sides), tmp_path)
    letter = missing[0]
    assert result.figures["bbox"][f"AP{letter}"] is None
    told = [text for text in told_of(result) if "n/a" in text]
    assert len(told) == 1 and told[0].startswith(f"AP{letter} and AR{letter} are n/a: ")
    assert f"no {missing} objects" in told[0]
    assert f"note: {told[0]}" in result.table()


def test_recall_at_one_detection_is_explained_where_it_cannot_be_high(tmp_path: Any) -> None:
    result = found(truth(2, 30, list(SIDES.values())), tmp_path)
    assert result.figures["bbox"]["AR1"] == pytest.approx(1 / 30)
    (told,) = told_of(result)
    assert "with 30 objects an image no model can reach AR1 above 0.03, AR10 above 0.33" in told
    assert "AR100 above" not in told


def test_the_cap_is_the_mean_over_classes(tmp_path: Any) -> None:
    """All detections are right here, so what AR1 is, is what it can be."""
    result = found(truth(3, 12, list(SIDES.values()), classes=4), tmp_path)
    (told,) = told_of(result)
    assert f"AR1 above {result.figures['bbox']['AR1']:.2f}" in told and "AR10 above" not in told


def test_sound_results_need_no_legend(tmp_path: Any) -> None:
    result = found(truth(3, 3, list(SIDES.values()), classes=3), tmp_path)
    assert told_of(result) == []
    assert "note:" not in result.table()
