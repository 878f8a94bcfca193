"""The pictures hold the figures, the drawn object fills its box, and the command tells mistakes.

Covers ``maskrcnn/studies/explain/measured.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.studies.explain.region import BoxOnMap, Region
from maskrcnn.studies.explain.view import facts, title_of, view_of
from maskrcnn.studies.explain.written_ops import parse_op
from maskrcnn.viz.example import BOX, IMAGE_SIZE, example_image, size_for
from maskrcnn.viz.roi_picture import draw

Capture = pytest.CaptureFixture[str]
WORKED = [
    "665 / 32 = 20.78 cells → 20",
    "20 / 7 = 2.857 → 2 cells a bin",
    "first bin's edge off by 0.857 cells = 27.43 px",
    "6 of 20 cells, 192 px, never seen",
]


def test_the_worked_example_in_words() -> None:
    where = BoxOnMap(BOX, IMAGE_SIZE, 32)
    assert facts(Region(parse_op("roi_pool:rounding=floor,bins=truncate"), where))[:4] == WORKED
    align = facts(Region(parse_op("roi_align"), where))
    assert align[:2] == ["665 / 32 = 20.78 cells kept", "20.78 / 7 = 2.97, kept"]
    assert align[-1] == "bins off by 0.0 px on average, IoU 1.00"
    assert "half a cell, 16 px, right and down: a constant shift" in facts(
        Region(parse_op("prroi_pool"), where)
    )


def test_both_sides_are_told_where_they_differ() -> None:
    lines = facts(Region(parse_op("roi_pool"), BoxOnMap((0, 0, 100, 50), (100, 100), 16)))
    assert lines[0] == "width 100 / 16 = 6.25 cells → 7"
    assert "height 50 / 16 = 3.12 cells → 4" in lines


def test_the_drawn_object_fills_its_box() -> None:
    for box in (BOX, (100.0, 40.0, 340.0, 200.0)):
        size = size_for(box)
        image = example_image(box, size).astype(int)
        background = example_image((-9000.0, box[1], -8000.0, box[3]), size).astype(int)
        rows, columns = np.nonzero(np.abs(image - background).max(2) > 24)
        found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_allclose(found, box, atol=3)


def draw_args(tmp_path: Path, *more: str) -> list[str]:
    return ["explain-roi", "--out", str(tmp_path / "p.svg"), *more]


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    boxes = [[10, 20, 30, 40], [100, 50, 20, 20], [5, 5, 150, 180]]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 200, "width": 200}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": b, "iscrowd": 0, "area": b[2] * b[3]}
            for i, b in enumerate(boxes)
        ],
    }
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_the_default_picture_is_the_worked_example(tmp_path: Path, capsys: Capture) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        assert main(draw_args(tmp_path)) == 0
    printed, drawn = capsys.readouterr().out, (tmp_path / "p.svg").read_text(encoding="utf-8")
    for line in [*WORKED, "20.78 / 7 = 2.97, kept"]:
        assert line in printed
        assert line.replace("'", "&#x27;") in drawn or line in drawn
    assert "−15.5" in drawn  # the first column's offset
    assert "A box of 665×665 px in 800×800, stride 32, 7×7 bins" in drawn


def test_arrows_go_from_where_a_bin_should_be_to_where_it_is() -> None:
    pytest.importorskip("matplotlib")
    where = BoxOnMap(BOX, IMAGE_SIZE, 32)
    views = [view_of(Region(parse_op(text), where)) for text in ("prroi_pool", "roi_align")]
    shifted, exact = draw(example_image(BOX, IMAGE_SIZE), views, title_of(where)).axes[0::2]
    assert not exact.texts
    # A third of the bins each way; the middle bin of a box whose centre is at 396.5 goes half a cell away.
    assert len(shifted.texts) == 9
    assert shifted.texts[4].xyann == pytest.approx((396.5, 396.5))
    assert shifted.texts[4].xy == pytest.approx((412.5, 412.5))


def test_every_operator_is_drawn_on_a_real_image(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    cv2 = pytest.importorskip("cv2")
    image, out = tmp_path / "i.png", tmp_path / "p.png"
    cv2.imwrite(str(image), np.full((60, 90, 3), 128, dtype=np.uint8))
    ops = ["roi_pool:bins=truncate", "roi_warp", "roi_align:samples=random", "roi_align_legacy", "prroi_pool"]
    args = ["--image", str(image), "--box", "3", "-8", "40", "41", "--stride", "16", "--output-size", "3"]
    assert main(["explain-roi", *args, "--out", str(out), "--dpi", "50", "--ops", *ops]) == 0
    picture = cv2.imread(str(out))
    assert picture is not None
    assert picture.shape[1] > 5 * 100
    # vermillion (offsets) and blue (bins), as BGR
    for colour in ((0, 94, 213), (178, 114, 0)):
        assert (np.abs(picture.astype(int) - colour).max(2) < 40).sum() > 20


def test_a_data_set_is_measured(tmp_path: Path, annotations: Path, capsys: Capture) -> None:
    pytest.importorskip("matplotlib")
    table = tmp_path / "t.csv"
    args = ["--data", str(annotations), "--strides", "16", "fpn", "--min-size", "0", "--table", str(table)]
    assert main(draw_args(tmp_path, *args)) == 0
    out = capsys.readouterr().out
    assert "3 boxes of 1 image" in out
    assert "On your data RoIPool at stride 16 moves the average small object by" in out
    # 2 strides, 5 operators, and each of: all, small (20 x 20), medium, large
    assert len(table.read_text(encoding="utf-8").splitlines()) == 1 + 2 * 5 * 4
    assert (tmp_path / "p.svg").stat().st_size > 1000


def test_a_config_brings_its_own_scale(tmp_path: Path, annotations: Path, capsys: Capture) -> None:
    pytest.importorskip("matplotlib")
    config = tmp_path / "c.yaml"
    config.write_text(
        f"data:\n  train: {{type: coco, images: {tmp_path}, annotations: {annotations}, masks: false}}\n"
        "  eval_transforms: [{type: resize_shortest_edge, min_sizes: [20], max_size: 1000}]\n",
        encoding="utf-8",
    )
    args = ["--data", str(config), "--strides", "4", "--ops", "roi_pool"]
    assert main(draw_args(tmp_path, *args)) == 0
    # A tenth of the size: all three are small now.
    assert "small (3)" in capsys.readouterr().out
    assert main(draw_args(tmp_path, *args, "--min-size", "0")) == 0
    assert "small (1)" in capsys.readouterr().out
    assert main(draw_args(tmp_path, *args, "--split", "val")) == 2
    assert "data.val is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--image", "x.png"], "--image needs --box"),
        (["--image", "x.png", "--box", "1", "2", "3", "4"], "there is no such image file"),
        (["--box", "0", "0", "10", "10", "--strides", "8"], "--strides needs --data"),
        (["--data", "x.json", "--stride", "8"], "--stride does not go with --data"),
        (["--data", "x.json", "--strides", "fnp"], "--strides fnp: a stride is a whole number"),
        (["--data", "x.json", "--table", "t.xls"], "must end in .md or .csv"),
        (["--data", "x.json", "--split", "val"], "--split needs a config file"),
        (["--stride", "0"], "must be at least 1"),
        (["--output-size", "0"], "must be from 1 to 64"),
        (["--output-size", "1", "--ops", "roi_align_legacy:pooled=false"], "at least 2"),
        (["--ops", "roi_crop"], "there is no RoI operator 'roi_crop'"),
        (["--out", "p.bmp"], "must end in .png or .svg or .pdf"),
        (["--out", "nowhere/p.png"], "there is no folder nowhere"),
    ],
)
def test_mistakes_end_in_a_sentence(tmp_path: Path, more: list[str], says: str, capsys: Capture) -> None:
    assert main(draw_args(tmp_path, *more)) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "p.svg").exists()


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, annotations: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for more in ([], ["--data", str(annotations)]):
        assert main(draw_args(tmp_path, *more)) == 2
        assert "pip install matplotlib" in capsys.readouterr().err
