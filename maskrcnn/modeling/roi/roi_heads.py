"""The second stage: sample or take proposals, pool, classify, refine, segment (He et al. 2017, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from maskrcnn.config.ranges import check_boxes
from maskrcnn.errors import ConfigError
from maskrcnn.modeling.box_coder import Weights
from maskrcnn.modeling.interfaces import BoxHead, KeypointHead, MaskHead, RoIOpConfig, RoITrunk
from maskrcnn.modeling.losses import BoxLoss, box_regression_loss
from maskrcnn.modeling.matching import Sampler, balanced_sample
from maskrcnn.modeling.roi.decode import own_class, select_detections
from maskrcnn.modeling.roi.losses import class_loss
from maskrcnn.modeling.roi.pooler import LevelRule, Pooler
from maskrcnn.modeling.roi.stages import CascadeConfig
from maskrcnn.modeling.roi.targets import (
    MaskTarget,
    RoISample,
    keypoint_targets,
    mask_targets,
    positive_rows,
    sample_rois,
    show_keypoints,
)
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
    #: ... and never trained on below this one (Girshick 2015, section 2.3: 0.1; Detectron2, torchvision: 0).
    background_iou: float = 0.0
    #: Factors of dx, dy, dw, dh, about 1 / their standard deviations (Girshick's Fast R-CNN release).
    box_weights: Weights = (10.0, 10.0, 5.0, 5.0)
    #: smooth_l1 of the deltas, or giou of the decoded boxes (Rezatofighi et al. 2019).
    box_loss: BoxLoss = "smooth_l1"
    #: Width of smooth L1's quadratic part; 0 = L1 (Detectron2), 1/9 in torchvision.
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
    #: Several box heads in a row, or one.
    cascade: CascadeConfig | None = None

    def __post_init__(self) -> None:
        check_boxes(samples=self.samples, max_detections=self.max_detections)

    def build(
        self,
        strides: Mapping[str, int],
        channels: Mapping[str, int],
        num_classes: int,
        roi_op: RoIOpConfig,
        trunk: RoITrunk | None,
        box_head: Callable[[], BoxHead],
        mask_head: MaskHead | None,
        keypoint_head: KeypointHead | None,
        mask_target: MaskTarget,
    ) -> RoIHeads:
        """
        Args:
            box_head: makes a box head; a cascade has several.

        Raises:
            ConfigError: a level does not exist, a value is out of range, or a head does not fit the trunk.
        """
        check_levels("model.roi.levels", self.levels, channels)
        for name in (
            "positive_fraction", "positive_iou", "negative_iou", "background_iou", "score_threshold",
            "nms_threshold",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"model.roi.{name} is {getattr(self, name)}; it must be from 0 to 1")
        if self.negative_iou > self.positive_iou:
            raise ConfigError("model.roi.negative_iou must not be greater than model.roi.positive_iou")
        if self.background_iou > self.negative_iou:
            raise ConfigError("model.roi.background_iou must not be greater than model.roi.negative_iou")
        if min(self.box_weights) <= 0:
            raise ConfigError("model.roi.box_weights must be greater than 0")
        if self.cascade is not None:
            self.cascade.check(self.positive_iou, trunk is not None)

        def pooler(name: str, size: int) -> Pooler:
            if trunk is not None:
                if size != trunk.output_size:
                    raise ConfigError(
                        f"model.{name}.pool_size is {size}, but the trunk gives it {trunk.output_size} x"
                        f" {trunk.output_size} cells; set model.{name}.pool_size to {trunk.output_size}"
                    )
                size = trunk.pool_size
            return Pooler(roi_op.build(size), self.levels, strides, self.level_rule)

        box = box_head()
        heads = RoIHeads(
            self,
            num_classes,
            pooler("box_head", box.pool_size),
            box,
            None if mask_head is None else pooler("mask_head", mask_head.pool_size),
            mask_head,
            mask_target,
            trunk=trunk,
            keypoint_pooler=(
                None if keypoint_head is None else pooler("keypoint_head", keypoint_head.pool_size)
            ),
            keypoint_head=keypoint_head,
        )
        if self.cascade is None:
            return heads
        from maskrcnn.modeling.roi.cascade import CascadeRoIHeads  # which is made of these heads

        return CascadeRoIHeads(heads, [box_head() for _ in self.cascade.ious[1:]], self.cascade)


class RoIHeads(nn.Module):
    """Box head and, where there are any, mask and keypoint heads, each with its pooler.

    Args:
        config: thresholds and counts.
        num_classes: K, without background.
        mask_target: how ground-truth masks are rasterised, see ``InstanceMasks.crop_and_resize``.
        sampler: which RoIs to train on; replaceable, for tests and experiments.
        trunk: layers between the poolers and the heads.  The heads then share the features of the sampled
            RoIs in training (He et al. 2017, figure 4 left).
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
        *,
        trunk: RoITrunk | None = None,
        keypoint_pooler: Pooler | None = None,
        keypoint_head: KeypointHead | None = None,
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
        self.trunk = trunk
        self.keypoint_pooler = keypoint_pooler
        self.keypoint_head = keypoint_head

    def losses(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Targets],
        generator: torch.Generator | None = None,
        image_sizes: Sequence[tuple[int, int]] = (),
    ) -> dict[str, Tensor]:
        """``loss_box_cls``, ``loss_box_reg`` and, with their heads, ``loss_mask`` and ``loss_keypoint``.

        Args:
            features: by level name.
            proposals: [P, 4] of every image, xyxy, network frame.
            image_sizes: (height, width) of every image before padding; a cascade cuts boxes to them.
        """
        samples = self.sample(proposals, targets, generator)
        losses, pooled = self._box_losses(features, samples, targets, image_sizes)
        if self.mask_head is not None:
            labels = torch.cat([s.positive_labels for s in samples])
            rois = self._positive_features(self.mask_pooler, features, samples, pooled)
            logits = self.mask_head.own(rois, labels)
            wanted = mask_targets(samples, targets, self.mask_head.mask_size, self.mask_target)
            losses["loss_mask"] = self.mask_head.loss(logits, labels, wanted)
        if self.keypoint_head is not None:
            boxes = torch.cat([s.positive_boxes for s in samples])
            truth = keypoint_targets(samples, targets, self.keypoint_head.num_keypoints)
            keep = show_keypoints(boxes, truth)
            rois = self._positive_features(self.keypoint_pooler, features, samples, pooled, keep)
            losses["loss_keypoint"] = self.keypoint_head.loss(
                self.keypoint_head(rois), boxes[keep], truth[keep]
            )
        return losses

    def sample(
        self, proposals: Sequence[Tensor], targets: Sequence[Targets], generator: torch.Generator | None
    ) -> list[RoISample]:
        """The RoIs of every image to train on."""
        c = self.config
        return [
            sample_rois(
                boxes,
                target,
                self.sampler,
                num_classes=self.num_classes,
                low=c.negative_iou,
                high=c.positive_iou,
                count=c.samples,
                positive_fraction=c.positive_fraction,
                floor=c.background_iou,
                generator=generator,
            )
            for boxes, target in zip(proposals, targets, strict=True)
        ]

    def _pool(self, pooler: Pooler | None, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        assert pooler is not None
        pooled: Tensor = pooler(features, boxes)
        return pooled if self.trunk is None else self.trunk(pooled)

    def _positive_features(
        self,
        pooler: Pooler | None,
        features: Mapping[str, Tensor],
        samples: Sequence[RoISample],
        pooled: Tensor,
        keep: Tensor | None = None,
    ) -> Tensor:
        """What a head other than the box head reads in training; ``pooled`` is what the box head read.

        keep: bool [P of all images], which positive RoIs; None: all.
        Without a positive RoI it runs on none: the loss is 0, all parameters stay in the graph.
        """
        if self.trunk is not None:
            rows = positive_rows(samples)
            return pooled[rows if keep is None else rows[keep]]
        boxes = [s.positive_boxes for s in samples]
        if keep is not None:
            parts = keep.split([len(b) for b in boxes])
            boxes = [b[part] for b, part in zip(boxes, parts, strict=True)]
        return self._pool(pooler, features, boxes)

    def _box_losses(
        self,
        features: Mapping[str, Tensor],
        samples: Sequence[RoISample],
        targets: Sequence[Targets],
        image_sizes: Sequence[tuple[int, int]],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The box head's losses, and the pooled features that it read."""
        pooled = self._pool(self.box_pooler, features, [s.boxes for s in samples])
        logits, deltas = self.box_head(pooled)
        return self._losses_of(logits, deltas, samples, targets, self.config.box_weights), pooled

    def _losses_of(
        self,
        logits: Tensor,
        deltas: Tensor,
        samples: Sequence[RoISample],
        targets: Sequence[Targets],
        weights: Weights,
    ) -> dict[str, Tensor]:
        """The losses of a box head's outputs; ``weights`` of the box coder."""
        labels = torch.cat([s.labels for s in samples])
        positive = positive_rows(samples)
        own = own_class(deltas.unflatten(1, (-1, 4))[positive], labels[positive])
        boxes = torch.cat([s.positive_boxes for s in samples])
        truth = torch.cat([t.boxes[s.truth] for s, t in zip(samples, targets, strict=True)])
        c = self.config
        return {
            "loss_box_cls": class_loss(logits, labels),
            "loss_box_reg": box_regression_loss(
                own, boxes, truth, max(len(labels), 1), kind=c.box_loss, beta=c.beta, weights=weights
            ),
        }

    @torch.no_grad()
    def predict(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        """Detections of every image, with what the heads add (mask probabilities of the predicted class,
        keypoints); network frame.
        """
        detections = self._detect(features, proposals, image_sizes)
        counts = [len(d) for d in detections]
        boxes = [d.boxes for d in detections]
        if self.mask_head is not None:
            labels = torch.cat([d.labels for d in detections])
            logits = self.mask_head.own(self._pool(self.mask_pooler, features, boxes), labels)
            masks = self.mask_head.probabilities(logits, labels).split(counts)
            detections = [replace(d, mask_probs=m) for d, m in zip(detections, masks, strict=True)]
        if self.keypoint_head is not None:
            logits = self.keypoint_head(self._pool(self.keypoint_pooler, features, boxes))
            points = self.keypoint_head.decode(logits, torch.cat(boxes)).split(counts)
            detections = [replace(d, keypoints=p) for d, p in zip(detections, points, strict=True)]
        return detections

    def _detect(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        """Classes and boxes of every image."""
        c = self.config
        counts = [len(p) for p in proposals]
        logits, deltas = self.box_head(self._pool(self.box_pooler, features, proposals))
        return [
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
