"""A recipe held against its data: caps, sizes and anchors; and the advice ends the doubt."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.data.doctor import Doubt
from maskrcnn.data.transforms.moving import crop_to
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run.fit_doubts import Seen, fit_doubts
from maskrcnn.run.recipe_checks import build_without_memory
from maskrcnn.structures import RawSample
from tests.data.doctor.scenes import SIZE, content, octagon, write
from tests.engine.tiny import write_recipe

#: Fits the scenes, which raise no doubt with it.
FITTING = {
    "model.rpn.anchors.sizes": "[[24],[32],[40],[48],[64]]",
    "data.eval_transforms": "[{type: resize_shortest_edge, min_sizes: [96]}]",
}


def many(source: dict[str, Any], count: int) -> dict[str, Any]:
    """``count`` further octagons in the first image."""
    for k in range(count):
        x, y = 12 + 11 * (k % 10), 12 + 11 * (k // 10)
        first = source["annotations"][0]
        box = {"bbox": [x - 10, y - 10, 20, 20], "segmentation": [octagon(x, y, 10)], "area": 283}
        source["annotations"].append(first | box | {"id": 5000 + k})
    return source


def recipe_of(folder: Path, source: dict[str, Any], **settings: str) -> Recipe:
    write(folder / "images", source, "train")
    write(folder / "images", source, "val")
    path = write_recipe(folder)  # whose data are replaced
    images, train = write(folder / "own", source, "train")
    _, val = write(folder / "own", source, "val")
    keys = FITTING | settings
    overrides = [f"{key}={value}" for key, value in keys.items()]
    for name, file in (("train", train), ("val", val)):
        overrides += [f"data.{name}.images={images}", f"data.{name}.annotations={file}"]
    return load_recipe(path, overrides)


def doubts(recipe: Recipe) -> list[Doubt]:
    data = recipe.data
    assert data.val is not None
    model = build_without_memory(recipe)
    strides = [] if model.rpn is None else model.rpn.anchors.strides
    train, val = data.train.build(True), data.val.build(False)
    found = list(fit_doubts(recipe, strides, train, training=True))
    return found + list(fit_doubts(recipe, strides, val, training=False))


def advised(doubt: Doubt) -> dict[str, str]:
    """The keys that a doubt says to set."""
    return dict(re.findall(r"(model[\w.]+): (\{.*?\]\}|\d+)", doubt.advice))


def test_a_recipe_that_fits_raises_none(tmp_path: Path) -> None:
    assert doubts(recipe_of(tmp_path, content())) == []


@pytest.mark.parametrize(
    ("count", "settings", "kinds"),
    [
        (30, {"model.roi.samples": "512"}, {"more objects than detections", "more objects than proposals"}),
        (60, {"model.roi.max_detections": "100", "model.rpn.post_nms_test": "100",
              "model.rpn.post_nms_train": "100"}, {"more objects than RoIs"}),
    ],
)  # fmt: skip
def test_more_objects_than_a_cap_are_told_and_the_advice_ends_it(
    tmp_path: Path, count: int, settings: dict[str, str], kinds: set[str]
) -> None:
    source = many(content(), count)
    settings = {"model.rpn.post_nms_test": "20", "model.rpn.post_nms_train": "200"} | settings
    found = doubts(recipe_of(tmp_path, source, **settings))
    assert {d.kind for d in found} == kinds
    for doubt in found:
        assert doubt.every == (1,) and f"image 1: {2 + count}" in str(doubt)
        settings |= advised(doubt)
    assert doubts(recipe_of(tmp_path, source, **settings)) == []


def test_windows_hold_fewer_objects_than_images(tmp_path: Path) -> None:
    source, settings = many(content(), 60), {"model.roi.max_detections": "100"}
    crop = "[{type: random_crop, height: 40, width: 40}]"
    assert "more objects than RoIs" in {d.kind for d in doubts(recipe_of(tmp_path, source, **settings))}
    settings["data.train_transforms"] = crop
    assert "more objects than RoIs" not in {d.kind for d in doubts(recipe_of(tmp_path, source, **settings))}


def test_the_share_that_is_lost_is_counted(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, many(content(), 30), **{"model.roi.samples": "512"})
    (doubt,) = (d for d in doubts(recipe) if d.kind == "more objects than detections")
    # 32 objects in the first image, of which 10 can be found, and 10 in the others.
    assert doubt.cost == "22 (52.4%) of the objects cannot be found"


def test_small_objects_are_told_and_enlarging_ends_it(tmp_path: Path) -> None:
    resize = "[{{type: resize_shortest_edge, min_sizes: [{}]}}]"
    settings = {
        "data.eval_transforms": resize.format(20),
        "model.rpn.anchors.sizes": "[[6],[8],[10],[12],[64]]",
    }
    (doubt,) = (d for d in doubts(recipe_of(tmp_path, content(), **settings)) if d.kind == "small objects")
    assert doubt.of == "objects" and "so the recall to expect is at most" in doubt.cost
    assert 0 < doubt.count <= doubt.total == 12 and len(doubt.every) == doubt.count == len(doubt.images)
    factor = float(re.findall(r"enlarge the images ([\d.]+) times", doubt.advice)[0])
    settings["data.eval_transforms"] = resize.format(round(20 * factor) + 1)
    assert "small objects" not in {d.kind for d in doubts(recipe_of(tmp_path, content(), **settings))}


def test_anchors_far_off_are_told_and_those_advised_are_near(tmp_path: Path) -> None:
    settings = {"model.rpn.anchors.sizes": "[[128],[200],[256],[400],[512]]"}
    (doubt,) = doubts(recipe_of(tmp_path, content(), **settings))
    assert (doubt.kind, doubt.count, doubt.total) == ("no anchors near", 12, 12)
    assert "anchors reach 0% of the objects" in doubt.cost
    settings = {"model.rpn.anchors": advised(doubt)["model.rpn.anchors"]}
    keys = FITTING.pop("model.rpn.anchors.sizes")
    try:
        assert doubts(recipe_of(tmp_path, content(), **settings)) == []
    finally:
        FITTING["model.rpn.anchors.sizes"] = keys


def test_boxes_are_seen_in_the_network_frame_and_clipped(tmp_path: Path) -> None:
    source = content(1)
    source["annotations"][0] |= {"bbox": [-0.5, 10, 20, 30]}
    recipe = recipe_of(
        tmp_path, source, **{"data.eval_transforms": "[{type: resize, height: 192, width: 64}]"}
    )
    seen = Seen(recipe.data.train.build(False), recipe)
    assert seen.sizes[0].tolist() == [192, 64] and seen.counts.tolist() == [2]
    scale = 64 / SIZE[1]
    assert seen.boxes[0].tolist() == pytest.approx([0, 20, 19.5 * scale, 80])


class Cuts:
    """A transform of one's own that says what is not so."""

    resizes_only = True

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        return crop_to(sample, 0, 0, 64, 64, 1.0)


def test_transforms_of_ones_own_that_cut_leave_the_other_doubts(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, many(content(), 30), **{"model.roi.samples": "512"})
    cutting = replace(recipe, data=replace(recipe.data, eval_transforms=(Cuts(),)))
    assert {d.kind for d in doubts(cutting)} == {d.kind for d in doubts(recipe)}


def test_training_tells_and_a_key_turns_it_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)
    command = ["train", str(path), "--set", "solver.steps=1", "--set", "train.eval_every=null"]
    assert main([*command, "--output", str(tmp_path / "a")]) == 0
    assert "objects that no anchor overlaps" in capsys.readouterr().err
    content_of = json.loads((tmp_path / "images" / "train.json").read_text())
    content_of["annotations"].append(content_of["annotations"][0] | {"id": 999})
    (tmp_path / "images" / "train.json").write_text(json.dumps(content_of))
    assert main([*command, "--output", str(tmp_path / "b")]) == 0
    assert "repeat another of their image" in capsys.readouterr().err
    assert main([*command, "--output", str(tmp_path / "c"), "--set", "train.check_data=none"]) == 0
    told = capsys.readouterr().err
    assert "anchor" not in told and "repeat another" not in told
