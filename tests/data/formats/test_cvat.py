"""CVAT's XML: shapes as CVAT means them; hostile and broken files end in a sentence."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from maskrcnn.errors import DataError
from tests.data.formats.labels import SIZE, datasets, imported, objects, picture, ring

HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><job><labels>
<label><name>zebra</name><attributes><attribute><name>age</name></attribute></attributes></label>
<label><name>cat</name></label></labels></job></meta>
"""
SQUARE = '<polygon label="cat" points="5.00,5.00;20,5;20,20;5,20" z_order="0"/>'


def write(folder: Path, shapes: str, name: str = "a.png", more: str = "") -> Path:
    picture(folder / name)
    path = folder / "annotations.xml"
    image = f'<image id="0" name="{name}" width="{SIZE[1]}" height="{SIZE[0]}" {more}>{shapes}</image>'
    path.write_text(f"{HEAD}{image}</annotations>")
    return path


def one(tmp_path: Path, shapes: str) -> list[tuple[str, bool, np.ndarray]]:
    write(tmp_path / "in", shapes)
    imported(tmp_path / "in", tmp_path / "mine")
    return objects(datasets(tmp_path / "mine")["train"])["a.png"]


def brush(mask: np.ndarray, label: str = "cat", more: str = "") -> str:
    """As CVAT writes it: runs along the rows of the mask's box, background first."""
    ys, xs = np.nonzero(mask)
    window = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    flat = np.concatenate(([0], window.reshape(-1)))
    changes = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate(([0], changes, [window.size])))
    text = ", ".join(map(str, runs.tolist()))
    place = f'left="{xs.min()}" top="{ys.min()}" width="{window.shape[1]}" height="{window.shape[0]}"'
    return (
        f'<mask label="{label}" source="manual" occluded="0" rle="{text}" {place} z_order="0" {more}> </mask>'
    )


def test_masks_keep_holes_and_parts_and_labels_their_order(tmp_path: Path) -> None:
    first, second = one(tmp_path, brush(ring()) + SQUARE)
    assert np.array_equal(first[2], ring()) and second[2].sum() == 225
    assert datasets(tmp_path / "mine")["train"].categories.names == ("zebra", "cat")  # as CVAT lists them


def test_groups_are_one_object_and_rectangles_never(tmp_path: Path) -> None:
    part = '<polygon label="cat" points="30,30;40,30;40,38;30,38" group_id="3"/>'
    other = part.replace("cat", "zebra").replace("30,30;40,30", "31,30;40,30")
    grouped = SQUARE.replace("/>", ' group_id="3"/>')
    found = one(tmp_path, grouped + part + other)
    assert [o[0] for o in found] == ["cat", "zebra"] and found[0][2].sum() == 225 + 80
    (joined,) = one(tmp_path / "2", grouped + brush(ring(), more='group_id="3"'))
    assert np.array_equal(joined[2], ring() | one(tmp_path / "3", SQUARE)[0][2])


def test_ellipses_and_turned_boxes(tmp_path: Path) -> None:
    ellipse = '<ellipse label="cat" cx="30" cy="20" rx="20" ry="5" rotation="90"/>'
    box = '<box label="cat" xtl="20" ytl="15" xbr="40" ybr="25" rotation="90"/>'
    first, second = one(tmp_path, ellipse + box)
    assert first[2].sum() == pytest.approx(math.pi * 100, rel=0.03) and first[2][2:38, 30].all()
    assert second[2][10:30, 25:35].all() and second[2].sum() == 200


def test_boxes_alone(tmp_path: Path) -> None:
    write(tmp_path / "in", '<box label="cat" xtl="2" ytl="3" xbr="12.5" ybr="9" rotation="0.0"/>')
    imported(tmp_path / "in", tmp_path / "mine")
    truth = datasets(tmp_path / "mine")["train"].ground_truth()
    assert truth.boxes.tolist() == [[2, 3, 10.5, 6]] and not truth.has_masks


def test_shapes_without_area_are_counted(tmp_path: Path) -> None:
    skeleton = '<skeleton label="cat"><points label="1" points="1,1"/></skeleton>'
    write(tmp_path / "in", SQUARE + '<polyline label="cat" points="1,1;2,2"/><tag label="cat"/>' + skeleton)
    notes = imported(tmp_path / "in", tmp_path / "mine").notes
    assert {f"not kept: {kind} (has no area): 1" for kind in ("polyline", "tag", "skeleton")} <= set(notes)


def test_subsets_are_splits(tmp_path: Path) -> None:
    write(tmp_path / "in", SQUARE)
    text = (tmp_path / "in" / "annotations.xml").read_text()
    image = text[text.index("<image") : text.index("</annotations>")]
    picture(tmp_path / "in" / "b.png")
    second = image.replace("a.png", "b.png").replace("<image", '<image subset="Validation"')
    first = image.replace("<image", '<image subset="Train"')
    (tmp_path / "in" / "annotations.xml").write_text(text.replace(image, first + second))
    assert imported(tmp_path / "in", tmp_path / "mine").images == {"train": 1, "val": 1}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ('<polygon label="cat" points="1,2;x"/>', "its 'points' are not pairs of numbers"),
        ('<polygon label="cat" points=""/>', "its 'points' are not pairs of numbers"),
        ('<polygon label="cat" points="1,2;3,4"/>', "only 2 points"),
        ('<box label="cat" xtl="1" ytl="1" xbr="5"/>', "it has no 'ybr'"),
        ('<box label="cat" xtl="1" ytl="1" xbr="5" ybr="nan"/>', "'ybr' is not finite"),
        (
            '<box label="cat" xtl="1" ytl="1" xbr="5" ybr="5" rotation="x"/>',
            "its 'rotation' is 'x', not a number",
        ),
        ('<mask label="cat" rle="1,2" left="0" top="0" width="2" height="2"/>', "covers 3 of the 4 pixels"),
        (
            '<mask label="cat" rle="9999999999999999999999" left="0" top="0" width="2" height="2"/>',
            "not a list",
        ),
        ('<mask label="cat" rle="4" left="59" top="0" width="2" height="2"/>', "not inside the 60x40 image"),
        ('<mask label="cat" rle="4" left="0" top="0" width="99999999" height="99999999"/>', "not inside"),
    ],
)
def test_bad_shapes_are_named_and_left_out(tmp_path: Path, bad: str, words: str) -> None:
    write(tmp_path / "in", bad + SQUARE)
    notes = "\n".join(imported(tmp_path / "in", tmp_path / "mine").notes)
    assert "1 faulty annotation left out" in notes and "a.png, shape 0" in notes and words in notes


def test_names_of_files_elsewhere_are_not_followed(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    write(tmp_path / "in", SQUARE)
    text = (tmp_path / "in" / "annotations.xml").read_text()
    more = f'<image id="1" name="../b.png" width="60" height="40">{SQUARE}</image></annotations>'
    (tmp_path / "in" / "annotations.xml").write_text(text.replace("</annotations>", more))
    found = imported(tmp_path / "in", tmp_path / "mine")
    assert found.images == {"train": 1} and "lies outside" in "\n".join(found.notes)
    assert imported(tmp_path / "in", tmp_path / "all", allow_outside=True).images == {"train": 2}


ENTITIES = '<!DOCTYPE a [<!ENTITY l "lol"><!ENTITY m "&l;&l;&l;"><!ENTITY x SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD.replace("<annotations>", ENTITIES + "<annotations>"), r"annotations\.xml: has a document type"),
        (HEAD + "<image>", r"annotations\.xml:5:8: the XML is broken: no element found"),
        (HEAD + "<image></annotations>", "the XML is broken: mismatched tag"),
        (HEAD + '<track id="0" label="cat"></track></annotations>', "is of a video; export it as"),
        (HEAD + "</annotations>", "there are no images in it"),
    ],
)
def test_hostile_and_broken_files(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        imported(path, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
