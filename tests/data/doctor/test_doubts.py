"""Doubts about classes: told where they are due, and the advice ends them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskrcnn.data import CocoDataset
from maskrcnn.data.doctor import Doubt
from maskrcnn.data.doctor.doubts import class_doubts, trained_classes
from maskrcnn.errors import DataError
from tests.data.files import coco, write_coco


def sound(images: int = 4) -> dict[str, Any]:
    """:func:`coco` without the class that has no annotation."""
    content = coco(images)
    content["categories"] = [c for c in content["categories"] if c["id"] != 1]
    return content


def doubts(tmp_path: Path, content: dict[str, Any], **options: Any) -> list[Doubt]:
    return class_doubts(CocoDataset(*write_coco(tmp_path, content)).index, **{"training": True, **options})


def test_sound_classes_raise_no_doubt(tmp_path: Path) -> None:
    for training in (True, False):
        assert doubts(tmp_path, sound(), training=training) == []


def test_a_class_without_annotations_is_named_and_can_be_removed(tmp_path: Path) -> None:
    (doubt,) = doubts(tmp_path, coco())
    assert (doubt.kind, doubt.count, doubt.total, doubt.ids) == ("class without annotations", 1, 3, (1,))
    assert "classes without any annotation: 1 of 3 classes ('person'); they cannot be learned" in str(doubt)


def test_many_classes_without_annotations_give_one_short_line(tmp_path: Path) -> None:
    content = sound()
    content["categories"] += [{"id": 1000 + k, "name": f"{k} " + 500 * "x"} for k in range(78)]
    (doubt,) = doubts(tmp_path, content)
    assert (doubt.count, doubt.total, len(doubt.ids), len(doubt.names)) == (78, 80, 5, 5)
    assert "\n" not in str(doubt)
    assert len(str(doubt)) < 800
    assert ", ...)" in str(doubt)


def test_a_class_that_is_all_crowd_is_told_with_the_number_of_crowds(tmp_path: Path) -> None:
    content = sound()
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation["category_id"] == 90)
    (doubt,) = doubts(tmp_path, content)
    assert (doubt.kind, doubt.ids) == ("class all crowd", (90,))
    assert "1 of 2 classes ('toothbrush': 4); they never train; of 8 annotations 4 are" in str(doubt)
    assert "never judged" in str(doubts(tmp_path, content, training=False)[0])
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 0
    assert doubts(tmp_path, content) == []


def test_a_val_without_any_annotation_is_told(tmp_path: Path) -> None:
    (doubt,) = doubts(tmp_path, {**sound(), "annotations": []}, training=False, known=[0, 1])
    assert (doubt.kind, doubt.count, doubt.total) == ("nothing to judge", 4, 4)
    assert "no figure can be computed" in str(doubt)
    assert doubts(tmp_path, sound(), training=False, known=[0, 1]) == []


@pytest.mark.parametrize("filter_empty", [True, False])
def test_nothing_but_crowds_cannot_be_trained_on(tmp_path: Path, filter_empty: bool) -> None:
    content = sound()
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    paths = write_coco(tmp_path, content)
    with pytest.raises(DataError, match=r"of 8 annotations all are crowd regions.*set iscrowd to 0"):
        CocoDataset(*paths, training=True, filter_empty=filter_empty)
    assert len(CocoDataset(*paths)) == 4  # an evaluation without objects is no mistake
    content["annotations"][0]["iscrowd"] = 0
    assert len(CocoDataset(*write_coco(tmp_path, content), training=True)) == 1


def test_an_exporters_root_class_is_named_and_can_be_removed(tmp_path: Path) -> None:
    content = sound()
    for category in content["categories"]:
        category["supercategory"] = "things"
    root = {"id": 0, "name": "things", "supercategory": "none"}
    (doubt,) = doubts(tmp_path, {**content, "categories": [root, *content["categories"]]})
    assert (doubt.kind, doubt.ids, doubt.names) == ("root class", (0,), ("'things'",))
    assert "remove its record from 'categories'" in str(doubt)
    assert doubts(tmp_path, content) == []
    # One that has annotations is a class like any other.
    content["categories"].append({"id": 3, "name": "things"})
    content["annotations"][0]["category_id"] = 3
    assert doubts(tmp_path, content) == []


def test_classes_of_one_name_are_told(tmp_path: Path) -> None:
    content = sound()
    content["categories"] = [{"id": 90, "name": "Fire  Truck "}, {"id": 7, "name": "fire truck"}]
    (doubt,) = doubts(tmp_path, content)
    assert (doubt.kind, doubt.count, doubt.ids) == ("classes of one name", 2, (7, 90))
    assert "'fire truck' (id 7) = 'Fire  Truck ' (id 90)" in str(doubt)
    for annotation in content["annotations"]:
        annotation["category_id"] = 7
    content["categories"] = content["categories"][1:]
    assert doubts(tmp_path, content) == []


def test_what_was_told_of_the_training_set_is_not_told_again_of_val(tmp_path: Path) -> None:
    train = CocoDataset(*write_coco(tmp_path / "train", coco()))
    known = trained_classes(train.index)
    assert known == [1, 2]
    assert doubts(tmp_path, coco(), training=False, known=known) == []
    lacks = coco()
    lacks["annotations"] = [a for a in lacks["annotations"] if a["category_id"] != 7]
    (doubt,) = doubts(tmp_path, lacks, training=False, known=known)
    assert (doubt.kind, doubt.ids) == ("class without annotations", (7,))
    assert "nothing says how well" in str(doubt)


def test_images_that_are_not_used_count_for_nothing(tmp_path: Path) -> None:
    content = sound()
    content["annotations"] = content["annotations"][:1] + content["annotations"][3:]
    assert doubts(tmp_path, content) == []
    (doubt,) = doubts(tmp_path, content, most_images=1)
    assert doubt.ids == (7,)
    assert doubts(tmp_path, {**content, "annotations": []}) == []  # background alone is a choice
