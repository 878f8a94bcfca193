"""What mmdetection has where a config of it says nothing, and what it wants to be said.

Defaults are those of the classes' arguments in ``mmdet/models`` (AnchorHead, ResNet, TwoStageDetector,
StandardRoIHead); what has none is told with the value of ``configs/_base_/models/mask-rcnn_r50_fpn.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskrcnn.config.nodes import Map
from maskrcnn.convert.configs.foreign_keys import ForeignConfig, plain

#: Parts that are so where they are not given at all; one that is given begins with its class's own.
WHOLE: Mapping[str, Mapping[str, Any]] = {
    "model.rpn_head.anchor_generator": {
        "type": "AnchorGenerator",
        "scales": [8, 16, 32],
        "ratios": [0.5, 1.0, 2.0],
        "strides": [4, 8, 16, 32, 64],
    },
    "model.rpn_head.loss_bbox": {"type": "SmoothL1Loss", "beta": 1 / 9},
    "model.backbone.norm_cfg": {"type": "BN"},
}
#: And those that are as another: TwoStageDetector takes ``test_cfg.rpn``, StandardRoIHead the one extractor.
LIKE = {
    "model.train_cfg.rpn_proposal": "model.test_cfg.rpn",
    "model.roi_head.mask_roi_extractor": "model.roi_head.bbox_roi_extractor",
}
_ASSIGNED = {"assigner.pos_iou_thr": 0.5, "assigner.neg_iou_thr": 0.5, "sampler.num": 512}
#: What has no default there, with the usual value.
USUAL: Mapping[str, Any] = {
    "model.backbone.depth": 50,
    "model.neck.out_channels": 256,
    "model.neck.num_outs": 5,
    "model.rpn_head.anchor_generator.scales": [8],
    "model.rpn_head.anchor_generator.ratios": [0.5, 1.0, 2.0],
    "model.rpn_head.anchor_generator.strides": [4, 8, 16, 32, 64],
    "model.roi_head.bbox_roi_extractor.featmap_strides": [4, 8, 16, 32],
    "model.roi_head.bbox_roi_extractor.roi_layer.output_size": 7,
    "model.roi_head.mask_roi_extractor.roi_layer.output_size": 14,
    "model.train_cfg.rpn.assigner.pos_iou_thr": 0.7,
    "model.train_cfg.rpn.assigner.neg_iou_thr": 0.3,
    "model.train_cfg.rpn.sampler.num": 256,
    "model.train_cfg.rpn.sampler.pos_fraction": 0.5,
    "model.train_cfg.rpn_proposal.nms_pre": 2000,
    "model.train_cfg.rpn_proposal.max_per_img": 1000,
    "model.test_cfg.rpn.nms_pre": 1000,
    "model.test_cfg.rpn.max_per_img": 1000,
    "model.test_cfg.rcnn.score_thr": 0.05,
    "model.test_cfg.rcnn.nms.iou_threshold": 0.5,
    "model.test_cfg.rcnn.max_per_img": 100,
    "model.data_preprocessor.std": [58.395, 57.12, 57.375],
    **{
        f"model.train_cfg.rcnn{stage}.{key}": value
        for stage in ("", ".0", ".1", ".2")
        for key, value in (_ASSIGNED | {"sampler.pos_fraction": 0.25}).items()
    },
}


def with_defaults(root: Map) -> ForeignConfig:
    """A config of mmdetection, which knows these."""
    given = ForeignConfig(root, {})
    defaults: dict[str, Any] = {}
    for path, part in WHOLE.items():
        if not given.given(path):
            defaults |= _flat(path, part)
    for path, other in LIKE.items():
        node = given.node(other)
        if not given.given(path) and node is not None:
            defaults |= _flat(path, plain(node))
    return ForeignConfig(root, defaults, USUAL)


def _flat(path: str, value: Any) -> dict[str, Any]:
    found = {path: value}
    if isinstance(value, Mapping):
        for key, inner in value.items():
            found |= _flat(f"{path}.{key}", inner)
    return found
