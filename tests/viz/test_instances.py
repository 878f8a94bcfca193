"""Pictures: what must be drawn is drawn, where it belongs, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from maskrcnn.structures import Detections, InstanceMasks, Targets
from maskrcnn.viz.instances import (
    as_rgb,
    draw_detections,
    draw_instances,
    draw_records,
    enlargement,
    mask_window,
    stretched,
)
from maskrcnn.viz.labels import (
    COVERED,
    CROWDED,
    Label,
    Rect,
    draw_inside,
    draw_labels,
    place_labels,
    printable,
    text_box,
)
from maskrcnn.viz.palette import LESS, MORE, class_colour, ink, instance_colour, shade
from maskrcnn.viz.panels import contact_sheet, mark_differences, shrunk, side_by_side

GRAY = np.full((60, 80, 3), 100, dtype=np.uint8)


def disc(x: int, y: int, radius: int) -> np.ndarray[Any, Any]:
    yy, xx = np.mgrid[:60, :80]
    return ((xx - x) ** 2 + (yy - y) ** 2 <= radius**2).astype(np.uint8)


def as_rle(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    return dict(coco_mask.encode(np.asfortranarray(mask)))


def test_a_mask_is_tinted_inside_and_the_rest_is_untouched() -> None:
    mask = disc(30, 30, 12)
    before = GRAY.copy()
    out = draw_instances(GRAY, None, [mask], [0], ["a", "b"], show_labels=False, smallest=0, alpha=0.5)
    assert np.array_equal(before, GRAY)
    assert (out.shape, out.dtype) == (GRAY.shape, np.uint8)
    expected = (np.array(class_colour(0)) + 100) / 2
    assert np.abs(out[30, 30] - expected).max() <= 1
    far = disc(30, 30, 15) == 0
    assert (out[far] == 100).all()


def test_run_lengths_and_bitmaps_give_the_same_picture() -> None:
    mask = disc(78, 30, 12)  # cut by the border
    one, two = (draw_instances(GRAY, None, [m], [1], ["a", "b"], [0.9]) for m in (mask, as_rle(mask)))
    assert np.array_equal(one, two)


def test_small_pictures_are_enlarged_by_a_whole_number() -> None:
    assert [enlargement(h, w, 640) for h, w in ((640, 480), (639, 1), (128, 128), (8, 8), (0, 0))] == [
        1,
        2,
        5,
        8,
        1,
    ]
    out = draw_instances(GRAY, None, [disc(30, 30, 12)], [0], ["a", "b"], show_labels=False)
    assert out.shape == (480, 640, 3)
    changed = np.argwhere((out != 100).any(axis=2))
    # The disc covers pixels 18 .. 42, that is 18 .. 43 in continuous coordinates; lines are drawn on top.
    assert np.abs(changed.min(axis=0) - 18 * 8).max() <= 4
    assert np.abs(changed.max(axis=0) - 43 * 8).max() <= 4


def test_boxes_are_drawn_where_there_are_no_masks() -> None:
    boxes = np.array([[10.0, 20.0, 40.0, 50.0]])
    out = draw_instances(GRAY, boxes, None, [0], ["a", "b"], show_labels=False, smallest=0)
    line = np.argwhere((np.abs(out.astype(int) - class_colour(0)) < 40).all(axis=2))
    assert line.min(axis=0).tolist() == [20, 10]
    assert line.max(axis=0).tolist() == [49, 39]
    changed = np.argwhere((out != 100).any(axis=2))  # with the rim
    assert changed.min(axis=0).tolist() == [18, 8]
    assert changed.max(axis=0).tolist() == [51, 41]
    assert (out[30, 20] == 100).all()
    with_masks = draw_instances(
        GRAY, boxes, [disc(25, 35, 4)], [0], ["a", "b"], show_labels=False, smallest=0
    )
    assert (with_masks[20, 10:40] == 100).all()


@pytest.mark.parametrize("masks", [None, []])
def test_nothing_to_draw(masks: list[Any] | None) -> None:
    out = draw_instances(GRAY, np.zeros((0, 4)), masks, [], ["a"], [], smallest=0)
    assert np.array_equal(out, GRAY)


def test_empty_masks_and_boxes_outside_are_harmless() -> None:
    empty = np.zeros((60, 80), dtype=np.uint8)
    boxes = torch.tensor([[-50.0, -50.0, -10.0, -20.0], [500.0, 5.0, 600.0, 9.0]])
    out = draw_instances(GRAY, boxes, [empty, as_rle(empty)], [0, 7], ["a", "b"], [0.5, 0.6])
    assert out.shape == (480, 640, 3)
    assert mask_window(empty)[0].size == 0


def test_labels_stay_inside_and_apart() -> None:
    labels = [
        Label("a long name of a class 0.99", (x, y, x + 30, y + 30), (255, 0, 0))
        for x, y in ((-20, -20), (300, 5), (305, 8), (380, 190), (0, 190), (150, 90))
    ]
    placed = place_labels(labels, 200, 400, 0.45)
    rects = [r for r in placed if r is not None]
    assert len(rects) >= 5
    for x1, y1, x2, y2 in rects:
        assert 0 <= x1 < x2 <= 400
        assert 0 <= y1 < y2 <= 200
    for i, a in enumerate(rects):
        for b in rects[i + 1 :]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def covered(rect: Rect, box: Rect) -> float:
    """Share of a box under a rectangle."""
    width, height = (max(0, min(rect[i + 2], box[i + 2]) - max(rect[i], box[i])) for i in (0, 1))
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))


def test_labels_thin_out_in_a_crowd_and_hide_no_object() -> None:
    draw = np.random.default_rng(0)
    corners = draw.integers(0, 580, (200, 2)).tolist()
    crowd = [Label("0.99", (x, y, x + 14, y + 14), (255, 0, 0)) for x, y in corners]
    placed = place_labels(crowd, 600, 600, 0.45)
    rects = [r for r in placed if r is not None]
    assert 5 <= len(rects) < 60, "thinned out"
    assert sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in rects) <= CROWDED * 600 * 600
    assert max(covered(r, label.box) for r in rects for label in crowd) <= COVERED
    assert all(len([r for r in place_labels([label], 600, 600, 0.45) if r]) == 1 for label in crowd[:9])
    few = place_labels(crowd[:10], 600, 600, 0.45, around=[label.box for label in crowd])
    assert max(covered(r, label.box) for r in few if r for label in crowd) <= COVERED


def test_a_label_on_a_large_object_may_lie_inside_it() -> None:
    (rect,) = place_labels([Label("0.50", (0, 0, 200, 200), (0, 255, 0))], 200, 200, 0.45)
    assert rect is not None and rect[:2] == (0, 0)


def test_letters_fit_their_box() -> None:
    canvas = np.zeros((80, 300, 3), dtype=np.uint8)
    draw_labels(canvas, [Label("gjpqy 0.98", (10, 40, 30, 60), (255, 255, 0))], scale=0.8)
    width, height, _ = text_box("gjpqy 0.98", 0.8)
    box = canvas[40 - height : 40, 10 : 10 + width]
    edges = np.concatenate([box[0], box[-1], box[:, 0], box[:, -1]])
    assert (edges == (255, 255, 0)).all(), "letters must not touch the border of their label"
    assert (box == (0, 0, 0)).all(axis=2).any()


def test_names_scores_and_numbers_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        "maskrcnn.viz.instances.draw_labels",
        lambda canvas, labels, around: written.extend(x.text for x in labels),
    )
    boxes = np.array([[0, 0, 5, 5], [0, 0, 9, 9], [0, 0, 7, 7]])
    draw_instances(GRAY, boxes, None, [0, 1, 4], ["cat", "dog"], [0.5, 0.25, 0.75])
    assert written == ["4 0.75", "cat 0.50", "dog 0.25"]
    written.clear()
    draw_instances(GRAY, boxes, None, [0, 1, 1], ["cat", "dog"])
    assert written == ["dog", "dog", "cat"], "without scores the large ones first"
    written.clear()
    draw_instances(GRAY, boxes[:1], None, [0], ["nucleus"], [0.5])
    assert written == ["0.50"], "the only class needs no name"
    written.clear()
    draw_instances(GRAY, boxes, None, [0, 1, 1], ["cat", "dog"], [0.5, 0.25, 0.75], show_scores=False)
    assert written == ["dog", "cat", "dog"]
    written.clear()
    small = np.array([[0, 0, 4, 4], [20, 20, 24, 25], [40, 40, 44, 45]])
    draw_instances(
        GRAY, small, None, [0, 1, 1], ["cat", "dog"], [0.5, 0.25, 0.75], numbers=[7, 8, 9], smallest=0
    )
    assert written == ["9 dog 0.75", "7 cat 0.50", "8 dog 0.25"], "too small to hold their numbers"


def test_numbers_are_written_inside_what_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, Rect]] = []
    monkeypatch.setattr(
        "maskrcnn.viz.instances.draw_inside",
        lambda canvas, texts, boxes: (
            seen.extend(zip(texts, boxes, strict=True)) or [(0, 0, 1, 1)] * len(texts)
        ),
    )
    bean = disc(40, 30, 20)
    bean[:, 34:46] = 0  # in two parts, neither of which lies in the middle
    bean[:, 46:] = 0
    plain: dict[str, Any] = {"show_labels": False, "smallest": 0}
    draw_instances(GRAY, None, [bean, disc(60, 20, 10)], [0, 0], ["a"], numbers=True, **plain)
    (one, (x1, y1, x2, y2)), (two, there) = seen
    assert (one, two) == ("1", "2") and bean[(y1 + y2) // 2, (x1 + x2) // 2]
    assert np.abs(np.array(there) - (50, 10, 71, 31)).max() <= 2


def test_a_number_is_white_on_a_dark_rim_or_left_out() -> None:
    canvas = np.full((60, 80, 3), 150, np.uint8)
    places = draw_inside(canvas, ["12", "34"], [(10, 10, 50, 50), (60, 20, 64, 24)])
    assert places[1] is None and places[0] is not None
    x1, y1, x2, y2 = places[0]
    assert 10 <= x1 < x2 <= 51 and 10 <= y1 < y2 <= 51
    assert (
        canvas[y1:y2, x1:x2].max() > 230 and canvas[y1:y2, x1:x2].min() < 60 and (canvas[:, 55:] == 150).all()
    )


def test_contrast_spans_the_scale_and_keeps_hues() -> None:
    dim = np.random.default_rng(0).integers(20, 40, (40, 50, 1)) + np.array([0, 2, 4])
    shown = stretched(dim.astype(np.uint8))
    assert shown.min() == 0 and shown.max() == 255
    assert (np.diff(shown.astype(int).mean((0, 1))) > 0).all()
    image = dim.astype(np.uint8)
    assert np.array_equal(draw_instances(image, None, [], [], ["a"], contrast=True, smallest=0), shown)
    assert np.array_equal(stretched(np.full((4, 4, 3), 9, np.uint8)), np.zeros((4, 4, 3)))


def test_switches_leave_out_fill_and_outline() -> None:
    plain: dict[str, Any] = {"show_labels": False, "smallest": 0}
    whole, line, filled = (
        draw_instances(GRAY, None, [disc(30, 30, 12)], [0], ["a"], **plain, **style)
        for style in ({}, {"alpha": 0.0}, {"show_outlines": False})
    )
    assert (line[30, 30] == 100).all() and (line[30, 42] != 100).any()
    assert (filled[30, 30] == whole[30, 30]).all() and (filled[30, 44] == 100).all()


def test_old_opencv_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.__version__", "4.10.0")
    assert printable("größe 细") == "gro?e ?"
    monkeypatch.setattr("cv2.__version__", "5.0.0")
    assert printable("größe 细") == "größe 细"


def test_colours_are_stable_and_distinct() -> None:
    assert class_colour(3) == class_colour(3)
    assert len({class_colour(i) for i in range(90)}) == 90
    assert len({instance_colour(i) for i in range(300)}) >= 290
    assert shade(class_colour(2), 0) == class_colour(2)
    assert len({shade(class_colour(2), i) for i in range(4)}) == 4
    assert ink((255, 255, 0)) == (0, 0, 0)
    assert ink((0, 0, 160)) == (255, 255, 255)


def test_touching_instances_of_one_class_differ() -> None:
    masks = [disc(25, 30, 8), disc(42, 30, 8)]
    for names in (["only"], ["a", "b"]):
        out = draw_instances(GRAY, None, masks, [0, 0], names, show_labels=False, smallest=0)
        assert (out[30, 25] != out[30, 42]).any()
    same = draw_instances(
        GRAY, None, masks, [0, 1], ["a", "b"], show_labels=False, smallest=0, colour_by="class"
    )
    assert (same[30, 25] != same[30, 42]).any()


def test_detections_are_filtered_by_score_and_targets_are_drawn() -> None:
    boxes = torch.tensor([[5.0, 5.0, 25.0, 25.0], [40.0, 30.0, 70.0, 55.0]])
    found = Detections(boxes, torch.tensor([0.3, 0.9]), torch.tensor([0, 1]), torch.ones(2, 28, 28))
    image = torch.full((3, 60, 80), 100, dtype=torch.uint8)
    out = draw_detections(image, found, ["a", "b"], show_labels=False, smallest=0)
    assert (out[15, 15] == 100).all()
    assert (out[42, 55] != 100).any()
    both = draw_detections(image, found, ["a", "b"], show_labels=False, smallest=0, min_score=0.1)
    assert (both[15, 15] != 100).any()
    one = draw_detections(image, found, ["a", "b"], show_labels=False, smallest=0, min_score=0.1, most=1)
    assert np.array_equal(one, out)

    polygon = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]
    truth = Targets(
        torch.tensor([[10.0, 10.0, 30.0, 30.0]]),
        torch.tensor([0]),
        InstanceMasks.from_coco([polygon], 60, 80),
        torch.tensor([1]),
    )
    drawn = draw_detections(image, truth, ["a", "b"], show_labels=False, smallest=0)
    assert (drawn[20, 20] != 100).any()
    assert (drawn[40, 60] == 100).all()


def test_images_of_other_kinds_become_rgb() -> None:
    assert as_rgb(np.zeros((4, 5), np.uint8)).shape == (4, 5, 3)
    assert as_rgb(np.full((4, 5, 1), 300.0)).max() == 255
    many = np.random.default_rng(0).random((40, 50, 5)) * [1, 1e5, 3, 9, 9]
    shown = as_rgb(many)  # the first three, each over its own range
    assert shown.shape == (40, 50, 3) and (shown.min((0, 1)) == 0).all() and (shown.max((0, 1)) == 255).all()
    assert np.array_equal(as_rgb(many[..., :2]), np.dstack((shown[..., :2], 0 * shown[..., 2])))
    with pytest.raises(ValueError, match=r"got \(4,\)"):
        as_rgb(np.zeros(4))


def test_side_by_side_keeps_both_pictures() -> None:
    left, right = np.full((40, 60, 3), 50, np.uint8), np.full((80, 30, 3), 200, np.uint8)
    out = side_by_side(left, right, titles=())
    assert out.shape == (80, 120 + 8 + 30, 3)
    assert (out[:, :120] == 50).all()
    assert (out[:, -30:] == 200).all()
    titled = side_by_side(left, left)
    assert titled.shape[0] > 40
    assert (titled[-40:, :60] == 50).all()
    assert (titled[:-40] > 100).any(), "the titles are written"
    with pytest.raises(ValueError, match="at least one"):
        side_by_side()


def test_contact_sheet() -> None:
    pictures = [
        np.full((h, w, 3), 40 * (i + 1), np.uint8) for i, (h, w) in enumerate([(50, 100), (90, 30), (10, 10)])
    ]
    out = contact_sheet(pictures, columns=2, cell=100)
    assert out.shape[1] == 2 * 108 + 8
    for i in range(3):
        assert (out == 40 * (i + 1)).all(axis=2).sum() > 1000
    assert contact_sheet([], cell=50).shape == (66, 66, 3)
    assert contact_sheet(pictures, titles=["a", "b", "c"], cell=100).shape[1] == 2 * 108 + 8


def test_small_instances_lie_on_top_of_large_ones() -> None:
    masks = [disc(40, 30, 4), disc(40, 30, 25)]
    for order in ([0, 1], [1, 0]):
        out = draw_instances(
            GRAY, None, [masks[i] for i in order], order, ["a", "b"], show_labels=False, smallest=0, alpha=1.0
        )
        assert tuple(out[30, 40]) == class_colour(0)
        assert tuple(out[30, 55]) == class_colour(1)


def test_differences_are_painted_both_ways() -> None:
    own, reference = np.full((2, 3), -1), np.full((2, 3), -1)
    own[0, 0], reference[0, 0] = 5, 5  # the same
    own[0, 1], reference[0, 1] = 5, 7  # another class
    own[1, 0] = 5
    reference[1, 2] = 5
    black = np.zeros((4, 6, 3), dtype=np.uint8)
    out = mark_differences(black, own, reference)[::2, ::2]
    more, less = ([round(0.75 * c) for c in colour] for colour in (MORE, LESS))
    assert out.tolist() == [[[0, 0, 0], more, [0, 0, 0]], [more, [0, 0, 0], less]]


def test_pictures_are_made_smaller_never_larger() -> None:
    picture = np.zeros((100, 50, 3), dtype=np.uint8)
    assert shrunk(picture, 200) is picture
    assert shrunk(picture, 20).shape == (20, 10, 3)


def test_records_are_drawn_by_their_masks_or_else_their_boxes() -> None:
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    plain: dict[str, Any] = {"show_labels": False, "smallest": 0}
    box = {"bbox": [5.0, 6.0, 20.0, 10.0], "score": 0.5}
    square = np.zeros((40, 40), dtype=np.uint8)
    square[6:16, 5:25] = 1
    both = draw_records(image, [box | {"segmentation": as_rle(square)}], [0], ["a", "b"], **plain)
    boxes = draw_records(image, [box], [0], ["a", "b"], **plain)
    wanted = draw_instances(image, np.array([[5, 6, 25, 16]]), None, [0], ["a", "b"], **plain)
    assert np.array_equal(boxes, wanted)
    assert both[10, 10].any() and not boxes[10, 10].any()
    assert np.array_equal(draw_records(image, [], [], ["a"]), draw_instances(image, None, None, [], ["a"]))


def test_a_score_below_0_is_not_written() -> None:
    image = np.full((200, 300, 3), 90, dtype=np.uint8)
    boxes = np.array([[40.0, 60.0, 200.0, 160.0]])
    without = draw_instances(image, boxes, None, [0], ["disc", "box"], [0.7], show_scores=False)
    assert (draw_instances(image, boxes, None, [0], ["disc", "box"], [-1.0]) == without).all()
    assert (draw_instances(image, boxes, None, [0], ["disc", "box"], [0.7]) != without).any()
