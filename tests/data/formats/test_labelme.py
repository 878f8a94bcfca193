"""labelme's jsons: every shape as labelme means it, parts of a group as one object."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.data.formats.labels import SIZE, datasets, imported, objects, picture, ring

SQUARE = [[5, 5], [20, 5], [20, 20], [5, 20]]


def shape(points: Any, label: str = "cat", kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def png(mask: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".png", mask * 255)[1].tobytes()).decode()


def write(folder: Path, shapes: Any, name: str = "a", **more: Any) -> Path:
    picture(folder / f"{name}.png")
    content = {"version": "5.5.0", "shapes": shapes, "imagePath": f"{name}.png", "imageData": None}
    content |= {"imageHeight": SIZE[0], "imageWidth": SIZE[1], **more}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def one(tmp_path: Path, shapes: list[Any]) -> list[Any]:
    write(tmp_path / "in", shapes)
    imported(tmp_path / "in", tmp_path / "mine")
    return objects(datasets(tmp_path / "mine")["train"])["a.png"]


def test_polygons_and_groups(tmp_path: Path) -> None:
    other = [[30, 30], [40, 30], [40, 38]]
    shapes = [
        shape(SQUARE, group_id=1),
        shape(other, group_id=1),
        shape(other, group_id=2),
        shape(SQUARE, "dog"),
    ]
    first, second, dog = one(tmp_path, shapes)
    assert (first[0], dog[0]) == ("cat", "dog") and first[2].sum() == dog[2].sum() + second[2].sum()
    assert dog[2][5:20, 5:20].all() and dog[2].sum() == 225


def test_masks_keep_holes_and_parts(tmp_path: Path) -> None:
    ys, xs = np.nonzero(ring())
    corners = [[int(xs.min()), int(ys.min())], [int(xs.max()), int(ys.max())]]
    window = ring()[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    (found,) = one(tmp_path, [shape(corners, kind="mask", mask=png(window))])
    assert np.array_equal(found[2], ring())


def test_a_mask_and_a_polygon_of_a_group_are_joined(tmp_path: Path) -> None:
    shapes = [
        shape([[30, 30], [33, 32]], kind="mask", mask=png(np.ones((3, 4), np.uint8)), group_id=1),
        shape(SQUARE, group_id=1),
    ]
    (found,) = one(tmp_path, shapes)
    assert found[2].sum() == 225 + 12


def test_circles_and_rectangles(tmp_path: Path) -> None:
    circle = shape([[30, 20], [30, 30]], kind="circle")
    rectangle = shape([[50, 30], [40, 20]], kind="rectangle")
    disc, box = one(tmp_path, [circle, rectangle])
    assert disc[2].sum() == pytest.approx(math.pi * 100, rel=0.02)
    assert box[2][20:30, 40:50].all() and box[2].sum() == 100


def test_shapes_without_area_are_counted(tmp_path: Path) -> None:
    lines = [
        shape([[1, 1], [5, 5]], kind="line"),
        shape([[1, 1]], kind="point"),
        shape([[2, 1]], kind="point"),
    ]
    write(tmp_path / "in", [*lines, shape(SQUARE)])
    notes = imported(tmp_path / "in", tmp_path / "mine").notes
    assert "not kept: line (has no area): 1" in notes and "not kept: point (has no area): 2" in notes


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (shape([[1, 2]]), "polygon of fewer than 3 points"),
        (shape("x"), "its 'points' are not a list of pairs"),
        (shape([[1, None], [2, 3], [4, 5]]), "its 'points' are not a list of pairs"),
        (shape(SQUARE, ""), "its 'label' is '', not a text"),
        (shape(SQUARE, kind="star"), "a shape of the type 'star'"),
        (shape([[1, 1], [2, 2]], kind="mask", mask="!!"), "is no image in base64"),
        (
            shape([[1, 1], [2, 2]], kind="mask", mask=png(np.ones((90, 4), np.uint8))),
            "is not inside the 60x40",
        ),
        (shape([[1, math.nan], [2, 2]], kind="circle"), "hold a number that is not finite"),
        (5, "it is a number, not an object"),
    ],
)
def test_bad_shapes_are_named_and_left_out(tmp_path: Path, bad: Any, words: str) -> None:
    write(tmp_path / "in", [bad, shape(SQUARE)])
    notes = "\n".join(imported(tmp_path / "in", tmp_path / "mine").notes)
    assert "1 faulty annotation left out" in notes and "in/a.json: shape 0" in notes and words in notes
    assert len(datasets(tmp_path / "mine")["train"].ground_truth()) == 1


def test_bad_files_are_named_and_left_out(tmp_path: Path) -> None:
    write(tmp_path / "in", [shape(SQUARE)])
    (tmp_path / "in" / "b.json").write_text('{"shapes": [], "imagePath": "b.png"')
    write(tmp_path / "in", "x", "c")
    write(tmp_path / "in", [shape(SQUARE)], "d", imagePath="../d.png")
    picture(tmp_path / "d.png")
    (tmp_path / "in" / "d.png").unlink()
    write(tmp_path / "in", [shape(SQUARE)], "e", imagePath=None)
    notes = "\n".join(imported(tmp_path / "in", tmp_path / "mine").notes)
    assert "4 faulty image records left out" in notes
    for words in ("the json is broken", "needs a list 'shapes'", "lies outside", "needs an 'imagePath'"):
        assert words in notes


def test_names_of_files_are_no_splits_and_folders_are(tmp_path: Path) -> None:
    write(tmp_path / "in" / "train", [shape(SQUARE)], "test_1")
    write(tmp_path / "in" / "val", [shape(SQUARE)], "train_2")
    assert imported(tmp_path / "in", tmp_path / "mine").images == {"train": 1, "val": 1}


def test_images_lie_elsewhere_and_have_other_sizes_than_stated_as_windows_wrote(tmp_path: Path) -> None:
    write(tmp_path / "in", [shape(SQUARE)], imagePath="..\\shots\\a.png", imageHeight=None)
    (tmp_path / "in" / "a.png").unlink()
    picture(tmp_path / "shots" / "a.png")
    imported(tmp_path / "in", tmp_path / "mine", tmp_path / "shots")
    assert datasets(tmp_path / "mine")["train"].images == tmp_path / "shots"
