"""Cascade R-CNN: box heads in a row, each trained at a higher IoU (Cai & Vasconcelos 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from maskrcnn.modeling.box_coder import Weights, decode_boxes
from maskrcnn.modeling.interfaces import BoxHead
from maskrcnn.modeling.roi.decode import select_scored
from maskrcnn.modeling.roi.losses import wide
from maskrcnn.modeling.roi.roi_heads import RoIHeads
from maskrcnn.modeling.roi.stages import CascadeConfig, relabel, scale_gradient
from maskrcnn.modeling.roi.targets import RoISample
from maskrcnn.structures import Detections, Targets, clip_boxes


class CascadeRoIHeads(RoIHeads):
    """RoI heads with a row of box heads in place of one; the other heads stay as they are.

    In training the first stage's RoIs are sampled as always, and the mask and keypoint heads train on those.
    Each further stage reads the last one's boxes.  At test the scores are the mean over the stages, each on
    its own RoIs, and the boxes the last one's; masks and keypoints are read there.  All this as Detectron2.

    Args:
        heads: the heads, with the first stage's box head.
        more: the box heads of the further stages.  All give class-agnostic deltas.
        cascade: IoU and box weights of each stage.
    """

    def __init__(self, heads: RoIHeads, more: Sequence[BoxHead], cascade: CascadeConfig) -> None:
        super().__init__(
            heads.config,
            heads.num_classes,
            heads.box_pooler,
            heads.box_head,
            heads.mask_pooler,
            heads.mask_head,
            heads.mask_target,
            heads.sampler,
            keypoint_pooler=heads.keypoint_pooler,
            keypoint_head=heads.keypoint_head,
        )
        del self.box_head  # one of a list from here on
        self.box_heads = nn.ModuleList([heads.box_head, *more])
        self.cascade = cascade

    def _box_losses(
        self,
        features: Mapping[str, Tensor],
        samples: Sequence[RoISample],
        targets: Sequence[Targets],
        image_sizes: Sequence[tuple[int, int]],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of every stage, as ``loss_box_cls_stage1``; and the last stage's pooled features."""
        losses: dict[str, Tensor] = {}
        boxes: Sequence[Tensor] = [s.boxes for s in samples]
        pooled = boxes[0]
        for stage, (head, weights) in enumerate(zip(self.box_heads, self.cascade.box_weights, strict=True)):
            if stage > 0:
                iou = self.cascade.ious[stage]
                samples = [
                    relabel(box, target, size, iou=iou, num_classes=self.num_classes)
                    for box, target, size in zip(boxes, targets, image_sizes, strict=True)
                ]
            rois = [s.boxes for s in samples]
            pooled = self._pool(self.box_pooler, features, rois)
            # The losses are summed, so that each head trains at the full rate, but the features below hear
            # their mean (the authors' release, and Detectron2).
            logits, deltas = head(scale_gradient(pooled, 1.0 / len(self.box_heads)))
            found = self._losses_of(logits, deltas, samples, targets, weights)
            losses |= {f"{name}_stage{stage + 1}": value for name, value in found.items()}
            boxes = _decode(deltas.detach(), rois, weights)
        return losses, pooled

    @torch.no_grad()
    def _detect(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        c, weights = self.config, self.cascade.box_weights
        boxes = rois = proposals
        deltas, scores = rois[0], []
        for stage, head in enumerate(self.box_heads):
            if stage > 0:  # none is dropped, since the scores are averaged RoI by RoI
                rois = [clip_boxes(b, *size) for b, size in zip(boxes, image_sizes, strict=True)]
            logits, deltas = head(self._pool(self.box_pooler, features, rois))
            scores.append(wide(logits).softmax(dim=1)[:, :-1])
            boxes = _decode(deltas, rois, weights[stage])
        counts = [len(r) for r in rois]
        mean = torch.stack(scores).mean(dim=0).split(counts)
        return [
            select_scored(
                *parts,
                weights=weights[-1],
                score_threshold=c.score_threshold,
                nms_threshold=c.nms_threshold,
                max_detections=c.max_detections,
                min_size=c.min_size,
            )
            for parts in zip(mean, deltas.split(counts), rois, image_sizes, strict=True)
        ]


def _decode(deltas: Tensor, rois: Sequence[Tensor], weights: Weights) -> Sequence[Tensor]:
    """The boxes [Ri, 4] that class-agnostic deltas [R, 4] make of the RoIs of every image."""
    decoded = decode_boxes(deltas, torch.cat(list(rois)), weights).to(rois[0].dtype)
    return list(decoded.split([len(r) for r in rois]))
