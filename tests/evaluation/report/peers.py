"""The reference implementations, on the cases of these tests, and their numbers as they were recorded.

``MASKRCNN_RECORD=1 pytest tests/evaluation/report`` writes them anew where tidecv 1.0.1 (``pip install
--no-deps tidecv matplotlib seaborn``) and vernier 0.5.4 are installed; the numbers of boundary-iou-api
(commit 37d2558, its ``COCO`` and ``COCOeval`` with iouType "boundary") were equal to vernier's to the bit
when they were recorded.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.evaluation.backends import Case, detection_records, truth_records

FILE = Path(__file__).with_name("peers.json")
#: Its names by tidecv's.
TIDE = {
    "Cls": "class",
    "Loc": "location",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}


def recorded(name: str, found: Any = None) -> Any:
    """The numbers under ``name``; recorded first where that is asked for and they were ``found``."""
    content = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    if os.environ.get("MASKRCNN_RECORD") == "1" and found is not None:
        content[name] = found
        FILE.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return content[name]


def run_tidecv(case: Case, cap: int) -> dict[str, Any]:
    """What ``tide`` gives, by tidecv; without the detections of unknown classes."""
    import tidecv

    masks = case.iou_type == "segm"
    truth, found = tidecv.Data("truth", cap), tidecv.Data("found", cap)
    for image in (case.images + 1).tolist():
        truth.add_image(image, str(image))
    for one in truth_records(case):
        shape = {"mask": one["segmentation"]} if masks else {"box": one["bbox"]}
        add = truth.add_ignore_region if one["iscrowd"] else truth.add_ground_truth
        add(one["image_id"], one["category_id"], **shape)
    for one in detection_records(case):
        if one["category_id"] <= len(case.truth.category_ids):
            shape = {"mask": one["segmentation"]} if masks else {"box": one["bbox"]}
            found.add_detection(one["image_id"], one["category_id"], one["score"], **shape)
    mode = tidecv.TIDE.MASK if masks else tidecv.TIDE.BOX
    done = tidecv.TIDE().evaluate(truth, found, mode=mode)
    special = {error.short_name: value / 100 for error, value in done.fix_special_errors().items()}
    return {
        "ap": done.ap / 100,
        "counts": {TIDE[e.short_name]: n for e, n in done.count_errors().items()},
        "costs": {TIDE[e.short_name]: v / 100 for e, v in done.fix_main_errors().items()},
        "false_positive": special["FalsePos"],
        "false_negative": special["FalseNeg"],
    }


def run_vernier(case: Case) -> npt.NDArray[np.float64]:
    """Boundary precision [T, 101, K, A], -1 for a class without objects."""
    from pycocotools.coco import COCO
    from vernier import COCOeval

    truth = case.truth
    images = [
        {"id": i + 1, "height": height, "width": width}
        for i, (height, width) in zip(case.images.tolist(), truth.sizes[case.images].tolist(), strict=True)
    ]
    categories = [{"id": k + 1, "name": str(k)} for k in range(len(truth.category_ids))]
    known = [d for d in detection_records(case) if d["category_id"] <= len(categories)]
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for records in (truth_records(case), known):
            side = COCO()
            side.dataset = {"images": images, "categories": categories, "annotations": records}
            side.createIndex()
            sides.append(side)
        done = COCOeval(*sides, iouType="boundary")
        done.evaluate()
        done.accumulate()
    return np.asarray(done.eval["precision"])[..., -1]
