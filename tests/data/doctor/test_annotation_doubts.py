"""Doubts about single annotations: each kind in a data set that is spoilt in that way alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data.doctor import Doubt, annotation_doubts, find_doubts
from maskrcnn.data.doctor.annotation_doubts import polygon_areas
from maskrcnn.structures.masks import polygon_area
from tests.data.doctor.scenes import content, dataset, octagon

Spoil = Callable[[dict[str, Any]], None]


def doubts(tmp_path: Path, spoil: Spoil | None = None) -> list[Doubt]:
    source = content()
    if spoil is not None:
        spoil(source)
    data = dataset(tmp_path, source)
    return list(find_doubts(data, None))


def again(source: dict[str, Any]) -> None:
    source["annotations"].append(source["annotations"][3] | {"id": 1000})


def again_as_other_class(source: dict[str, Any]) -> None:
    source["annotations"].append(source["annotations"][3] | {"id": 1000, "category_id": 1})


def out_of_the_image(source: dict[str, Any]) -> None:
    source["annotations"][0]["segmentation"] = [octagon(2, 40, 14)]
    source["annotations"][0]["bbox"] = [0, 26, 16, 28]
    source["annotations"][0]["area"] = 300


def flat(source: dict[str, Any]) -> None:
    source["annotations"][5]["segmentation"].append([80.0, 40, 90, 50, 100, 60])


def too_large_area(source: dict[str, Any]) -> None:
    source["annotations"][2]["area"] = 5000


def no_area(source: dict[str, Any]) -> None:
    source["annotations"][2]["area"] = 0


def many_crowds(source: dict[str, Any]) -> None:
    for annotation in source["annotations"][:4]:
        annotation["iscrowd"] = 1


@pytest.mark.parametrize(
    ("spoil", "kind", "ids"),
    [
        (again, "annotation twice", (1000,)),
        (again_as_other_class, "object of two classes", (1000,)),
        (out_of_the_image, "mask over the edge", (10,)),
        (flat, "polygon without area", (31,)),
        (too_large_area, "area that cannot be", (20,)),
        (no_area, "area that cannot be", (20,)),
        (many_crowds, "many crowd regions", (10, 11, 20, 21)),
    ],
)
def test_each_kind_is_told_with_its_annotations(
    tmp_path: Path, spoil: Spoil, kind: str, ids: tuple[int, ...]
) -> None:
    (doubt,) = doubts(tmp_path, spoil)
    assert (doubt.kind, doubt.every, doubt.ids) == (kind, ids, ids)
    assert doubt.images == tuple(2 if i == 1000 else i // 10 for i in ids)
    assert doubt.count == len(ids) and doubt.cost and doubt.advice


def test_sound_data_raise_none(tmp_path: Path) -> None:
    assert doubts(tmp_path) == []


def test_three_of_a_kind_leave_two_to_remove(tmp_path: Path) -> None:
    def thrice(source: dict[str, Any]) -> None:
        first = source["annotations"][0]
        source["annotations"] += [first | {"id": 1000}, copy.deepcopy(first) | {"id": 1001}]

    (doubt,) = doubts(tmp_path, thrice)
    assert doubt.every == (1000, 1001)


def test_equal_boxes_of_other_masks_are_no_repetition(tmp_path: Path) -> None:
    def other_mask(source: dict[str, Any]) -> None:
        first = source["annotations"][0]
        x, y, w, h = first["bbox"]
        diamond = [x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h / 2]
        source["annotations"].append(first | {"id": 1000, "segmentation": [diamond], "area": w * h / 2})

    assert doubts(tmp_path, other_mask) == []


def test_more_annotations_than_names_are_all_listed(tmp_path: Path) -> None:
    def all_again(source: dict[str, Any]) -> None:
        source["annotations"] += [a | {"id": a["id"] + 1000} for a in source["annotations"]]

    (doubt,) = doubts(tmp_path, all_again)
    assert (len(doubt.ids), len(doubt.names), len(doubt.every), len(doubt.images)) == (5, 5, 12, 12)
    assert doubt.as_json()["every"] == doubt.every


def test_areas_are_those_of_single_polygons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_doubts, "_AT_ONCE", 5)
    source = content()
    source["annotations"][3]["segmentation"] = [octagon(1 / 3, 7, 5), octagon(60, 60, 9)]  # stored as floats
    data = dataset(tmp_path, source)
    polygons = [p for a in source["annotations"] for p in a["segmentation"]]
    expected = [polygon_area(np.reshape(p, (-1, 2))) for p in polygons]
    np.testing.assert_allclose(polygon_areas(data.index), expected, rtol=1e-9)
