"""Pictures of an evaluation: what is right, wrong and missed of a data set's images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskrcnn.data import Dataset
from maskrcnn.evaluation import ground_truth_results
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run.evaluation_pictures import draw_pictures
from maskrcnn.structures.rle import as_text, encode
from maskrcnn.viz.instances import draw_detections
from maskrcnn.viz.panels import GAP
from tests.engine.tiny import write_recipe


def data(folder: Path) -> tuple[Recipe, Dataset, dict[str, Any]]:
    """A tiny recipe, its evaluation set and that set's annotations."""
    recipe = load_recipe(write_recipe(folder), ["train.pictures=2"])
    assert recipe.data.val is not None
    val = recipe.data.build(recipe.data.val, False)
    return recipe, val, json.loads(Path(val.annotation_file).read_text())


@pytest.mark.parametrize("masks", [True, False])
def test_right_wrong_and_missed_are_counted(
    masks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, val, annotations = data(tmp_path)
    first = int(val.image_ids[0])
    records = [r for r in ground_truth_results(annotations) if r["image_id"] == first]
    if not masks:
        records = [{k: v for k, v in r.items() if k != "segmentation"} for r in records]
    assert len(records) > 1
    records[0] = records[0] | {"score": 0.4}  # not drawn, so its object is missed
    elsewhere = records[1] | {"bbox": [0.0, 0.0, 3.0, 3.0]}
    if masks:
        size = val.load(0).image.shape[:2]
        corner = np.zeros(size, np.uint8)
        corner[:3, :3] = 1
        elsewhere["segmentation"] = as_text(encode(corner))
        for record in records:
            codes = coco_mask.frPyObjects(record["segmentation"], *size)
            record["segmentation"] = as_text(coco_mask.merge(codes))
    told: list[list[str]] = []
    monkeypatch.setattr(
        "maskrcnn.viz.judged.legend",
        lambda picture, entries: told.append([text for _, text in entries]) or picture,
    )
    pictures = dict(draw_pictures(val, [*records, elsewhere], recipe))
    assert len(pictures) == 2
    second = sum(a["image_id"] == int(val.image_ids[1]) for a in annotations["annotations"])
    assert told == [
        [f"right {len(records) - 1}", "wrong 1", "missed 1"],
        ["right 0", "wrong 0", f"missed {second}"],
    ]


def test_truth_and_prediction_have_one_size(tmp_path: Path) -> None:
    recipe, val, annotations = data(tmp_path)
    records = [{k: v for k, v in r.items() if k != "segmentation"} for r in ground_truth_results(annotations)]
    (_, picture), *_ = draw_pictures(val, records, recipe)
    sample = val.load(0)
    truth = draw_detections(sample.image, sample.targets, val.categories.names)
    assert picture.shape[1] == 2 * truth.shape[1] + GAP
