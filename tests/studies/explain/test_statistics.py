"""Misalignment over a data set: against one box at a time, and by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskrcnn.data.transforms.basic import HorizontalFlip
from maskrcnn.data.transforms.network_size import resize_of
from maskrcnn.data.transforms.resizing import Resize, ResizeShortestEdge
from maskrcnn.errors import DataError, UserError
from maskrcnn.layers import ROI_OPS
from maskrcnn.studies.explain.measured import full, sentence, summary
from maskrcnn.studies.explain.region import BoxOnMap, Region
from maskrcnn.studies.explain.scaled_boxes import Boxes, load_boxes
from maskrcnn.studies.explain.statistics import measure, misalignment, strides_of
from maskrcnn.studies.explain.written_ops import parse_op


def random_boxes(count: int, seed: int = 0) -> Boxes:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 700, (count, 2))  # some reach over the edge
    side = np.exp(rng.uniform(np.log(6), np.log(280), (count, 2)))
    size = np.tile(np.array([[800, 832]]), (count, 1))
    return Boxes(np.concatenate([low, low + side], axis=1), size, "random", count)


def unchanged(height: int, width: int) -> tuple[int, int]:
    return height, width


@pytest.mark.parametrize("cells", ["centre", "corner"])
@pytest.mark.parametrize("kind", [*ROI_OPS.names(), "roi_pool:rounding=floor,bins=truncate"])
def test_the_figures_are_those_of_the_pictures(kind: str, cells: str) -> None:
    boxes, op = random_boxes(25), parse_op(kind)
    m = misalignment(boxes, op, 16, 7, cells)
    for k, (x1, y1, x2, y2) in enumerate(boxes.xyxy.tolist()):
        region = Region(op, BoxOnMap((x1, y1, x2, y2), (800, 832), 16, (7, 7), cells))
        assert m.offset[k] == pytest.approx(region.mean_offset(), abs=1e-9)
        assert m.iou[k] == pytest.approx(region.iou(), abs=1e-9)
        np.testing.assert_allclose(m.moves[k], [*region.offsets(0), *region.offsets(1)], atol=1e-9)
        if op.kind == "roi_pool":
            unread = (region.weights().sum((2, 3)) == 0).mean()
            assert m.empty[k] == pytest.approx(unread)


def test_a_constant_shift_is_bias_and_rounding_is_noise() -> None:
    boxes = random_boxes(400)
    ops = [parse_op(kind) for kind in ROI_OPS.names()]
    for stride in (8, "fpn"):
        rows = {row.op.kind: row for row in measure(boxes, ops, [stride]) if row.size == "all"}
        assert rows["roi_align"].offset == pytest.approx(0, abs=1e-9)
        assert rows["roi_align"].iou == pytest.approx(1)
        for kind in ("prroi_pool", "roi_align_legacy"):
            assert rows[kind].noise == pytest.approx(0, abs=1e-9)
            assert rows[kind].bias > 1
        assert rows["roi_pool"].noise > 0.5
        assert rows["roi_warp"].noise > 0.5
    # PrRoI pooling: half a cell along both axes, 4 px.
    [row] = [row for row in measure(boxes, [parse_op("prroi_pool")], [8]) if row.size == "all"]
    assert row.bias == pytest.approx(4)
    assert row.offset == pytest.approx(4 * 2**0.5)


def test_the_noise_of_rounding_at_random_is_what_theory_says() -> None:
    # RoIWarp takes round(x1 s) and round(x2 s) + 1: both errors uniform, of variance s^2 / 12, and a bin at a
    # fraction f of the box has (1 - f) of the one and f of the other.
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 300, (40_000, 2))
    boxes = Boxes(
        np.concatenate([low, low + rng.uniform(100, 400, low.shape)], 1),
        np.full(low.shape, 1024),
        "uniform",
        1,
    )
    [row] = [row for row in measure(boxes, [parse_op("roi_warp")], [16]) if row.size == "all"]
    f = (np.arange(7) + 0.5) / 7
    assert row.noise == pytest.approx(16 * np.sqrt(((1 - f) ** 2 + f**2).mean() / 12), rel=0.02)


def test_sizes_are_those_of_coco_at_network_scale() -> None:
    xyxy = np.array([[0, 0, 31.9, 32], [0, 0, 32, 32], [0, 0, 96, 95.9], [0, 0, 96, 96], [0, 0, 300, 300.0]])
    boxes = Boxes(xyxy, np.full((5, 2), 512), "five", 1)
    rows = measure(boxes, [parse_op("roi_pool")], [4])
    assert {row.size: row.boxes for row in rows} == {"all": 5, "small": 1, "medium": 2, "large": 2}
    # eq. 1 of Lin et al. 2017: 448 px of side go to level 5 (stride 32), 224 to 4, 112 to 3, less to 2
    sides = np.array([448.0, 447, 224, 112, 111, 5])
    square = np.stack([sides * 0, sides * 0, sides, sides], axis=1)
    assert strides_of(Boxes(square, np.full((6, 2), 512), "", 1), "fpn").tolist() == [32, 16, 16, 8, 4, 4]


def coco(path: Path, boxes: list[list[float]], size: tuple[int, int] = (100, 200)) -> Path:
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0, "area": 1.0}
        for i, box in enumerate(boxes)
    ]
    image = {"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_boxes_are_read_and_resized(tmp_path: Path) -> None:
    path = coco(tmp_path / "a.json", [[10, 20, 30, 40], [0, 0, 5, 5]])
    resize = resize_of([ResizeShortestEdge((50,), 1000)], "test")
    boxes = load_boxes(path, resize)
    np.testing.assert_allclose(boxes.xyxy, [[5, 10, 20, 30], [0, 0, 2.5, 2.5]])
    assert boxes.sizes.tolist() == [[50, 100], [50, 100]]
    assert (boxes.images, len(boxes)) == (1, 2)
    squeezed = load_boxes(path, resize_of([Resize(height=100, width=50)], "test"))
    np.testing.assert_allclose(squeezed.xyxy, [[2.5, 20, 10, 60], [0, 0, 1.25, 5]])
    with pytest.raises(UserError, match="no box in it"):
        load_boxes(path, unchanged, image_ids=[2])
    with pytest.raises(UserError, match="no box in it"):
        load_boxes(coco(tmp_path / "b.json", []), unchanged)


def test_transforms_that_do_more_than_resize_are_refused() -> None:
    with pytest.raises(DataError, match="more than resize"):
        resize_of([HorizontalFlip(1.0)], "here")(100, 200)


def test_the_tables_say_the_same(tmp_path: Path) -> None:
    boxes = random_boxes(60)
    ops = [parse_op("roi_pool"), parse_op("roi_align")]
    rows = measure(boxes, ops, [16, 32])
    lines = full(rows).comma_separated().splitlines()
    assert len(lines) == 1 + len(rows)
    assert lines[0].startswith("op,stride,size,boxes,offset px")
    first = next(row for row in rows if (row.size, row.stride, row.op.kind) == ("small", 16, "roi_pool"))
    assert f"RoIPool,16,small,{first.boxes},{first.offset:.2f}," in full(rows).comma_separated()
    assert f"| RoIPool | 16 | small | {first.boxes} | {first.offset:.2f} |" in full(rows).markdown()
    assert f"{first.offset:.2f}" in summary(rows).text()
    assert sentence(rows).startswith(
        f"On your data RoIPool at stride 16 moves the average small object by {first.offset:.1f} px,"
    )
    assert "RoIAlign by 0.0 px" in sentence(rows)


def test_on_the_nuclei_rounding_costs_half_of_a_small_object(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("nuclei") / "instances_val.json"
    resizer = ResizeShortestEdge((800,), 1333)
    boxes = load_boxes(path, lambda h, w: resizer.output_size(h, w, 800))
    assert len(boxes) == 2043
    rows = {(r.op.kind, r.size): r for r in measure(boxes, [parse_op(k) for k in ROI_OPS.names()], [16])}
    assert rows["roi_pool", "small"].share > 0.4
    assert rows["roi_align", "small"].offset == pytest.approx(0, abs=1e-9)
