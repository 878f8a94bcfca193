"""The second stage: sample or take proposals, pool, classify, refine, segment (He et al. 2017, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.config import Config
from maskrcnn.config.ranges import Boxes, NotNegative, Positive, Share
from maskrcnn.errors import ConfigError
from maskrcnn.modeling.box_coder import Weights, decode_boxes
from maskrcnn.modeling.interfaces import (
    DUPLICATES,
    BoxHead,
    KeypointHead,
    MaskHead,
    RoIFeatures,
    RoIHead,
    RoIOpConfig,
    RoITrunk,
)
from maskrcnn.modeling.losses import (
    BoxLoss,
    box_regression_loss,
    by_images,
    class_loss,
    weighed_losses,
    wide,
)
from maskrcnn.modeling.matching import Sampler
from maskrcnn.modeling.norms import norms_of_rows
from maskrcnn.modeling.roi.decode import own_class, select_detections, select_in_fixed_shape
from maskrcnn.modeling.roi.pooler import LevelRule, Pooler
from maskrcnn.modeling.roi.rois import DetectedRoIs, FoundRoIs, RoIs, SampledRoIs, of_real, rois_of
from maskrcnn.modeling.roi.stages import CascadeConfig, relabel, scale_gradient
from maskrcnn.modeling.roi.targets import sample_rois
from maskrcnn.structures import Targets, clip_boxes
from maskrcnn.structures.padded import PaddedTargets, Proposals, pad_proposals, pad_targets
from maskrcnn.structures.seeds import image_seeds


@dataclass(frozen=True, kw_only=True)
class RoIHeadsConfig(Config):
    """Sampling, losses and decoding of the second stage; defaults are Detectron2's for FPN."""

    #: Feature levels that the heads pool from, finest first.
    levels: tuple[str, ...] = ("p2", "p3", "p4", "p5")
    #: RoIs sampled an image (Lin et al. 2017, section 4.2: 512).
    samples: Boxes = 512
    #: At most this part of them foreground (Girshick 2015, section 2.3).
    positive_fraction: Share = 0.25
    #: A RoI is foreground from this IoU on (ibid.).
    positive_iou: Share = 0.5
    #: A RoI is background below this IoU (Detectron2, torchvision: 0.5).
    negative_iou: Share = 0.5
    #: ... and never trained on below this one (Girshick 2015, section 2.3: 0.1; Detectron2, torchvision: 0).
    background_iou: Share = 0.0
    #: Factors of dx, dy, dw, dh, about 1 / their standard deviations (Girshick's Fast R-CNN release).
    box_weights: Weights = (10.0, 10.0, 5.0, 5.0)
    #: smooth_l1 of the deltas, or giou of the decoded boxes (Rezatofighi et al. 2019).
    box_loss: BoxLoss = "smooth_l1"
    #: Width of smooth L1's quadratic part; 0 = L1 (Detectron2), 1/9 in torchvision.
    beta: NotNegative = 0.0
    #: Keep detections of a score above this.
    score_threshold: Share = 0.05
    #: NMS threshold in each class.
    nms_threshold: Share = 0.5
    #: NMS across classes too, at the same threshold, behind that in each class: of what overlaps the best
    #: class stays, where objects cannot lie on each other.  Default false.
    nms_across_classes: bool = False
    #: NMS on masks, behind that on boxes: a detection whose mask has an IoU above this with that of a better
    #: one (of its class, or with nms_across_classes of any) is dropped.  For long, slanted or crowded
    #: objects, whose boxes overlap though they do not: raise nms_threshold with it.  null: none (default).
    mask_nms: Share | None = None
    #: Most detections of an image.
    max_detections: Boxes = 100
    #: Drop boxes with a side below this, pixels (Detectron2: 0, drops none; torchvision: 1e-2).
    min_size: NotNegative = 0.0
    #: Which peer's rounding guards the choice of the pyramid level (differs at exact powers of 2 only).
    level_rule: LevelRule = "detectron2"
    #: How much RoIs of a class weigh in the classification loss, by its name (``background`` too), > 0;
    #: others 1.  Default none.
    class_weights: dict[str, Positive] = field(default_factory=dict, hash=False)
    #: Weigh the other classes (background keeps 1) by the inverse square root of their number of instances,
    #: 1 on the mean over all instances: half-way to a loss in which they all weigh the same.  Default false.
    balance_classes: bool = False
    #: Several box heads in a row, or one.
    cascade: CascadeConfig | None = None

    @property
    def num_stages(self) -> int:
        """How many box heads there are."""
        return 1 if self.cascade is None else len(self.cascade.ious)

    def build(
        self,
        strides: Mapping[str, int],
        num_classes: int,
        roi_op: RoIOpConfig,
        trunk: RoITrunk | None,
        box_heads: Sequence[BoxHead],
        heads: Mapping[str, RoIHead],
    ) -> RoIHeads:
        """
        Args:
            strides: pixels a cell, by level name.
            box_heads: one a stage, :attr:`num_stages`.
            heads: the other heads by name; each is given its name and pooler.

        Raises:
            ConfigError: values contradict each other, or a head does not fit the trunk.
        """
        if self.negative_iou > self.positive_iou:
            raise ConfigError("model.roi.negative_iou must not be greater than model.roi.positive_iou")
        if self.background_iou > self.negative_iou:
            raise ConfigError("model.roi.background_iou must not be greater than model.roi.negative_iou")
        cells = [strides[level] for level in self.levels]
        if any(b not in (a, 2 * a) for a, b in pairwise(cells)):
            raise ConfigError(
                f"model.roi.levels [{', '.join(self.levels)}] have strides {cells}, and a RoI's size chooses"
                " among levels that follow each other: name them finest first, and leave none out between"
            )
        if self.cascade is not None:
            self.cascade.check(self.positive_iou, trunk is not None)
        if self.mask_nms is not None and "mask_head" not in heads:
            raise ConfigError(
                "model.roi.mask_nms compares masks, and the model has no mask head; set model.roi.mask_nms:"
                " null"
            )

        def pooler(name: str, size: int) -> Pooler:
            if trunk is not None:
                if size != trunk.output_size:
                    raise ConfigError(
                        f"model.{name}.pool_size is {size}, but the trunk gives it {trunk.output_size} x"
                        f" {trunk.output_size} cells; set model.{name}.pool_size to {trunk.output_size}"
                    )
                size = trunk.pool_size
            return Pooler(roi_op.build(size), self.levels, strides, self.level_rule)

        box_pooler = pooler("box_head", box_heads[0].pool_size)
        for name, head in heads.items():
            key = name if name in ("mask_head", "keypoint_head") else f"heads.{name}"
            head.name, head.pooler = name, pooler(key, head.pool_size)
        return RoIHeads(
            num_classes,
            box_pooler,
            box_heads,
            heads,
            trunk=trunk,
            stage_ious=None if self.cascade is None else self.cascade.ious,
            stage_weights=(self.box_weights,) if self.cascade is None else self.cascade.box_weights,
            **self.arguments(
                *("levels", "box_weights", "level_rule", "cascade", "class_weights", "balance_classes")
            ),
        )


#: What a further head cannot be called, besides attributes of :class:`RoIHeads`: parts of the model, losses
#: (``loss_<name>``), and keys of a record.
TAKEN_NAMES = frozenset(
    (
        *RoIHeadsConfig.__dataclass_fields__,
        *("num_classes", "sampler", "head_names", "trunk", "box_pooler", "box_head", "box_heads"),
        *("stage_ious", "stage_weights"),
        *("mask_head", "keypoint_head", "box_cls", "box_reg", "rpn_cls", "rpn_box", "mask", "keypoint"),
        *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "score", "segmentation", "keypoints"),
        *("file_name", "file_name_hex", "category"),
    )
)


class RoIHeads(nn.Module):
    """The box heads, one or a cascade's (Cai & Vasconcelos 2018), and any number of further heads.

    In training the RoIs are sampled, and all heads train on those.  Each further box head of a cascade reads
    the last one's boxes.  At test its scores are the mean over the stages, each on its own RoIs, and the
    boxes the last one's; the other heads read those.  All this as Detectron2.

    Args:
        num_classes: K, without background.
        box_pooler: of the box heads.
        box_heads: one a stage; those of a cascade give class-agnostic deltas.
        heads: the other heads by name, each with its pooler; they run in this order.
        sampler: which RoIs to train on, in place of :func:`balanced_sample`'s; for tests and experiments.
        trunk: layers between the poolers and the heads.  The heads then share the features of the sampled
            RoIs in training (He et al. 2017, figure 4 left).
        stage_ious: from which IoU on a RoI of each stage is foreground; None: no cascade.
        stage_weights: factors of the deltas of each stage.
        samples and the rest: see :class:`RoIHeadsConfig`.
    """

    mask_head: MaskHead | None
    keypoint_head: KeypointHead | None
    trunk: RoITrunk | None
    #: [K + 1], background last, for the classification loss; None: all classes weigh the same.
    class_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        box_pooler: Pooler,
        box_heads: Sequence[BoxHead],
        heads: Mapping[str, RoIHead],
        sampler: Sampler | None = None,
        *,
        trunk: RoITrunk | None = None,
        stage_ious: Sequence[float] | None,
        stage_weights: Sequence[Weights],
        samples: int,
        positive_fraction: float,
        positive_iou: float,
        negative_iou: float,
        background_iou: float,
        box_loss: BoxLoss,
        beta: float,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
        min_size: float,
        nms_across_classes: bool = False,
        mask_nms: float | None = None,
    ) -> None:
        super().__init__()
        self.stage_ious, self.stage_weights = stage_ious, tuple(stage_weights)
        self.samples, self.positive_fraction = samples, positive_fraction
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.background_iou = background_iou
        self.box_loss: BoxLoss = box_loss
        self.beta = beta
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections, self.min_size = max_detections, min_size
        self.nms_across_classes, self.mask_nms = nms_across_classes, mask_nms
        self._suppress = None if mask_nms is None else DUPLICATES.get("masks")
        self.num_classes = num_classes
        self.sampler = sampler
        self.head_names = tuple(heads)
        self.register_buffer("class_weights", None, persistent=False)
        # Checkpoints know parameters by these names, and an optimizer's state by their order.
        self.box_pooler = box_pooler
        if stage_ious is None:
            (self.box_head,) = box_heads
        for name, part in ({"mask_head": None, "trunk": trunk, "keypoint_head": None} | dict(heads)).items():
            setattr(self, name, part)
        if stage_ious is not None:
            self.box_heads = nn.ModuleList(box_heads)

    @property
    def heads(self) -> dict[str, RoIHead]:
        """The heads besides the box heads, by name."""
        return {name: self.get_submodule(name) for name in self.head_names}  # type: ignore[misc]

    @property
    def box_stages(self) -> list[tuple[BoxHead, Weights]]:
        """The box heads, each with the weights of its box coder."""
        heads = [self.box_head] if self.stage_ious is None else self.box_heads
        return list(zip(heads, self.stage_weights, strict=True))  # type: ignore[arg-type]

    def losses(
        self,
        features: Mapping[str, Tensor],
        proposals: Proposals | Sequence[Tensor],
        targets: PaddedTargets | Sequence[Targets],
        seeds: Tensor | None = None,
        image_sizes: Sequence[tuple[int, int]] | Tensor = (),
        *,
        static: bool = False,
    ) -> dict[str, Tensor]:
        """``loss_box_cls``, ``loss_box_reg`` (of a cascade ``..._stage1`` and so on), and those of the heads.

        Args:
            features: by level name.
            proposals: of every image, network frame.
            seeds: int64 [N], which decide what RoIs are sampled; None: drawn.
            image_sizes: [N, 2], height and width of every image before padding; a cascade cuts boxes to them.
            static: in fixed shapes.

        Raises:
            ValueError: two heads call a loss by one name.
        """
        rois = self.sample(proposals, targets, seeds, static=static)
        maps = RoIFeatures(features, self.trunk, norms=norms_of_rows(self))
        losses, pooled = self._box_losses(maps, rois, _as_tensor(image_sizes, rois.rois))
        if self.trunk is not None:
            maps = replace(maps, sampled=rois, shared=pooled)
        for name, head in self.heads.items():
            before = weighed_losses()
            found = by_images(head.losses(maps, rois), len(rois.targets), before)
            if found.keys() & losses.keys():
                raise ValueError(f"the head {name} calls a loss as another head does: {sorted(found)}")
            losses |= found
        for norm in maps.norms:
            norm.real = None
        return losses

    def sample(
        self,
        proposals: Proposals | Sequence[Tensor],
        targets: PaddedTargets | Sequence[Targets],
        seeds: Tensor | None = None,
        *,
        static: bool = False,
    ) -> SampledRoIs:
        """RoIs to train on, out of ``proposals`` [P, 4] of each image; ``seeds``: int64 [N]; None: drawn."""
        proposals = pad_proposals(proposals, static=static)
        return sample_rois(
            proposals,
            pad_targets(targets, static=static),
            self.sampler,
            num_classes=self.num_classes,
            low=self.negative_iou,
            high=self.positive_iou,
            count=self.samples,
            positive_fraction=self.positive_fraction,
            floor=self.background_iou,
            seeds=image_seeds(seeds, len(proposals), proposals.boxes.device),
            static=static,
        )

    def _box_losses(
        self, features: RoIFeatures, rois: SampledRoIs, image_sizes: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of every stage, and the pooled features that the last one read."""
        ious, stages = self.stage_ious, self.box_stages
        losses: dict[str, Tensor] = {}
        boxes = pooled = rois.boxes
        for i, (head, weights) in enumerate(stages):
            if ious is not None and i > 0:
                rois = relabel(rois, boxes, image_sizes, iou=ious[i])
            pooled = features.pool(self.box_pooler, rois)
            # The losses are summed, so that each head trains at the full rate, but the features below hear
            # their mean (the authors' release, and Detectron2).
            read = scale_gradient(pooled, 1.0 / len(stages)) if len(stages) > 1 else pooled
            logits, deltas = head(read)
            positive = rois.positive
            box_loss = box_regression_loss(
                own_class(rois.pick(deltas.unflatten(1, (-1, 4)), positive), positive.labels),
                positive.boxes,
                positive.true_boxes,
                rois.count,
                positive.real,
                kind=self.box_loss,
                beta=self.beta,
                weights=weights,
            )
            suffix = "" if ious is None else f"_stage{i + 1}"
            losses["loss_box_cls" + suffix] = class_loss(logits, rois.labels, self.class_weights, rois.real)
            losses["loss_box_reg" + suffix] = box_loss
            if i + 1 < len(stages):
                boxes = decode_boxes(deltas.detach(), rois.boxes, weights).to(rois.boxes.dtype)
        return losses, pooled

    @torch.no_grad()
    def predict(
        self,
        features: Mapping[str, Tensor],
        proposals: Proposals | Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]] | Tensor,
        *,
        static: bool = False,
    ) -> FoundRoIs:
        """Detections of every image, out of its ``proposals`` [P, 4], with what the heads add (mask
        probabilities of the predicted class, keypoints, extras); network frame.
        """
        proposals = pad_proposals(proposals, static=static)
        maps = RoIFeatures(features, self.trunk)
        found = self.detect(maps, proposals, _as_tensor(image_sizes, proposals.boxes), static=static)
        heads = self.heads
        of_all = of_real(found, lambda rois: tuple(head.predict(maps, rois) for head in heads.values()))
        values = dict(zip(heads, of_all, strict=True))
        return self.without_duplicates(FoundRoIs(proposals.boxes.shape[0], found, values, heads))

    def without_duplicates(self, found: FoundRoIs) -> FoundRoIs:
        """``found`` of a batch without what ``mask_nms`` suppresses; all of it where that is not set."""
        if self._suppress is None or self.mask_nms is None:
            return found
        return self._suppress(found, self.mask_nms, self.nms_across_classes)

    def detect(
        self, features: RoIFeatures, proposals: Proposals, image_sizes: Tensor, *, static: bool
    ) -> DetectedRoIs:
        """Classes and boxes of every image; ``image_sizes``: [N, 2]."""
        stages = self.box_stages
        rois, scores = rois_of(proposals, static=static), []
        for i, (head, weights) in enumerate(stages):
            logits, deltas = of_real(rois, partial(self._read, head, features))
            scores.append(wide(logits).softmax(dim=1)[:, :-1])
            if i + 1 < len(stages):  # none is dropped, since the scores are averaged RoI by RoI
                boxes = decode_boxes(deltas, rois.boxes, weights).to(rois.boxes.dtype)
                rois = rois.moved(clip_boxes(boxes, *image_sizes[rois.images].unbind(1)))
        mean = scores[0] if len(scores) == 1 else torch.stack(scores).mean(dim=0)
        options: dict[str, Any] = {
            "weights": stages[-1][1],
            "score_threshold": self.score_threshold,
            "nms_threshold": self.nms_threshold,
            "max_detections": self.max_detections,
            "min_size": self.min_size,
            "across_classes": self.nms_across_classes,
        }
        if static:
            shape = proposals.real.shape
            proposals = replace(proposals, boxes=rois.boxes.view(*shape, 4))
            mean, deltas = mean.unflatten(0, shape), deltas.unflatten(0, shape)
            return select_in_fixed_shape(mean, deltas, proposals, image_sizes, **options)
        return select_detections(mean, deltas, rois.rois, image_sizes, **options)

    def _read(self, head: BoxHead, features: RoIFeatures, rois: RoIs) -> tuple[Tensor, ...]:
        read: tuple[Tensor, ...] = head(features.pool(self.box_pooler, rois))
        return read


def _as_tensor(image_sizes: Sequence[tuple[int, int]] | Tensor, like: Tensor) -> Tensor:
    """[N, 2], float32 on the device of ``like`` [...]."""
    if isinstance(image_sizes, Tensor):
        return image_sizes
    return torch.tensor(image_sizes, dtype=torch.float32, device=like.device).view(-1, 2)
