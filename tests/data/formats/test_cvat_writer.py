"""CVAT's XML is read by our importer as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from maskrcnn.cli import main
from maskrcnn.data.formats.cvat_writer import CvatImage, CvatShape, row_runs, write_cvat
from maskrcnn.structures import rle


def test_masks_are_imported_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, masks = [], {}
    for number, name in enumerate(["sub/a<&>.png", "b.png"]):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / name), np.zeros((40, 50, 3), dtype=np.uint8))
        shapes = []
        for label in ('a "class" <&>', "other"):
            bitmap = np.zeros((40, 50), dtype=np.uint8)
            bitmap[number : 12 + number, 20:] = rng.random((12, 30)) < 0.7
            masks[name, label] = bitmap
            shapes.append(CvatShape(label, [0, 0, 1, 1], rle.as_text(rle.encode(bitmap))))
        images.append(CvatImage(number, name, 40, 50, shapes))
    with (tmp_path / "in" / "cvat.xml").open("wb") as file:
        write_cvat(file, ('a "class" <&>', "other", "unused"), images)
    assert main(["import", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    (path,) = (tmp_path / "out").glob("*.json")
    read = json.loads(path.read_text())
    assert [c["name"] for c in read["categories"]] == ['a "class" <&>', "other", "unused"]
    file_of = {image["id"]: image["file_name"] for image in read["images"]}
    name_of = {c["id"]: c["name"] for c in read["categories"]}
    assert len(read["annotations"]) == 4
    for record in read["annotations"]:
        bitmap = masks[file_of[record["image_id"]], name_of[record["category_id"]]]
        assert np.array_equal(rle.decode(record["segmentation"]), bitmap)


def test_runs_begin_with_background() -> None:
    assert row_runs(np.array([[1, 1, 0], [0, 1, 1]], dtype=np.uint8)) == "0, 2, 2, 2"
    assert row_runs(np.array([[0, 1]], dtype=np.uint8)) == "1, 1"
