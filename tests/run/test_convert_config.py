"""`maskrcnn convert --config`: configs in the layout of Detectron2's and mmdetection's, made here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.cli import main
from maskrcnn.config import flatten
from maskrcnn.config.nodes import Entry, Map, Node, Origin, Scalar, Seq
from maskrcnn.convert.configs import detectron2_keys, mmdetection_keys
from maskrcnn.convert.configs.detectron2_defaults import DEFAULTS
from maskrcnn.convert.configs.foreign_keys import ForeignConfig
from maskrcnn.convert.configs.mmdetection_defaults import USUAL, with_defaults
from maskrcnn.convert.configs.mmdetection_training import COCO_IMAGES
from maskrcnn.convert.configs.python_file import read_python
from maskrcnn.errors import ConfigError
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run import convert_config

#: As its Base-RCNN-FPN and a Mask R-CNN over it.
PYRAMID = """
MODEL:
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  RESNETS: {OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5]}
  ANCHOR_GENERATOR: {SIZES: [[32], [64], [128], [256], [512]]}
  RPN:
    IN_FEATURES: [p2, p3, p4, p5, p6]
    PRE_NMS_TOPK_TRAIN: 2000
    PRE_NMS_TOPK_TEST: 1000
    POST_NMS_TOPK_TRAIN: 1000
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5]}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, POOLER_RESOLUTION: 7}
  ROI_MASK_HEAD: {NUM_CONV: 4, POOLER_RESOLUTION: 14}
DATASETS: {TRAIN: ("coco_2017_train",), TEST: ("coco_2017_val",)}
SOLVER: {IMS_PER_BATCH: 16, BASE_LR: 0.02, STEPS: "(60000, 80000)", MAX_ITER: 90000}
INPUT: {MIN_SIZE_TRAIN: "(640, 672, 704, 736, 768, 800)"}
VERSION: 2
""".replace('("coco_2017_train",)', "\"('coco_2017_train',)\"").replace(
    '("coco_2017_val",)', "\"('coco_2017_val',)\""
)
MASK = (
    "_BASE_: base.yaml\nMODEL:\n  MASK_ON: True\n  WEIGHTS: detectron2://ImageNetPretrained/MSRA/R-50.pkl\n"
)

BORDER = "allowed_border=-1,"
SAMPLING = """dict(
    assigner=dict(type='MaxIoUAssigner', pos_iou_thr={pos}, neg_iou_thr={neg}, min_pos_iou={low},
                  match_low_quality=True, ignore_iof_thr=-1),
    sampler=dict(type='RandomSampler', num={num}, pos_fraction={part}, neg_pos_ub=-1,
                 add_gt_as_proposals={gt}),
    {more} pos_weight=-1, debug=False)"""
MMDET = f"""
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53],
                           std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_mask=True, pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1,
                  norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True, style='pytorch',
                  init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
    rpn_head=dict(
        type='RPNHead', in_channels=256, feat_channels=256,
        anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0],
                              strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(type='SingleRoIExtractor', out_channels=256, featmap_strides=[4, 8, 16, 32],
                                roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0)),
        bbox_head=dict(
            type='Shared2FCBBoxHead', in_channels=256, fc_out_channels=1024, roi_feat_size=7, num_classes=80,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.] * 4,
                            target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
        mask_roi_extractor=dict(type='SingleRoIExtractor', out_channels=256, featmap_strides=[4, 8, 16, 32],
                                roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0)),
        mask_head=dict(type='FCNMaskHead', num_convs=4, in_channels=256, conv_out_channels=256,
                       num_classes=80, loss_mask=dict(type='CrossEntropyLoss', use_mask=True))),
    train_cfg=dict(
        rpn={SAMPLING.format(pos=0.7, neg=0.3, low=0.3, num=256, part=0.5, gt=False, more=BORDER)},
        rpn_proposal=dict(nms_pre=2000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7),
                          min_bbox_size=0),
        rcnn={SAMPLING.format(pos=0.5, neg=0.5, low=0.5, num=512, part=0.25, gt=True, more="mask_size=28,")}),
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100,
                  mask_thr_binary=0.5)))
"""
RUNTIME3 = """
data_root = 'data/coco/'
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True), dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='PackDetInputs')]
train_dataloader = dict(batch_size=2, num_workers=2, dataset=dict(
    type='CocoDataset', data_root=data_root, ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/'), filter_cfg=dict(filter_empty_gt=True, min_size=32),
    pipeline=train_pipeline))
val_dataloader = dict(batch_size=1, dataset=dict(
    type='CocoDataset', data_root=data_root, ann_file='annotations/instances_val2017.json',
    data_prefix=dict(img='val2017/'), pipeline=test_pipeline))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1)]
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4))
auto_scale_lr = dict(enable=False, base_batch_size=16)
default_scope = 'mmdet'
"""
#: The same in the ways of version 2, over a base of version 3 without its preprocessor.
RUNTIME2 = """
img_norm_cfg = dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(type='Resize', img_scale=[(1333, 640), (1333, 800)], multiscale_mode='range', keep_ratio=True),
    dict(type='RandomFlip', flip_ratio=0.5), dict(type='Normalize', **img_norm_cfg),
    dict(type='Pad', size_divisor=32), dict(type='PhotoMetricDistortion'), dict(type='Collect', keys=['img'])]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1333, 800), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='RandomFlip'),
        dict(type='Normalize', **img_norm_cfg)])]
data = dict(
    samples_per_gpu=2, workers_per_gpu=2,
    train=dict(type='RepeatDataset', times=3, dataset=dict(
        type='CocoDataset', ann_file='mine/train.json', img_prefix='mine/train/', pipeline=train_pipeline)),
    val=dict(type='CocoDataset', ann_file='mine/val.json', img_prefix='mine/val/', pipeline=test_pipeline))
optimizer = dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001)
optimizer_config = dict(grad_clip=dict(max_norm=35, norm_type=2))
lr_config = dict(policy='step', warmup='linear', warmup_iters=500, warmup_ratio=0.001, step=[9, 11])
runner = dict(type='EpochBasedRunner', max_epochs=12)
evaluation = dict(interval=2, metric=['bbox', 'segm'])
"""


def converted(folder: Path, name: str, text: str, *words: str) -> Recipe:
    (folder / "base.yaml").write_text(PYRAMID)
    (folder / name).write_text(text)
    out = folder / "ours.yaml"
    out.unlink(missing_ok=True)
    assert main(["convert", "--config", str(folder / name), str(out), *words]) == 0
    assert main(["config", "check", str(out)]) == 0
    return load_recipe(out)


def refused(folder: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]) -> str:
    (folder / "base.yaml").write_text(PYRAMID)
    (folder / name).write_text(text)
    assert main(["convert", "--config", str(folder / name), str(folder / "ours.yaml")]) == 2
    assert not (folder / "ours.yaml").exists()
    return capsys.readouterr().err


def differing(recipe: Recipe, name: str) -> dict[str, str]:
    """What of a recipe is not as that of the zoo has it."""
    ours, theirs = flatten(recipe), flatten(load_recipe(name))
    return {
        k: v for k, v in ours.items() if theirs.get(k) != v and not k.startswith("expect") and k in theirs
    }


def test_detectron2s_defaults_are_a_faster_rcnn_of_one_level() -> None:
    """Of no file at all: each default that is stated is asked for."""
    asked: set[str] = set()

    class Asked(ForeignConfig):
        def get(self, path: str, *default: object) -> object:
            asked.add(path)
            return super().get(path, *default)

    found = detectron2_keys.convert_keys(Asked(Map({}, Origin("nothing")), DEFAULTS))
    off = ("MODEL.FPN.", "MODEL.ROI_MASK_HEAD.", "MODEL.ROI_KEYPOINT_HEAD.", "MODEL.ROI_BOX_CASCADE_HEAD.")
    assert {key for key in DEFAULTS if not key.startswith((*off, "INPUT.MASK_FORMAT"))} <= asked
    assert found.settings["model.backbone.outputs"] == ["c4"] and found.settings["solver.steps"] == 40_000
    assert found.parts["model.roi_trunk"] is True and found.parts["model.mask_head"] is False


def test_all_that_mmdetection_says_of_a_model_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MMDET + RUNTIME3)
    theirs = with_defaults(read_python(tmp_path / "mine.py"))
    assert mmdetection_keys.convert_keys(theirs, None).run_keys and [*theirs.left()] == []


def test_detectron2s_mask_rcnn_is_the_zoos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """But for what its ImageNet weights need, and its evaluations."""
    recipe = converted(tmp_path, "mine.yaml", MASK)
    assert differing(recipe, "zoo/mask_rcnn_r50_fpn_1x") == {
        "model.backbone.weights": "detectron2/ImageNetPretrained/MSRA/R-50",
        "model.backbone.stride_in_1x1": "true",
        "model.preprocess.std": "[1.0, 1.0, 1.0]",
        "train.eval_every": "null",
    }
    told = capsys.readouterr().out
    assert "laid over zoo/mask_rcnn_r50_fpn_1x: 4 keys differ" in told
    text = (tmp_path / "ours.yaml").read_text()
    assert "base: zoo/mask_rcnn_r50_fpn_1x\n" in text and "# MODEL.RESNETS.STRIDE_IN_1X1" in text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SOLVER: {STEPS: '(7, 9)', MAX_ITER: 11, BASE_LR: 0.5, IMS_PER_BATCH: 3}",
         {"solver.schedule.milestones": "[7, 9]", "solver.steps": "11", "solver.optimizer.lr": "0.5",
          "solver.batch_size": "3", "solver.reference_batch_size": "3"}),
        ("SOLVER: {LR_SCHEDULER_NAME: WarmupCosineLR, BASE_LR: 0.5, BASE_LR_END: 0.05}",
         {"solver.schedule.type": "cosine", "solver.schedule.final_factor": "0.1"}),
        ("MODEL: {BACKBONE: {FREEZE_AT: 0}, RESNETS: {NORM: SyncBN, DEPTH: 101}}",
         {"model.backbone.freeze_at": "0", "model.backbone.norm": "sync_bn", "model.backbone.depth": "101"}),
        ("MODEL: {PIXEL_MEAN: [1, 2, 3], PIXEL_STD: [4, 5, 6]}",
         {"model.preprocess.mean": "[3.0, 2.0, 1.0]", "model.preprocess.std": "[6.0, 5.0, 4.0]"}),
        ("MODEL: {PIXEL_MEAN: [1, 2, 3]}\nINPUT: {FORMAT: RGB}",
         {"model.preprocess.mean": "[1.0, 2.0, 3.0]"}),
        ("MODEL: {ANCHOR_GENERATOR: {SIZES: [[16, 32]], ASPECT_RATIOS: [[1.0]]}}",
         {"model.rpn.anchors.sizes": "[" + ", ".join(["[16.0, 32.0]"] * 5) + "]",
          "model.rpn.anchors.ratios": "[1.0]"}),
        ("MODEL: {ROI_BOX_HEAD: {POOLER_TYPE: ROIAlign, POOLER_SAMPLING_RATIO: 2}}",
         {"model.roi_op.aligned": "false", "model.roi_op.sampling_ratio": "2"}),
        ("MODEL: {ROI_BOX_HEAD: {POOLER_TYPE: ROIPool}}", {"model.roi_op.type": "roi_pool"}),
        ("MODEL: {ROI_BOX_HEAD: {NUM_CONV: 4, NUM_FC: 1, NORM: GN, CLS_AGNOSTIC_BBOX_REG: True}}",
         {"model.box_head.type": "conv_fc", "model.box_head.convs": "4", "model.box_head.norm": "gn",
          "model.box_head.class_agnostic": "true"}),
        ("MODEL: {ROI_MASK_HEAD: {CLS_AGNOSTIC_MASK: True, NUM_CONV: 8}}\nINPUT: {MASK_FORMAT: bitmask}",
         {"model.mask_head.class_agnostic": "true", "model.mask_head.convs": "8",
          "model.mask_target": "bitmask_hard"}),
        (("MODEL: {ROI_HEADS: {SCORE_THRESH_TEST: 0.1, NMS_THRESH_TEST: 0.3}}\n"
          "TEST: {DETECTIONS_PER_IMAGE: 7}"),
         {"model.roi.score_threshold": "0.1", "model.roi.nms_threshold": "0.3",
          "model.roi.max_detections": "7"}),
        (("MODEL: {ROI_HEADS: {NAME: CascadeROIHeads}, ROI_BOX_HEAD: {CLS_AGNOSTIC_BBOX_REG: True},\n"
         "  ROI_BOX_CASCADE_HEAD: {IOUS: [0.5, 0.6, 0.8]}}"), {"model.roi.cascade.ious": "[0.5, 0.6, 0.8]"}),
        ("MODEL: {RPN: {CONV_DIMS: [-1, -1], BBOX_REG_LOSS_TYPE: giou}}",
         {"model.rpn.convs": "2", "model.rpn.box_loss": "giou"}),
        ("INPUT: {MIN_SIZE_TRAIN: '(500, 600)', MIN_SIZE_TRAIN_SAMPLING: range, RANDOM_FLIP: vertical}",
         {"data.train_transforms.0.sample": "range", "data.train_transforms.1.type": "vflip"}),
        ("SOLVER: {AMP: {ENABLED: True}, CLIP_GRADIENTS: {ENABLED: True, CLIP_TYPE: norm, CLIP_VALUE: 2.0}}",
         {"solver.precision": "float16", "solver.clip_grad_norm": "2.0"}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_keys_of_detectron2(tmp_path: Path, text: str, wanted: dict[str, str]) -> None:
    (tmp_path / "middle.yaml").write_text(MASK)
    found = flatten(converted(tmp_path, "mine.yaml", f"_BASE_: middle.yaml\n{text}\n"))
    assert {key: found.get(key) for key in wanted} == wanted


def test_what_detectron2_has_and_we_have_not_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (
        "INPUT: {CROP: {ENABLED: True}}\nTEST: {AUG: {MIN_SIZES: [1]}}\nDATASETS: {TRAIN: ['lvis_train']}\n"
    )
    converted(tmp_path, "mine.yaml", MASK + "  ROI_MASK_HEAD: {POOLER_SAMPLING_RATIO: 2}\n" + more)
    told = capsys.readouterr().out
    text = (tmp_path / "ours.yaml").read_text()
    for words in (
        "INPUT.CROP.ENABLED True: has no counterpart",
        "no counterpart: TEST.AUG.MIN_SIZES",
        "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO 2: one operator pools for all heads",
        "DATASETS lvis_train: set images and annotations",
    ):
        assert words in told and words in text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("  META_ARCHITECTURE: PanopticFPN", "mine.yaml:5:22: MODEL.META_ARCHITECTURE: 'PanopticFPN'"),
        ("  RESNETS: {DEFORM_ON_PER_STAGE: [False, True, True, True]}", "MODEL.RESNETS.DEFORM_ON_PER_STAGE"),
        (
            "  BACKBONE: {NAME: build_vit}",
            "MODEL.BACKBONE.NAME: 'build_vit' has no counterpart here; known are",
        ),
        ("  ROI_HEADS: {NAME: PointRend}", "MODEL.ROI_HEADS.NAME"),
        ("  RPN: {IN_FEATURES: [p9]}", "names levels that are not known"),
    ],
)
def test_networks_that_are_not_built_here(
    tmp_path: Path, text: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert what in refused(tmp_path, "mine.yaml", MASK + text, capsys)


def test_a_lazy_config_is_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(tmp_path, "mine.py", "from ..common.train import train\nmodel = dict(a=1)\n", capsys)
    assert "mine.py:1: this file imports modules, as Detectron2's LazyConfig does" in told and "zoo" in told


def test_mmdetection_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = converted(tmp_path, "mine.py", MMDET + RUNTIME3)
    assert differing(recipe, "zoo/mask_rcnn_r50_fpn_noaug_1x") | {"train.eval_every": ""} == {
        "model.backbone.weights": "torchvision/resnet50",
        "model.rpn.beta": "0.0",
        "model.rpn.normalize_by": "sampled",
        "model.roi.beta": "0.0",
        "model.roi_op.aligned": "true",
        "model.roi_op.sampling_ratio": "0",
        "model.mask_target": "bitmask_hard",
        "data.train_transforms.0.resample": "linear",
        "data.eval_transforms.0.resample": "linear",
        "solver.optimizer.weight_decay_norm": "0.0001",
        "solver.steps": str(round(12 * COCO_IMAGES / 16)),
        "solver.schedule.milestones": str([round(8 * COCO_IMAGES / 16), round(11 * COCO_IMAGES / 16)]),
        "solver.schedule.warmup_steps": "500",
        "train.eval_every": "",
    }
    told = capsys.readouterr().out
    assert "scale and shift of its batch normalisation train there" in told and "no counterpart:" not in told
    assert "of its program alone: default_scope" in (tmp_path / "ours.yaml").read_text()


def test_mmdetection_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = MMDET.replace("bgr_to_rgb=True, ", "").replace("data_preprocessor", "unused_preprocessor")
    recipe = converted(tmp_path, "mine.py", base + RUNTIME2, "--train-images", "160")
    found, told = flatten(recipe), capsys.readouterr().out
    wanted = {
        "model.preprocess.mean": "[123.675, 116.28, 103.53]",
        "model.preprocess.std": "[1.0, 1.0, 1.0]",
        "model.mask_target": "polygon",
        "data.train.annotations": "mine/train.json",
        "data.val.images": "mine/val",
        "data.train_transforms.0.min_sizes": "[640, 800]",
        "data.train_transforms.0.sample": "range",
        "solver.batch_size": "16",
        "solver.steps": "360",  # 12 epochs of 3 x 160 images
        "solver.schedule.milestones": "[270, 330]",
        "solver.clip_grad_norm": "35.0",
        "train.eval_every": "60",
    }
    assert {key: found[key] for key in wanted} == wanted
    assert "PhotoMetricDistortion: has no counterpart" in told
    assert "model.unused_preprocessor.type" in told  # a key that means nothing here


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("type='ResNet', depth", "type='SwinTransformer', depth", "model.backbone.type: 'SwinTransformer'"),
        ("depth=50", "depth=50, dcn=dict(type='DCNv2')", "model.backbone.dcn"),
        ("'Shared2FCBBoxHead'", "'SABLHead'", "model.roi_head.bbox_head.type: 'SABLHead' has no counterpart"),
        ("type='FCNMaskHead'", "type='GridHead'", "model.roi_head.mask_head.type"),
        ("mask_size=28", "mask_size=56", "masks are twice as large"),
        ("instances_train2017", "other", "say it: --train-images N"),
        ("keep_ratio=True)", "keep_ratio=False)", "keep_ratio=False distorts"),
    ],
)
def test_what_mmdetection_has_and_is_not_built_here(
    tmp_path: Path, old: str, new: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MMDET + RUNTIME3
    assert old in text
    told = refused(tmp_path, "mine.py", text.replace(old, new), capsys)
    assert what in told and "mine.py:" in told


def places(node: Node, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of all values in a tree, lists and mappings as well."""
    if isinstance(node, Map):
        for key, entry in node.entries.items():
            yield from places(entry.node, (*path, key))
    elif isinstance(node, Seq):
        for i, item in enumerate(node.items):
            yield from places(item, (*path, i))
    if path:
        yield path


def replaced(node: Node, path: tuple[Any, ...], value: Node) -> Node:
    if not path:
        return value
    if isinstance(node, Map):
        entry = node.entries[path[0]]
        return replace(
            node,
            entries={
                **node.entries,
                path[0]: entry._replace(node=replaced(entry.node, path[1:], value)),
            },
        )
    assert isinstance(node, Seq)
    items = list(node.items)
    items[path[0]] = replaced(items[path[0]], path[1:], value)
    return replace(node, items=tuple(items))


HERE = Origin("theirs", 1, 1)
NUMBER = Scalar(3, "3", HERE)
OTHER_KINDS = {
    "number": NUMBER,
    "text": Scalar("x", "x", HERE),
    "null": Scalar(None, "null", HERE),
    "none": Seq((), HERE),
    "lists": Seq((Seq((NUMBER,), HERE),), HERE),
    "mapping": Map({"a": Entry(HERE, NUMBER)}, HERE),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize(("name", "read"), [("theirs.yaml", "read_chain"), ("theirs.py", "read_python")])
def test_a_value_of_another_kind_is_a_sentence(
    name: str, read: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base.yaml").write_text(PYRAMID)
    (tmp_path / name).write_text(MASK if name.endswith("yaml") else MMDET + RUNTIME3)
    whole = getattr(convert_config, read)(tmp_path / name)
    told = []
    for path in places(whole):
        changed = replaced(whole, path, OTHER_KINDS[kind])
        monkeypatch.setattr(convert_config, read, lambda _, changed=changed: changed)
        try:
            convert_config.convert_config(tmp_path / name, 1000)
        except ConfigError as error:
            told.append(str(error))
    assert len(told) > 10
    assert [s for s in told if not s.startswith(("theirs:1:1: ", f"{tmp_path}/"))] == []


def test_nothing_is_replaced_and_without_a_file_it_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converted(tmp_path, "mine.yaml", MASK)
    text = (tmp_path / "ours.yaml").read_text()
    capsys.readouterr()
    assert main(["convert", "--config", str(tmp_path / "mine.yaml")]) == 0
    assert capsys.readouterr().out == text
    assert main(["convert", "--config", str(tmp_path / "mine.yaml"), str(tmp_path / "ours.yaml")]) == 2
    assert "is there already" in capsys.readouterr().err and (tmp_path / "ours.yaml").read_text() == text


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--config", "a.txt"], "a config of Detectron2 is a .yaml file"),
        (["--config", "a.yaml", "out.pt"], "a config is a file .yaml"),
        (["--config", "a.yaml", "--drop-head"], "--drop-head: of no use with --config"),
        (["--config", "a.py", "--train-images", "0"], "at least 1"),
        (["a.pth"], "needs OUT"),
        (["a.pth", "b.pt", "--train-images", "3"], "--train-images goes with --config"),
    ],
)
def test_command_lines(words: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", *words]) == 2
    assert what in capsys.readouterr().err


def test_a_value_that_is_none_of_ours_is_told_of_their_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs.yaml").write_text(PYRAMID.replace("MAX_ITER: 90000", f"MAX_ITER: {'9' * 6000}"))
    assert main(["convert", "--config", str(tmp_path / "theirs.yaml")]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'theirs.yaml'}: what it becomes is no config of ours (line " in told
    assert "solver.steps" in told and "converted.yaml" not in told


def edited(text: str, path: str, value: object = None) -> str:
    """A config of mmdetection without the key at ``path`` of its model, or with another value there."""
    whole: Any = {}
    exec(text, whole)
    *above, last = path.split(".")
    part = whole["model"]
    for name in above:
        part = part[name]
    part.pop(last, None)
    if value is not None:
        part[last] = value
    return "".join(f"{name} = {kept!r}\n" for name, kept in whole.items() if name != "__builtins__")


@pytest.mark.parametrize("key", [key for key in USUAL if not re.search(r"\.\d\.", key)])
def test_what_is_not_given_is_told_with_what_to_add(key: str, tmp_path: Path) -> None:
    """And with that it is converted, to the same."""

    def settings(text: str) -> dict[str, object]:
        (tmp_path / "mine.py").write_text(text)
        return mmdetection_keys.convert_keys(with_defaults(read_python(tmp_path / "mine.py")), None).settings

    text, path = MMDET + RUNTIME3, key.removeprefix("model.")
    with pytest.raises(ConfigError) as told:
        settings(edited(text, path))
    said = rf"mine.py:\d+:\d+: {key}: is not given, .* add (\w+)=(.*), as in its own configs$"
    found = re.search(said, str(told.value))
    assert found is not None and key.endswith(f".{found[1]}"), told.value
    assert settings(edited(text, path, ast.literal_eval(found[2]))) == settings(text)


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        ("rpn_head.anchor_generator", None, {"model.rpn.anchors.sizes": "[[32.0, 64.0, 128.0], [64"}),
        ("rpn_head.loss_bbox", None, {"model.rpn.box_loss": "smooth_l1", "model.rpn.beta": "0.1111"}),
        ("backbone.norm_cfg", None, {"model.backbone.norm": "frozen_bn"}),
        ("train_cfg.rpn_proposal", None, {"model.rpn.pre_nms_train": "1000"}),
        ("neck.start_level", 0, {"model.backbone.outputs": "[c2, c3, c4, c5]"}),
        ("neck.add_extra_convs", False, {"model.neck.top": "max_pool"}),
        ("rpn_head", None, {"model.rpn": "null", "data.val.proposals": "HERE/proposals_val.npz"}),
        (
            "rpn_head.anchor_generator",
            {"type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 2}
            | {"ratios": [1.0], "strides": [4, 8, 16, 32, 64]},
            {"model.rpn.anchors.sizes": "[[16.0, 22.627"},
        ),
    ],
    ids=str,
)
def test_mmdetections_own_defaults(path: str, value: object, wanted: dict[str, str], tmp_path: Path) -> None:
    found = flatten(converted(tmp_path, "mine.py", edited(MMDET + RUNTIME3, path, value)))
    for key, begins in wanted.items():
        value = found[key].strip('"').replace(str(tmp_path), "HERE")
        assert value.startswith(begins), (key, value)


def test_a_pyramid_that_begins_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With one level above its last, after the sentence was followed."""
    text = edited(MMDET + RUNTIME3, "neck.start_level", 1)
    text = edited(text, "rpn_head.anchor_generator.strides", [8, 16, 32, 64])
    text = edited(text, "roi_head.bbox_roi_extractor.featmap_strides", [8, 16, 32])
    told = refused(tmp_path, "mine.py", text, capsys)
    assert "2 levels above p5; one at most is built here: write num_outs=4, and as many strides" in told
    found = flatten(converted(tmp_path, "mine.py", edited(text, "neck.num_outs", 4)))
    assert found["model.backbone.outputs"] == "[c3, c4, c5]"
    assert found["model.rpn.levels"] == "[p3, p4, p5, p6]" and found["model.roi.levels"] == "[p3, p4, p5]"
    assert "224 px at p4 here, which is 112 there" in (tmp_path / "ours.yaml").read_text()
    (tmp_path / "ours.yaml").unlink()
    convs = edited(MMDET + RUNTIME3, "neck.add_extra_convs", "on_input")
    assert "neck.add_extra_convs: the level above the last is" in refused(tmp_path, "mine.py", convs, capsys)
