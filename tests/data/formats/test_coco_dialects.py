"""COCO jsons of CVAT, Label Studio, Roboflow and labelme2coco: what each does otherwise is read as meant."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data.formats import coco_dialects
from maskrcnn.errors import DataError, UserError
from maskrcnn.structures import rle
from tests.data.formats.labels import SIZE, datasets, imported, objects, picture, ring

SQUARE = [5.0, 5, 20, 5, 20, 20, 5, 20]


def content(
    names: list[str], classes: list[str], *, first_class: int = 1, **annotation: Any
) -> dict[str, Any]:
    """A json of these images, with a square of each class in each."""
    images: list[dict[str, Any]] = [
        {"id": k, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for k, name in enumerate(names, start=1)
    ]
    categories: list[dict[str, Any]] = [
        {"id": i, "name": name} for i, name in enumerate(classes, start=first_class)
    ]
    square = {"segmentation": [SQUARE], "bbox": [5, 5, 15, 15], "area": 225, "iscrowd": 0, **annotation}
    pairs = [(image["id"], category["id"]) for image in images for category in categories]
    annotations = [
        {"id": k, "image_id": image, "category_id": category, **copy.deepcopy(square)}
        for k, (image, category) in enumerate(pairs, start=1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(path: Path, made: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made))
    return path


def notes(found: Any) -> str:
    return "\n".join(found.notes)


def test_cvat_flags_brush_masks_as_crowds(tmp_path: Path) -> None:
    """cvat-ai/cvat, issue 7030; a class of one's own attribute is_crowd is believed."""
    picture(tmp_path / "cvat" / "images" / "default" / "a.png")
    code = rle.encode(ring())
    plain = {"size": list(SIZE), "counts": rle.runs(code["counts"]).tolist()}
    made = content(["a.png"], ["cell", "dirt"], attributes={"occluded": False}, segmentation=plain, iscrowd=1)
    made["annotations"][1]["attributes"]["is_crowd"] = True
    write(tmp_path / "cvat" / "annotations" / "instances_default.json", made)
    found = imported(tmp_path / "cvat", tmp_path / "mine")
    assert "1 crowd flag that CVAT gives to every brush mask" in notes(found)
    ((_, (cell, dirt)),) = objects(datasets(tmp_path / "mine")["train"]).items()
    assert cell[:2] == ("cell", False) and dirt[:2] == ("dirt", True)
    assert np.array_equal(cell[2], ring())
    imported(tmp_path / "cvat", tmp_path / "kept", keep_crowds=True)
    assert all(o[1] for o in objects(datasets(tmp_path / "kept")["train"])["a.png"])


def test_a_crowd_of_cocos_own_stays_one(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    made = content(["a.png"], ["cell"], iscrowd=1)
    write(tmp_path / "x.json", made)
    found = imported(tmp_path / "x.json", tmp_path / "mine")
    assert objects(datasets(tmp_path / "mine")["train"])["a.png"][0][1]
    assert "1 object is a crowd region (iscrowd: 1), which never train" in found.notes


def test_roboflow_has_a_folder_a_split_and_a_class_that_groups(tmp_path: Path) -> None:
    for split, names in (("train", ["a.png", "b.png"]), ("valid", ["a.png"]), ("test", ["c.png"])):
        made = content(names, ["bolt", "nut"])
        made["categories"].insert(0, {"id": 0, "name": "parts", "supercategory": "none"})
        for record in made["categories"][1:]:
            record["supercategory"] = "parts"
        write(tmp_path / "rf" / split / "_annotations.coco.json", made)
        for name in names:
            picture(tmp_path / "rf" / split / name)
    found = imported(tmp_path / "rf", tmp_path / "mine")
    assert found.images == {"test": 1, "train": 2, "val": 1}
    assert "groups others" in notes(found) and "test.json is written, too" in notes(found)
    built = datasets(tmp_path / "mine")
    assert built["train"].categories.names == ("bolt", "nut") and built["train"].categories.ids == (1, 2)
    assert built["val"].images == tmp_path / "rf" / "valid"  # a.png of train is another picture
    assert built["train"].images == tmp_path / "rf" / "train"


@pytest.mark.parametrize(
    "name",
    [
        "images/3f2b1c0a-a.png",
        "/data/upload/1/3f2b1c0a-a.png",
        "/data/local-files/?d=shots/a.png",
        "shots\\a.png",
        "http://localhost:8080/data/upload/3f2b1c0a-a.png",
    ],
)
def test_label_studio_names_images_as_its_server_does(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "shots" / "a.png")
    made = content([name], ["x", "y"], first_class=0)
    del made["images"][0]["width"]
    made["images"][0]["height"] = None
    write(tmp_path / "export" / "result.json", made)
    found = imported(tmp_path / "export" / "result.json", tmp_path / "mine", tmp_path / "shots")
    built = datasets(tmp_path / "mine")["train"]
    assert built.path(0) == tmp_path / "shots" / "a.png" and "image size taken from the file" in notes(found)
    assert built.categories.ids == (0, 1) and len(built.ground_truth()) == 2


def test_labelme2coco_lists_classes_that_are_none(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages" / "a.png")
    made = content([str(Path("JPEGImages") / "a.png")], ["_background_", "cat"], first_class=0)
    made["annotations"] = made["annotations"][1:]
    write(tmp_path / "annotations.json", made)
    imported(tmp_path, tmp_path / "mine")
    assert datasets(tmp_path / "mine")["train"].categories.names == ("cat",)


def test_an_absolute_name_below_the_folder_is_followed_and_one_outside_is_not(tmp_path: Path) -> None:
    secret = picture(tmp_path / "secret" / "s.png")
    inside = picture(tmp_path / "set" / "a.png")
    names = [str(inside), str(secret), "../secret/s.png"]
    file = write(tmp_path / "set" / "x.json", content(names, ["cat"]))
    found = imported(file, tmp_path / "mine")
    assert found.images == {"train": 1} and "2 image outside the folder" in notes(found)
    assert "1 faulty" not in notes(found) and "--allow-outside" in notes(found)
    assert imported(file, tmp_path / "all", allow_outside=True).images == {"train": 3}
    found = imported(file, tmp_path / "named", secret.parent)
    assert found.images["train"] >= 2  # found by its name in the folder that is named


def test_an_image_of_the_same_last_name_is_taken_once_alone(tmp_path: Path) -> None:
    picture(tmp_path / "seq2" / "101.png")
    file = write(tmp_path / "x.json", content(["seq1/101.png", "seq2/101.png", "seq3/101.png"], ["cat"]))
    found = imported(file, tmp_path / "mine")
    assert found.images["train"] <= 2
    assert "none is called seq3/101.png" in notes(found)
    assert datasets(tmp_path / "mine")["train"]


def test_hash_ids_and_repeated_ids_are_numbered_anew(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    made = content(["a.png", "b.png"], ["cat"])
    for record, key in zip(made["images"], (2**64 - 1, "3f2b1c0a"), strict=True):
        record["id"] = key
    for record, key in zip(made["annotations"], (2**64 - 1, "3f2b1c0a"), strict=True):
        record["image_id"], record["id"] = key, 7
    file = write(tmp_path / "x.json", made)
    found = imported(file, tmp_path / "mine")
    assert "numbered anew" in notes(found)
    built = datasets(tmp_path / "mine")["train"]
    assert sorted(built.ground_truth().annotation_ids.tolist()) == [7, 8] and len(built) == 2


def test_other_keys_are_carried_over(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    made = content(["a.png"], ["cat"], attributes={"sure": True}, keypoints=[1, 2, 2])
    made["images"][0]["patient"] = "p1"
    made["categories"][0] |= {"supercategory": "animal", "keypoints": ["nose"], "skeleton": []}
    imported(write(tmp_path / "x.json", made), tmp_path / "mine")
    after = json.loads((tmp_path / "mine" / "train.json").read_text())
    assert after["images"][0]["patient"] == "p1"
    assert after["annotations"][0]["attributes"] == {"sure": True}
    assert after["annotations"][0]["keypoints"] == [1, 2, 2]
    assert after["categories"] == made["categories"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]), "1 broken polygon"),
        (lambda c: c["annotations"][0].update(category_id=9), "1 unknown category"),
        (lambda c: c["annotations"][0].update(image_id=9), "1 unknown image"),
        (lambda c: c["annotations"].__setitem__(0, 5), "1 no record"),
        (lambda c: c["images"].__setitem__(0, 5), "1 no image record"),
        (lambda c: c["images"][0].update(file_name="no.png"), "1 missing image"),
        (lambda c: c["annotations"][0].update(segmentation=[], bbox=[1, 1, 5, 5]), "1 box without a mask"),
    ],
)
def test_bad_records_are_named_counted_and_left_out(tmp_path: Path, change: Any, words: str) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    made = content(["a.png", "b.png"], ["cat"])
    change(made)
    found = imported(write(tmp_path / "x.json", made), tmp_path / "mine")
    assert words in notes(found)
    assert len(datasets(tmp_path / "mine")["train"].ground_truth()) == 1


def test_boxes_are_taken_for_masks_where_that_is_asked_for(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    made = content(["a.png"], ["cat", "dog"])
    made["annotations"][0] |= {"segmentation": [], "bbox": [1, 1, 5, 6]}
    imported(write(tmp_path / "x.json", made), tmp_path / "mine", boxes_as_masks=True)
    first, _ = objects(datasets(tmp_path / "mine")["train"])["a.png"]
    assert first[2].sum() == 30 and first[2][1:7, 1:6].all()


def test_several_jsons_of_a_split_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    write(tmp_path / "one.json", content(["a.png"], ["cat"]))
    write(tmp_path / "two.json", content(["a.png"], ["cat"]))
    with pytest.raises(
        DataError, match=r"2 jsons could be those of train \(one\.json, two\.json\); name one"
    ):
        imported(tmp_path, tmp_path / "mine")
    imported(tmp_path / "one.json", tmp_path / "mine")
    (tmp_path / "two.json").rename(tmp_path / "val.json")
    write(tmp_path / "val.json", content(["a.png"], ["dog"]))
    (tmp_path / "mine" / "train.json").unlink()
    with pytest.raises(DataError, match=r"val\.json: its categories are not those of the other jsons"):
        imported(tmp_path, tmp_path / "other")


def test_coco_2017_takes_the_instances_among_its_jsons(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        picture(tmp_path / "coco" / split / "a.png")
        for kind in ("instances", "person_keypoints"):
            write(tmp_path / "coco" / "annotations" / f"{kind}_{split}.json", content(["a.png"], ["cat"]))
        captions = {"images": [], "annotations": []}
        write(tmp_path / "coco" / "annotations" / f"captions_{split}.json", captions)
    imported(tmp_path / "coco", tmp_path / "mine")
    built = datasets(tmp_path / "mine")
    assert built["val"].images == tmp_path / "coco" / "val2017"


def test_a_json_of_something_else_is_none(tmp_path: Path) -> None:
    write(tmp_path / "x.json", {"images": [], "annotations": []})
    assert not coco_dialects.looks_like_coco(tmp_path / "x.json")
    assert not coco_dialects.looks_like_coco(tmp_path / "nowhere.json")
    with pytest.raises(
        UserError, match="nothing in it is of a format that is known; looked for coco: COCO jsons"
    ):
        imported(tmp_path / "x.json", tmp_path / "mine")
