"""mmdetection's keys of a model in ours, of versions 2 and 3.

Meanings and defaults are those of the classes that its configs name, in ``mmdet/models`` and ``mmcv/ops``.
"""

from __future__ import annotations

from typing import Any

from maskrcnn.convert.configs.foreign_keys import Converted, ForeignConfig
from maskrcnn.convert.configs.mmdetection_heads import convert_heads, convert_loss, norm_of
from maskrcnn.convert.configs.mmdetection_training import convert_data, convert_schedule
from maskrcnn.errors import plural
from maskrcnn.weights.published import registry

#: Whether its heads are a cascade.
_MODELS = {"MaskRCNN": False, "FasterRCNN": False, "FastRCNN": False, "CascadeRCNN": True}
#: Of their program alone.
_RUN = (
    *(
        "default_scope",
        "default_hooks",
        "env_cfg",
        "vis_backends",
        "visualizer",
        "log_processor",
        "log_level",
    ),
    *("resume", "checkpoint_config", "log_config", "custom_hooks", "dist_params", "workflow", "resume_from"),
    *("opencv_num_threads", "mp_start_method", "backend_args", "file_client_args", "dataset_type"),
    *("data_root", "val_cfg", "test_cfg", "test_dataloader", "test_evaluator", "val_evaluator", "evaluation"),
    *("cudnn_benchmark", "work_dir", "auto_resume", "gpu_ids", "launcher"),
)
#: Names that its files give to parts of what follows.
_NAMES = (
    *("test_pipeline", "train_pipeline", "img_norm_cfg", "norm_cfg", "head_norm_cfg", "image_size"),
    *("batch_augments", "max_epochs", "max_iter", "interval", "classes", "metainfo", "num_stages"),
)
#: Values below ``model`` that are one thing here; another one is told.
_FIXED: dict[str, Any] = {
    "rpn_head.loss_cls.loss_weight": 1.0,
    "rpn_head.loss_bbox.loss_weight": 1.0,
    "rpn_head.loss_bbox.reduction": "mean",
    "rpn_head.bbox_coder.target_means": [0.0] * 4,
    "rpn_head.bbox_coder.target_stds": [1.0] * 4,
    "train_cfg.rpn.assigner.min_pos_iou": 0.3,
    "train_cfg.rpn.assigner.match_low_quality": True,
    "train_cfg.rpn.assigner.ignore_iof_thr": -1,
    "train_cfg.rpn.sampler.neg_pos_ub": -1,
    "train_cfg.rpn.sampler.add_gt_as_proposals": False,
    "train_cfg.rpn.allowed_border": -1,
    "train_cfg.rpn.pos_weight": -1,
    "test_cfg.rcnn.mask_thr_binary": 0.5,
}
#: What only says again what follows from the rest.
_IMPLIED = (
    *(
        "neck.in_channels",
        "rpn_head.in_channels",
        "rpn_head.anchor_generator.type",
        "rpn_head.bbox_coder.type",
    ),
    *(
        "train_cfg.rpn.debug",
        "train_cfg.rpn.assigner.type",
        "train_cfg.rpn.sampler.type",
        "data_preprocessor.type",
    ),
    *("data_preprocessor.pad_mask", "data_preprocessor.batch_augments", "backbone.num_stages"),
    *("train_cfg.rpn_proposal.nms.type", "test_cfg.rpn.nms.type", "backbone.zero_init_residual"),
)


def convert_keys(theirs: ForeignConfig, images: int | None) -> Converted:
    """A config of mmdetection in our keys.

    Args:
        images: of its training data, by which epochs are turned into steps; None: COCO's.

    Raises:
        ConfigError: it describes another network than those that are built here, by file:line.
    """
    out = Converted("mmdetection")
    cascade = theirs.needs("model.type", _MODELS)
    masks = theirs.peek("model.roi_head.mask_head") is not None
    _backbone(theirs, out)
    if theirs.peek("model.rpn_head") is not None:
        _proposals(theirs, out)
    convert_heads(theirs, out, cascade, masks)
    convert_data(theirs, out, masks)
    if theirs.peek("model.rpn_head") is None:
        _no_proposals(theirs, out)
    convert_schedule(theirs, out, images)
    for key, usual in _FIXED.items():
        value = theirs.get(f"model.{key}", usual)
        if value != usual:
            out.note(f"model.{key} {value}: has no counterpart; here it is as with {usual}")
    for key in _IMPLIED:
        theirs.get(f"model.{key}")
    for key in _RUN:
        if theirs.given(key):
            theirs.get(key)
            out.run_keys.append(key)
    for key in _NAMES:
        theirs.get(key)
    return out


def _backbone(theirs: ForeignConfig, out: Converted) -> None:
    path, ours = "model.backbone", "model.backbone"
    grouped = theirs.needs(f"{path}.type", {"ResNet": False, "ResNeXt": True})
    for key in ("dcn", "plugins", "conv_cfg", "deep_stem", "avg_down", "stage_with_dcn"):
        if theirs.given(f"{path}.{key}") and theirs.get(f"{path}.{key}") not in (None, False):
            theirs.refuse(
                f"{path}.{key}",
                "is a network that is not built here (deformable convolutions and the"
                " like); take a config without it",
            )
    depth = theirs.needs(f"{path}.depth", {d: d for d in (18, 34, 50, 101, 152)})
    out.parts["model.backbone"] = "resnet"
    out.set(f"{ours}.depth", depth, f"{path}.depth")
    out.set(f"{ours}.groups", theirs.get(f"{path}.groups", 1) if grouped else 1, f"{path}.groups")
    width = theirs.get(f"{path}.base_width", 4 if grouped else 64)
    out.set(f"{ours}.width_per_group", width, f"{path}.base_width")
    stages = theirs.get(f"{path}.out_indices", [0, 1, 2, 3])
    out.set(f"{ours}.outputs", [f"c{i + 2}" for i in stages], f"{path}.out_indices")
    strides, dilations = theirs.get(f"{path}.strides", [1, 2, 2, 2]), theirs.get(f"{path}.dilations", [1] * 4)
    dilated = (strides, dilations) == ([1, 2, 2, 1], [1, 1, 1, 2])
    if not dilated and (strides[: len(strides)] != [1, 2, 2, 2][: len(strides)] or set(dilations) != {1}):
        theirs.refuse(f"{path}.strides", "known are those of a plain ResNet, and of its dilated c5")
    out.set(f"{ours}.dilated_c5", dilated, f"{path}.dilations")
    out.set(f"{ours}.freeze_at", theirs.get(f"{path}.frozen_stages", -1) + 1, f"{path}.frozen_stages")
    caffe = theirs.needs(f"{path}.style", {"pytorch": False, "caffe": True}, "pytorch")
    out.set(f"{ours}.stride_in_1x1", caffe and depth >= 50, f"{path}.style")
    theirs.get(f"{path}.norm_eval")
    norm = norm_of(theirs, f"{path}.norm_cfg", out, backbone=True)
    out.set(f"{ours}.norm", norm or "frozen_bn", f"{path}.norm_cfg")
    if theirs.get(f"{path}.with_cp", False):
        out.set("solver.checkpoint_activations", True, f"{path}.with_cp")
    _weights(theirs, out)
    neck = theirs.peek("model.neck")
    if neck is None and len(stages) > 1:
        theirs.refuse(
            "model.neck",
            f"is not given, and heads without one read a single level, not {len(stages)}; add neck=dict("
            "type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5), as in its own",
        )
    out.parts["model.neck"] = None if neck is None else theirs.needs("model.neck.type", {"FPN": "fpn"})
    if neck is not None:
        _levels(theirs, out)
        out.copy(theirs, "model.neck.out_channels", "model.neck.out_channels")
        out.set("model.neck.norm", norm_of(theirs, "model.neck.norm_cfg", out), "model.neck.norm_cfg")


def _levels(theirs: ForeignConfig, out: Converted) -> None:
    """Where the pyramid begins, and what is above its last level; their FPN begins at the first."""
    path, stages = "model.neck", list(out.settings["model.backbone.outputs"])
    first, last = theirs.get(f"{path}.start_level", 0), theirs.get(f"{path}.end_level", -1)
    if last not in (-1, len(stages) - 1):
        theirs.refuse(f"{path}.end_level", "the pyramid ends at the backbone's last level here; write -1")
    stages = stages[first:]
    out.set(
        "model.backbone.outputs", stages, f"{path}.start_level" if first else "model.backbone.out_indices"
    )
    top = theirs.must(f"{path}.num_outs") - len(stages)
    if top not in (0, 1):
        theirs.refuse(
            f"{path}.num_outs",
            f"{plural(top, 'level')} above {stages[-1].replace('c', 'p')}; one at most is built here: write"
            f" num_outs={len(stages) + 1}, and as many strides in rpn_head.anchor_generator",
        )
    if theirs.get(f"{path}.add_extra_convs", False) and top:
        theirs.refuse(
            f"{path}.add_extra_convs",
            "the level above the last is that one subsampled here, without weights; write False, its default",
        )
    out.set("model.neck.top", "max_pool" if top else None, f"{path}.num_outs")


def _weights(theirs: ForeignConfig, out: Converted) -> None:
    keys = [key for key in ("model.backbone.init_cfg.checkpoint", "model.pretrained") if theirs.given(key)]
    for key in ("model.backbone.init_cfg", "model.backbone.pretrained"):
        theirs.get(key)
    key = keys[0] if keys else "model.backbone.init_cfg.checkpoint"
    file = str(theirs.get(key) or "")
    maker, _, rest = file.partition("://")
    names = {
        "torchvision": f"torchvision/{rest}",
        "open-mmlab": {
            "detectron2/resnet50_caffe": "detectron2/ImageNetPretrained/MSRA/R-50",
            "detectron2/resnet101_caffe": "detectron2/ImageNetPretrained/MSRA/R-101",
            "detectron2/resnext101_32x8d": "detectron2/ImageNetPretrained/FAIR/X-101-32x8d",
            "detectron/resnet50_gn": "detectron2/ImageNetPretrained/FAIR/R-50-GN",
            "detectron/resnet101_gn": "detectron2/ImageNetPretrained/FAIR/R-101-GN",
        }.get(rest, ""),
    }
    name = names.get(maker, "")
    out.set("model.backbone.weights", name if name in registry() else None, key)
    if file and name not in registry():
        out.note(f"{key} {file}: convert that file (maskrcnn convert) and set model.backbone.weights")
    first = theirs.get("load_from")
    if first:
        out.note(f"load_from {first}: convert that file (maskrcnn convert) and set weights")


def _no_proposals(theirs: ForeignConfig, out: Converted) -> None:
    """Without ``rpn_head`` it is Fast R-CNN; ``rpn`` and ``rpn_proposal`` of the rest mean nothing then."""
    out.parts["model.rpn"] = True  # of the recipe that it is laid over, which is then without
    out.set("model.rpn", None, "no model.rpn_head")
    for part in ("train", "val"):
        out.set(f"data.{part}.proposals", f"${{HERE}}/proposals_{part}.npz", "to be written")
    out.note(
        "no model.rpn_head: proposals come from files, and theirs are pickles, which are not read; write"
        " data.train.proposals and data.val.proposals by maskrcnn proposals"
    )
    for key in ("train_cfg.rpn", "train_cfg.rpn_proposal", "test_cfg.rpn", "rpn_head"):
        theirs.get(f"model.{key}")


def _proposals(theirs: ForeignConfig, out: Converted) -> None:
    head, ours = "model.rpn_head", "model.rpn"
    theirs.needs(f"{head}.type", {"RPNHead": True})
    out.parts["model.rpn"] = True
    maker = f"{head}.anchor_generator"
    theirs.needs(f"{maker}.type", {"AnchorGenerator": True})
    each = theirs.get(f"{maker}.scales_per_octave")
    octave = [2 ** (i / each) for i in range(each)] if isinstance(each, int) else None
    base = theirs.get(f"{maker}.octave_base_scale")
    scales = [base * part for part in octave] if octave and base else theirs.must(f"{maker}.scales")
    strides = theirs.must(f"{maker}.strides")
    if not isinstance(scales, list) or not isinstance(strides, list):
        theirs.refuse(maker, "its scales and strides are lists; write scales=[8], strides=[4, 8, 16, 32, 64]")
    bases = theirs.get(f"{maker}.base_sizes", strides)
    sizes = [[float(base * scale) for scale in scales] for base in bases]
    out.set(f"{ours}.anchors.sizes", sizes, f"{maker}.scales x strides")
    out.copy(theirs, f"{ours}.anchors.ratios", f"{maker}.ratios")
    out.copy(theirs, f"{ours}.anchors.offset", f"{maker}.center_offset", 0.0)
    prefix = "p" if out.parts["model.neck"] else "c"
    levels = [f"{prefix}{round(s).bit_length() - 1}" for s in strides]
    if prefix == "c":
        levels = list(out.settings["model.backbone.outputs"])
    out.set(f"{ours}.levels", levels, f"{maker}.strides")
    channels = out.settings.get("model.neck.out_channels", 1024 if len(strides) == 1 else 256)
    width = theirs.get(f"{head}.feat_channels", 256)
    out.set(f"{ours}.width", None if width == channels else width, f"{head}.feat_channels")
    out.copy(theirs, f"{ours}.convs", f"{head}.num_convs", 1)
    theirs.needs(f"{head}.loss_cls.type", {"CrossEntropyLoss": True}, "CrossEntropyLoss")
    theirs.get(f"{head}.loss_cls.use_sigmoid")
    convert_loss(theirs, f"{head}.loss_bbox", out, ours)
    out.set(f"{ours}.normalize_by", "sampled", "")
    train, test = "model.train_cfg.rpn", "model.test_cfg.rpn"
    theirs.needs(f"{train}.sampler.type", {"RandomSampler": True}, "RandomSampler")
    for key, name in (
        ("assigner.pos_iou_thr", "positive_iou"),
        ("assigner.neg_iou_thr", "negative_iou"),
        ("sampler.num", "samples"),
        ("sampler.pos_fraction", "positive_fraction"),
    ):
        out.copy(theirs, f"{ours}.{name}", f"{train}.{key}")
    chosen = "model.train_cfg.rpn_proposal"
    for part, when in ((chosen, "train"), (test, "test")):
        out.copy(theirs, f"{ours}.pre_nms_{when}", f"{part}.nms_pre")
        older = theirs.get(f"{part}.nms_post")
        most = (
            older if older and not theirs.get(f"{part}.max_per_img") else theirs.must(f"{part}.max_per_img")
        )
        out.set(f"{ours}.post_nms_{when}", most, f"{part}.max_per_img")
    out.copy(theirs, f"{ours}.nms_threshold", f"{test}.nms.iou_threshold", 0.7)
    if theirs.get(f"{chosen}.nms.iou_threshold", 0.7) != out.settings[f"{ours}.nms_threshold"]:
        out.note(f"{chosen}.nms.iou_threshold: one threshold serves training and test here")
    out.copy(theirs, f"{ours}.min_size", f"{test}.min_bbox_size", 0)
    theirs.get(f"{chosen}.min_bbox_size")
