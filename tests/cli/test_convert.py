"""``maskrcnn convert``: from a file to a checkpoint that predicts, and back to torchvision.

Covers ``maskrcnn/run/converted_recipe.py``.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.cli.convert import MAKERS
from maskrcnn.convert.detector import SOURCES
from maskrcnn.data.coco_classes import COCO
from maskrcnn.engine.checkpoint import load
from maskrcnn.recipe import parse_recipe
from maskrcnn.run import Predictor
from tests.convert.foreign import our_state, their_state


def write(folder: Path, framework: str, form: str = "mask", **options: Any) -> Path:
    """A small detector's file as its maker writes it."""
    state = their_state(our_state(form, msra=framework != "torchvision", **options), framework)
    if framework == "detectron2":
        path = folder / "theirs.pkl"
        content = {"model": {n: v.numpy() for n, v in state.items()}, "__author__": "Detectron2 Model Zoo"}
        path.write_bytes(pickle.dumps(content, protocol=2))
        return path
    path = folder / "theirs.pth"
    torch.save({"model": {f"module.{n}": v for n, v in state.items()}}, path)
    return path


@pytest.mark.parametrize("framework", ["torchvision", "detectron2", "maskrcnn-benchmark", "mmdetection"])
def test_converts_a_file(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path, framework), tmp_path / "ours.pt"
    assert main(["convert", str(path), str(out), "--verbose"]) == 0
    printed = capsys.readouterr().out
    assert f"recognised: {framework}, Mask R-CNN, ResNet-18-FPN" in printed
    assert "3 classes" in printed
    assert "-> backbone.conv1.weight" in printed
    assert ("B, G, R" in printed.split("read as: ")[1].split(";")[0]) == (framework != "torchvision")
    checkpoint = load(out)
    assert checkpoint.versions["converted_from"] == framework
    assert checkpoint.category_names == ("class_0", "class_1", "class_2")
    recipe = parse_recipe(checkpoint.config, "test")
    assert (recipe.eval.paste == "torchvision") == (framework in ("torchvision", "maskrcnn-benchmark"))


def test_the_result_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = our_state("faster", msra=True)
    for name in state:  # random weights that give boxes
        if name.endswith(("bn1.weight", "bn2.weight", "downsample.1.weight")):
            state[name].mul_(0.1)
    path, out = tmp_path / "theirs.pth", tmp_path / "ours.pt"
    torch.save(their_state(state, "mmdetection"), path)
    assert main(["convert", str(path), str(out), "--set", "data.eval_transforms=[]"]) == 0
    image = tmp_path / "a.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    assert (
        main(["predict", "--checkpoint", str(out), "--out", str(tmp_path / "p"), "--score", "0", str(image)])
        == 0
    )
    assert (tmp_path / "p").is_dir()
    predictor = Predictor(out, device="cpu", score=0.0)
    assert predictor.categories.names[0] == "class_0"


def test_coco_has_its_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path, "torchvision", "faster", classes=90), tmp_path / "ours.pt"
    assert main(["convert", "--from", "torchvision", str(path), str(out)]) == 0
    assert "COCO's 80 of the file's 90" in capsys.readouterr().out
    checkpoint = load(out)
    assert (checkpoint.category_ids, checkpoint.category_names) == (COCO.ids, COCO.names)
    assert checkpoint.model["roi.box_head.predictor.logits.bias"].shape == (81,)
    assert main(["convert", "--classes", "all", str(path), str(out)]) == 0
    assert len(load(out).category_ids) == 90


def test_names_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out, names = write(tmp_path, "mmdetection", "faster"), tmp_path / "ours.pt", tmp_path / "names.txt"
    names.write_text("cat\ndog\n\nhorse\n")
    assert main(["convert", str(path), str(out), "--names", str(names)]) == 0
    assert load(out).category_names == ("cat", "dog", "horse")
    rows = [{"id": 9, "name": "b"}, {"id": 4, "name": "a"}, {"id": 11, "name": "c"}]
    (tmp_path / "names.json").write_text(json.dumps({"categories": rows}))
    assert main(["convert", str(path), str(out), "--names", str(tmp_path / "names.json")]) == 0
    assert (load(out).category_ids, load(out).category_names) == ((4, 9, 11), ("a", "b", "c"))
    out.unlink()
    names.write_text("cat\ndog\n")
    assert main(["convert", str(path), str(out), "--names", str(names)]) == 2
    assert "2 names, but the file has 3 classes" in capsys.readouterr().err
    assert not out.exists()


def test_the_file_names_its_classes(tmp_path: Path) -> None:
    state = their_state(our_state("faster", msra=True), "mmdetection")
    torch.save({"state_dict": state, "meta": {"CLASSES": ("x", "y", "z")}}, tmp_path / "theirs.pth")
    assert main(["convert", str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pt")]) == 0
    assert load(tmp_path / "ours.pt").category_names == ("x", "y", "z")


def test_keys_and_colours_can_be_overruled(tmp_path: Path) -> None:
    path, out = write(tmp_path, "detectron2", "faster"), tmp_path / "ours.pt"
    keys = ["model.roi.max_detections=7", "model.preprocess.std=[2,3,4]", "data.workers=1"]
    more = [part for key in keys for part in ("--set", key)]
    assert main(["convert", str(path), str(out), "--channels", "rgb", *more]) == 0
    checkpoint = load(out)
    recipe = parse_recipe(checkpoint.config, "test")
    assert (recipe.model.roi.max_detections, recipe.data.workers) == (7, 1)
    assert recipe.model.preprocess.std == (2, 3, 4)
    assert main(["convert", str(path), str(tmp_path / "bgr.pt")]) == 0
    turned = load(tmp_path / "bgr.pt").model["backbone.conv1.weight"]
    assert checkpoint.model["backbone.conv1.weight"].equal(turned.flip(1))


def test_without_its_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path, "detectron2"), tmp_path / "ours.pt"
    assert main(["convert", str(path), str(out), "--drop-head"]) == 0
    assert "6 (" in capsys.readouterr().out
    checkpoint = load(out)
    assert not [n for n in checkpoint.model if "predictor" in n or "mask_head.logits" in n]
    assert "roi.box_head.fc2.weight" in checkpoint.model
    assert checkpoint.category_ids == ()


def test_a_wrong_maker_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path, "detectron2"), tmp_path / "ours.pt"
    assert main(["convert", "--from", "mmdetection", str(path), str(out)]) == 2
    assert "--from mmdetection, but these are the names of detectron2" in capsys.readouterr().err
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    assert main(["convert", str(tmp_path / "other.pth"), str(out)]) == 2
    assert "recognised as none of torchvision, detectron2" in capsys.readouterr().err
    assert not out.exists()


def test_what_does_not_match_is_a_sentence_and_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = their_state(our_state("mask"), "torchvision")
    del state["rpn.head.bbox_pred.weight"]
    torch.save(state, tmp_path / "theirs.pth")
    out = tmp_path / "ours.pt"
    assert main(["convert", "--from", "torchvision", str(tmp_path / "theirs.pth"), str(out)]) == 2
    message = capsys.readouterr().err
    assert "theirs.pth" in message
    assert "rpn.head.deltas.weight" in message
    assert not out.exists()


@pytest.mark.parametrize("name", ["theirs.pth", "theirs.pkl"])
@pytest.mark.parametrize("content", [None, b"", b"no checkpoint"])
def test_an_unreadable_file_is_a_sentence(
    content: bytes | None, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert main(["convert", str(path), str(tmp_path / "ours.pt")]) == 2
    assert name in capsys.readouterr().err


def test_the_makers_are_those_that_are_known() -> None:
    assert tuple(source.name for source in SOURCES) == MAKERS


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out, back = write(tmp_path, "detectron2"), tmp_path / "ours.pt", tmp_path / "back.pth"
    assert main(["convert", str(path), str(out)]) == 0
    assert main(["convert", "--to", "torchvision", str(out), str(back)]) == 2
    message = capsys.readouterr().err
    for key in ("model.backbone", "model.rpn.anchors", "model.roi_op"):
        assert key in message
    assert not back.exists()
    assert main(["convert", "--to", "torchvision", "--drop-head", str(out), str(back)]) == 2
    assert "--drop-head: of no use with --to" in capsys.readouterr().err


def test_what_no_weights_say_is_printed_with_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ours.pt"
    assert main(["convert", str(write(tmp_path, "detectron2", "keypoint", classes=1)), str(out)]) == 0
    printed = capsys.readouterr().out
    assert (
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x sets, as the recipe coco/keypoint_rcnn_r50_fpn_3x"
        in printed
    )
    assert "losses: rpn.beta 0, rpn.normalize_by capacity, roi.beta 0.5" in printed
    assert "rpn.post_nms_train 1500" in printed
    assert "stride in the" not in printed  # a ResNet-18 has none to move
    key = printed.split("overrule by --set model.KEY=VALUE, as ")[1].split("\n")[0].split()
    assert (
        main(["convert", str(tmp_path / "theirs.pkl"), str(out), key[0], key[1].replace("0.5", "0.25")]) == 0
    )
    assert "roi.beta 0.25 (as told)" in capsys.readouterr().out
    assert parse_recipe(load(out).config, "test").model.roi.beta == 0.25
    assert main(["convert", str(write(tmp_path, "detectron2", "c4")), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "stride in the 1x1" in printed
    assert "rpn.pre_nms_train 12000" in printed


def test_a_converted_keypoint_model_trains_and_is_judged_on_keypoints(tmp_path: Path) -> None:
    """Its recipe asks its data for keypoints, and for no masks."""
    out = tmp_path / "ours.pt"
    assert main(["convert", str(write(tmp_path, "torchvision", "keypoint", classes=1)), str(out)]) == 0
    data = parse_recipe(load(out).config, "test").data
    for split in (data.train, data.val):
        assert (split.keypoints, split.masks, split.keypoint_offset) == (True, False, 0.0)  # type: ignore[union-attr]
    assert data.train.min_keypoints == 10  # type: ignore[attr-defined]
