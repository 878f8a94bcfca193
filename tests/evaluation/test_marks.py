"""Right, wrong, missed: as pycocotools pairs, and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskrcnn.evaluation import evaluate_coco
from maskrcnn.evaluation.coco import read_truth
from maskrcnn.evaluation.marks import judge
from maskrcnn.structures.rle import as_text, from_polygons


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def truth(draw: np.random.Generator) -> dict[str, Any]:
    """Two images of crowded squares of two classes, some of them crowds."""
    annotations = []
    for number in range(24):
        x, y = draw.uniform(0, 60, 2).tolist()
        area = {"bbox": [x, y, 20.0, 20.0], "area": 400.0, "segmentation": square(x, y, 20)}
        kind = {"iscrowd": int(draw.random() < 0.2), "category_id": 3 + number % 2}
        annotations.append({"id": 100 + number, "image_id": 1 + number % 2, **kind, **area})
        if kind["iscrowd"]:
            code = from_polygons([np.array(square(x, y, 20)[0])], 80, 90)
            annotations[-1]["segmentation"] = as_text(code)
    images = [{"id": i, "height": 80, "width": 90} for i in (1, 2)]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in (3, 4)],
    }


def records(draw: np.random.Generator, wanted: dict[str, Any], *, masks: bool) -> list[dict[str, Any]]:
    """Shifted squares about the true ones, some of them twice or of the wrong class."""
    out = []
    for one in wanted["annotations"]:
        for _ in range(int(draw.integers(0, 3))):
            x, y = (np.array(one["bbox"][:2]) + draw.normal(0, 4, 2)).tolist()
            record: dict[str, Any] = {"image_id": one["image_id"], "category_id": int(draw.integers(3, 5))}
            record |= {"score": float(draw.random()), "bbox": [x, y, 20.0, 20.0]}
            if masks:
                record["segmentation"] = as_text(from_polygons([np.array(square(x, y, 20)[0])], 80, 90))
            out.append(record)
    return out


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_cocos_rule(seed: int, masks: bool) -> None:
    draw = np.random.default_rng(seed)
    wanted = truth(draw)
    found = records(draw, wanted, masks=masks)
    kind: Any = ("segm",) if masks else ("bbox",)
    columns = read_truth(wanted, ("bbox", "segm"))
    theirs = evaluate_coco(columns, found, kind, matches=True).matches
    assert theirs is not None
    matches = theirs["segm" if masks else "bbox"]
    right = np.zeros(len(found), dtype=bool)
    right[matches.result_index] = matches.matched[0] | matches.ignored[0]
    taken = set(matches.annotation_id[0][matches.matched[0]].tolist())
    for image in (1, 2):
        own = [i for i, record in enumerate(found) if record["image_id"] == image]
        judged = judge([found[i] for i in own], columns, image)
        assert judged.right == right[own].tolist()
        objects = [a["id"] for a in wanted["annotations"] if a["image_id"] == image and not a["iscrowd"]]
        assert columns.annotation_ids[judged.missed].tolist() == [i for i in objects if i not in taken]
    assert right.any() and not right.all()


def test_an_image_without_objects_or_records() -> None:
    wanted = truth(np.random.default_rng(0))
    wanted["images"].append({"id": 9, "height": 80, "width": 90})
    columns = read_truth(wanted, ("bbox", "segm"))
    alone = [{"image_id": 9, "category_id": 3, "score": 0.9, "bbox": [1.0, 1.0, 9.0, 9.0]}]
    assert judge(alone, columns, 9).right == [False] and not len(judge(alone, columns, 9).missed)
    objects = [a for a in wanted["annotations"] if a["image_id"] == 1 and not a["iscrowd"]]
    assert len(judge([], columns, 1).missed) == len(objects)
