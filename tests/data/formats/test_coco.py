"""Reading COCO files: what is right comes through exactly, what is wrong is named.

Covers ``maskrcnn/data/formats/checks.py`` and ``maskrcnn/data/formats/coco_json.py``.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from maskrcnn.data import Categories, CocoConfig, CocoDataset
from maskrcnn.errors import ConfigError, DataError
from maskrcnn.structures.rle import encode
from tests.data.files import SIZE, changed, coco, square, with_exif, write_coco


def test_category_ids_with_gaps_map_both_ways(tmp_path: Path) -> None:
    dataset = CocoDataset(*write_coco(tmp_path))
    categories = dataset.categories
    assert categories == Categories((1, 7, 90), ("person", "train", "toothbrush"))
    assert [categories.ids[categories.index_of(i)] for i in (1, 7, 90)] == [1, 7, 90]
    assert dataset.load(0).targets.labels.tolist() == [2, 1]
    with pytest.raises(DataError, match="unknown category id 8; known: 1, 7, 90"):
        categories.index_of(8)


def test_a_sample_has_everything(tmp_path: Path) -> None:
    dataset = CocoDataset(*write_coco(tmp_path))
    sample = dataset.load(2)
    assert (sample.info.image_id, sample.info.file_name) == (30, "2.png")
    assert (sample.info.height, sample.info.width) == sample.size == SIZE
    assert sample.image[0, 0].tolist() == [0, 0, 255]  # RGB
    assert sample.image[1, 1].tolist() == [20, 20, 20]
    targets = sample.targets
    assert targets.boxes.dtype == torch.float32
    assert targets.boxes.tolist() == [[5, 4, 25, 24], [30, 4, 50, 24]]
    assert targets.labels.dtype == torch.int64
    assert targets.annotation_ids.tolist() == [300, 301]
    assert targets.masks is not None
    assert torch.equal(targets.masks.boxes(), targets.boxes)
    tensor = sample.to_sample().image
    assert tensor.shape == (3, *SIZE)
    assert tensor.dtype == torch.uint8
    assert tensor[:, 0, 0].tolist() == [0, 0, 255]


def test_images_come_by_rising_id_and_annotations_find_them(tmp_path: Path) -> None:
    content = coco()
    content["images"].reverse()
    content["annotations"] = content["annotations"][::-3]
    dataset = CocoDataset(*write_coco(tmp_path, content))
    assert dataset.image_ids.tolist() == [10, 20, 30, 40]
    for i in range(4):
        ids = dataset.load(i).targets.annotation_ids.tolist()
        assert ids == [a["id"] for a in content["annotations"] if a["image_id"] == 10 * (i + 1)]


def test_polygons_and_rles_of_one_image(tmp_path: Path) -> None:
    content = coco(1)
    odd = [3.123456789, 2.5, 20.1, 3.000001, 11, 30.7]  # hundredths do not hold these
    bitmap = np.zeros(SIZE, dtype=np.uint8)
    bitmap[10:20, 30:45] = 1
    flat = bitmap.reshape(-1, order="F")
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    uncompressed = {"size": list(SIZE), "counts": np.diff(edges).tolist()}
    for k, segmentation in enumerate(([odd], uncompressed, [square(1.25, 2.01, 7), square(20, 20, 5.5)])):
        content["annotations"].append(
            {
                "id": k,
                "image_id": 10,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [1, 1, 30, 30],
                "segmentation": segmentation,
            }
        )
    paths = write_coco(tmp_path, content)
    dataset = CocoDataset(*paths)
    targets = dataset.load(0).targets
    assert targets.masks is not None
    reference = COCO(str(paths[1]))
    for annotation_id, mask in zip(targets.annotation_ids.tolist(), targets.masks.to_bitmaps(), strict=True):
        assert (mask.numpy() == reference.annToMask(reference.anns[annotation_id])).all()
    assert targets.masks.polygons(2)[0].reshape(-1).tolist() == odd  # to the last bit
    assert len(targets.masks.polygons(4)) == 2
    assert len(targets.masks.polygons(3)) == 0


def test_crowds_never_train_and_empty_images_are_kept_for_evaluation(tmp_path: Path) -> None:
    content = coco(3)
    crowd = {"size": list(SIZE), "counts": [100, 50, SIZE[0] * SIZE[1] - 150]}
    for a in content["annotations"][:2]:
        a.update(iscrowd=1, segmentation=crowd)
    content["annotations"] = content["annotations"][:4]  # the first image all crowd, the last without any
    paths = write_coco(tmp_path, content)
    training = CocoDataset(*paths, training=True)
    assert training.image_ids.tolist() == [20]
    assert CocoDataset(*paths, training=True, filter_empty=False).image_ids.tolist() == [10, 20, 30]
    evaluation = CocoDataset(*paths)
    assert evaluation.image_ids.tolist() == [10, 20, 30]
    assert evaluation.sizes.tolist() == [list(SIZE)] * 3
    for i in (0, 2):
        targets = evaluation.load(i).targets
        assert targets.boxes.shape == (0, 4)
        assert targets.masks is not None
        assert len(targets.masks) == 0
    assert len(evaluation.report) == 0  # a crowd is no fault


def test_overhang_of_a_pixel_is_clipped_in_silence(tmp_path: Path) -> None:
    content = changed(["annotations", 0, "bbox"], [-1, -0.5, SIZE[1] + 2, 10])
    dataset = CocoDataset(*write_coco(tmp_path, content))
    assert dataset.load(0).targets.boxes[0].tolist() == [0, 0, SIZE[1], 9.5]
    assert len(dataset.report) == 0


FAULTS: dict[str, tuple[list[Any], Any, str, str]] = {
    "two points": (["segmentation"], [[1, 2, 3, 4]], "polygon of fewer than 3 points", "only 2 points"),
    "far away": (["segmentation"], [[0, 0, 1e9, 0, 1e9, 1e9]], "polygon outside the image", r"x = 1e\+09"),
    "far above": (["segmentation"], [[0, -1e7, 5, 0, 5, 5]], "polygon outside the image", r"y = -1e\+07"),
    "odd": (["segmentation"], [[1, 2, 3, 4, 5, 6, 7]], "broken polygon", "has 7 numbers"),
    "text in a polygon": (["segmentation"], [[1, 2, "3", 4, 5, 6]], "wrong type", "not a list of finite"),
    "endless": (
        ["segmentation"],
        [[0, 0, 60, 40] * 40_000],
        "endless polygon",
        "outline is 4.8e\\+06 px long",
    ),
    "nan": (["segmentation"], [[1, 2, float("nan"), 4, 5, 6]], "wrong type", "not a list of finite numbers"),
    "beyond floats": (["segmentation"], [[1, 2, 10**400, 4, 5, 6]], "wrong type", "not a list of finite"),
    "no segmentation": (["segmentation"], ..., "no mask", "masks: false on it, and model.mask_head: null"),
    "empty segmentation": (["segmentation"], [], "no mask", "no 'segmentation'"),
    "empty polygons": (
        ["segmentation"],
        [[], []],
        "no mask",
        "masks: false on it, and model.mask_head: null",
    ),
    "empty object": (["segmentation"], {}, "no mask", "no 'segmentation'"),
    "two rles": (["segmentation"], [{"size": [40, 60], "counts": [2400]}] * 2, "wrong type", "not a list of"),
    "two pairs": (["segmentation"], [[1, 2], [3, 4]], "polygon of fewer than 3 points", "only 1 point"),
    "segmentation a text": (["segmentation"], "x", "wrong type", "is a text"),
    "rle of exchanged size": (
        ["segmentation"],
        {"size": [60, 40], "counts": [2400]},
        "broken RLE",
        r"\[60, 40\].*exchanged, write \[height, width\]",
    ),
    "rle of another size": (["segmentation"], {"size": [6, 4], "counts": [24]}, "broken RLE", r"\[6, 4\]"),
    "rle too short": (["segmentation"], {"size": [40, 60], "counts": [24]}, "broken RLE", "covers 24 pixels"),
    "rle of halves": (["segmentation"], {"size": [40, 60], "counts": [0.5] * 4800}, "broken RLE", "integers"),
    "damaged rle": (["segmentation"], {"size": [40, 60], "counts": "1k"}, "broken RLE", "cut short"),
    "rle number": (["segmentation"], {"size": [40, 60], "counts": "o" * 12 + "0"}, "broken RLE", "too large"),
    "unknown category": (["category_id"], 8, "unknown category", "no category with the id 8"),
    "unknown image": (["image_id"], 15, "unknown image", "no image with the id 15"),
    "image id a word": (["image_id"], "ten", "wrong type", "'image_id' is the text 'ten', not an integer"),
    "image id of 2^63": (["image_id"], 2**63, "wrong type", r"ids must lie below 2\^63"),
    "no category": (["category_id"], ..., "missing key", "no 'category_id'"),
    "iscrowd": (["iscrowd"], 2, "wrong type", "'iscrowd' is 2"),
}
BOX_FAULTS: dict[str, tuple[Any, str, str]] = {
    "in the margin alone": ([60, 4, 1, 20], "box outside the image", "nothing of its box"),
    "far outside": ([-50, 4, 20, 20], "box outside the image", r"\[-50, 4, 20, 20\] lies in the 60x40"),
    "a trillionth": ([5, 4, 1e-9, 1e-9], "zero-area box", "is too small to have an area in float32"),
    "no width": ([5, 4, 0, 20], "zero-area box", "no area"),
    "negative height": ([5, 4, 3, -2], "zero-area box", "no area"),
    "infinite": ([5, 4, float("inf"), 2], "wrong type", "not finite"),
    "beyond floats": ([5, 4, 10**400, 2], "wrong type", "not finite"),
    "three numbers": ([5, 4, 3], "wrong type", "not four numbers"),
    "no box": (..., "no box", "no 'bbox'"),
}


@pytest.mark.parametrize("name", BOX_FAULTS)
def test_an_unusable_box_is_taken_from_the_mask_and_without_masks_is_a_fault(
    tmp_path: Path, name: str
) -> None:
    value, kind, sentence = BOX_FAULTS[name]
    paths = write_coco(tmp_path, changed(["annotations", 1, "bbox"], value))
    dataset = CocoDataset(*paths)
    assert dataset.load(0).targets.boxes[1].tolist() == [30, 4, 50, 24]
    assert dataset.ground_truth().boxes[1].tolist() == [30, 4, 20, 20]
    assert dict(dataset.report.mended) == {f"box taken from the mask ({kind})": 1}
    assert len(dataset.report) == 0
    content = changed(["annotations", 1, "bbox"], value)
    del content["annotations"][1]["segmentation"]
    boxes = CocoDataset(*write_coco(tmp_path, content), masks=False)
    assert boxes.load(0).targets.annotation_ids.tolist() == [100]
    assert len(boxes.ground_truth()) == 7
    assert dict(boxes.report.annotations) == {kind: 1}
    assert re.search(sentence, boxes.report.named[0])


def test_a_missing_box_is_taken_from_the_mask_though_no_masks_are_wanted(tmp_path: Path) -> None:
    dataset = CocoDataset(*write_coco(tmp_path, changed(["annotations", 1, "bbox"], ...)), masks=False)
    assert dataset.load(0).targets.boxes[1].tolist() == [30, 4, 50, 24]


BYTES = "b'" + encode(np.eye(*SIZE, dtype=np.uint8))["counts"].decode().replace("\\", "\\\\") + "'"
MENDED: dict[str, tuple[list[Any], Any, str]] = {
    "image id as text": (["image_id"], "10", "image_id given as text"),
    "category id as text": (["category_id"], " 7 ", "category_id given as text"),
    "iscrowd null": (["iscrowd"], None, "iscrowd null or text"),
    "iscrowd as text": (["iscrowd"], "0", "iscrowd null or text"),
    "over the edge": (["bbox"], [30, 4, 100, 20], "box over the image's edge clipped"),
    "repeated id": (["id"], 100, "annotation ids missing or repeated, numbered anew"),
    "no id": (["id"], ..., "annotation ids missing or repeated, numbered anew"),
    "an id of 2^70": (["id"], 2**70, "annotation ids missing or repeated, numbered anew"),
    "flat polygon": (["segmentation"], square(30, 4, 20), "polygon without its own brackets"),
    "iscrowd as a word": (["iscrowd"], " False", "iscrowd null or text"),
    "area as text": (["area"], "400", "area that is no number >= 0, taken from the mask"),
    "area below 0": (["area"], -400, "area that is no number >= 0, taken from the mask"),
    "polygon of pairs": (
        ["segmentation"],
        np.reshape(square(30, 4, 20), (-1, 2)).tolist(),
        "polygon of points in brackets",
    ),
    "polygons of pairs": (
        ["segmentation"],
        [np.reshape(square(30, 4, 20), (-1, 2)).tolist()],
        "polygon of points in brackets",
    ),
    "rle in a list": (
        ["segmentation"],
        [{"size": list(SIZE), "counts": [1200.0, 1200.0]}],
        "RLE in brackets of its own",
    ),
    "one good, one empty polygon": (
        ["segmentation"],
        [[], square(30, 4, 20)],
        "stray part of a mask left out",
    ),
    "one good, one bad polygon": (
        ["segmentation"],
        [square(30, 4, 20), [1, 2]],
        r"stray part of a mask left out \(polygon of fewer than 3 points\)",
    ),
    "the text of bytes": (["segmentation"], {"size": list(SIZE), "counts": BYTES}, "RLE counts that are"),
}


@pytest.mark.parametrize("name", MENDED)
def test_what_is_plainly_meant_is_used_in_training_and_evaluation_and_told(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys, value, sentence = MENDED[name]
    paths = write_coco(tmp_path, changed(["annotations", 1, *keys], value))
    with caplog.at_level(logging.WARNING):
        dataset = CocoDataset(*paths, training=True, on_error="raise")
    targets = dataset.load(0).targets
    assert len(targets) == 2
    assert len(set(targets.annotation_ids.tolist())) == 2
    truth = dataset.ground_truth()
    assert len(truth) == 8
    assert len(dataset.report) == 0
    assert dataset.report.mended.total() == 1
    assert re.search(f"1 {sentence}.*first: annotation", caplog.text)
    assert re.search(f"1 annotation read as meant: {sentence}", truth.notes[0])
    assert targets.masks is not None
    if "bytes" in name:
        assert targets.masks.to_bitmaps()[1].equal(torch.eye(*SIZE, dtype=torch.uint8))
        assert truth.mask(1) == encode(np.eye(*SIZE, dtype=np.uint8))["counts"]
    elif "polygon" in name:
        assert targets.masks.to_bitmaps()[1].sum() == 400
    if "area" in name:
        assert truth.area(1) == 400
    if "edge" in name:
        assert truth.boxes[1].tolist() == [30, 4, 30, 20]


def test_a_missing_box_beside_a_mask_of_nothing_says_so(tmp_path: Path) -> None:
    content = changed(["annotations", 1, "bbox"], ...)
    content["annotations"][1]["segmentation"] = [[9, 9, 9, 9, 9, 9]]
    dataset = CocoDataset(*write_coco(tmp_path, content))
    assert dataset.report.named[0].endswith("it has no 'bbox', and its mask covers no pixel")


def test_the_first_of_each_is_named_in_the_notes(tmp_path: Path) -> None:
    content = changed(["images", 1, "height"], 0)
    content["annotations"][0]["segmentation"] = []
    images, path = write_coco(tmp_path)
    path.write_text(json.dumps(content))
    records, annotations = CocoDataset(images, path).ground_truth().notes
    assert re.search("image record left out.*first: .*image 20: it needs a 'height'", records)
    assert re.search("annotations left out.*first: .*annotation 100 .*no 'segmentation'", annotations)


def test_annotation_ids_that_start_anew_in_every_image_train_all(tmp_path: Path) -> None:
    content = coco()
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number % 2 + 1
    dataset = CocoDataset(*write_coco(tmp_path, content), training=True)
    assert [len(dataset.load(i).targets) for i in range(4)] == [2, 2, 2, 2]
    assert dataset.index.annotation_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert dataset.report.mended.total() == 6


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_annotation_is_left_out_counted_and_named(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys, value, kind, sentence = FAULTS[name]
    content = changed(["annotations", 1, *keys], value)
    paths = write_coco(tmp_path, content)
    with caplog.at_level(logging.WARNING):
        dataset = CocoDataset(*paths, training=True)
    assert dataset.load(0).targets.annotation_ids.tolist() == [100]
    assert len(dataset.report) == 1
    assert dict(dataset.report.annotations) == {kind: 1}
    named = dataset.report.named[0]
    assert named.startswith(f"{paths[1]}: annotation {content['annotations'][1]['id']} (image ")
    assert re.search(sentence, named)
    assert len(caplog.records) == 1
    assert named in caplog.text
    with pytest.raises(DataError, match=sentence):
        CocoDataset(*paths, on_error="raise")
    assert len(CocoDataset(*paths, on_error="skip").report) == 1


def test_records_that_have_no_id_are_named_by_their_place(tmp_path: Path) -> None:
    content = coco()
    content["annotations"][3] = 17
    content["annotations"][4] = {"image_id": 30}
    report = CocoDataset(*write_coco(tmp_path, content)).report
    assert "annotation 3 of the list: it is a number, not an object" in report.named[0]
    assert "annotation 4 of the list: it has no 'category_id'" in report.named[1]


def test_only_the_first_five_are_named(tmp_path: Path) -> None:
    content = coco(5)
    for a in content["annotations"][:6]:
        a["segmentation"] = []
    content["annotations"][7]["category_id"] = 3
    report = CocoDataset(*write_coco(tmp_path, content)).report
    assert len(report) == 7
    assert len(report.named) == 5
    assert "7 faulty annotations left out (6 no mask, 1 unknown category)" in report.summary()


def test_without_masks_segmentations_are_not_looked_at(tmp_path: Path) -> None:
    content = coco()
    for a in content["annotations"]:
        a["segmentation"] = None
    dataset = CocoDataset(*write_coco(tmp_path, content), masks=False)
    assert len(dataset.report) == 0
    assert dataset.load(0).targets.masks is None
    assert len(dataset.load(0).targets) == 2


STRUCTURE: dict[str, tuple[list[Any], Any, str]] = {
    "no images": (["images"], ..., "needs the key 'images'"),
    "annotations an object": (["annotations"], {}, "'annotations' must be a list, it is a object"),
    "same image id": (["images", 1, "id"], 10, "image 10: the id stands for two images"),
    "category without a name": (["categories", 1, "name"], ..., r"category 1 of the list \(id 1\)"),
    "category id": (["categories", 1, "id"], None, "category 1 of the list: it needs an 'id'"),
    "category a text": (["categories", 1], "person", "category 1 of the list: it is a text, not an object"),
    "same category id": (["categories", 1, "id"], 90, "the id 90 is taken by 'toothbrush'"),
    "no categories": (["categories"], [], "no categories"),
    "nothing at all": (["images"], [], "no images"),
}


@pytest.mark.parametrize("name", STRUCTURE)
@pytest.mark.parametrize("on_error", [None, "skip"])
def test_a_faulty_structure_always_raises(tmp_path: Path, name: str, on_error: Any) -> None:
    keys, value, sentence = STRUCTURE[name]
    paths = write_coco(tmp_path, changed(keys, value))
    with pytest.raises(DataError, match=sentence) as caught:
        CocoDataset(*paths, on_error=on_error)
    assert str(caught.value).startswith(str(paths[1]))


IMAGE_FAULTS: dict[str, tuple[list[Any], Any, str, str]] = {
    "null": ([], None, "image 1 of the list", "it is a null, not an object"),
    "no id": (["id"], ..., "image 1 of the list", "it needs an 'id'"),
    "id a word": (["id"], "second", "image 1 of the list", "'id' is the text 'second', not an integer"),
    "id of 2^64 - 1": (["id"], 2**64 - 1, "image 1 of the list", r"below 2\^63"),
    "no file name": (["file_name"], ..., "image 20", "it needs a 'file_name'"),
    "NUL in its name": (["file_name"], "a\0.png", "image 20", "a character that no name has"),
    "half a surrogate": (["file_name"], "\ud800.png", "image 20", "a character that no name has"),
    "height 0": (["height"], 0, "image 20", "it needs a 'height' that is an integer > 0"),
    "width a float": (["width"], 60.5, "image 20", "it needs a 'width'"),
}


@pytest.mark.parametrize("name", IMAGE_FAULTS)
def test_a_faulty_image_record_is_left_out_with_its_annotations_and_told(tmp_path: Path, name: str) -> None:
    keys, value, where, sentence = IMAGE_FAULTS[name]
    content = changed(["images", 1, *keys], value)
    images, path = write_coco(tmp_path)
    path.write_text(json.dumps(content))
    dataset = CocoDataset(images, path)
    assert dataset.image_ids.tolist() == dataset.ground_truth().image_ids.tolist() == [10, 30, 40]
    assert len(dataset.ground_truth()) == 6
    assert dataset.report.records.total() == 1
    assert dataset.report.annotations.total() == 2
    assert re.search(f"{where}: .*{sentence}", dataset.report.named[0])
    with pytest.raises(DataError, match=sentence):
        CocoDataset(images, path, on_error="raise")


def test_ids_in_quotes_are_ids(tmp_path: Path) -> None:
    content = coco()
    for record in content["images"] + content["categories"] + content["annotations"]:
        for key in record.keys() & {"id", "image_id", "category_id"}:
            record[key] = str(record[key])
    dataset = CocoDataset(*write_coco(tmp_path, content))
    assert dataset.image_ids.tolist() == [10, 20, 30, 40]
    assert dataset.categories.ids == (1, 7, 90)
    assert (
        dataset.index.annotation_ids.tolist()
        == CocoDataset(*write_coco(tmp_path)).index.annotation_ids.tolist()
    )


def test_an_image_that_is_listed_twice_alike_is_one(tmp_path: Path) -> None:
    content = coco()
    content["images"].append(dict(content["images"][0]))
    assert len(CocoDataset(*write_coco(tmp_path, content))) == 4


def test_broken_json_is_named_by_line_and_column(tmp_path: Path) -> None:
    images, path = write_coco(tmp_path)
    path.write_text('{"images": [],\n "annotations": [1,\n  2 3]}')
    with pytest.raises(DataError, match=re.escape(f"{path}:3:5: the json is broken")):
        CocoDataset(images, path)
    path.write_text(json.dumps(coco())[:-20])
    with pytest.raises(DataError, match=r"is the file complete\?"):
        CocoDataset(images, path)
    path.write_text("[1]")
    with pytest.raises(DataError, match="this is a list"):
        CocoDataset(images, path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        CocoDataset(images, path)
    path.write_text("\ufeff" + json.dumps(coco()))  # with the mark that Windows editors put first
    assert len(CocoDataset(images, path)) == 4
    with pytest.raises(DataError, match="none.json: there is no such file"):
        CocoDataset(images, tmp_path / "none.json")
    path.write_text('{"images": ' + "[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        CocoDataset(images, path)
    path.write_text(json.dumps(coco())[:-1] + ', "x": 1' + "0" * 5000 + "}")
    with pytest.raises(DataError, match="a number of thousands of digits"):
        CocoDataset(images, path)
    with pytest.raises(DataError, match="no such folder"):
        CocoDataset(tmp_path / "none", path)


def test_training_on_nothing_is_told(tmp_path: Path) -> None:
    content = coco()
    for a in content["annotations"]:
        a["category_id"] = 4
    with pytest.raises(DataError, match="no images with a usable annotation") as caught:
        CocoDataset(*write_coco(tmp_path, content), training=True)
    assert "8 unknown category" in str(caught.value)


def test_unreadable_images_raise_with_the_image_id(tmp_path: Path) -> None:
    images, path = write_coco(tmp_path)
    (images / "1.png").unlink()
    data = (images / "2.png").read_bytes()
    (images / "2.png").write_bytes(data[:-20])
    cv2.imwrite(str(images / "3.png"), np.zeros((40, 59, 3), dtype=np.uint8))
    dataset = CocoDataset(images, path)
    with pytest.raises(DataError, match=r"image 20: .*1\.png: there is no such image file"):
        dataset.load(1)
    with pytest.raises(DataError, match=r"image 30: .*2\.png: .*truncated"):
        dataset.load(2)
    with pytest.raises(DataError, match=r"image 40: .*is 59x40 pixels, annotations.json says 60x40"):
        dataset.load(3)


def test_exif_against_the_size_in_the_json(tmp_path: Path) -> None:
    content = coco(2)
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace("png", "jpg")
    content["images"][1].update(height=SIZE[1], width=SIZE[0])
    content["annotations"] = content["annotations"][:3]
    content["annotations"][2]["bbox"] = [1, 1, 9, 9]
    images, path = write_coco(tmp_path, content)
    for k in range(2):
        stored = (images / f"{k}.jpg").read_bytes()
        (images / f"{k}.jpg").write_bytes(with_exif(stored, 6))
    upright, stored_way = CocoDataset(images, path), CocoDataset(images, path, exif=False)
    assert upright.load(1).image.shape[:2] == (SIZE[1], SIZE[0])
    with pytest.raises(DataError, match=r"image 10: .*40x60 pixels.*60x40.*set exif: false"):
        upright.load(0)
    assert stored_way.load(0).image.shape[:2] == SIZE
    with pytest.raises(DataError, match=r"image 20: .*set exif: true"):
        stored_way.load(1)


def test_kept_sixteen_bits_reach_the_model_as_floats(tmp_path: Path) -> None:
    images, path = write_coco(tmp_path)
    cv2.imwrite(str(images / "0.png"), np.full(SIZE, 1000, dtype=np.uint16))
    image = CocoDataset(images, path, sixteen_bit="keep").load(0).to_sample().image
    assert image.dtype == torch.float32
    assert torch.allclose(image, torch.tensor(1000 / 257))
    assert CocoDataset(images, path).load(0).to_sample().image.unique().tolist() == [4]


def test_validation_must_share_the_classes(tmp_path: Path) -> None:
    paths = write_coco(tmp_path)
    categories = CocoDataset(*paths).categories
    assert CocoDataset(*paths, categories=categories).categories == categories
    other = Categories((1, 7, 91), ("person", "tram", "toothbrush"))
    with pytest.raises(
        DataError, match="id 7 is 'train' here and 'tram' there; id 90 is 'toothbrush' here and"
    ):
        CocoDataset(*paths, categories=other)
    with pytest.raises(DataError, match="must rise"):
        Categories((2, 1), ("a", "b"))
    with pytest.raises(DataError, match="2 category ids but 1 name"):
        Categories((1, 2), ("a",))


def test_config_builds_and_its_own_on_error_comes_first(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path, changed(["annotations", 0, "segmentation"], []))
    config = CocoConfig(images=images, annotations=annotations, max_images=2)
    assert config.build(True).image_ids.tolist() == [10, 20]
    with pytest.raises(DataError, match="no 'segmentation'"):
        config.build(True, on_error="raise")
    own = CocoConfig(images=images, annotations=annotations, on_error="skip")
    assert len(own.build(True, on_error="raise").report) == 1
    with pytest.raises(ConfigError, match="max_images must be > 0, got 0"):
        CocoConfig(images=images, annotations=annotations, max_images=0)
    with pytest.raises(DataError, match="at least 1"):
        CocoDataset(images, annotations, max_images=0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_forked_worker_shares_the_index(tmp_path: Path) -> None:
    content = coco(200)
    rng = np.random.default_rng(0)
    for a in content["annotations"]:
        a["segmentation"] = [np.round(rng.random(10_000) * 40, 2).tolist()]
    dataset = CocoDataset(*write_coco(tmp_path, content))
    # 4 bytes a coordinate: polygons in hundredths.
    # So many that what else a fork writes (up to 2 MB beside other tests) is little.
    assert 16e6 < dataset.index.nbytes < 16.4e6

    def work(connection: Any) -> None:
        def own_pages() -> int:
            text = Path("/proc/self/smaps_rollup").read_text()
            return 1024 * int(re.search(r"Private_Dirty:\s+(\d+)", text).group(1))  # type: ignore[union-attr]

        dataset.index.targets(0)
        before = own_pages()
        for i in range(len(dataset)):
            dataset.index.targets(i)
        connection.send(own_pages() - before)

    here, there = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(there,))
    process.start()
    assert here.poll(30)
    grown = here.recv()
    process.join()
    assert grown < dataset.index.nbytes / 4


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("coco/train2017", "coco/annotations/instances_train2017.json"),
        ("coco/val2017", "coco/annotations/instances_val2017.json"),
        ("nuclei/train", "nuclei/instances_train.json"),
        ("nuclei/val", "nuclei/instances_val.json"),
    ],
)
def test_real_data_load_without_a_fault(
    shared_data: Callable[[str], Path], images: str, annotations: str
) -> None:
    path = shared_data(annotations)
    dataset = CocoDataset(shared_data(images), path)
    content = json.loads(path.read_text())
    by_image: dict[int, list[dict[str, Any]]] = {}
    for a in content["annotations"]:
        if not a.get("iscrowd", 0):
            by_image.setdefault(a["image_id"], []).append(a)
    assert len(dataset.report) == 0
    assert len(dataset) == len(content["images"])
    step = max(len(dataset) // 40, 1)
    for i in range(0, len(dataset), step):
        sample = dataset.load(i)
        wanted = by_image.get(sample.info.image_id, [])
        targets = sample.targets
        assert targets.annotation_ids.tolist() == [a["id"] for a in wanted]
        ids = [dataset.categories.ids[k] for k in targets.labels.tolist()]
        assert ids == [a["category_id"] for a in wanted]
        if wanted:
            boxes = np.array([a["bbox"] for a in wanted])
            boxes[:, 2:] += boxes[:, :2]
            assert np.abs(targets.boxes.numpy() - boxes).max() <= 1.0 + 1e-4
            assert targets.masks is not None
            # Masks lie where their boxes are.
            assert (targets.masks.boxes() - targets.boxes).abs().max() < 2.5
