"""Detections become COCO records in the original frame; records survive files and merging."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from maskrcnn.errors import DataError
from maskrcnn.inference.records import (
    coco_results,
    ground_truth_results,
    in_image,
    load_results,
    merge_results,
    save_results,
)
from maskrcnn.structures import Detections, ImageInfo
from maskrcnn.structures.rle import decode


@dataclass(frozen=True)
class Ids:
    ids: tuple[int, ...] = (3, 7, 90)


INFO = ImageInfo(image_id=42, file_name="a.png", height=100, width=200)


def test_records_are_in_the_original_frame_with_the_files_category_ids() -> None:
    found = Detections(
        boxes=torch.tensor([[10.0, 20.0, 30.0, 40.0], [300.0, 150.0, 400.0, 200.0]]),
        scores=torch.tensor([0.75, 0.5]),
        labels=torch.tensor([2, 0]),
        mask_probs=torch.stack([torch.full((4, 4), 0.9), torch.full((4, 4), 0.1)]),
    )
    first, second = coco_results(INFO, found, (200, 400), Ids())
    assert (first["image_id"], first["category_id"], first["score"]) == (42, 90, 0.75)
    assert first["bbox"] == [5.0, 10.0, 10.0, 10.0]
    assert second["category_id"] == 3
    assert second["bbox"] == [150.0, 75.0, 50.0, 25.0]
    mask = decode(first["segmentation"])
    assert mask.shape == (100, 200)
    assert mask[10:20, 5:15].sum() == mask.sum() > 50
    assert decode(second["segmentation"]).sum() == 0
    assert json.loads(json.dumps(first)) == first


def test_numbers_of_further_heads_are_in_the_records() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 40], [500, 10, 600, 40], [50, 60, 90, 80]])  # one outside
    extras = {"tilt": torch.tensor([0.25, 7.0, float("nan")]), "corners": torch.zeros(3, 2)}
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64), extras=extras)
    records = coco_results(INFO, found, (100, 200), Ids())
    assert [record["tilt"] for record in records] == [0.25, None]
    assert all(record.keys() == {"image_id", "category_id", "bbox", "score", "tilt"} for record in records)
    named = Detections(boxes, found.scores, found.labels, extras={"score": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"called as keys of a record: \['score'\]"):
        coco_results(INFO, named, (100, 200), Ids())


def test_detections_that_clipping_leaves_empty_are_dropped_as_detectron2_does() -> None:
    """Its detector_postprocess scales, clips, and keeps what has both sides above 0."""
    boxes = torch.tensor(
        [
            [20.0, 40.0, 60.0, 80.0],
            [-30.0, 10.0, 0.0, 40.0],  # left of the image
            [400.0, 10.0, 430.0, 40.0],  # right of it
            [20.0, 250.0, 60.0, 300.0],  # below
            [390.0, 190.0, 500.0, 300.0],  # a corner lies inside
            [50.0, 50.0, 50.0, 80.0],  # no width from the start
        ]
    )
    count = len(boxes)
    found = Detections(
        boxes,
        torch.linspace(0.9, 0.4, count),
        torch.arange(count) % 3,
        torch.full((count, 4, 4), 0.9),
        torch.arange(count * 6.0).view(count, 2, 3),
    )
    records = coco_results(INFO, found, (200, 400), Ids())
    kept = [0, 4]
    assert [r["score"] for r in records] == found.scores[kept].tolist()
    assert [r["category_id"] for r in records] == [3, 7]
    assert [r["bbox"] for r in records] == [[10, 20, 20, 20], [195, 95, 5, 5]]
    assert all(decode(r["segmentation"]).any() for r in records)
    wanted = found.keypoints[kept] * torch.tensor([0.5, 0.5, 1]) - torch.tensor([0.5, 0.5, 0])
    assert [r["keypoints"] for r in records] == wanted.flatten(1).tolist()
    inside = in_image(found, (200, 400), (100, 200))
    assert inside.scores.equal(found.scores[kept])
    assert inside.boxes.equal(found.boxes[kept] / 2)
    assert coco_results(INFO, found.select(torch.tensor([1, 2])), (200, 400), Ids()) == []


def test_the_way_of_pasting_is_passed_on() -> None:
    found = Detections(
        torch.tensor([[10.3, 20.3, 31.6, 44.4]]),
        torch.ones(1),
        torch.zeros(1, dtype=torch.int64),
        torch.full((1, 28, 28), 0.9),
    )
    ours, theirs = (
        coco_results(INFO, found, (100, 200), Ids(), paste)[0]["segmentation"]
        for paste in ("aligned", "torchvision")
    )
    assert ours != theirs


def test_boxes_are_written_inside_the_image_and_without_masks_where_there_are_none() -> None:
    found = Detections(torch.tensor([[-3.0, 50.0, 60.0, 130.0]]), torch.ones(1), torch.zeros(1).long())
    (record,) = coco_results(INFO, found, (100, 200), Ids())
    assert record["bbox"] == [0.0, 50.0, 60.0, 50.0]
    assert "segmentation" not in record


def test_no_detections_no_records() -> None:
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), torch.zeros(0, 28, 28))
    assert coco_results(INFO, none, (100, 200), Ids()) == []


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    records = [{"image_id": 1, "category_id": 2, "bbox": [0.1, 0.2, 3.3, 4.4], "score": 1 / 3}]
    path = tmp_path / "deep" / "results.json"
    save_results(path, records)
    assert load_results(path) == records
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"a": 1}', "list of records"),
        ("3", "not a number"),
        ("[{", "results.json:1:3: the json is broken"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_file_is_told(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(DataError, match=match) as caught:
        load_results(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent.json: there is no such file"):
        load_results(tmp_path / "absent.json")


def test_merging_drops_the_images_that_a_padded_sampler_repeats() -> None:
    def record(image: int, score: float) -> dict[str, float]:
        return {"image_id": image, "score": score}

    ranks = [[record(5, 0.9), record(5, 0.8), record(1, 0.7)], [], [record(3, 0.6), record(5, 0.1)]]
    merged = merge_results(ranks)
    assert merged == [record(1, 0.7), record(3, 0.6), record(5, 0.9), record(5, 0.8)]
    whole = [[r for rank in ([ranks[0], [record(3, 0.6)]]) for r in rank]]
    assert merge_results(whole) == merged
    assert merge_results([]) == []


def test_ground_truth_as_results_leaves_out_crowds_and_other_images() -> None:
    dataset = {
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 5, 5], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 1},
            {"id": 3, "image_id": 2, "category_id": 2, "bbox": [0, 0, 7, 7]},
        ]
    }
    assert [r["bbox"][2] for r in ground_truth_results(dataset)] == [5, 7]
    assert [r["bbox"][2] for r in ground_truth_results(dataset, [2])] == [7]
