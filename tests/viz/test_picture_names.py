"""Every picture has a name of its own, which says which image it is of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maskrcnn.viz.picture_names import PictureNames


def names(*paths: str) -> list[str]:
    taken = PictureNames()
    return [taken.take(path) for path in paths]


def test_folders_are_part_of_the_name() -> None:
    assert names("101.png", "seq1/101.png", "seq2/101.png", "a/b/1.2.jpg") == [
        "101",
        "seq1__101",
        "seq2__101",
        "a__b__1.2",
    ]
    assert names("../x/1.png", "/data/1.png", "./y/../1.png") == ["x__1", "data__1", "y__1"]


def test_equal_names_get_their_suffix_then_a_digest() -> None:
    found = names("1.png", "1.jpg", "a__1.png", "a/1.png", "A/1.PNG", "a:1.png", "a?1.png")
    assert found[:4] == ["1", "1.jpg", "a__1", "a__1.png"]
    assert found[4].startswith("A__1-")
    assert found[5:] == ["a_1", "a_1.png"]
    again = names("1.png", "1.jpg", "a__1.png", "a/1.png", "A/1.PNG", "a:1.png", "a?1.png")
    assert again == found
    many = names(*["x/y.png"] * 5)  # one image, drawn again and again
    assert len({name.casefold() for name in many}) == 5


LONG = "ü" * 250 + "/" + "é" * 250


@pytest.mark.parametrize(
    "path", ["a\udce9.png", "-rf.png", ".hid.png", "~.png", "a\nb.png", "x" * 5000, LONG, "..", "/"]
)
def test_any_name_becomes_one_that_can_be_written(tmp_path: Path, path: str) -> None:
    (name,) = names(path)
    assert name.isprintable()
    assert name[0] not in "-.~ "
    assert os.sep not in name
    (tmp_path / f"{name}.png.partial").write_text("x")


def test_long_names_that_differ_at_the_end_stay_apart() -> None:
    first, second = names("x" * 300 + "1.png", "x" * 300 + "2.png")
    assert first != second
    assert max(len(first.encode()), len(second.encode())) <= 200


def test_composed_and_decomposed_letters_are_one_name_to_some_file_systems() -> None:
    first, second = names("\u00e9.png", "e\u0301.png")
    assert first == "\u00e9"
    assert second == "e\u0301.png"
