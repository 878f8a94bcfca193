"""YOLO's text files: polygons and boxes, and the ways in which data.yaml says where images are."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.errors import DataError
from tests.data.formats.labels import datasets, imported, objects, picture

SQUARE = "1 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75"
"""Of class 1, x 6 to 30, y 10 to 30 of 60x40 pixels."""
NAMES = "names: ['cat', 'dog']\n"


def write(
    root: Path, yaml: str | None = None, splits: tuple[str, ...] = ("train",), text: str = SQUARE
) -> Path:
    """Roboflow's layout: SPLIT/images, SPLIT/labels."""
    for split in splits:
        picture(root / split / "images" / f"{split}.png")
        label = root / split / "labels" / f"{split}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text + "\n")
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


def test_polygons(tmp_path: Path) -> None:
    imported(write(tmp_path / "in", NAMES + "train: train/images\n"), tmp_path / "mine")
    built = datasets(tmp_path / "mine")["train"]
    ((label, _, mask),) = objects(built)["train.png"]
    assert label == "dog" and mask[10:30, 6:30].all() and mask.sum() == 480
    assert built.categories.ids == (0, 1) and built.categories.names == ("cat", "dog")


def test_boxes_alone(tmp_path: Path) -> None:
    text = "0 0.5 0.5 0.2 0.5\n1 0.5 0.5 0.1 0.1 0.93"  # with a score
    imported(write(tmp_path / "in", NAMES + "train: train/images\n", text=text), tmp_path / "mine")
    truth = datasets(tmp_path / "mine")["train"].ground_truth()
    assert truth.boxes[0].tolist() == pytest.approx([24, 10, 12, 20]) and not truth.has_masks


@pytest.mark.parametrize(
    "keys",
    [
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n",  # Roboflow, a ../ too many
        "train: train/images\nval: valid/images\ntest: nowhere\n",
        "path: ../datasets/mine\ntrain: train/images\nval: [valid/images]\n",  # from where it was made
        "path: .\ntrain: train.txt\nval: valid\n",
        "train: train\nval: .\\valid\\images\n",
    ],
)
def test_where_images_are(tmp_path: Path, keys: str) -> None:
    root = write(tmp_path / "in", "names: {0: cat, 1: dog}\n" + keys, ("train", "valid"))
    (root / "train.txt").write_text("./train/images/train.png\n")
    found = imported(root / "data.yaml", tmp_path / "mine")
    assert found.images == {"train": 1, "val": 1}
    assert datasets(tmp_path / "mine")["val"].path(0) == root / "valid" / "images" / "valid.png"


def test_a_val_that_is_train_again_is_left_out_and_told(tmp_path: Path) -> None:
    root = write(tmp_path / "in", NAMES + "train: train/images\nval: train/images\n")
    found = imported(root, tmp_path / "mine")
    assert found.images == {"train": 1} and list(datasets(tmp_path / "mine")) == ["train"]
    assert "not kept: images of 'val', which are those of another split: 1" in found.notes


def test_images_of_a_yaml_that_names_none_and_of_a_list_of_names(tmp_path: Path) -> None:
    root = write(tmp_path / "in", NAMES, ("train", "valid"))
    assert imported(root, tmp_path / "mine").images == {"train": 1, "val": 1}
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\ndog\n")
    found = imported(root, tmp_path / "listed")
    assert found.images == {"train": 1, "val": 1} and found.found == "YOLO's classes.txt"
    assert found.objects["val"] == {"cat": 0, "dog": 1}


def test_an_image_without_a_file_has_no_objects(tmp_path: Path) -> None:
    root = write(tmp_path / "in", NAMES + "train: train/images\n")
    picture(root / "train" / "images" / "bare.png")
    imported(root, tmp_path / "mine")
    assert objects(datasets(tmp_path / "mine")["train"])["bare.png"] == []


@pytest.mark.parametrize("keys", ["train: ../../other\n", "train: /other\n", "path: ../..\ntrain: other\n"])
def test_a_path_that_leads_out_is_not_followed_unless_allowed(tmp_path: Path, keys: str) -> None:
    picture(tmp_path / "other" / "b.png")
    keys = keys.replace("/other", f"{tmp_path}/other") if keys[7:] == "/other\n" else keys
    root = write(tmp_path / "a" / "in", NAMES + keys + "val: train/images\n")
    with pytest.raises(DataError, match="its 'train' is .*other.*out of the folder.*--allow-outside"):
        imported(root, tmp_path / "mine")
    assert imported(root, tmp_path / "mine", allow_outside=True).images["train"] == 1


def test_a_list_that_leads_out_is_not_followed_unless_allowed(tmp_path: Path) -> None:
    outside = picture(tmp_path / "b.png")
    root = write(tmp_path / "in", NAMES + "train: train.txt\nval: train/images\n")
    (root / "train.txt").write_text(f"{outside}\n")
    with pytest.raises(DataError, match=r"b\.png lies out of the folder"):
        imported(root, tmp_path / "mine")
    assert imported(root, tmp_path / "mine", allow_outside=True).images == {"train": 1, "val": 1}


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    root = write(tmp_path / "in", NAMES + "train: images/train\n")
    with pytest.raises(
        DataError, match="its 'train' is images/train, which is not there; correct or remove it"
    ):
        imported(root, tmp_path / "mine")


@pytest.mark.parametrize(
    ("names", "words"),
    [("names: 5\n", "a list of names"), ("names: []\n", "a list"), ("names: {a: b}\n", "names by number")],
)
def test_names_that_are_none(tmp_path: Path, names: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        imported(write(tmp_path / "in", names), tmp_path / "mine")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dog 0.1 0.2 0.3 0.4", "it is not a class and numbers"),
        ("1 0.1 0.2 0.3", "a polygon has 3 numbers"),
        ("7 0.1 0.2 0.3 0.4 0.5 0.6", "there is no class 7"),
        ("1 nan 0.2 0.3 0.4 0.5 0.6", "not a list of finite numbers"),
        ("1 6 10 30 10 30 30", "more than an image's length outside"),
        ("1 0.5 0.5 0.1 0.1", "it is a box without a mask"),
    ],
)
def test_bad_lines_are_named_and_left_out(tmp_path: Path, line: str, words: str) -> None:
    root = write(tmp_path / "in", NAMES + "train: train/images\n", text=f"{line}\n\n{SQUARE}")
    notes = "\n".join(imported(root, tmp_path / "mine").notes)
    assert "1 faulty annotation left out" in notes and "train.txt:1: " in notes and words in notes
    assert len(datasets(tmp_path / "mine")["train"].ground_truth()) == 1


def test_poses_are_counted_and_read_as_boxes(tmp_path: Path) -> None:
    text = "1 0.5 0.5 0.2 0.5 0.5 0.5 2"
    root = write(tmp_path / "in", NAMES + "kpt_shape: [1, 3]\ntrain: train/images\n", text=text)
    found = imported(root, tmp_path / "mine")
    assert "not kept: keypoints: 1" in found.notes and found.objects["train"]["dog"] == 1


def test_a_data_yaml_of_ours_is_none_of_yolos(tmp_path: Path) -> None:
    imported(write(tmp_path / "in", NAMES + "train: train/images\n"), tmp_path / "mine")
    assert imported(tmp_path / "mine", tmp_path / "again", tmp_path / "in").format == "coco"
