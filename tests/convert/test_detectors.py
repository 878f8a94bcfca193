"""Every framework's detectors to ours: each tensor in its place, the right model, or an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.convert import maskrcnn_benchmark, mmdetection
from maskrcnn.convert.detector import Conversion, convert, describe, find_source
from maskrcnn.convert.foreign_anchors import rounded_cells
from maskrcnn.convert.source import File, Source
from maskrcnn.convert.torchvision import COCO_CLASSES, SOURCE
from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from maskrcnn.recipe import load_recipe, parse_recipe
from maskrcnn.run.converted_recipe import recipe_text
from tests.convert.foreign import CLASSES, FORMS, our_state, their_name, their_state
from tests.modeling.tiny import build

#: What each framework has.
CASES = [
    *(("torchvision", form) for form in ("mask", "faster", "keypoint", "v2")),
    *(("detectron2", form) for form in FORMS),
    *(("maskrcnn-benchmark", form) for form in ("mask", "faster", "keypoint", "c4")),
    *(("mmdetection", form) for form in ("mask", "faster", "gn")),
]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PARTS = ("neck", "box_head", "mask_head", "keypoint_head", "roi_trunk")


def source_of(state: dict[str, Tensor]) -> Source:
    source = find_source(state)
    assert source is not None
    return source


def converted(state: dict[str, Tensor], **options: Any) -> Conversion:
    meta = options.pop("meta", {})
    return convert(File(state, meta), source_of(state), **options)


@pytest.mark.parametrize(("framework", "form"), CASES)
def test_every_tensor_finds_its_place(framework: str, form: str) -> None:
    ours = our_state(form, msra=framework != "torchvision")
    theirs = their_state(ours, framework)
    assert source_of(theirs).name == framework
    result = converted(theirs)
    assert set(result.state) == set(ours)
    assert result.num_classes == CLASSES
    for name, value in ours.items():
        if (
            framework == "maskrcnn-benchmark"
            and value.dim() == 1
            and name.replace("weight", "running_var") in ours
        ):
            if name.endswith(".weight"):
                var = ours[name.replace("weight", "running_var")]
                value = value * ((var + 1e-5) / var).sqrt()  # its epsilon is 0
            torch.testing.assert_close(result.state[name], value, rtol=1e-6, atol=0, msg=name)
        else:
            assert result.state[name].equal(value), name
    wanted = FORMS[form]
    for part in PARTS:
        assert getattr(result.model, part) == getattr(wanted, part), part
    assert result.model.rpn is not None and wanted.rpn is not None
    assert result.model.rpn.convs == wanted.rpn.convs
    assert result.model.rpn.levels == wanted.rpn.levels
    assert result.model.roi.levels == wanted.roi.levels
    assert result.model.roi.cascade == wanted.roi.cascade
    msra = framework in ("detectron2", "mmdetection", "maskrcnn-benchmark") and form != "gn"
    stride = msra and form in ("c4", "dc5")  # the others have no bottlenecks
    freeze = 0 if form in ("v2", "sync") else 2
    assert result.model.backbone == replace(wanted.backbone, stride_in_1x1=stride, freeze_at=freeze)  # type: ignore[type-var]
    result.model.build(CLASSES).load_state_dict(result.state)  # strict


#: Of every kind of model that a shipped recipe is for, its name and how it resizes in training.
SHIPPED = [
    *(("torchvision", form, f"{form}_rcnn_r50_fpn_torchvision") for form in ("mask", "faster", "keypoint")),
    ("torchvision", "v2", "mask_rcnn_r50_fpn_torchvision_v2"),
    *(("detectron2", form, f"{form}_rcnn_r50_fpn_3x") for form in ("mask", "faster", "keypoint")),
    ("detectron2", "v2", "mask_rcnn_r50_fpn_lsj_100ep"),
    ("detectron2", "gn", "mask_rcnn_r50_fpn_gn_3x"),
    ("detectron2", "cascade", "cascade_mask_rcnn_r50_fpn_3x"),
    ("detectron2", "c4", "mask_rcnn_r50_c4_3x"),
    ("detectron2", "dc5", "mask_rcnn_r50_dc5_3x"),
]


@pytest.mark.parametrize(("framework", "form", "name"), SHIPPED)
def test_the_shipped_recipe_is_what_the_converter_chooses(framework: str, form: str, name: str) -> None:
    """So that fine-tuning a converted file goes on with the losses that it was trained with."""
    shipped = load_recipe(CONFIGS / "coco" / f"{name}.yaml")
    result = converted(their_state(our_state(form), framework))
    assert result.family.recipe == f"coco/{name}"
    for part in ("rpn", "roi", "roi_op", "mask_target"):
        assert getattr(result.model, part) == getattr(shipped.model, part), part
    assert result.model.preprocess.size_divisor == shipped.model.preprocess.size_divisor
    if form in ("gn", "v2"):
        assert result.model.preprocess == shipped.model.preprocess
    recipe = parse_recipe(recipe_text(result.model, result.source), "text")
    assert recipe.data.eval_transforms == shipped.data.eval_transforms
    assert (recipe.data.train, recipe.data.val) == (shipped.data.train, shipped.data.val)
    if form != "v2":  # which train with large-scale jitter
        assert recipe.data.train_transforms == shipped.data.train_transforms
    assert (recipe.eval.paste, recipe.eval.keypoint_offset) == (
        shipped.eval.paste,
        shipped.eval.keypoint_offset,
    )


def test_mmdetections_cascades_train_with_losses_of_their_own() -> None:
    """configs/_base_/models/cascade-rcnn_r50_fpn.py: smooth L1 of 1/9 and 1, 2000 proposals, its own stds."""
    faster = converted(their_state(our_state("faster", msra=True), "mmdetection"))
    assert (faster.model.rpn.beta, faster.model.roi.beta, faster.family.unsaid) == (0, 0, ())  # type: ignore[union-attr]
    state = their_state(
        {n: v for n, v in our_state("cascade").items() if "mask_head" not in n}, "mmdetection"
    )
    result = converted(state)
    rpn, roi = result.model.rpn, result.model.roi
    assert rpn is not None and roi.cascade is not None
    assert (rpn.beta, rpn.post_nms_train, roi.beta) == (pytest.approx(1 / 9), 2000, 1.0)
    assert roi.cascade.box_weights[0] == (10, 10, 5, 5)
    assert roi.cascade.box_weights[2] == pytest.approx((1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067))
    assert "stage_loss_weights" in result.family.unsaid[0]


def test_a_frozen_stem_tells_where_a_net_with_statistics_of_its_own_began() -> None:
    """Detectron2's 3x_syncbn starts from MSRA's ResNet: its frozen stem has means of 0 and no counter."""
    state = their_state(our_state("sync"), "detectron2")
    scratch = converted(state)
    assert scratch.model.preprocess.std == (58.395, 57.12, 57.375)
    assert (scratch.model.backbone.norm, scratch.model.backbone.freeze_at) == ("bn", 0)  # type: ignore[attr-defined]
    stem = "backbone.bottom_up.stem.conv1.norm."
    del state[f"{stem}num_batches_tracked"]
    state[f"{stem}running_mean"].zero_()
    tuned = converted(state)
    assert tuned.model.preprocess.std == (1.0, 1.0, 1.0) and tuned.reading.bgr
    assert (tuned.model.backbone.norm, tuned.model.backbone.freeze_at) == ("bn", 2)  # type: ignore[attr-defined]
    assert tuned.family.recipe == "coco/mask_rcnn_r50_fpn_sync_bn_3x"


def test_classes_can_be_chosen_and_background_moves() -> None:
    state = their_state(our_state("mask"), "torchvision")
    logits = state["roi_heads.box_predictor.cls_score.bias"]
    deltas = state["roi_heads.box_predictor.bbox_pred.bias"]
    masks = state["roi_heads.mask_predictor.mask_fcn_logits.bias"]
    result = converted(state, keep=(2, 0))
    head = "roi.box_head.predictor."
    assert result.num_classes == 2
    assert result.state[f"{head}logits.bias"].tolist() == logits[[3, 1, 0]].tolist()
    assert result.state[f"{head}deltas.bias"].tolist() == [*deltas[12:16].tolist(), *deltas[4:8].tolist()]
    assert result.state["roi.mask_head.logits.bias"].tolist() == masks[[3, 1]].tolist()
    with pytest.raises(ConfigError, match="0 to 2"):
        converted(state, keep=(3,))
    assert len(COCO_CLASSES) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[11], COCO_CLASSES[-1]) == (0, 12, 89)


@pytest.mark.parametrize("framework", ["detectron2", "maskrcnn-benchmark", "mmdetection"])
def test_colours_change_places_and_nothing_else_changes(framework: str) -> None:
    state = their_state(our_state("faster", msra=True), framework)
    result = converted(state)
    assert result.reading.bgr
    p = result.model.preprocess
    rgb = torch.rand(1, 3, 20, 24, dtype=torch.float64) * 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (p.mean, p.std))
    own = (rgb - mean) / std
    theirs = rgb.flip(1) - torch.tensor(result.reading.mean, dtype=torch.float64).view(3, 1, 1)
    assert result.reading.mean[0] < result.reading.mean[2]
    first = state[their_name("backbone.conv1.weight", framework)].double()
    torch.testing.assert_close(
        F.conv2d(own, result.state["backbone.conv1.weight"].double()), F.conv2d(theirs, first)
    )


def test_detectron2_says_what_it_reads_by_its_weights() -> None:
    torchvisions = converted(their_state(our_state("faster"), "detectron2"))
    assert not torchvisions.reading.bgr
    assert torchvisions.model.preprocess.std == (58.395, 57.12, 57.375)
    assert torchvisions.reading.stride_in_1x1 is False
    state = their_state(our_state("faster", msra=True), "detectron2")
    state["pixel_mean"] = torch.tensor([[[103.0]], [[116.0]], [[123.0]]])
    state["pixel_std"] = torch.tensor([[[57.0]], [[58.0]], [[59.0]]])
    stored = converted(state)
    assert stored.model.preprocess.mean == (123.0, 116.0, 103.0)
    assert stored.model.preprocess.std == (59.0, 58.0, 57.0)
    assert {name for name, _ in stored.dropped} == {"pixel_mean", "pixel_std"}
    told = converted(state, bgr=False)
    assert told.model.preprocess.mean == (103.0, 116.0, 123.0)
    assert told.state["backbone.conv1.weight"].equal(state["backbone.bottom_up.stem.conv1.weight"])


CONFIG = """model = dict(backbone=dict(style='{style}'))
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], {turn})"""


@pytest.mark.parametrize("turn", ["to_rgb=False", "bgr_to_rgb=False"])
def test_mmdetection_says_what_it_reads_in_its_config(turn: str) -> None:
    state = their_state(our_state("faster"), "mmdetection")
    plain = converted(state)
    assert not plain.reading.bgr and not plain.reading.stride_in_1x1
    key = "config" if turn.startswith("to") else "cfg"
    meta = {"meta": {key: CONFIG.format(style="caffe", turn=turn), "CLASSES": ("a", "b", "c")}}
    result = converted(state, meta=meta)
    assert result.reading.bgr and result.reading.stride_in_1x1
    assert result.model.preprocess.mean == (123.675, 116.28, 103.53)
    assert result.model.preprocess.std == (1.0, 1.0, 1.0)
    assert mmdetection.class_names(meta) == ("a", "b", "c")
    assert mmdetection.class_names({"meta": {"dataset_meta": {"classes": ["x"]}}}) == ("x",)


def test_the_anchors_of_faster_rcnns_release() -> None:
    # The table in its generate_anchors.py, from 0.
    table = [
        [-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199],
        [-56, -56, 71, 71], [-120, -120, 135, 135], [-248, -248, 263, 263],
        [-36, -80, 51, 95], [-80, -168, 95, 183], [-168, -344, 183, 359],
    ]  # fmt: skip
    cells = rounded_cells((16,), [(128.0, 256.0, 512.0)], (0.5, 1.0, 2.0))
    assert cells[0].tolist() == [[float(v) for v in row] for row in table]


def test_stored_anchors_are_taken_over() -> None:
    state = their_state(our_state("faster", msra=True), "maskrcnn-benchmark")
    usual = converted(state).model.rpn
    assert usual is not None and usual.anchors.boxes is not None
    assert usual.anchors.offset == 0.5
    assert usual.anchors.boxes[0] == ((48.0, 24.0), (32.0, 32.0), (24.0, 48.0))
    base = usual.anchors.build([4, 8, 16, 32, 64])
    first = base([torch.zeros(1, 1, 1, 1)] * 5, (32, 32), torch.float64)[2][0]
    assert first.tolist() == [-84.0, -40.0, 100.0, 56.0]  # the table's first, its last pixel's end
    for level in range(5):
        cell = torch.tensor([[-10.0, -20.0, 9.0, 19.0]]).repeat(3, 1)
        state[f"rpn.anchor_generator.cell_anchors.{level}"] = cell
    stored = converted(state).model.rpn
    assert stored is not None and stored.anchors.boxes is not None
    assert stored.anchors.boxes[4] == ((20.0, 40.0),) * 3
    # Detectron2's usual ones are no news, others are.
    d2 = their_state(our_state("faster", msra=True), "detectron2")
    for level, cell in enumerate(AnchorConfig().build([4, 8, 16, 32, 64]).base):
        d2[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = cell.float()
    assert converted(d2).reading.anchors is None
    d2["proposal_generator.anchor_generator.cell_anchors.0"] += torch.tensor([-1.0, 0, 1, 0])
    moved = converted(d2).reading.anchors
    assert moved is not None and moved.boxes is not None
    assert moved.boxes[0][1] == pytest.approx((34.0, 32.0))


def test_maskrcnn_benchmark_pools_a_pixel_less() -> None:
    model = converted(their_state(our_state("mask", msra=True), "maskrcnn-benchmark")).model
    op = model.roi_op.build(2)
    features = [torch.arange(64.0).view(1, 1, 8, 8)]
    rois, level = torch.tensor([[0.0, 1, 1, 6, 6]]), torch.zeros(1, dtype=torch.int64)
    less = replace(model.roi_op, inclusive=False).build(2)  # type: ignore[type-var]
    shorter = rois - torch.tensor([0.0, 0, 0, 1, 1])
    assert op(features, rois, level, [1.0]).equal(less(features, shorter, level, [1.0]))
    assert maskrcnn_benchmark.SOURCE.bn_eps == 0


def test_c4_heads_share_a_trunk_that_the_file_holds_twice() -> None:
    state = their_state(our_state("c4", msra=True), "maskrcnn-benchmark")
    twins = {n.replace("heads.box.f", "heads.mask.f"): v for n, v in state.items() if ".head.layer4." in n}
    result = converted(state | {n: v.clone() for n, v in twins.items()})
    assert {name for name, _ in result.dropped} == set(twins)
    twins[next(iter(twins))] = next(iter(twins.values())) + 1
    with pytest.raises(CheckpointError, match="differs from another tensor"):
        converted(state | twins)


def test_another_epsilon_is_worked_into_the_weights() -> None:
    state = their_state(our_state("faster"), "torchvision")
    plain, moved = converted(state), converted(state, bn_eps=0.0)
    name = "backbone.layer1.0.bn1."
    var = state["backbone.body.layer1.0.bn1.running_var"]
    for result, eps in ((plain, 1e-5), (moved, 0.0)):
        scale = result.state[f"{name}weight"] / (var + 1e-5).sqrt()
        wanted = state["backbone.body.layer1.0.bn1.weight"] / (var + eps).sqrt()
        torch.testing.assert_close(scale, wanted, rtol=1e-6, atol=0)
    assert not plain.state[f"{name}weight"].equal(moved.state[f"{name}weight"])
    state["backbone.body.bn1.running_var"][0] = 0
    with pytest.raises(CheckpointError, match="variance of 0"):
        converted(state, bn_eps=0.0)


def test_counters_stay_where_the_norm_has_them() -> None:
    state = their_state(our_state("v2"), "torchvision")
    assert converted(state).state["backbone.bn1.num_batches_tracked"] == 7

    def frozen(model: Any) -> Any:
        return replace(model, backbone=replace(model.backbone, norm="frozen_bn"))

    result = converted(state, adjust=frozen)
    assert "backbone.bn1.num_batches_tracked" not in result.state
    assert "backbone.body.bn1.num_batches_tracked" in {name for name, _ in result.dropped}
    del state["backbone.fpn.layer_blocks.0.1.num_batches_tracked"]
    assert converted(state).state["neck.output.c2.1.num_batches_tracked"] == 0


def test_class_agnostic_deltas_and_masks() -> None:
    state = their_state(our_state("mask", msra=True), "maskrcnn-benchmark")
    box = "roi_heads.box.predictor.bbox_pred."
    for kind in ("weight", "bias"):  # background's four, then everything's
        state[f"{box}{kind}"] = state[f"{box}{kind}"][:8]
        state[f"roi_heads.mask.predictor.mask_fcn_logits.{kind}"] = state[
            f"roi_heads.mask.predictor.mask_fcn_logits.{kind}"
        ][:1]
    result = converted(state)
    assert result.model.box_head.class_agnostic and result.model.mask_head.class_agnostic  # type: ignore[union-attr, attr-defined]
    assert result.state["roi.box_head.predictor.deltas.bias"].equal(state[f"{box}bias"][4:])


def remove(part: str) -> Callable[[dict[str, Tensor]], None]:
    def harm(state: dict[str, Tensor]) -> None:
        del state[next(n for n in state if part in n)]

    return harm


def reshape(state: dict[str, Tensor]) -> None:
    name = next(n for n in state if n.endswith(("fc7.weight", "box_head.fc2.weight", "shared_fcs.1.weight")))
    state[name] = torch.zeros(12, 13)


def add(state: dict[str, Tensor]) -> None:
    state["roi_heads.densepose_head.0.weight"] = torch.zeros(1)


@pytest.mark.parametrize("framework", ["torchvision", "detectron2", "maskrcnn-benchmark", "mmdetection"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove(".0.conv2.weight"), r"layer\d.0.conv2.weight"),
        (remove("conv1.weight"), "conv1|not all of it fits|recognised"),
        (reshape, r"fc2.weight \[12, 13\] for \[12, 12\]"),
        (add, "densepose_head"),
    ],
)
def test_a_half_match_is_refused(
    framework: str, harm: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    state = their_state(our_state("mask", msra=True), framework)
    harm(state)
    source = find_source(state)
    if source is None:
        assert message.endswith("recognised")
        return
    with pytest.raises(CheckpointError, match=message):
        convert(File(state), source)


def test_our_own_checkpoint_is_nobodys() -> None:
    assert find_source(build().state_dict()) is None


def test_the_source_is_not_written_to() -> None:
    state = their_state(our_state("mask", msra=True), "maskrcnn-benchmark")
    copy = {name: value.clone() for name, value in state.items()}
    for value in converted(state).state.values():
        value.zero_()
    assert all(state[name].equal(copy[name]) for name in state)


def test_models_have_names() -> None:
    words = {form: describe(FORMS[form]) for form in ("mask", "cascade", "c4", "dc5", "keypoint")}
    assert words["mask"] == "Mask R-CNN, ResNet-18-FPN, frozen_bn"
    assert words["cascade"].startswith("Cascade Mask R-CNN")
    assert "ResNet-50-C4" in words["c4"] and "ResNet-50-DC5" in words["dc5"]
    assert words["keypoint"].startswith("Keypoint R-CNN")
    assert SOURCE.background == "first"
