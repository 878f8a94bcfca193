"""Objects over the borders of windows come out once, whole, and apart from their neighbours.

Covers ``maskrcnn/inference/tile_parts.py``; ``benchmarks/tiles.py`` has the large form.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from benchmarks.tiles import (
    Field,
    Item,
    average_precision,
    in_frame,
    make_field,
    oracle,
    record,
    shares,
    singles,
    tiled,
)
from maskrcnn.data.windows import Window, rows_of_windows
from maskrcnn.inference import tile_merger
from maskrcnn.inference.tile_merger import Found, TileMerger
from maskrcnn.inference.tile_parts import apart, read_part

SIZE = (100, 160)
#: Two windows that share x from 60 to 100.
LEFT, RIGHT = Window(0, 0, 100, 100), Window(60, 0, 100, 100)


def rectangle(x1: int, y1: int, x2: int, y2: int, category: int = 1) -> Item:
    return Item(category, 0, x1, y1, np.ones((y2 - y1, x2 - x1), dtype=np.uint8))


def merged(*of_windows: tuple[Window, list[tuple[Item, float]]]) -> list[Found]:
    """What becomes of objects that the windows of one row see."""
    merger = TileMerger([[window for window, _ in of_windows]], SIZE)
    out: list[Found] = []
    for window, seen in of_windows:
        records = [record(item, window, score) for item, score in seen]
        out += merger.add([r for r in records if r is not None])
    return out


def whole(found: Found) -> Any:
    out = np.zeros(SIZE, dtype=np.uint8)
    assert found.bitmap is not None
    (x, y), (h, w) = found.corner, found.bitmap.shape
    out[y : y + h, x : x + w] = found.bitmap
    return out


def both(*items: tuple[Item, float]) -> list[Found]:
    return merged((LEFT, list(items)), (RIGHT, list(items)))


def test_one_that_both_windows_show_whole_comes_from_the_one_that_it_lies_further_inside() -> None:
    item = rectangle(66, 40, 80, 50)
    (found,) = merged((LEFT, [(item, 0.6)]), (RIGHT, [(item, 0.9)]))
    assert (found.window, found.score, found.box) == (LEFT, 0.6, (66, 40, 80, 50))


def test_one_that_a_border_cuts_comes_whole_from_the_window_that_shows_all() -> None:
    (found,) = merged(
        (LEFT, [(rectangle(80, 40, 110, 50), 0.9)]), (RIGHT, [(rectangle(80, 40, 110, 50), 0.7)])
    )
    assert (found.window, found.box, found.score) == (RIGHT, (80, 40, 110, 50), 0.7)


def test_one_larger_than_what_is_shared_is_joined() -> None:
    item = rectangle(30, 20, 140, 60)
    (found,) = merged((LEFT, [(item, 0.8)]), (RIGHT, [(item, 0.6)]))
    assert found.box == (30, 20, 140, 60) and np.array_equal(whole(found)[20:60, 30:140], item.mask)
    assert found.score == pytest.approx((0.8 * 70 + 0.6 * 80) / 150)  # by area


def test_touching_neighbours_stay_two_wherever_they_touch() -> None:
    for x in range(50, 115, 5):
        found = both((rectangle(20, 40, x, 60), 0.9), (rectangle(x, 40, 150, 60), 0.8))
        assert sorted(f.box for f in found) == [(20, 40, x, 60), (x, 40, 150, 60)]
    for y in range(45, 60, 3):  # one above the other, each across both borders
        found = both((rectangle(20, 30, 150, y), 0.9), (rectangle(20, y, 150, 70), 0.8))
        assert sorted(f.box for f in found) == [(20, 30, 150, y), (20, y, 150, 70)]


def test_a_detection_of_two_neighbours_at_once_does_not_chain_them() -> None:
    one, two = rectangle(20, 30, 150, 48), rectangle(20, 48, 150, 66)
    wrong = rectangle(20, 30, 150, 66)
    found = merged((LEFT, [(one, 0.9), (two, 0.9)]), (RIGHT, [(wrong, 0.4)]))
    assert len(found) == 2
    assert all(whole(f)[:, :60].sum() == 40 * 18 for f in found)  # as the left window has them


def test_arms_that_meet_in_another_window_are_one_object() -> None:
    mask = np.zeros((80, 110), dtype=np.uint8)
    mask[:20], mask[60:], mask[:, 80:] = 1, 1, 1
    u = Item(1, 0, 30, 10, mask)
    arms = [(rectangle(30, 10, 140, 30), 0.9), (rectangle(30, 70, 140, 90), 0.8)]
    (found,) = merged((LEFT, arms), (RIGHT, [(u, 0.9)]))
    assert np.array_equal(whole(found)[10:90, 30:140], mask)


def test_scraps_at_a_border_go_where_another_window_saw_better() -> None:
    item = rectangle(40, 40, 64, 60)
    (found,) = both((item, 0.9))  # the right window sees four columns of it
    assert found.window == LEFT
    assert merged((LEFT, []), (RIGHT, [(item, 0.9)])) == []
    inside = rectangle(66, 40, 80, 50)  # both show all of it, the left one further inside
    assert merged((LEFT, []), (RIGHT, [(inside, 0.9)])) == []
    assert len(merged((LEFT, [(inside, 0.9)]), (RIGHT, []))) == 1
    (kept,) = merged((LEFT, []), (RIGHT, [(rectangle(20, 40, 130, 60), 0.9)]))  # nobody else shows all of it
    assert kept.box == (60, 40, 130, 60)


def test_classes_are_voted_on_and_equal_ones_meet_first() -> None:
    item, other = rectangle(30, 20, 140, 60), rectangle(30, 20, 140, 60, category=2)
    (found,) = merged((LEFT, [(item, 0.5)]), (RIGHT, [(other, 0.9)]))
    assert found.category == 2
    found_two = merged((LEFT, [(item, 0.9), (other, 0.3)]), (RIGHT, [(other, 0.4), (item, 0.8)]))
    assert sorted((f.category, round(f.score, 2)) for f in found_two) == [(1, 0.85), (2, 0.35)]


def test_boxes_without_masks_are_merged_too() -> None:
    merger = TileMerger([[LEFT, RIGHT]], SIZE)
    first = {"category_id": 1, "score": 0.9, "bbox": [30, 20, 70, 40]}
    second = {"category_id": 1, "score": 0.7, "bbox": [0, 20, 80, 40]}
    (found,) = [*merger.add([first]), *merger.add([second])]
    assert found.bitmap is None and found.box == (30, 20, 140, 60)


def test_parts_lie_apart_where_background_is_between_them() -> None:
    def part(item: Item) -> Any:
        return read_part(0, LEFT, record(item, LEFT, 1.0) or {})

    assert not apart(part(rectangle(10, 10, 20, 20)), part(rectangle(10, 20, 20, 30)))
    assert not apart(part(rectangle(10, 10, 20, 20)), part(rectangle(22, 22, 30, 30)))
    assert apart(part(rectangle(10, 10, 20, 20)), part(rectangle(10, 26, 20, 30)))


@pytest.fixture(scope="module")
def field() -> Field:
    return make_field(3000)


def test_a_large_image_is_as_good_as_single_ones(field: Field) -> None:
    facts = shares(field, 512, 0.2)
    assert facts["objects"] > 1100 and facts["across"] > 0.2 and facts["touching"] > 0.08
    assert facts["larger"] >= 1
    found = tiled(field, 512, 0.2)
    assert len(found) == len(field.items)
    single = average_precision(field, singles(field))
    assert average_precision(field, [in_frame(one, field.side) for one in found]) >= single - 0.01


def test_small_tiles_make_objects_of_many_parts(field: Field) -> None:
    """Each large one lies over some twenty windows."""
    large = [item for item in field.items if max(item.mask.shape) > 500]
    alone = Field(field.side, large, {cell: [*range(len(large))] for cell in field.cells})
    found = tiled(alone, 224, 0.25)
    assert len(found) == len(large) >= 1
    for item, one in zip(large, found, strict=True):
        assert one.bitmap is not None and abs(int(one.bitmap.sum()) / int(item.mask.sum()) - 1) < 0.03


def test_what_is_held_is_two_rows_and_what_comes_out_the_same_in_any_order(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of_windows(field.side, field.side, 512, 0.2)
    merger = TileMerger(rows, (field.side, field.side))
    mixed = TileMerger(rows, (field.side, field.side))
    rng = random.Random(0)
    held, out, other = 0, list[Found](), list[Found]()
    for row in rows:
        for window in row:
            records = oracle(field, window)
            out += merger.add(records)
            rng.shuffle(records)
            other += mixed.add(records)
            held = max(held, len(merger._clusters))
    assert held < 3.2 * len(field.items) / len(rows) and not merger._clusters
    assert sorted(f.box for f in out) == sorted(f.box for f in other)


@pytest.mark.parametrize("broken", ["SAME", "INSIDE"])
def test_the_thresholds_matter(field: Field, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """Beyond 1 no pair stands: then the halves stay halves."""
    monkeypatch.setattr(tile_merger, "SAME", 1.1)
    if broken == "INSIDE":
        monkeypatch.setattr(tile_merger, "INSIDE", 1.1)
    assert len(tiled(field, 512, 0.2)) != len(field.items)
