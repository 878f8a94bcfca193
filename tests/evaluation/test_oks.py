"""Keypoints in evaluation: OKS figures as pycocotools prints them, records, pictures."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.data import Categories
from maskrcnn.errors import DataError, UserError
from maskrcnn.evaluation import coco_results, evaluate_coco, ground_truth_results
from maskrcnn.evaluation.eval_result import TEN, TWELVE
from maskrcnn.structures import Detections, ImageInfo, Targets
from maskrcnn.viz.instances import draw_detections, draw_instances
from maskrcnn.viz.skeletons import of_records

Content = dict[str, Any]


@pytest.fixture(params=["pycocotools", "hotcoco", "faster"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param != "pycocotools":
        module = {"hotcoco": "hotcoco", "faster": "faster_coco_eval"}[request.param]
        pytest.importorskip(module, reason=f"{module} is not installed")
    return str(request.param)


def people(images: int = 6, joints: int = 17, seed: int = 0) -> Content:
    """People of all sizes, some crowds, some without a labelled keypoint."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(images):
        for _ in range(int(rng.integers(1, 5))):
            w, h = rng.uniform(20, 200, 2)
            x, y = rng.uniform(0, 200, 2)
            flags = rng.integers(0, 3, joints) * (rng.random() < 0.85)
            points = np.stack([rng.uniform(x, x + w, joints), rng.uniform(y, y + h, joints), flags], 1)
            points[flags == 0] = 0
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": [x, y, w, h],
                    "area": w * h * 0.6,
                    "iscrowd": int(rng.random() < 0.1),
                    "keypoints": points.reshape(-1).tolist(),
                    "num_keypoints": int((flags > 0).sum()),
                }
            )
    return {
        "images": [{"id": i, "height": 400, "width": 400} for i in range(images)],
        "annotations": annotations,
        "categories": [
            {"id": 1, "name": "person", "keypoints": [f"k{j}" for j in range(joints)], "skeleton": []}
        ],
    }


def guesses(content: Content, seed: int = 1) -> list[dict[str, Any]]:
    """Every annotation found with some error, and false ones, more than 20 in the first image."""
    rng = np.random.default_rng(seed)
    out = []
    for annotation in content["annotations"]:
        points = np.array(annotation["keypoints"]).reshape(-1, 3)
        points[:, :2] += rng.normal(0, rng.choice([0.5, 5, 20]), (len(points), 2))
        out.append((annotation["image_id"], points))
    for image in [0] * 25 + list(range(len(content["images"]))):
        joints = len(content["annotations"][0]["keypoints"]) // 3
        out.append((image, rng.uniform(0, 300, (joints, 3))))
    return [
        {
            "image_id": image,
            "category_id": 1,
            "bbox": [0.0, 0.0, 9.0, 9.0],
            "keypoints": points.reshape(-1).tolist(),
            "score": float(rng.random()),
        }
        for image, points in out
    ]


def reference(content: Content, results: list[dict[str, Any]]) -> dict[str, float]:
    """pycocotools' own way, from its ``loadRes`` to its summary."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content) | {"info": {}}
        truth.createIndex()
        # Without boxes: given one, loadRes takes the file for one of boxes.
        found = truth.loadRes([{k: v for k, v in r.items() if k != "bbox"} for r in copy.deepcopy(results)])
        evaluator = COCOeval(truth, found, "keypoints")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(TEN, evaluator.stats.tolist(), strict=True))


def test_figures_are_those_of_the_reference(backend: Any) -> None:
    content = people()
    results = guesses(content)
    figures = evaluate_coco(content, results, ("keypoints",), backend=backend).figures["keypoints"]
    wanted = reference(content, results)
    assert list(figures) == list(TEN)
    assert figures == pytest.approx(wanted, rel=1e-12)
    assert all(0 < v < 1 for v in wanted.values()) and len(set(wanted.values())) > 6


def test_similarity_by_hand(backend: Any) -> None:
    """One keypoint of sigma 0.1 at distance d of an object of area 400: similarity exp(-d^2 / 32)."""
    content = people(1, joints=1)
    content["annotations"] = [content["annotations"][0] | {"iscrowd": 0, "area": 400.0, "num_keypoints": 1}]
    content["annotations"][0]["keypoints"] = [50, 60, 2]
    for distance in (0.0, 2.0, 3.0, 4.0, 5.0):
        result = {"image_id": 0, "category_id": 1, "keypoints": [50 + distance, 60, 1], "score": 0.5}
        found = evaluate_coco(content, [result], ("keypoints",), sigmas=[0.1], backend=backend)
        similarity = math.exp(-(distance**2) / 32)
        met = sum(similarity >= 0.5 + 0.05 * t for t in range(10))
        assert found.get("keypoints/AP") == pytest.approx(met / 10)
        # Half the sigma, and everything counts as four times as far.
        found = evaluate_coco(content, [result], ("keypoints",), sigmas=[0.05], backend=backend)
        met = sum(similarity**4 >= 0.5 + 0.05 * t for t in range(10))
        assert found.get("keypoints/AP") == pytest.approx(met / 10)


def test_the_truth_itself_scores_one_and_the_input_stays(backend: Any, tmp_path: Path) -> None:
    content = people()
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    before = copy.deepcopy(content)
    results = ground_truth_results(content)
    found = evaluate_coco(path, results, ("bbox", "segm", "keypoints"), backend=backend)
    assert found.get("keypoints/AP") == pytest.approx(1) and found.get("bbox/AP") == pytest.approx(1)
    evaluate_coco(content, results, ("keypoints",), backend=backend)
    assert content == before


def test_files_without_counts_and_other_classes(backend: Any) -> None:
    """num_keypoints may be missing; a class without keypoints is listed without figures."""
    content = people()
    wanted = evaluate_coco(content, guesses(content), ("keypoints",), backend=backend)
    for annotation in content["annotations"]:
        if not annotation.pop("num_keypoints"):
            del annotation["keypoints"]
    content["categories"].append({"id": 2, "name": "ball"})
    ball = {"id": 999, "image_id": 0, "category_id": 2, "bbox": [1, 2, 30, 30], "area": 900, "iscrowd": 0}
    content["annotations"].append(ball)
    found = evaluate_coco(content, guesses(people()), ("keypoints",), backend=backend)
    assert found.figures == wanted.figures
    person, other = found.per_class["keypoints"]
    assert person.figures == wanted.figures["keypoints"]
    assert (other.name, set(other.figures.values())) == ("ball", {None})


def test_the_table_has_a_part_of_its_own() -> None:
    content = people()
    lines = evaluate_coco(content, guesses(content), ("bbox", "keypoints")).table().splitlines()
    assert lines[0].split() == list(TWELVE)
    assert lines[1].startswith("bbox") and lines[2] == ""
    assert lines[3].split() == list(TEN)
    assert lines[4].startswith("keypoints ") and len(lines[4].split()) == 11


def test_other_numbers_of_keypoints_need_sigmas() -> None:
    content = people(joints=5)
    with pytest.raises(UserError, match=r"eval\.sigmas is not set, .* 17 keypoints, not 5"):
        evaluate_coco(content, guesses(content), ("keypoints",))
    with pytest.raises(UserError, match=r"eval\.sigmas has 4 numbers, but instances have 5"):
        evaluate_coco(content, guesses(content), ("keypoints",), sigmas=[0.1] * 4)
    found = evaluate_coco(content, ground_truth_results(content), ("keypoints",), sigmas=[0.1] * 5)
    assert found.get("keypoints/AP") == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(keypoints=[1.0] * 9), "1 broken keypoints.*has 3 keypoints, .* have 17"),
        (lambda r: r.update(keypoints=[]), "1 no keypoints.*result 3 .*no 'keypoints'"),
        (lambda r: r.update(keypoints=[float("nan")] * 51), "1 broken keypoints.*finite"),
    ],
)
def test_a_faulty_result_is_left_out_and_told(change: Any, message: str, backend: Any) -> None:
    content = people()
    results = guesses(content)
    wanted = evaluate_coco(content, results[:3] + results[4:], ("keypoints",), backend=backend)
    change(results[3])
    found = evaluate_coco(content, results, ("keypoints",), backend=backend)
    assert found.figures == wanted.figures
    assert re.search(message, found.notes[0])


def test_faulty_annotations_are_told() -> None:
    content = people()
    content["annotations"][1].update(keypoints=[1, 1, 1])
    found = evaluate_coco(content, guesses(people()), ("keypoints",))
    assert "1 faulty annotation left out (1 broken keypoints)" in found.notes[0]
    for annotation in content["annotations"]:
        annotation.pop("keypoints")
    with pytest.raises(DataError, match="no annotation has 'keypoints'"):
        evaluate_coco(content, guesses(people()), ("keypoints",))


def test_nothing_found_is_zero(backend: Any) -> None:
    found = evaluate_coco(people(), [], ("keypoints",), backend=backend)
    assert found.get("keypoints/AP") == 0 and found.get("keypoints/AR") == 0


def test_records_are_in_the_original_frame_and_name_pixels() -> None:
    info = ImageInfo(3, "a.png", 50, 100)
    points = torch.tensor([[[10.0, 20.0, 1.5], [41.0, 3.0, -2.0]]])
    found = Detections(
        torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([0.9]), torch.tensor([0]), keypoints=points
    )
    categories = Categories((7,), ("person",))
    (record,) = coco_results(info, found, (100, 200), categories)
    assert record["keypoints"] == [4.5, 9.5, 1.5, 20.0, 1.0, -2.0]
    (exact,) = coco_results(info, found, (100, 200), categories, keypoint_offset=0.0)
    assert exact["keypoints"] == [5.0, 10.0, 1.5, 20.5, 1.5, -2.0]
    back = of_records([record], 0.5)
    assert back is not None and back[0].tolist() == [[5.0, 10.0, 1.5], [20.5, 1.5, -2.0]]
    assert of_records([], 0.5) is None and of_records([{"score": 1.0}], 0.5) is None


def picture(points: list[list[float]], **options: Any) -> np.ndarray:
    """Where a black 60 x 60 image changes under one instance of these keypoints: bool."""
    drawn = draw_instances(
        np.zeros((60, 60, 3), dtype=np.uint8), np.array([[0, 0, 1, 1]]), None, [0], ["a"],
        keypoints=np.array([points]), show_boxes=False, show_labels=False, smallest=0, **options,
    )  # fmt: skip
    return drawn.any(2)


def test_bones_join_visible_keypoints_alone() -> None:
    points = [[10.5, 10.5, 1], [50.5, 10.5, 1], [10.5, 50.5, 0]]
    dots = picture(points)
    assert dots[10, 10] and dots[10, 50] and not dots[50, 10]
    assert not dots[10, 30]
    bones = picture(points, skeleton=[(0, 1), (0, 2)])
    assert bones[10, 12:48].all() and not bones[30, 10]
    rows, columns = np.nonzero(picture([[20.5, 30.5, 1]]))
    assert (rows.mean(), columns.mean()) == (30, 20)


def test_cocos_skeleton_is_known_and_unsure_keypoints_are_left_out() -> None:
    image = np.zeros((60, 60, 3), dtype=np.uint8)
    points = torch.full((1, 17, 3), -5.0)
    points[0, 5] = torch.tensor([10.5, 30.5, 6.0])  # the shoulders
    points[0, 6] = torch.tensor([50.5, 30.5, 6.0])
    points[0, 0] = torch.tensor([30.5, 5.5, 1.0])  # a nose of a low score
    boxes, label = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0])
    style: dict[str, Any] = {"show_boxes": False, "show_labels": False, "smallest": 0}
    found = Detections(boxes, torch.ones(1), label, keypoints=points)
    drawn = draw_detections(image, found, ["a"], **style).any(2)
    assert drawn[30, 10:51].all() and not drawn[:20].any()
    truth = Targets(boxes, label, None, label, points.clamp(min=0))
    assert draw_detections(image, truth, ["a"], **style).any(2)[5, 30]
