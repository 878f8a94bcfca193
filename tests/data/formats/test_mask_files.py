"""Masks as image files, in every layout that is read, and the 2018 Data Science Bowl's.

Covers ``maskrcnn/data/formats/label_images.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskrcnn.data.fault_report import FaultError
from maskrcnn.data.formats.label_images import read_labels
from tests.data.files import palette_png
from tests.data.formats.labels import SIZE, datasets, imported, objects, picture, plane, ring


def squares(*places: tuple[int, int]) -> list[np.ndarray]:
    masks = []
    for x, y in places:
        mask = np.zeros(SIZE, dtype=np.uint8)
        mask[y : y + 8, x : x + 8] = 1
        masks.append(mask)
    return masks


def label_image(masks: list[np.ndarray], dtype: Any = np.uint8, first: int = 1) -> np.ndarray:
    out = np.zeros(SIZE, dtype=dtype)
    for value, mask in enumerate(masks, start=first):
        out[mask > 0] = value
    return out


def found_in(folder: Path, out: Path, **options: Any) -> dict[str, list[tuple[str, bool, np.ndarray]]]:
    made = imported(folder, out, **options)
    assert made.format in ("masks", "dsb2018")
    return objects(datasets(out)["train"])


def masks_are(found: list[Any], wanted: list[np.ndarray], names: list[str] | None = None) -> None:
    assert [o[0] for o in found] == (names or ["object"] * len(wanted))
    assert all(np.array_equal(o[2], mask) for o, mask in zip(found, wanted, strict=True))


TWO = [ring(), *squares((48, 5))]


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("masks/a/{}.png", "images/a.png"),
        ("masks/a_{}.png", "images/a.png"),
        ("masks/a_mask_{}.tif", "images/a.png"),
        ("a_mask{}.png", "a.png"),
        ("train/masks/a-{}.png", "train/images/a.png"),
        ("masks/a/mask_{}.png", "images/a.jpg"),
    ],
)
def test_one_file_a_mask(tmp_path: Path, name: str, image: str) -> None:
    picture(tmp_path / "in" / image)
    for k, mask in enumerate(TWO):
        plane(tmp_path / "in" / name.format(k), mask * 255)
    if "a_mask0" in name.format(0):  # without a folder of masks the name must say it
        (tmp_path / "in" / "a_mask0.png").rename(tmp_path / "in" / "a_0_mask.png")
        (tmp_path / "in" / "a_mask1.png").rename(tmp_path / "in" / "a_1_mask.png")
    ((_, found),) = found_in(tmp_path / "in", tmp_path / "mine").items()
    masks_are(found, TWO)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("name", ["masks/a.{}", "labels/a_label.{}", "a_masks.{}", "a_cp_masks.{}"])
def test_label_images_of_any_depth(tmp_path: Path, dtype: Any, name: str) -> None:
    suffix = "png" if np.dtype(dtype).itemsize <= 2 and dtype is not np.int32 else "tif"
    picture(tmp_path / "in" / ("images/a.png" if "/" in name else "a.png"))
    first = 1 if dtype is np.uint8 else 300
    plane(tmp_path / "in" / name.format(suffix), label_image(TWO, dtype, first))
    ((_, found),) = found_in(tmp_path / "in", tmp_path / "mine").items()
    masks_are(found, TWO)


def test_label_images_of_more_objects_than_a_byte_holds(tmp_path: Path) -> None:
    places = [(x, y) for x in range(0, 60, 2) for y in range(0, 40, 2)]
    labels = np.zeros(SIZE, dtype=np.uint16)
    for value, (x, y) in enumerate(places, start=1):
        labels[y, x] = value
    picture(tmp_path / "in" / "images" / "a.png")
    plane(tmp_path / "in" / "masks" / "a.png", labels)
    assert len(found_in(tmp_path / "in", tmp_path / "mine")["a.png"]) == 600


def test_colours_are_objects(tmp_path: Path) -> None:
    pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
    pixels[TWO[0] > 0], pixels[TWO[1] > 0] = (0, 0, 255), (0, 255, 0)  # red and green in OpenCV's order
    picture(tmp_path / "in" / "images" / "a.png")
    plane(tmp_path / "in" / "masks" / "a.png", pixels)
    masks_are(found_in(tmp_path / "in", tmp_path / "mine")["a.png"], [TWO[1], TWO[0]])


def test_colours_that_a_table_names_are_classes_and_their_parts_objects(tmp_path: Path) -> None:
    test_colours_are_objects(tmp_path)
    (tmp_path / "in" / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:255,0,0::\n"
    )
    made = imported(tmp_path / "in", tmp_path / "classes")
    found = objects(datasets(tmp_path / "classes")["train"])["a.png"]
    assert [o[0] for o in found] == ["cat", "cat"] and np.array_equal(found[0][2] | found[1][2], ring())
    assert "labelmap.txt has no line for 0,255,0" in "\n".join(made.notes)


def test_cvats_two_folders_of_colours(tmp_path: Path) -> None:
    """Segmentation mask 1.1, as Pascal VOC: colours of objects in one, of classes in the other."""
    root, classes, things = tmp_path / "in", *(np.zeros((*SIZE, 3), dtype=np.uint8) for _ in range(2))
    three = [*TWO, *squares((48, 30))]
    three[0][28:40] = 0
    for k, mask in enumerate(three):
        things[mask > 0] = (10 * k, 200, 50)
        classes[mask > 0] = (0, 0, 255) if k < 2 else (255, 0, 0)
    picture(root / "JPEGImages" / "a.png")
    plane(root / "SegmentationObject" / "a.png", things)
    plane(root / "SegmentationClass" / "a.png", classes)
    (root / "labelmap.txt").write_text("background:0,0,0::\ncat:255,0,0::\ndog:0,0,255::\n")
    masks_are(found_in(root, tmp_path / "mine")["a.png"], three, ["cat", "cat", "dog"])


def test_indices_of_a_palette_are_values(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "images" / "a.png")
    (tmp_path / "in" / "masks").mkdir()
    colours = [(0, 0, 0), (9, 9, 9), (9, 9, 9)]  # two of one colour
    (tmp_path / "in" / "masks" / "a.png").write_bytes(palette_png(label_image(TWO), colours))
    masks_are(found_in(tmp_path / "in", tmp_path / "mine")["a.png"], TWO)


def test_files_of_one_value_hold_an_object_a_part_or_one_in_all(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "images" / "a.png")
    plane(tmp_path / "in" / "masks" / "a.png", ring() * 255)
    made = imported(tmp_path / "in", tmp_path / "mine")
    assert "taken for objects (--binary whole takes all for one)" in "\n".join(made.notes)
    assert [o[2].sum() for o in objects(datasets(tmp_path / "mine")["train"])["a.png"]] == [460, 30]
    masks_are(found_in(tmp_path / "in", tmp_path / "whole", binary="whole")["a.png"], [ring()])
    corner = squares((1, 1))[0] | squares((9, 9))[0]  # parts that touch by a corner are one
    plane(tmp_path / "in" / "masks" / "a.png", corner * 255)
    masks_are(found_in(tmp_path / "in", tmp_path / "touching")["a.png"], [corner])


def test_an_object_that_a_table_lists_keeps_its_parts_though_it_is_alone(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "images" / "a.png")
    plane(tmp_path / "in" / "labels" / "a.png", ring())
    (tmp_path / "in" / "labels" / "classes.csv").write_text("file,value,class,crowd\na.png,1,cat,1\n")
    found = found_in(tmp_path / "in", tmp_path / "mine")["a.png"]
    masks_are(found, [ring()], ["cat"])
    assert found[0][1]


def test_folders_of_classes_and_a_class_of_ones_own(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "images" / "a.png")
    plane(tmp_path / "in" / "masks" / "cell" / "a.png", label_image(TWO))
    plane(tmp_path / "in" / "masks" / "dirt" / "a" / "0.png", squares((1, 30))[0])
    found = found_in(tmp_path / "in", tmp_path / "mine")["a.png"]
    masks_are(found, [*TWO, *squares((1, 30))], ["cell", "cell", "dirt"])
    plane(tmp_path / "b" / "a.png", label_image(TWO))
    picture(tmp_path / "pictures" / "a.png")
    made = imported(tmp_path / "b", tmp_path / "own", tmp_path / "pictures", class_name="spot")
    assert made.objects["train"] == {"spot": 2}


def test_images_without_masks_and_masks_without_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "in" / "images" / f"{name}.png")
    for name in ("a", "c"):
        plane(tmp_path / "in" / "masks" / f"{name}.png", label_image(TWO))
    made = imported(tmp_path / "in", tmp_path / "mine")
    assert "1 mask without an image" in "\n".join(made.notes)
    assert objects(datasets(tmp_path / "mine")["train"])["b.png"] == []


def test_the_bowls_layout(tmp_path: Path) -> None:
    for split, name in (("stage1_train", "0f1e"), ("stage1_train", "ab12")):
        folder = tmp_path / "in" / split / name
        picture(folder / "images" / f"{name}.png")
        for k, mask in enumerate(TWO):
            plane(folder / "masks" / f"{k:02x}.png", mask * 255)
    made = imported(tmp_path / "in", tmp_path / "mine")
    assert (made.format, made.found) == ("dsb2018", "2 folders with images/ and masks/")
    for found in objects(datasets(tmp_path / "mine")["train"]).values():
        masks_are(found, TWO, ["nucleus", "nucleus"])
    (tmp_path / "in" / "stage1_train" / "0f1e" / "images" / "0f1e.png").unlink()
    picture(tmp_path / "in" / "stage1_test" / "cd34" / "images" / "cd34.png")
    notes = "\n".join(imported(tmp_path / "in", tmp_path / "less").notes)
    assert "0f1e: its images/ holds 0 images, not one" in notes
    assert "not kept: images without masks/ beside them: 1" in notes


def test_two_images_of_one_name_are_told(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        picture(tmp_path / "in" / "images" / name)
    plane(tmp_path / "in" / "masks" / "a.png", label_image(TWO))
    made = imported(tmp_path / "in", tmp_path / "mine")
    assert made.images == {"train": 1} and "a.jpg has the same name" in "\n".join(made.notes)


@pytest.mark.parametrize(
    ("pixels", "suffix", "words"),
    [
        (np.zeros((9, 9), np.uint8), "png", "it is 9x9, its image 60x40 pixels"),
        (np.full(SIZE, 0.5, np.float32), "tif", "values that are no whole numbers"),
        (np.zeros(SIZE, np.uint8), "png", ""),
        (b"no image", "png", "cannot be read"),
        (np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8), "jpg", "are not exact"),
    ],
)
def test_bad_masks_are_named_and_left_out(tmp_path: Path, pixels: Any, suffix: str, words: str) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "in" / "images" / f"{name}.png")
    plane(tmp_path / "in" / "masks" / "a.png", label_image(TWO))
    path = tmp_path / "in" / "masks" / f"b.{suffix}"
    path.write_bytes(pixels) if isinstance(pixels, bytes) else plane(path, pixels)
    notes = "\n".join(imported(tmp_path / "in", tmp_path / "mine").notes)
    assert words in notes and ("1 faulty annotation left out" in notes) == bool(words)
    masks_are(objects(datasets(tmp_path / "mine")["train"])["a.png"], TWO)


def test_an_empty_mask_of_its_own_file_is_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "images" / "a.png")
    plane(tmp_path / "in" / "masks" / "a" / "0.png", ring())
    plane(tmp_path / "in" / "masks" / "a" / "1.png", np.zeros(SIZE, np.uint8))
    made = imported(tmp_path / "in", tmp_path / "mine")
    assert "its mask covers no pixel" in "\n".join(made.notes) or "has no area" in "\n".join(made.notes)
    masks_are(objects(datasets(tmp_path / "mine")["train"])["a.png"], [ring()])


def test_jpegs_of_masks_are_light_on_dark(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "images" / "a.png")
    plane(tmp_path / "in" / "masks" / "a" / "0.jpg", squares((8, 8))[0] * 255)
    masks_are(found_in(tmp_path / "in", tmp_path / "mine")["a.png"], squares((8, 8)))


def test_a_file_of_several_pages_is_refused(tmp_path: Path) -> None:
    assert cv2.imwritemulti(str(tmp_path / "x.tif"), [ring(), ring()])
    with pytest.raises(FaultError, match="holds 2 pages; store each as a file of its own"):
        read_labels(tmp_path / "x.tif")


def test_a_broken_table_is_told_by_its_line(tmp_path: Path) -> None:
    from maskrcnn.errors import DataError

    picture(tmp_path / "in" / "images" / "a.png")
    plane(tmp_path / "in" / "masks" / "a.png", label_image(TWO))
    (tmp_path / "in" / "masks" / "classes.csv").write_text("file,value,class,crowd\na.png,one,cat,0\n")
    with pytest.raises(DataError, match=r"classes\.csv:2: write lines of the form file,value,class,crowd"):
        imported(tmp_path / "in", tmp_path / "mine")
    (tmp_path / "in" / "masks" / "classes.csv").write_text("file,value,class,crowd\na.png,1,cat,0\n")
    made = imported(tmp_path / "in", tmp_path / "mine")
    assert made.objects["train"] == {"cat": 1} and "classes.csv has no line for 2" in "\n".join(made.notes)
