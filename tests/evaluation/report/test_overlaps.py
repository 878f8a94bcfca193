"""Detections and objects as columns, and their overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskrcnn.evaluation.report.overlaps import LEAST, Pairs, ranks
from tests.evaluation.random_cases import random_case
from tests.evaluation.report.cases import case_of, overlaps_of


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_pairs_are_all_overlaps_of_an_image(kind: Any) -> None:
    content, results = random_case(1)
    case, found = case_of(content, results, kind), overlaps_of(content, results, kind)
    seen = 0
    for d, g, iou in zip(found.pairs.found, found.pairs.wanted, found.pairs.iou, strict=True):
        record = results[found.result[d]]
        row = int(found.annotation[g])
        assert record["image_id"] == found.image_ids[found.object_image[g]]
        if kind == "bbox":
            sides: Any = np.array([record["bbox"]]), case.truth.boxes[[row]]
        else:
            code = {"size": record["segmentation"]["size"], "counts": case.truth.mask(row)}
            sides = [record["segmentation"]], [code]
        assert iou == coco_mask.iou(*sides, [int(found.crowd[g])])[0, 0] >= LEAST
        seen += 1
    assert seen > 100
    assert np.array_equal(np.lexsort((found.pairs.wanted, found.pairs.found)), np.arange(seen))


def test_detections_stand_by_image_and_falling_score() -> None:
    content, results = random_case(2)
    found = overlaps_of(content, results, "bbox")
    assert len(found.score) == len(results)
    key = list(zip(found.image, -found.score, found.result, strict=True))
    assert key == sorted(key)
    for d in range(len(found.score)):
        same = (found.image[:d] == found.image[d]) & (found.label[:d] == found.label[d])
        assert found.rank[d] == same.sum()
        record = results[found.result[d]]
        expected = {3: 0, 8: 1, 11: 2, 20: 3}.get(record["category_id"], -1)
        assert found.label[d] == expected


def test_leaving_out_detections_keeps_the_overlaps_of_the_others() -> None:
    content, results = random_case(2)
    found = overlaps_of(content, results, "bbox")
    which = np.arange(len(found.score)) % 3 != 0
    part = found.only(which)
    again = overlaps_of(content, [results[i] for i in sorted(found.result[which])], "bbox")
    assert np.array_equal(part.score, again.score)
    assert np.array_equal(part.rank, again.rank)
    for name in ("found", "wanted", "iou"):
        assert np.array_equal(getattr(part.pairs, name), getattr(again.pairs, name))


def test_the_best_pair_of_each_detection() -> None:
    pairs = Pairs(
        found=np.array([0, 0, 0, 2, 2]),
        wanted=np.array([0, 1, 2, 3, 4]),
        iou=np.array([0.2, 0.9, 0.9, 0.5, 0.4]),
    )
    assert pairs.best(4).tolist() == [1, -1, 3, -1]
    assert pairs.best(4, last=True).tolist() == [2, -1, 3, -1]


def test_ranks_count_those_before_of_the_same_image_and_class() -> None:
    image, label = np.array([0, 0, 0, 1, 1, 1]), np.array([1, 0, 1, 1, 1, -1])
    assert ranks(image, label).tolist() == [0, 0, 1, 0, 1, 0]
    assert ranks(image[:0], label[:0]).tolist() == []
