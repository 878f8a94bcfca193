"""Configs made for data: each reason is true of them, the config checks, trains, and scales.

Covers ``maskrcnn/cli/new.py``, ``maskrcnn/run/new/choice.py``, ``maskrcnn/run/new/choices.py`` and
``maskrcnn/run/new/facts.py``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.data import CocoConfig
from maskrcnn.data.transforms.network_size import network_sizes, resize_of
from maskrcnn.data.transforms.resizing import ResizeShortestEdge
from maskrcnn.engine.distributed import Ranks
from maskrcnn.modeling.rpn.anchor_fit import anchor_recall
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run import setup
from maskrcnn.run.new import start
from maskrcnn.run.new.choices import CPU
from maskrcnn.run.tiled_evaluation import tile_batches
from tests.data.test_tiles import write_data
from tests.run.new.scenes import Disc, crowd, write_discs

STRIDES = (4, 8, 16, 32, 64)


def new(data: Path, out: Path, *words: str, weights: str = "none") -> int:
    measured = [] if "--fit-memory" in words else ["--no-measure"]
    return main(["new", str(data), "--out", str(out), "--weights", weights, *measured, *words])


def read(out: Path) -> tuple[Recipe, str]:
    """The config, and its text with comments on one line each."""
    text = re.sub(r"\n *# (?=\S)", " ", out.read_text())
    return load_recipe(out), text


def network_boxes(recipe: Recipe) -> np.ndarray:
    """All training boxes as an evaluation's network sees them, float64 [G, 4] xyxy."""
    truth = recipe.data.train.build(True).ground_truth()
    old = truth.sizes[truth.images]
    resize = resize_of(setup.build_transforms(recipe, training=False), "eval")
    boxes = np.concatenate([truth.boxes[:, :2], truth.boxes[:, :2] + truth.boxes[:, 2:]], axis=1)
    return boxes * np.tile((network_sizes(old, resize) / old)[:, ::-1], 2)


def sides(boxes: np.ndarray) -> np.ndarray:
    return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))


def recall(boxes: np.ndarray, anchors: AnchorConfig) -> float:
    return anchor_recall(boxes, [b.numpy() for b in anchors.build(STRIDES).base], STRIDES)


def found(pattern: str, text: str) -> tuple[float, ...]:
    match = re.search(pattern, text)
    assert match is not None, (pattern, text)
    return tuple(float(group) for group in match.groups())


def trains(out: Path, folder: Path, *settings: str) -> None:
    keys = ["solver.steps=2", "solver.batch_size=1", "eval.backend=auto", *settings]
    words = [word for key in keys for word in ("--set", key)]
    assert main(["train", str(out), "--output", str(folder), *words]) == 0
    assert (folder / "best.pt").exists() or list(folder.rglob("*.pt"))


def test_small_and_dense_objects(tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    assert new(write_discs(tmp_path / "d", crowd(), gray=True, val=2), out) == 0
    recipe, text = read(out)
    boxes = network_boxes(recipe)
    (short, small) = found(r"shorter side of (\d+) px the small objects .*? have ([\d.]+) px", text)
    assert short == 128, "twice the 64 px that there are, and no more"
    assert small == pytest.approx(np.quantile(sides(boxes), 0.1), abs=0.3) and small < 16
    assert "shows nothing new" in text, "that 16 px are not reached is told"
    own, usual = recipe.model.rpn.anchors if recipe.model.rpn else AnchorConfig(), AnchorConfig()
    told = found(r"usual anchors overlap ([\d.]+)% of the objects by an IoU of 0.5, these ([\d.]+)%", text)
    assert told == pytest.approx((100 * recall(boxes, usual), 100 * recall(boxes, own)), abs=1)
    assert told[1] > told[0] + 10
    (mean, most) = found(r"has ([\d.]+) objects on average, and up to (\d+)", text)
    assert (mean, most) == (16, 16) and recipe.model.roi.max_detections == 100
    assert recipe.data.augment == "microscopy" and "100% of the images are gray" in text
    assert recipe.model.mask_target == "polygon" and "masks are polygons" in text
    trains(out, tmp_path / "run")


def test_objects_under_8_px_are_told_with_the_recall(tmp_path: Path) -> None:
    scenes: list[list[Disc]] = [[(0, 20 + 10 * i, 30, 1.5) for i in range(6)] + [(0, 60, 90, 20)]] * 8
    out = tmp_path / "mine.yaml"
    assert new(write_discs(tmp_path / "d", scenes, (128, 128), val=2), out) == 0
    recipe, text = read(out)
    share, most = found(r"([\d.]+)% of the objects are under 8 px .* at most ([\d.]+)%", text)
    assert share == pytest.approx(100 * (sides(network_boxes(recipe)) < 8).mean(), abs=0.1) and share > 80
    assert most == pytest.approx(100 - 0.97 * share, abs=0.1)


def test_one_large_object(tmp_path: Path) -> None:
    scenes: list[list[Disc]] = [[(0, 100 + k, 80, 60)] for k in range(10)]
    out = tmp_path / "mine.yaml"
    assert new(write_discs(tmp_path / "d", scenes, (160, 200), val=2), out) == 0
    recipe, text = read(out)
    assert "No object is under 8 px" in text and recipe.data.augment == "photos"
    assert sides(network_boxes(recipe)).min() > 100 and recipe.data.repeat_threshold is None
    types = [transform.__class__.__name__ for transform in recipe.data.train_transforms]
    assert types == ["ResizeShortestEdge"], "small images are trained whole"


def test_large_images_of_small_objects_are_trained_in_windows(tmp_path: Path) -> None:
    scenes: list[list[Disc]] = [[(0, 40 + 50 * i, 60 + 9 * k, 8) for i in range(10)] for k in range(7)]
    out = tmp_path / "mine.yaml"
    assert new(write_discs(tmp_path / "d", scenes, (520, 700), val=2), out, "--set", "device=cpu") == 0
    recipe, text = read(out)
    (window, times) = found(r"windows of (\d+) px, for whole images would take ([\d.]+) times", text)
    (short,) = found(r"shorter side of (\d+) px", text)
    assert times == pytest.approx(short**2 * 700 / 520 / window**2, abs=0.1) and times > 1.3
    assert any(getattr(t, "height", None) == window for t in recipe.data.train_transforms)
    assert not any(hasattr(t, "height") for t in recipe.data.eval_transforms)


def test_rare_classes(tmp_path: Path) -> None:
    scenes: list[list[Disc]] = [[(0, 32, 32, 10), *([(1, 50, 50, 9)] if k == 30 else [])] for k in range(40)]
    out = tmp_path / "mine.yaml"
    data = write_discs(tmp_path / "d", scenes, classes=("cup", "lid"), val=4)
    assert new(data, out) == 0
    recipe, text = read(out)
    share, factor = found(r"lid in ([\d.]+)% x ([\d.]*\d)", text)
    threshold = recipe.data.repeat_threshold
    assert threshold is not None and share == pytest.approx(100 / 36, abs=0.1)
    assert factor == pytest.approx(np.sqrt(threshold * 36), abs=0.1) and factor > 1.5
    assert "Classes: cup (36), lid (1)." in text
    trains(out, tmp_path / "run")


def test_a_validation_set_is_split_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.yaml"
    data = write_discs(tmp_path / "d", crowd(20), gray=True)
    assert new(data, out, "--val", "0.25", "--group", "regex:(\\d\\d)\\d.png") == 0
    recipe, _ = read(out)
    assert isinstance(recipe.data.val, CocoConfig) and isinstance(recipe.data.train, CocoConfig)
    names = [
        {i["file_name"][:2] for i in json.loads(part.annotations.read_text())["images"]}
        for part in (recipe.data.train, recipe.data.val)
    ]
    assert names[0] | names[1] == {"00", "01"} and not names[0] & names[1], "groups stay together"
    assert "objects" in capsys.readouterr().out
    other = tmp_path / "other.yaml"
    assert new(data, other, "--val", "0") == 0
    assert load_recipe(other).data.val is None and not (tmp_path / "other_split").exists()
    trains(other, tmp_path / "run")


def test_boxes_alone(tmp_path: Path) -> None:
    data = write_discs(tmp_path / "d", crowd(8), masks=False, val=2)
    out = tmp_path / "mine.yaml"
    assert new(data, out) == 0
    assert load_recipe(out).model.mask_head is None
    trains(out, tmp_path / "run")
    bare = tmp_path / "bare.yaml"  # a json, of which nobody said that it has no masks
    assert new(data / "train.json", bare, "--images", str(data / "images")) == 0
    recipe = load_recipe(bare)
    assert recipe.model.mask_head is None and len(recipe.data.train.build(True)) > 0
    assert main(["config", "check", str(bare)]) == 0


def test_twelve_bits_in_sixteen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.yaml"
    assert new(write_discs(tmp_path / "d", crowd(8), bits=12, val=2), out) == 0
    recipe, text = read(out)
    assert recipe.data.contrast is not None and "values up to 3000" in capsys.readouterr().out
    (mean,) = found(r"mean: \[([\d.]+),", text)
    image = recipe.data.build(recipe.data.train, True).load(0).image
    assert mean == pytest.approx(float(image.mean()), rel=0.2) and mean > 20
    trains(out, tmp_path / "run")


def test_keypoints(tmp_path: Path) -> None:
    assert main(["data", "--help"]) == 0
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data:\n  train: {{type: synthetic, level: easy, keypoints: true, num_images: 6, size: 64,"
        f' root: "{tmp_path}"}}\n'
    )
    out = tmp_path / "mine.yaml"
    assert new(config, out) == 0
    recipe, text = read(out)
    joints = getattr(recipe.model.keypoint_head, "num_keypoints", 0)
    assert joints and f"Objects have {joints} keypoints" in text and recipe.data.augment == "photos"
    assert recipe.eval.sigmas is None or len(recipe.eval.sigmas) == joints


def test_steps_given_later_scale_the_schedule(tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    assert new(write_discs(tmp_path / "d", crowd(8), val=2), out) == 0
    full, short = load_recipe(out).solver, load_recipe(out, ["solver.steps=400"]).solver
    assert full.steps >= 1000
    for solver in (full, short):
        assert solver.rate_at(solver.steps - 1) < 1e-3 * solver.learning_rate
        middle = solver.rate_at(solver.steps // 2)
        assert middle == pytest.approx(solver.learning_rate / 2, rel=0.01)
    assert short.schedule.factor(20, 400) < 0.6 < short.schedule.factor(40, 400)
    assert new(tmp_path / "d", tmp_path / "o.yaml", "--set", "solver.steps=400") == 0
    recipe = load_recipe(tmp_path / "o.yaml")
    assert recipe.solver.steps == 400 and 0 < (recipe.train.eval_every or 0) <= 400


def test_the_same_data_give_the_same_file(tmp_path: Path) -> None:
    data, out = write_discs(tmp_path / "d", crowd(10)), tmp_path / "mine.yaml"
    assert new(data, out) == 0
    before = out.read_bytes()
    assert new(data, out, "--overwrite") == 0
    assert out.read_bytes() == before


def test_what_is_there_is_kept_unless_one_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_discs(tmp_path / "d", crowd(8), val=2), tmp_path / "mine.yaml"
    out.write_text("mine: 1\n")
    assert new(data, out) == 2 and out.read_text() == "mine: 1\n"
    assert "--overwrite" in capsys.readouterr().err
    assert new(data, out, "--overwrite", "--set", "solver.stepps=3") == 2
    assert out.read_text() == "mine: 1\n" and "steps" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob(".*")] == [], "no draft is left"
    assert new(data, out, "--overwrite") == 0
    assert "replaced" in capsys.readouterr().out and load_recipe(out).solver.steps


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--set", "data.train_transforms.0.max_size=5"], "is written in one line here"),
        (["--fit-memory", "2"], "is no share of the memory"),
        (["--val", "1"], "is no share of the images"),
        (["--weights", "torchvision/mask_rcnn_r51"], "no weights have that name"),
        (["--weights", "here.pth"], "here.pth"),
    ],
)
def test_mistakes_are_told(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_discs(tmp_path / "d", crowd(8), val=2), tmp_path / "mine.yaml"
    assert new(data, out, *words) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error and not out.exists()


def test_values_that_are_asked_for_stand_in_the_file(tmp_path: Path) -> None:
    data, out = write_discs(tmp_path / "d", crowd(8), val=2), tmp_path / "mine.yaml"
    words = ["solver.optimizer.lr=0.005", "model.roi.max_detections=300", "seed=4", "model.backbone.depth=34"]
    assert new(data, out, *(word for key in words for word in ("--set", key))) == 0
    recipe, text = read(out)
    assert (recipe.solver.optimizer.lr, recipe.model.roi.max_detections, recipe.seed) == (0.005, 300, 4)
    assert recipe.eval.best_metric == "segm/AP@300" and text.count("As --set asks.") == 4


def test_from_a_folder_to_a_trained_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three commands of the README, with a step measured."""
    monkeypatch.setattr(start, "_at_hand", lambda name: "")
    labels = write_discs(tmp_path / "d", crowd(10), gray=True)
    mine, out = tmp_path / "mine", tmp_path / "mine.yaml"
    assert (
        main(["import", str(labels / "train.json"), "--images", str(labels / "images"), "--out", str(mine)])
        == 0
    )
    assert new(mine, out, "--fit-memory", "0.5", "--set", "solver.batch_size=1", weights="auto") == 0
    recipe, text = read(out)
    assert "Measured here" in text and "Expected time" in text and recipe.solver.batch_size == 1
    assert main(["config", "check", str(out)]) == 0
    trains(out, tmp_path / "run")


def test_large_images_of_small_objects_are_cut_into_tiles(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    boxes = [[[int(x), int(y), 10, 10] for x, y in rng.integers(0, 1390, (150, 2))] for _ in range(5)]
    write_data(tmp_path / "images", boxes, size=(1400, 1500))
    (tmp_path / "images" / "data.json").rename(tmp_path / "all.json")
    data = tmp_path / "data.yaml"
    part = f"{{type: coco, images: {tmp_path}/images, annotations: {tmp_path}/all.json}}"
    data.write_text(f"data:\n  train: {part}\n  val: {part}\n")
    assert new(data, tmp_path / "tiles.yaml", "--set", "device=cpu") == 0
    recipe, text = read(tmp_path / "tiles.yaml")
    assert recipe.data.tiles is not None and recipe.data.tiles.overlap == 0.2
    size, seen = recipe.data.tiles.size, recipe.data.eval_transforms[0]
    assert isinstance(seen, ResizeShortestEdge)
    (side,) = seen.min_sizes
    assert "Images are large and objects small: shorter sides of 1400 px" in text
    assert 14 <= 10 * side / size <= 18  # what the network is to see of them: 16 px
    assert side <= 1.5 * CPU.window
    val = setup.build_val(recipe, Ranks(0, 1, 0, torch.device("cpu")))
    most = tile_batches(val, recipe, Ranks(0, 1, 0, torch.device("cpu")))[2]
    assert recipe.eval.best_metric == f"segm/AP@{most}"
