"""What does not fit in a recipe is told before anything is read, by the place of the key."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.config import Loaded
from maskrcnn.config.shipped import shipped_recipes
from maskrcnn.errors import ConfigError
from maskrcnn.modeling.interfaces import ROI_HEADS
from maskrcnn.native import library
from maskrcnn.recipe import Recipe, load_traced_recipe
from maskrcnn.run.evaluation_checks import check_figures
from maskrcnn.run.recipe_checks import build_without_memory, check_recipe, load_checked_recipe
from tests.engine.tiny import write_recipe

#: A small model of each family, as YAML in flow form (which JSON is); the wrong values are laid over one.
FPN: dict[str, Any] = {
    "backbone": {"type": "resnet", "depth": 18, "width": 8, "norm": "gn", "freeze_at": 0},
    "neck": {"type": "fpn", "out_channels": 16},
}
BOTTLENECKS: dict[str, Any] = FPN | {"backbone": FPN["backbone"] | {"depth": 50}}
C4: dict[str, Any] = {
    "backbone": {"type": "resnet", "depth": 50, "width": 8, "norm": "gn", "freeze_at": 0, "outputs": ["c4"]},
    "neck": None,
    "roi_trunk": "res5",
    "rpn": {"levels": ["c4"], "anchors": {"sizes": [[32.0]]}},
    "roi": {"levels": ["c4"]},
    "box_head": "linear",
    "mask_head": {"type": "fcn", "convs": 0, "pool_size": 7},
}
VGG: dict[str, Any] = C4 | {
    "backbone": {"type": "vgg16", "width": 8},
    "roi_trunk": None,
    "box_head": {"type": "vgg_fc", "hidden": 16},
}
TIMM: dict[str, Any] = FPN | {"backbone": {"type": "timm", "name": "resnet18"}}
CASCADE: dict[str, Any] = FPN | {
    "box_head": {"type": "two_fc", "class_agnostic": True},
    "roi": {"cascade": {}},
}
KEYPOINTS: dict[str, Any] = FPN | {"keypoint_head": {"type": "conv", "width": 8}}
FAMILIES = {
    "fpn": FPN, "bottlenecks": BOTTLENECKS, "c4": C4, "vgg": VGG, "timm": TIMM, "cascade": CASCADE,
    "keypoints": KEYPOINTS,
}  # fmt: skip

#: (family, key below ``model``, wrong value, words of the sentence)
WRONG: list[tuple[dict[str, Any], str, Any, str]] = [
    # backbones
    (FPN, "backbone.depth", 51, "51 is not a choice"),
    (FPN, "backbone.norm", "ln", "is not a choice"),
    (FPN, "backbone.width", 0, "width must be >= 1"),
    (FPN, "backbone.width", 10**9, "width must be at most 1,048,576"),
    (FPN, "backbone.freeze_at", 6, "freeze_at must be in [0, 5]"),
    (FPN, "backbone.groups", 0, "groups must be >= 1"),
    (FPN, "backbone.groups", 2, "belong to bottleneck blocks"),
    (FPN, "backbone.width_per_group", -4, "width_per_group must be >= 1"),
    (FPN, "backbone.width_per_group", 128, "belong to bottleneck blocks"),
    (FPN, "backbone.dilated_c5", True, "belong to bottleneck blocks"),
    (FPN, "backbone.stride_in_1x1", True, "leave it out"),
    (FPN, "backbone.outputs", [], "outputs is empty"),
    (FPN, "backbone.outputs", ["c6"], "is not a choice"),
    (FPN, "backbone.outputs", ["c3", "c5"], "whose strides double"),
    (FPN, "backbone.outputs", ["c2"], "but model.neck and model.backbone give [p2, p3]"),
    ({"backbone": BOTTLENECKS["backbone"] | {"dilated_c5": True}}, "neck", {"type": "fpn"}, "strides double"),
    (FPN | {"backbone": {"type": "resnet"}}, "backbone.zero_init_residual", True, "needs a norm that trains"),
    (VGG, "backbone.freeze_at", 7, "freeze_at must be in [0, 5]"),
    (VGG, "backbone.width", 0, "width must be >= 1"),
    (VGG, "backbone.outputs", [], "outputs is empty"),
    (VGG, "backbone.outputs", ["c3"], "is not a choice"),
    (VGG, "backbone.outputs", ["c5"], "give [c5]"),
    (TIMM, "backbone.name", "resnet17", "is no model of timm"),
    (TIMM, "backbone.outputs", ["c9"], "gives [c1, c2, c3, c4, c5]"),
    (TIMM, "backbone.outputs", [], "but timm's resnet18 gives"),
    (TIMM, "backbone.freeze", ["layer9"], "names 'layer9'"),
    (TIMM, "backbone.options", {"no_such": 1}, "timm cannot build resnet18"),
    # necks
    (FPN, "neck.out_channels", 0, "out_channels must be >= 1"),
    (FPN, "neck.norm", "bnn", "is not a choice"),
    (FPN, "neck.top", None, "give [p2, p3, p4, p5]; name"),
    (FPN, "neck", None, "give [c2, c3, c4, c5]; name"),
    (FPN, "neck", {"type": "reduce", "out_channels": -1}, "out_channels must be >= 1"),
    (FPN, "neck", {"type": "reduce"}, "give [p2, p3, p4, p5]; name"),
    (C4, "neck", "fpn", "name levels from the latter"),
    # the region proposal network
    (FPN, "rpn.levels", ["p9"], "name levels from the latter"),
    (FPN, "rpn.levels", [], "name levels from the latter"),
    (FPN, "rpn.levels", ["p2", "p3"], "5 entries for 2 levels"),
    (FPN, "rpn.convs", 0, "convs must be >= 1"),
    (FPN, "rpn.width", 0, "width must be >= 1"),
    (FPN, "rpn.positive_iou", 1.1, "positive_iou must be in [0, 1]"),
    (FPN, "rpn.negative_iou", 0.9, "must not be greater than model.rpn.positive_iou"),
    (FPN, "rpn.samples", 0, "samples must be >= 1"),
    (FPN, "rpn.positive_fraction", -0.5, "positive_fraction must be in [0, 1]"),
    (FPN, "rpn.box_loss", "l2", "is not a choice"),
    (FPN, "rpn.beta", -1, "beta must be >= 0"),
    (FPN, "rpn.post_nms_test", 0, "post_nms_test must be >= 1"),
    (FPN, "rpn.nms_threshold", 7, "nms_threshold must be in [0, 1]"),
    (FPN, "rpn.min_size", -1, "min_size must be >= 0"),
    (FPN, "rpn.min_score", 2, "min_score must be in [0, 1]"),
    (FPN, "rpn.anchors.sizes", [], "sizes has 0 entries"),
    (FPN, "rpn.anchors.sizes", [[8], [16], [32], [64], [0]], "sizes.4.0 must be > 0"),
    (FPN, "rpn.anchors.sizes", [[8], [16], [32], [64], [1, 2]], "the same number"),
    (FPN, "rpn.anchors.sizes", [[], [], [], [], []], "at least 1"),
    (FPN, "rpn.anchors.ratios", [], "at least one ratio"),
    (FPN, "rpn.anchors.ratios", [-1], "ratios.0 must be > 0"),
    (FPN, "rpn.anchors.boxes", [[[8, 8]]], "needs a list for each of the 5 levels"),
    (FPN, "rpn.anchors.boxes", [[], [], [], [], []], "at least 1"),
    (FPN, "rpn.anchors.offset", 2, "offset must be in [0, 1]"),
    # RoI heads
    (FPN, "roi.levels", ["p9"], "name levels from the latter"),
    (FPN, "roi.levels", [], "name levels from the latter"),
    (FPN, "roi.levels", ["p3", "p2"], "name them finest first"),
    (FPN, "roi.levels", ["p2", "p4"], "leave none out between"),
    (FPN | {"neck": None, "rpn": {"levels": ["c2"], "anchors": {"sizes": [[8]]}}}, "roi.levels",
     ["c2", "c3"], "different numbers of channels"),
    (FPN, "roi.samples", 10**6, "samples must be at most 100,000"),
    (FPN, "roi.positive_fraction", 1.5, "positive_fraction must be in [0, 1]"),
    (FPN, "roi.negative_iou", 0.6, "must not be greater than model.roi.positive_iou"),
    (FPN, "roi.background_iou", 0.6, "must not be greater than model.roi.negative_iou"),
    (FPN, "roi.box_weights", [10, 10, 5, 0], "box_weights.3 must be > 0"),
    (FPN, "roi.box_weights", [10, 10, 5], "expected a list of 4 items"),
    (FPN, "roi.score_threshold", -0.1, "score_threshold must be in [0, 1]"),
    (FPN, "roi.nms_threshold", 7, "nms_threshold must be in [0, 1]"),
    (FPN, "roi.max_detections", 0, "max_detections must be >= 1"),
    (FPN, "roi.level_rule", "mine", "is not a choice"),
    (FPN, "roi.cascade", {}, "set model.box_head.class_agnostic: true"),
    (CASCADE, "roi.cascade.ious", [0.6, 0.7, 0.8], "make them equal"),
    (CASCADE, "roi.cascade.ious", [0.5, 0.6], "one entry a stage"),
    (CASCADE, "roi.cascade.ious", [0.5, 0.6, 1.2], "ious.2 must be in (0, 1]"),
    (CASCADE, "roi.cascade.box_weights", [[1, 1, 1, 0]], "box_weights.0.3 must be > 0"),
    (C4 | {"box_head": {"type": "linear", "class_agnostic": True}}, "roi",
     {"levels": ["c4"], "cascade": {}}, "exclude each other"),
    (FPN, "roi_op.sampling_ratio", 5000, "sampling_ratio must be at most 4,096"),
    (FPN, "roi_op.seed", -1, "seed must be in [0, 4,294,967,295]"),
    (FPN | {"box_head": {"type": "two_fc", "pool_size": 1}}, "roi_op",
     {"type": "roi_align_legacy", "pooling": "none"}, "needs heads of pool_size 2"),
    (FPN, "roi_trunk", "res5", "set model.backbone.outputs to [c4]"),
    (VGG, "roi_trunk", "res5", "is the last stage of a ResNet"),
    (C4, "mask_head.pool_size", 14, "set model.mask_head.pool_size to 7"),
    (FPN, "box_head.hidden", 0, "hidden must be >= 1"),
    (FPN, "box_head.pool_size", 10**6, "pool_size must be at most 1,024"),
    (FPN, "box_head.dropout", 1, "dropout must be in [0, 1)"),
    (FPN, "box_head", {"type": "conv_fc", "fcs": -1}, "fcs must be >= 0"),
    (FPN, "box_head", {"type": "conv_fc", "convs": 10**6}, "convs must be at most 1,000"),
    (FPN, "mask_head.convs", -1, "convs must be >= 0"),
    (FPN, "mask_head.loss", "dice", "is not a choice"),
    (FPN, "mask_head", {"type": "mlp", "fcs": 0}, "fcs must be >= 1"),
    (FPN, "mask_head", {"type": "mlp", "mask_size": 0}, "mask_size must be >= 1"),
    (KEYPOINTS, "keypoint_head.num_keypoints", 0, "num_keypoints must be >= 1"),
    (KEYPOINTS, "keypoint_head.loss_weight", 0, "loss_weight must be > 0"),
    (KEYPOINTS, "keypoint_head.normalizer", -1, "normalizer must be > 0"),
    (KEYPOINTS, "keypoint_head.num_keypoints", 5, "eval.sigmas"),
    (FPN, "mask_target", "soft", "is not a choice"),
    (FPN, "heads", {"mask_head": "x"}, "unknown RoI head"),
    (FPN, "preprocess.mean", [1, 2, 3, 4], "mean has 4 values and model.preprocess.std 3"),
    (FPN, "preprocess.std", [1], "mean has 3 values and model.preprocess.std 1"),
    (FPN, "preprocess.std", [1, 0, 1], "std.1 must be > 0"),
    (FPN, "preprocess.size_divisor", 0, "size_divisor must be >= 1"),
]  # fmt: skip


#: Of these the sentence begins with a key of the other file.
ELSEWHERE = ("backbone.outputs=['c2']", "backbone.outputs=['c5']", "neck=fpn")


def write(folder: Path, model: dict[str, Any], key: str = "", value: Any = None, rest: str = "") -> Path:
    """A recipe of this model; the value of ``key`` stands in line 2 of a file of its own, laid over it."""
    (folder / "base.yaml").write_text(
        f"model: {json.dumps(model)}\ndata: {{train: synthetic, val: synthetic}}\n{rest}"
    )
    path = folder / "c.yaml"
    inside = json.dumps(value)
    for part in reversed(key.split(".") if key else []):
        inside = f"{{{part}: {inside}}}"
    path.write_text(f"base: base.yaml\n{f'model: {inside}' if key else ''}\n")
    return path


def check_all(loaded: Loaded[Recipe]) -> list[str]:
    """As ``maskrcnn config check``."""
    return check_recipe(loaded, [check_figures])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_models_that_are_spoilt_below_are_right(name: str, tmp_path: Path) -> None:
    assert check_all(load_traced_recipe(write(tmp_path, FAMILIES[name]))) == []


@pytest.mark.parametrize(
    ("model", "key", "value", "words"), [pytest.param(*row, id=f"{row[1]}={row[2]}") for row in WRONG]
)
def test_a_wrong_value_of_the_model_is_told_by_its_place(
    model: dict[str, Any], key: str, value: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as told:
        check_all(load_traced_recipe(write(tmp_path, model, key, value).name))
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    # The sentence may begin with another key that is written, too, and could as well be changed.
    file = "base.yaml:1:" if f"{key}={value}" in ELSEWHERE else "c.yaml:2:"
    assert str(told.value).startswith(file), told.value


def test_check_and_train_say_the_same_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path)
    path.write_text(path.read_text().replace("pre_nms_train: 50", "levels: [p2, p9]"))
    monkeypatch.chdir(tmp_path)
    assert main(["config", "check", path.name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("tiny.yaml:5:17: model.rpn.levels is [p2, p9], but")
    assert main(["train", path.name]) == 2
    assert said in capsys.readouterr().err
    assert not Path("runs").exists(), "before anything is written"
    # What it advises works.
    path.write_text(path.read_text().replace("[p2, p9]", "[p2, p3, p4, p5, p6]"))
    assert main(["config", "check", path.name]) == 0


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        ("eval: {iou_types: [keypoints]}", "base.yaml:3:19: eval.iou_types asks for keypoints alone"),
        ("eval: {best_metric: segm/APP}", "base.yaml:3:21: eval.best_metric: .* Did you mean 'segm/AP'"),
    ],
)
def test_an_evaluation_that_the_model_cannot_have_is_told(
    rest: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_traced_recipe(write(tmp_path, FPN, rest=rest).name)
    with pytest.raises(ConfigError, match=sentence):
        check_all(loaded)
    assert check_recipe(loaded) == []  # before a training all else is told with it


def test_all_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, FPN, "roi.levels", ["p9"], "eval: {best_metric: segm/APP}")
    with pytest.raises(ConfigError, match=r"(?s)2 problems .*model.roi.levels.*eval.best_metric"):
        check_all(load_traced_recipe(path))


def test_weights_are_looked_for_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "no_checkpoint.pth").write_text("nothing that could be read")
    model = FPN | {"backbone": FPN["backbone"] | {"weights": str(tmp_path / "no_checkpoint.pth")}}
    assert check_all(load_traced_recipe(write(tmp_path, model))) == []
    (tmp_path / "no_checkpoint.pth").unlink()
    for rest, missing in (
        ("", f"model.backbone.weights: there is no file {tmp_path / 'no_checkpoint.pth'}"),
        ("weights: away.pt", "weights: there is no file away.pt"),  # which give the backbone's, too
    ):
        doubts = check_all(load_traced_recipe(write(tmp_path, model, rest=rest)))
        assert [d.partition(": ")[2] for d in doubts] == [missing]
    assert all("base.yaml:" in d for d in doubts)


OWN = """
from dataclasses import dataclass
import torch
from maskrcnn.modeling.interfaces import ROI_HEADS, RoIHead

@ROI_HEADS.register("of_recipe_checks")
@dataclass(frozen=True, kw_only=True)
class OwnConfig:
    pool_size: int = 7
    kind: str = "value"

    def build(self, channels, num_classes):
        if self.kind == "value":
            raise ValueError(f"pool_size {self.pool_size} must be odd")
        return RoIHead() if torch.zeros(()).item() else None
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "own_of_recipe_checks.py").write_text(OWN)
    yield "plugins: [own_of_recipe_checks]"
    ROI_HEADS._entries.pop("of_recipe_checks", None)
    sys.modules.pop("own_of_recipe_checks", None)


def test_what_a_part_of_ones_own_refuses_is_told_by_its_key(
    plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    heads = {"mine": {"type": "of_recipe_checks", "pool_size": 6}}
    with pytest.raises(ConfigError) as told:
        load_checked_recipe(write(tmp_path, FPN, "heads", heads, plugin).name)
    assert str(told.value) == "c.yaml:2:67: model.heads.mine: pool_size 6 must be odd"


def test_a_part_that_needs_real_tensors_is_a_doubt_and_no_fault(plugin: str, tmp_path: Path) -> None:
    heads = {"mine": {"type": "of_recipe_checks", "kind": "item"}}
    (doubt,) = check_all(load_traced_recipe(write(tmp_path, FPN, "heads", heads, plugin)))
    assert "fit shows at the start of training" in doubt and "meta" in doubt


def test_the_shipped_recipes_fit_and_nothing_is_drawn_or_loaded() -> None:
    before, states = torch.get_rng_state(), dict(library._states)
    for path in shipped_recipes().values():
        loaded = load_traced_recipe(path)
        assert all("there is no file" in doubt for doubt in check_all(loaded)), path
    model = build_without_memory(loaded.value)
    assert all(tensor.device.type == "meta" for tensor in model.state_dict().values())
    assert torch.equal(torch.get_rng_state(), before) and library._states == states
