"""Boxes, instance masks, and the typed records that travel between data, model and evaluation."""

from maskrcnn.structures.boxes import (
    box_area,
    box_iou,
    clip_boxes,
    large_enough,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from maskrcnn.structures.keypoints import COCO_PERSON, KeypointSchema
from maskrcnn.structures.masks import InstanceMasks
from maskrcnn.structures.packed_masks import PackedMasks
from maskrcnn.structures.samples import Batch, Detections, ImageInfo, RawSample, Sample, Targets, collate

__all__ = [
    "COCO_PERSON",
    "Batch",
    "Detections",
    "ImageInfo",
    "InstanceMasks",
    "KeypointSchema",
    "PackedMasks",
    "RawSample",
    "Sample",
    "Targets",
    "box_area",
    "box_iou",
    "clip_boxes",
    "collate",
    "large_enough",
    "xywh_to_xyxy",
    "xyxy_to_xywh",
]
