"""mmdetection's keys of RoI heads in ours, and of what they have in common with other parts."""

from __future__ import annotations

from maskrcnn.convert.configs.foreign_keys import Converted, ForeignConfig


def norm_of(theirs: ForeignConfig, path: str, out: Converted, *, backbone: bool = False) -> str | None:
    """Ours for a ``norm_cfg``; None where there is none."""
    if theirs.get(path) is None:
        return None
    kind = theirs.needs(
        f"{path}.type", {"BN": "bn", "SyncBN": "sync_bn", "GN": "gn", "BN2d": "bn", "MMSyncBN": "sync_bn"}
    )
    if backbone and kind != "gn" and theirs.get("model.backbone.norm_eval", True):
        if theirs.get(f"{path}.requires_grad", True):
            out.note(
                f"{path}.requires_grad: scale and shift of its batch normalisation train there, with fixed"
                " statistics; here frozen_bn keeps them"
            )
        return "frozen_bn"
    return str(kind)


def convert_loss(theirs: ForeignConfig, path: str, out: Converted, ours: str) -> None:
    """Of boxes: ``box_loss`` and ``beta``."""
    kinds = {"L1Loss": "smooth_l1", "SmoothL1Loss": "smooth_l1", "GIoULoss": "giou"}
    kind = theirs.needs(f"{path}.type", kinds, "SmoothL1Loss")
    out.set(f"{ours}.box_loss", kind, f"{path}.type")
    beta = theirs.get(f"{path}.beta", 1.0)
    out.set(f"{ours}.beta", 0.0 if theirs.get(f"{path}.type") == "L1Loss" else beta, path)


def convert_heads(theirs: ForeignConfig, out: Converted, cascade: bool, masks: bool) -> None:
    roi = "model.roi_head"
    theirs.needs(f"{roi}.type", {"CascadeRoIHead": True} if cascade else {"StandardRoIHead": True})
    c4 = theirs.peek(f"{roi}.shared_head") is not None
    if c4:
        theirs.needs(f"{roi}.shared_head.type", {"ResLayer": True})
        theirs.get(f"{roi}.shared_head")
        out.set("model.roi_trunk.c4", "detectron2", f"{roi}.shared_head")
    out.parts |= {"model.roi_trunk": c4, "model.roi.cascade": cascade, "model.mask_head": masks}
    out.parts["model.keypoint_head"] = False
    _operator(theirs, out)
    heads = [f"{roi}.bbox_head.{i}" for i in range(3)] if cascade else [f"{roi}.bbox_head"]
    for i, head in enumerate(heads):
        train = f"model.train_cfg.rcnn.{i}" if cascade else "model.train_cfg.rcnn"
        test = Converted("", settings={})
        _box_head(theirs, test if i else out, head, train, c4)
        if i and any(
            value != out.settings.get(key)
            for key, value in test.settings.items()
            if key.startswith("model.box_head")
        ):
            theirs.refuse(head, "all stages of a cascade have the same head here")
        weights = [1 / s for s in theirs.get(f"{head}.bbox_coder.target_stds", [0.1, 0.1, 0.2, 0.2])]
        iou = theirs.must(f"{train}.assigner.pos_iou_thr")
        if cascade:
            for name, value, of in (("ious", iou, train), ("box_weights", weights, f"{head}.bbox_coder")):
                key = f"model.roi.cascade.{name}"
                out.set(key, [*out.settings.get(key, []), value], of)
        else:
            out.set("model.roi.box_weights", weights, f"1 / {head}.bbox_coder.target_stds")
        for key in ("type", "in_channels", "num_classes", "bbox_coder", "loss_cls", "roi_feat_size"):
            theirs.get(f"{head}.{key}")
    if cascade:
        losses = theirs.get(f"{roi}.stage_loss_weights", [1, 1, 1])
        if losses != [1, 1, 1]:
            out.note(f"{roi}.stage_loss_weights {losses}: has no counterpart; all stages count 1 here")
        theirs.get(f"{roi}.num_stages")
    classes = theirs.get(f"{heads[0]}.num_classes", 80)
    if classes != 80:
        out.note(f"{heads[0]}.num_classes {classes}: classes come with the data")
    chosen = "model.test_cfg.rcnn"
    for key, name in (
        ("score_thr", "score_threshold"),
        ("nms.iou_threshold", "nms_threshold"),
        ("max_per_img", "max_detections"),
    ):
        out.copy(theirs, f"model.roi.{name}", f"{chosen}.{key}")
    if (kind := theirs.get(f"{chosen}.nms.type", "nms")) != "nms":
        out.note(f"{chosen}.nms.type {kind}: has no counterpart; here it is nms")
    if masks:
        _mask_head(theirs, out, c4)


def _operator(theirs: ForeignConfig, out: Converted) -> None:
    part = "model.roi_head.bbox_roi_extractor"
    theirs.needs(f"{part}.type", {"SingleRoIExtractor": True})
    layer = f"{part}.roi_layer"
    kind = theirs.needs(f"{layer}.type", {"RoIAlign": "roi_align", "RoIPool": "roi_pool"})
    out.set("model.roi_op.type", kind, f"{layer}.type")
    if kind == "roi_align":
        out.copy(theirs, "model.roi_op.aligned", f"{layer}.aligned", True)
        ratio = theirs.get(f"{layer}.sampling_ratio", 0)
        out.set("model.roi_op.sampling_ratio", max(ratio, 0), f"{layer}.sampling_ratio")
    strides = theirs.must(f"{part}.featmap_strides")
    levels = [f"p{round(s).bit_length() - 1}" for s in strides]
    if out.parts["model.neck"] is None:
        levels = list(out.settings["model.backbone.outputs"])
    out.set("model.roi.levels", levels, f"{part}.featmap_strides")
    usual = 14 * round(strides[0])  # which puts 224 px at stride 16
    if len(strides) > 1 and theirs.get(f"{part}.finest_scale", 56) != usual:
        out.note(
            f"{part}.finest_scale: RoIs are dealt to levels by 224 px at p4 here, which is {usual} there"
        )
    theirs.get(f"{part}.out_channels")
    other = "model.roi_head.mask_roi_extractor"
    for key in ("type", "aligned", "sampling_ratio"):
        mine, its = theirs.get(f"{layer}.{key}"), theirs.get(f"{other}.roi_layer.{key}")
        if theirs.given(f"{other}.roi_layer") and mine != its:
            out.note(
                f"{other}.roi_layer.{key} {its}: one operator pools for all heads here, that of the boxes"
            )
    for key in ("type", "out_channels", "featmap_strides", "finest_scale"):
        theirs.get(f"{other}.{key}")


def _box_head(theirs: ForeignConfig, out: Converted, head: str, train: str, c4: bool) -> None:
    kinds = {
        "Shared2FCBBoxHead": ("two_fc", 0, 2),
        "Shared4Conv1FCBBoxHead": ("conv_fc", 4, 1),
        "ConvFCBBoxHead": ("conv_fc", None, None),
        "BBoxHead": ("linear", 0, 0),
    }
    kind, convs, layers = theirs.needs(f"{head}.type", kinds)
    if (kind == "linear") != c4:
        theirs.refuse(f"{head}.type", "BBoxHead goes with a shared_head, and the others without")
    ours = "model.box_head"
    out.set(f"{ours}.type", kind, f"{head}.type")
    side = 7 if c4 else theirs.must("model.roi_head.bbox_roi_extractor.roi_layer.output_size")
    out.set(f"{ours}.pool_size", side, "bbox_roi_extractor.roi_layer.output_size")
    theirs.get(f"{head}.norm_cfg")
    if kind != "linear":
        out.copy(theirs, f"{ours}.hidden", f"{head}.fc_out_channels", 1024)
    if kind == "conv_fc":
        convs = theirs.get(f"{head}.num_shared_convs", 0) if convs is None else convs
        layers = theirs.get(f"{head}.num_shared_fcs", 0) if layers is None else layers
        out.set(f"{ours}.convs", convs, f"{head}.type")
        out.set(f"{ours}.fcs", layers, f"{head}.type")
        out.copy(theirs, f"{ours}.width", f"{head}.conv_out_channels", 256)
        out.set(f"{ours}.norm", norm_of(theirs, f"{head}.norm_cfg", out), f"{head}.norm_cfg")
    for key in ("conv_cfg", "with_avg_pool", "num_cls_convs", "num_reg_convs"):
        if theirs.get(f"{head}.{key}") and key != "with_avg_pool":
            theirs.refuse(f"{head}.{key}", "is a head that is not built here")
    theirs.needs(f"{head}.loss_cls.type", {"CrossEntropyLoss": True}, "CrossEntropyLoss")
    out.copy(theirs, f"{ours}.class_agnostic", f"{head}.reg_class_agnostic", False)
    convert_loss(theirs, f"{head}.loss_bbox", out, "model.roi")
    for key in ("loss_bbox.loss_weight", "loss_cls.loss_weight"):
        if (value := theirs.get(f"{head}.{key}", 1.0)) != 1.0:
            out.note(f"{head}.{key} {value}: has no counterpart; here it is 1")
    theirs.get(f"{head}.reg_decoded_bbox")
    theirs.needs(f"{train}.sampler.type", {"RandomSampler": True}, "RandomSampler")
    iou = theirs.must(f"{train}.assigner.pos_iou_thr")
    out.set("model.roi.positive_iou", iou, f"{train}.assigner.pos_iou_thr")
    out.copy(theirs, "model.roi.negative_iou", f"{train}.assigner.neg_iou_thr")
    out.copy(theirs, "model.roi.samples", f"{train}.sampler.num")
    out.copy(theirs, "model.roi.positive_fraction", f"{train}.sampler.pos_fraction")
    if (
        theirs.get(f"{train}.assigner.match_low_quality", True)
        and theirs.get(f"{train}.assigner.min_pos_iou", 0.5) < iou
    ):
        out.note(f"{train}.assigner.min_pos_iou: an object's best RoI below the bound is background here")
    for key in ("assigner", "sampler", "pos_weight", "debug"):
        theirs.get(f"{train}.{key}")


def _mask_head(theirs: ForeignConfig, out: Converted, c4: bool) -> None:
    head, ours = "model.roi_head.mask_head", "model.mask_head"
    theirs.needs(f"{head}.type", {"FCNMaskHead": True})
    for key in ("conv_cfg", "upsample_cfg"):
        value = theirs.get(f"{head}.{key}")
        if value is not None and value.get("type") not in ("Conv", "deconv"):
            theirs.refuse(f"{head}.{key}", f"{value.get('type')} is a head that is not built here")
    out.copy(theirs, f"{ours}.convs", f"{head}.num_convs", 4)
    out.copy(theirs, f"{ours}.width", f"{head}.conv_out_channels", 256)
    out.copy(theirs, f"{ours}.class_agnostic", f"{head}.class_agnostic", False)
    out.set(f"{ours}.norm", norm_of(theirs, f"{head}.norm_cfg", out), f"{head}.norm_cfg")
    side = 7 if c4 else theirs.must("model.roi_head.mask_roi_extractor.roi_layer.output_size")
    out.set(f"{ours}.pool_size", side, "mask_roi_extractor.roi_layer.output_size")
    if (loss := theirs.get(f"{head}.loss_mask.loss_weight", 1.0)) != 1.0:
        out.note(f"{head}.loss_mask.loss_weight {loss}: has no counterpart; here it is 1")
    for key in ("in_channels", "num_classes", "loss_mask"):
        theirs.get(f"{head}.{key}")
    for key in ("model.train_cfg.rcnn.mask_size", *(f"model.train_cfg.rcnn.{i}.mask_size" for i in range(3))):
        if (size := theirs.get(key)) is not None and size != 2 * out.settings[f"{ours}.pool_size"]:
            theirs.refuse(
                key,
                "masks are twice as large as what is pooled for them here; write mask_size="
                f"{2 * out.settings[f'{ours}.pool_size']}, or a mask_roi_extractor of another output_size",
            )
