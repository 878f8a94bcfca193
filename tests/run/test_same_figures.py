"""One results file has one AP: in training, in `maskrcnn eval`, in the report, and by pycocotools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.cli import main
from maskrcnn.evaluation import evaluate_coco, load_results
from maskrcnn.evaluation.backends import Case, truth_records
from maskrcnn.evaluation.coco import read_truth
from maskrcnn.evaluation.detections import read_detections
from maskrcnn.evaluation.eval_result import TWELVE
from maskrcnn.evaluation.report.make import report_figures
from maskrcnn.run.evaluation import evaluate
from maskrcnn.structures import rle
from tests.engine.tiny import write_data, write_recipe

KINDS: Any = ("bbox", "segm")


def found_in(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations as a model may find them: moved, some twice, some of another class, some not."""
    rng = np.random.default_rng(0)
    out = []
    for annotation in content["annotations"]:
        for _ in range(int(rng.integers(0, 4))):
            x, y, w, h = np.array(annotation["bbox"]) + rng.normal(0, 1.5, 4)
            code = rle.from_polygons([np.array([x, y, x + w, y, x + w, y + h, x, y + h])], 64, 64)
            out.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"] if rng.random() < 0.8 else 2,
                    "bbox": [x, y, w, h],
                    "score": float(np.float32(rng.random())),
                    "segmentation": {"size": [64, 64], "counts": code["counts"].decode()},
                }
            )
    return out


def by_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """Its twelve; of masks without the boxes, whose areas `loadRes` would else take for the masks'."""
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    if kind == "segm":
        results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
    evaluator = COCOeval(coco, coco.loadRes(results), kind)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return dict(zip(TWELVE, evaluator.stats.tolist(), strict=True))


def as_read(path: Path) -> dict[str, Any]:
    """An annotation file as our reader gives it, written as COCO's format again."""
    truth = read_truth(path, KINDS)
    nothing = read_detections([], truth, KINDS, truth.image_ids.tolist())
    records = truth_records(Case(truth, nothing, "segm", np.arange(len(truth.image_ids))))
    ids, classes = truth.image_ids.tolist(), truth.category_ids
    return {
        "images": [
            {"id": i, "height": h, "width": w} for i, (h, w) in zip(ids, truth.sizes.tolist(), strict=True)
        ],
        "categories": [{"id": i, "name": n} for i, n in zip(classes, truth.category_names, strict=True)],
        "annotations": [
            r | {"image_id": ids[r["image_id"] - 1], "category_id": classes[r["category_id"] - 1]}
            for r in records
        ],
    }


def changed(content: dict[str, Any]) -> dict[str, Any]:
    """With what our reader mends: a box over the edge, no area, no crowd flag, a broken polygon."""
    content["annotations"][0].pop("iscrowd")
    content["annotations"][1].pop("area")
    content["annotations"][2]["bbox"][0] = -0.5
    content["annotations"][3]["iscrowd"] = 1
    content["annotations"].append(content["annotations"][4] | {"id": 999, "segmentation": [[1.0, 2.0]]})
    return content


@pytest.mark.parametrize("change", [dict, changed], ids=["sound", "mended"])
def test_training_evaluation_report_and_pycocotools(
    change: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path)
    write_data(tmp_path / "images", val=15)
    path = tmp_path / "images" / "val.json"
    found = found_in(json.loads(path.read_text()))
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    monkeypatch.setattr("maskrcnn.run.evaluation.predict_dataset", lambda *args, **options: list(found))
    run, results = tmp_path / "run", tmp_path / "results.json"
    assert main(["train", str(recipe), "--output", str(run), "--set", "solver.steps=1"]) == 0
    evaluated = evaluate(run, results=results)
    assert evaluated is not None
    assert json.loads(results.read_text()) == json.loads((run / "results.json").read_text())

    of_training = json.loads((run / "figures.json").read_text())["figures"]
    truth, records = read_truth(path, KINDS), load_results(results)
    of_file = evaluate_coco(truth, records, KINDS, max_detections=10)
    of_report = report_figures(truth, records, of_file, resamples=0).to_json()["figures"]
    for kind in KINDS:
        of_pycocotools = by_pycocotools(as_read(path), records, kind)
        for name, value in of_pycocotools.items():
            ours = [of_training[kind][name], evaluated.result.figures[kind][name]]
            ours += [of_file.figures[kind][name], of_report[kind][name]["value"]]
            assert [-1 if v is None else v for v in ours] == [value] * 4, (kind, name)
        assert 0.1 < of_pycocotools["AP"] < 0.9
