"""The second stage: sample or take proposals, pool, classify, refine, segment (He et al. 2017, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from maskrcnn.errors import ConfigError
from maskrcnn.modeling.box_coder import Weights, encode_boxes
from maskrcnn.modeling.matching import Sampler, balanced_sample
from maskrcnn.modeling.registries import BoxHead, MaskHead, RoIOpConfig
from maskrcnn.modeling.roi.decode import own_class, select_detections
from maskrcnn.modeling.roi.losses import box_loss, class_loss
from maskrcnn.modeling.roi.pooler import LevelRule, Pooler
from maskrcnn.modeling.roi.targets import MaskTarget, RoISample, mask_targets, sample_rois
from maskrcnn.modeling.rpn.rpn import check_levels
from maskrcnn.structures import Detections, Targets


@dataclass(frozen=True, kw_only=True)
class RoIHeadsConfig:
    """Sampling, losses and decoding of the second stage; defaults are Detectron2's for FPN."""

    #: Feature levels that the heads pool from, finest first.
    levels: tuple[str, ...] = ("p2", "p3", "p4", "p5")
    #: RoIs sampled an image (Lin et al. 2017, section 4.2: 512).
    samples: int = 512
    #: At most this part of them foreground (Girshick 2015, section 2.3).
    positive_fraction: float = 0.25
    #: A RoI is foreground from this IoU on (ibid.).
    positive_iou: float = 0.5
    #: A RoI is background below this IoU (Detectron2, torchvision: 0.5).
    negative_iou: float = 0.5
    #: Factors of dx, dy, dw, dh, about 1 / their standard deviations (Girshick's Fast R-CNN release).
    box_weights: Weights = (10.0, 10.0, 5.0, 5.0)
    #: Width of the box loss's quadratic part; 0 = L1 (Detectron2), 1/9 in torchvision.
    beta: float = 0.0
    #: Keep detections of a score above this.
    score_threshold: float = 0.05
    #: NMS threshold in each class.
    nms_threshold: float = 0.5
    #: Most detections of an image.
    max_detections: int = 100
    #: Drop boxes with a side below this, pixels (Detectron2: 0, drops none; torchvision: 1e-2).
    min_size: float = 0.0
    #: Which peer's rounding guards the choice of the pyramid level (differs at exact powers of 2 only).
    level_rule: LevelRule = "detectron2"

    def build(
        self,
        strides: Mapping[str, int],
        channels: Mapping[str, int],
        num_classes: int,
        roi_op: RoIOpConfig,
        box_head: BoxHead,
        mask_head: MaskHead | None,
        mask_target: MaskTarget,
    ) -> RoIHeads:
        """
        Raises:
            ConfigError: a level does not exist, or a value is out of range.
        """
        check_levels("model.roi.levels", self.levels, channels)
        for name in (
            "positive_fraction", "positive_iou", "negative_iou", "score_threshold", "nms_threshold",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"model.roi.{name} is {getattr(self, name)}; it must be from 0 to 1")
        if self.negative_iou > self.positive_iou:
            raise ConfigError("model.roi.negative_iou must not be greater than model.roi.positive_iou")
        if min(self.box_weights) <= 0:
            raise ConfigError("model.roi.box_weights must be greater than 0")

        def pooler(size: int) -> Pooler:
            return Pooler(roi_op.build(size), self.levels, strides, self.level_rule)

        return RoIHeads(
            self,
            num_classes,
            pooler(box_head.pool_size),
            box_head,
            None if mask_head is None else pooler(mask_head.pool_size),
            mask_head,
            mask_target,
        )


class RoIHeads(nn.Module):
    """Box head and, where there is one, mask head, each with its pooler.

    Args:
        config: thresholds and counts.
        num_classes: K, without background.
        mask_target: how ground-truth masks are rasterised, see ``InstanceMasks.crop_and_resize``.
        sampler: which RoIs to train on; replaceable, for tests and experiments.
    """

    def __init__(
        self,
        config: RoIHeadsConfig,
        num_classes: int,
        box_pooler: Pooler,
        box_head: BoxHead,
        mask_pooler: Pooler | None,
        mask_head: MaskHead | None,
        mask_target: MaskTarget = "polygon",
        sampler: Sampler = balanced_sample,
    ) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.mask_pooler = mask_pooler
        self.mask_head = mask_head
        self.mask_target: MaskTarget = mask_target
        self.sampler = sampler

    def losses(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Targets],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """``loss_box_cls``, ``loss_box_reg`` and, with a mask head, ``loss_mask``: scalars.

        Args:
            features: by level name.
            proposals: [P, 4] of every image, xyxy, network frame.
        """
        c = self.config
        samples = [
            sample_rois(
                boxes,
                target,
                self.sampler,
                num_classes=self.num_classes,
                low=c.negative_iou,
                high=c.positive_iou,
                count=c.samples,
                positive_fraction=c.positive_fraction,
                generator=generator,
            )
            for boxes, target in zip(proposals, targets, strict=True)
        ]
        losses = self._box_losses(features, samples, targets)
        if self.mask_head is not None:
            losses["loss_mask"] = self._mask_loss(features, samples, targets, self.mask_head)
        return losses

    def _box_losses(
        self, features: Mapping[str, Tensor], samples: Sequence[RoISample], targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        logits, deltas = self.box_head(self.box_pooler(features, [s.boxes for s in samples]))
        labels = torch.cat([s.labels for s in samples])
        rows, start = [], 0
        for sample in samples:
            rows.append(torch.arange(start, start + sample.num_positive, device=labels.device))
            start += len(sample.boxes)
        positive = torch.cat(rows)
        own = own_class(deltas.unflatten(1, (-1, 4))[positive], labels[positive])
        boxes = torch.cat([s.positive_boxes for s in samples])
        truth = torch.cat([t.boxes[s.truth] for s, t in zip(samples, targets, strict=True)])
        wanted = encode_boxes(truth.to(boxes.dtype), boxes, self.config.box_weights)
        return {
            "loss_box_cls": class_loss(logits, labels),
            "loss_box_reg": box_loss(own, wanted, self.config.beta, len(labels)),
        }

    def _mask_loss(
        self,
        features: Mapping[str, Tensor],
        samples: Sequence[RoISample],
        targets: Sequence[Targets],
        head: MaskHead,
    ) -> Tensor:
        assert self.mask_pooler is not None
        # Without a positive RoI the head runs on none: the loss is 0, all parameters stay in the graph.
        logits = head(self.mask_pooler(features, [s.positive_boxes for s in samples]))
        labels = torch.cat([s.positive_labels for s in samples])
        wanted = mask_targets(samples, targets, head.mask_size, self.mask_target)
        return head.loss(logits, labels, wanted)

    @torch.no_grad()
    def predict(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        """Detections of every image, with mask probabilities of the predicted class; network frame."""
        c = self.config
        counts = [len(p) for p in proposals]
        logits, deltas = self.box_head(self.box_pooler(features, proposals))
        detections = [
            select_detections(
                *parts,
                weights=c.box_weights,
                score_threshold=c.score_threshold,
                nms_threshold=c.nms_threshold,
                max_detections=c.max_detections,
                min_size=c.min_size,
            )
            for parts in zip(logits.split(counts), deltas.split(counts), proposals, image_sizes, strict=True)
        ]
        if self.mask_head is None or self.mask_pooler is None:
            return detections
        mask_logits = self.mask_head(self.mask_pooler(features, [d.boxes for d in detections]))
        labels = torch.cat([d.labels for d in detections])
        masks = self.mask_head.probabilities(mask_logits, labels).split([len(d) for d in detections])
        return [replace(d, mask_probs=m) for d, m in zip(detections, masks, strict=True)]
