"""What of a file's classes a run takes over, and what is told of weights that were trained otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskrcnn.engine.checkpoint import Checkpoint, save
from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.mask_rcnn import MaskRCNN, MaskRCNNConfig
from maskrcnn.modeling.roi.keypoint_head import ConvKeypointHeadConfig
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from maskrcnn.recipe import Recipe, parse_recipe
from maskrcnn.run.initial_weights import start_model
from maskrcnn.run.named_weights import FirstWeights
from maskrcnn.structures.categories import Categories
from maskrcnn.weights.published import Published, add
from tests.convert.foreign import FORMS

OURS = Categories((1, 2, 3), ("cell", "person", "dog"))
THEIRS = Categories((1, 2, 3, 4, 5), ("Dog", "cat", "person", "tie", "cup"))
DATA = """\
data:
  train: {type: coco, images: images, annotations: train.json}
solver: {batch_size: 4, reference_batch_size: 16, optimizer: {type: sgd, lr: 0.02}}
"""
BASE = parse_recipe(DATA, "test")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path / "home"))


def recipe_of(model: MaskRCNNConfig, **changes: object) -> Recipe:
    return replace(BASE, model=model, **changes)  # type: ignore[arg-type]


def written(folder: Path, config: MaskRCNNConfig, names: Categories = THEIRS, text: str = "") -> Path:
    """A checkpoint of random weights for these classes."""
    torch.manual_seed(1)
    model = config.build(len(names))
    path = folder / "theirs.pt"
    save(
        Checkpoint(model=model.state_dict(), category_ids=names.ids, category_names=names.names, config=text),
        path,
    )
    return path


def begun(
    config: MaskRCNNConfig, weights: Path, names: Categories = OURS, **changes: object
) -> tuple[MaskRCNN, FirstWeights]:
    torch.manual_seed(2)
    model = config.build(len(names))
    recipe = recipe_of(config, weights=weights, **changes)
    return model, start_model(model, recipe, weights, names)


@pytest.mark.parametrize("form", ["mask", "faster", "cascade", "v2", "gn"])
def test_rows_are_taken_over_by_class_name(form: str, tmp_path: Path) -> None:
    config = FORMS[form]
    path = written(tmp_path, config)
    theirs = torch.load(path, weights_only=True)["model"]
    model, start = begun(config, path)
    now = model.state_dict()
    torch.manual_seed(2)
    fresh = config.build(3).state_dict()
    heads = [n.removesuffix("logits.weight") for n in now if n.endswith("predictor.logits.weight")]
    assert len(heads) == (3 if form == "cascade" else 1)
    for head in heads:
        logits = f"{head}logits.weight"
        assert now[logits][[1, 2, 3]].equal(theirs[logits][[2, 0, 5]])  # person, dog, background
        assert now[logits][0].equal(fresh[logits][0])
        deltas = f"{head}deltas.weight"
        if form == "cascade":
            assert now[deltas].equal(theirs[deltas])
        else:
            assert now[deltas].view(3, 4, -1)[1:].equal(theirs[deltas].view(5, 4, -1)[[2, 0]])
    if config.mask_head is not None:
        name = "roi.mask_head.logits.weight"
        assert now[name][1:].equal(theirs[name][[2, 0]]) and now[name][0].equal(fresh[name][0])
    assert now["backbone.conv1.weight"].equal(theirs["backbone.conv1.weight"])
    told = "\n".join(start.lines)
    assert told.startswith(f"weights from {path}\n2 of 3 classes have a namesake in the weights")
    assert "cell    (afresh)" in told and "dog     Dog" in told
    assert "output layers, rows by class: roi.box_head" in told


def test_the_same_classes_are_taken_whole(tmp_path: Path) -> None:
    path = written(tmp_path, FORMS["mask"], OURS)
    model, start = begun(FORMS["mask"], path)
    state = torch.load(path, weights_only=True)["model"]
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert start.lines == [f"weights from {path}"]


def test_the_same_classes_in_another_order_are_sorted(tmp_path: Path) -> None:
    turned = Categories((1, 2, 3), OURS.names[::-1])
    path = written(tmp_path, FORMS["mask"], turned)
    model, _ = begun(FORMS["mask"], path)
    state, name = torch.load(path, weights_only=True)["model"], "roi.mask_head.logits.weight"
    assert model.state_dict()[name].equal(state[name].flip(0))


@pytest.mark.parametrize(
    "names", [Categories((), ()), Categories((1, 2, 3, 4), tuple(f"class_{i}" for i in range(4)))]
)
def test_a_file_that_does_not_name_its_classes_is_refused(names: Categories, tmp_path: Path) -> None:
    path = written(tmp_path, FORMS["mask"], names if names.ids else THEIRS)
    if not names.ids:
        content = torch.load(path, weights_only=True)
        torch.save(content["model"], path)
    with pytest.raises(
        CheckpointError, match="its output layers are for another number of classes.*--drop-head"
    ):
        begun(FORMS["mask"], path)
    _, start = begun(FORMS["mask"], path, drop_head=True)
    assert "; fresh: roi.box_head.predictor" in start.lines[0]


def test_many_classes_are_not_all_listed(tmp_path: Path) -> None:
    many = Categories(tuple(range(1, 101)), tuple(f"kind {i}" for i in range(100)))
    _, start = begun(FORMS["faster"], written(tmp_path, FORMS["faster"]), many)
    told = "\n".join(start.lines)
    assert "0 of 100 classes have a namesake" in told and "and 80 more" in told and "kind 19 " in told
    assert "kind 20" not in told


def test_heads_that_only_one_of_the_two_has(tmp_path: Path) -> None:
    """Boxes from a Mask R-CNN, masks for a Faster R-CNN's weights."""
    path = written(tmp_path, FORMS["mask"])
    model, start = begun(FORMS["faster"], path)
    assert "  heads that are left out: mask_head" in start.lines
    (tmp_path / "b").mkdir()
    path = written(tmp_path / "b", FORMS["faster"])
    model, start = begun(FORMS["mask"], path)
    assert "  heads that begin afresh, which the weights lack: mask_head" in start.lines
    assert sorted(start.fresh) == sorted(n for n in model.state_dict() if ".mask_head." in n)
    torch.manual_seed(2)
    fresh = FORMS["mask"].build(3).state_dict()
    assert all(v.equal(fresh[n]) for n, v in model.state_dict().items() if "mask_head" in n)


def test_keypoints_of_another_number_begin_afresh(tmp_path: Path) -> None:
    person = Categories((1,), ("person",))
    path = written(tmp_path, FORMS["keypoint"], person)
    state = torch.load(path, weights_only=True)["model"]
    other = replace(FORMS["keypoint"], keypoint_head=ConvKeypointHeadConfig(width=16, num_keypoints=5))
    model, start = begun(other, path, person)
    assert any(
        "another number of keypoints begin afresh: roi.keypoint_head.deconv" in line for line in start.lines
    )
    name = "roi.keypoint_head.convs.0.0.weight"
    assert model.state_dict()[name].equal(state[name])
    model, start = begun(FORMS["keypoint"], path, person)
    assert model.state_dict()["roi.keypoint_head.deconv.weight"].equal(
        state["roi.keypoint_head.deconv.weight"]
    )


def test_another_width_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, FORMS["mask"])
    with pytest.raises(CheckpointError, match=r"theirs\.pt: does not fit this model: backbone"):
        begun(replace(FORMS["mask"], backbone=ResNetConfig(depth=34, width=8)), path)
    wide = replace(FORMS["mask"], mask_head=FCNMaskHeadConfig(width=24))
    with pytest.raises(CheckpointError, match=r"does not fit this model: roi\.mask_head"):
        begun(wide, path)


def test_other_statistics_than_the_weights_own_are_told(tmp_path: Path) -> None:
    from maskrcnn.config import dump

    config = FORMS["mask"]
    theirs = replace(config, preprocess=replace(config.preprocess, std=(1.0, 1.0, 1.0)))
    path = written(tmp_path, theirs, OURS, text=dump(recipe_of(theirs)))
    _, start = begun(config, path)
    (told,) = start.doubts
    assert "model.preprocess.std is [58.395, 57.12, 57.375], theirs [1, 1, 1]" in told
    advice = told.rpartition("set ")[2]
    assert advice == "model.preprocess.std: [1, 1, 1]"
    key, _, value = advice.partition(": ")
    followed = parse_recipe(dump(recipe_of(config)), "followed", [f"{key}={value}"]).model
    assert begun(followed, path)[1].doubts == []


def test_statistics_of_a_named_backbone_are_told(tmp_path: Path) -> None:
    add(
        "own/backbone",
        Published(
            kind="backbone",
            url="https://example.org/net.pth",
            mean=(123.675, 116.28, 103.53),
            std=(1.0, 1.0, 1.0),
            stride_in_1x1=True,
            rate=0.005,
        ),
    )
    backbone = ResNetConfig(depth=50, width=8)
    config = replace(FORMS["mask"], backbone=replace(backbone, weights=Path("own/backbone")))
    model = replace(config, backbone=backbone).build(3)
    doubts = start_model(model, recipe_of(config), None, OURS).doubts
    assert len(doubts) == 2
    assert "set solver.optimizer.lr: 0.005 and solver.reference_batch_size: 16" in doubts[0]
    assert "rate of 0.00125 for solver.batch_size 4, and this run's is 0.005" in doubts[0]
    assert doubts[1].endswith("set model.preprocess.std: [1, 1, 1], model.backbone.stride_in_1x1: true")
    # Followed:
    right = replace(
        config,
        backbone=replace(config.backbone, stride_in_1x1=True),  # type: ignore[type-var]
        preprocess=replace(config.preprocess, std=(1.0, 1.0, 1.0)),
    )
    solver = replace(BASE.solver, optimizer=replace(BASE.solver.optimizer, lr=0.005), reference_batch_size=16)  # type: ignore[type-var]
    assert start_model(model, recipe_of(right, solver=solver), None, OURS).doubts == []


def test_statistics_of_a_model_of_timms_are_told() -> None:
    pytest.importorskip("timm")
    from maskrcnn.modeling.backbones.timm_backbone import TimmConfig

    named = TimmConfig(name="tf_efficientnet_lite0", weights=Path("net.pth"))
    config = replace(FORMS["faster"], backbone=named)
    model = replace(config, backbone=replace(named, weights=None)).build(3)
    (told,) = start_model(model, recipe_of(config), None, OURS).doubts
    half = "[127.5, 127.5, 127.5]"
    assert told.endswith(f"set model.preprocess.mean: {half}, model.preprocess.std: {half}")
    right = replace(config.preprocess, mean=(127.5,) * 3, std=(127.5,) * 3)
    assert start_model(model, recipe_of(replace(config, preprocess=right)), None, OURS).doubts == []


def test_weights_of_another_model_name_the_recipe_that_has_it(tmp_path: Path) -> None:
    file = written(tmp_path, FORMS["mask"])
    stated = {"url": "https://example.org/net.pth", "recipe": "coco/mask_rcnn_r50_fpn_torchvision"}
    add("own/net", Published(kind="detector", **stated))
    config = replace(FORMS["mask"], backbone=ResNetConfig(depth=34, width=8))
    recipe = recipe_of(config, weights=Path("own/net"))
    with pytest.raises(
        CheckpointError, match=r"own/net: does not fit.*base: configs/coco/mask_rcnn_r50_fpn_t"
    ):
        start_model(config.build(3), recipe, file, OURS)
