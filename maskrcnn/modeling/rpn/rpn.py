"""Region Proposal Network (Ren et al. 2015; over a pyramid: Lin et al. 2017, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import Boxes, NotNegative, Share, Width
from maskrcnn.errors import ConfigError
from maskrcnn.modeling.losses import BoxLoss, box_regression_loss, objectness_loss, row_count
from maskrcnn.modeling.matching import Sampler, anchor_targets
from maskrcnn.modeling.norms import conv_norm
from maskrcnn.modeling.preprocess import ImageBatch
from maskrcnn.modeling.rpn.anchors import AnchorConfig, AnchorGenerator
from maskrcnn.modeling.rpn.decode import RankBy, select_proposals
from maskrcnn.structures import Targets
from maskrcnn.structures.padded import PaddedTargets, Proposals, pad_targets
from maskrcnn.structures.seeds import ANCHORS, image_seeds, random_keys

NormalizeBy = Literal["capacity", "sampled"]


@dataclass(frozen=True, kw_only=True)
class RPNConfig(Config):
    """The region proposal network; defaults are Detectron2's for FPN."""

    #: Feature levels that it reads, finest first.
    levels: tuple[str, ...] = ("p2", "p3", "p4", "p5", "p6")
    #: Anchor shapes.
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    #: 3x3 convolutions of the head (Ren et al. 2015, section 3.1: 1; torchvision's v2 models: 2).
    convs: Annotated[int, Range(1, 1000, "no memory holds so many layers")] = 1
    #: Their channels; none = as many as the levels have (Detectron2; the VGG-16 of the paper: 512).
    width: Width | None = None
    #: An anchor is positive from this IoU on (Ren et al. 2015, section 3.1.2).
    positive_iou: Share = 0.7
    #: An anchor is negative below this IoU (ibid.).
    negative_iou: Share = 0.3
    #: Anchors sampled an image (ibid., section 3.1.3).
    samples: Boxes = 256
    #: At most this part of them positive (ibid.: up to 1:1).
    positive_fraction: Share = 0.5
    #: smooth_l1 of the deltas, or giou of the decoded boxes (Rezatofighi et al. 2019).
    box_loss: BoxLoss = "smooth_l1"
    #: Width of smooth L1's quadratic part; 0 = L1 (Detectron2), 1/9 in torchvision and the original.
    beta: NotNegative = 0.0
    #: Divide the losses by `samples` x images (Detectron2) or by the anchors really sampled (torchvision).
    normalize_by: NormalizeBy = "capacity"
    #: Proposals of a level that enter NMS, in training (Detectron2: 2000).
    pre_nms_train: Boxes = 2000
    #: ... and in evaluation (Detectron2: 1000).
    pre_nms_test: Boxes = 1000
    #: Proposals of an image that leave NMS, in training (Detectron2: 1000; torchvision: 2000).
    post_nms_train: Boxes = 1000
    #: ... and in evaluation (1000 in both).
    post_nms_test: Boxes = 1000
    #: NMS threshold (Ren et al. 2015, section 3.3).
    nms_threshold: Share = 0.7
    #: Drop proposals with a side below this, pixels (Detectron2: only empty ones; torchvision: 1e-3).
    min_size: NotNegative = 0.0
    #: Drop proposals of an objectness below this (0 in both).
    min_score: Share = 0.0
    #: NMS sorts by logit (Detectron2) or by probability (torchvision), whose float32 saturates beyond 17.
    rank_by: RankBy = "logit"

    def build(self, channels: Mapping[str, int], strides: Mapping[str, int]) -> RPN:
        """
        Args:
            channels, strides: of the features, by level name.

        Raises:
            ConfigError: a level does not exist, the levels differ in channels, or two values do not fit.
        """
        check_levels("model.rpn.levels", self.levels, channels)
        if self.negative_iou > self.positive_iou:
            raise ConfigError("model.rpn.negative_iou must not be greater than model.rpn.positive_iou")
        anchors = self.anchors.build([strides[level] for level in self.levels])
        head = RPNHead(channels[self.levels[0]], anchors.per_cell, convs=self.convs, width=self.width)
        return RPN(anchors, head, **self.arguments("anchors", "convs", "width"))


def check_levels(key: str, levels: Sequence[str], channels: Mapping[str, int]) -> None:
    """
    Raises:
        ConfigError: ``levels`` is empty, names a level that is not in ``channels``, or mixes channel counts.
    """
    unknown = [level for level in levels if level not in channels]
    if unknown or not levels:
        raise ConfigError(
            f"{key} is [{', '.join(levels)}], but model.neck and model.backbone give [{', '.join(channels)}];"
            " name levels from the latter"
        )
    if len({channels[level] for level in levels}) > 1:
        raise ConfigError(
            f"{key}: the levels [{', '.join(levels)}] have different numbers of channels; use a neck,"
            " or a single level"
        )


class RPNHead(nn.Module):
    """The sliding network (Ren et al. 2015, section 3.1), shared by the levels.

    3x3 convolutions with ReLU, then two 1x1 convolutions: objectness and deltas.

    The first 3x3 convolution is ``conv``, further ones are ``more.0``, ``more.1`` ...

    Args:
        channels: channels of every level.
        anchors: A, anchors a cell.
        convs: 3x3 convolutions (Ren et al. 2015: 1; Li et al. 2021, "Benchmarking Detection Transfer
            Learning with Vision Transformers", and so torchvision's v2 models: 2).
        width: channels of the 3x3 convolutions; None = ``channels``.
    """

    def __init__(self, channels: int, anchors: int, *, convs: int = 1, width: int | None = None) -> None:
        super().__init__()
        width = channels if width is None else width
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.more = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(convs - 1))
        self.objectness = nn.Conv2d(width, anchors, 1)
        self.deltas = nn.Conv2d(width, anchors * 4, 1)
        for layer in (self.conv, *self.more, self.objectness, self.deltas):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.normal_(layer.weight, std=0.01)  # Ren et al. 2015, section 3.1.3
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """One [N, C, Hl, Wl] a level -> logits [N, Hl * Wl * A] and deltas [N, Hl * Wl * A, 4] a level.

        The order within a level is that of :func:`maskrcnn.modeling.rpn.anchors.grid_anchors`.  In
        channels_last memory the reordering is a view.
        """
        logits, deltas = [], []
        for feature in features:
            hidden = feature
            for conv in (self.conv, *self.more):
                assert isinstance(conv, nn.Conv2d)
                hidden = conv_norm(conv, None, hidden, relu=True)
            logits.append(conv_norm(self.objectness, None, hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(
                conv_norm(self.deltas, None, hidden).permute(0, 2, 3, 1).reshape(feature.shape[0], -1, 4)
            )
        return logits, deltas


class RPN(nn.Module):
    """Features -> proposals, and in training the losses.

    Args:
        anchors: the anchors of the levels in ``levels``.
        head: the sliding network.
        sampler: which anchors to train on, in place of :func:`balanced_sample`'s; for tests and experiments.
        levels and the rest: see :class:`RPNConfig`.
    """

    def __init__(
        self,
        anchors: AnchorGenerator,
        head: RPNHead,
        sampler: Sampler | None = None,
        *,
        levels: Sequence[str],
        positive_iou: float,
        negative_iou: float,
        samples: int,
        positive_fraction: float,
        box_loss: BoxLoss,
        beta: float,
        normalize_by: NormalizeBy,
        pre_nms_train: int,
        pre_nms_test: int,
        post_nms_train: int,
        post_nms_test: int,
        nms_threshold: float,
        min_size: float,
        min_score: float,
        rank_by: RankBy,
    ) -> None:
        super().__init__()
        self.anchors = anchors
        self.head = head
        self.sampler = sampler
        self.levels = tuple(levels)
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.samples, self.positive_fraction = samples, positive_fraction
        self.box_loss: BoxLoss = box_loss
        self.beta = beta
        self.normalize_by = normalize_by
        self.pre_nms_train, self.pre_nms_test = pre_nms_train, pre_nms_test
        self.post_nms_train, self.post_nms_test = post_nms_train, post_nms_test
        self.nms_threshold, self.min_size, self.min_score = nms_threshold, min_size, min_score
        self.rank_by: RankBy = rank_by

    def forward(
        self,
        batch: ImageBatch,
        features: Mapping[str, Tensor],
        targets: PaddedTargets | Sequence[Targets] | None = None,
        seeds: Tensor | None = None,
        *,
        static: bool = False,
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals [N, P, 4] (network frame), and the losses (empty without targets).

        Args:
            seeds: int64 [N], which decide what anchors are sampled; None: drawn.
            static: the losses are computed in fixed shapes.
        """
        anchors, logits, deltas = self._outputs(batch, features)
        proposals = self._select(batch, anchors, logits, deltas, training=targets is not None)
        if targets is None:
            return proposals, {}
        targets = pad_targets(targets, static=static)
        index = self.anchors.index([features[level] for level in self.levels])
        keys = random_keys(image_seeds(seeds, len(targets), index.device)[:, None], ANCHORS, index)
        return proposals, self.losses(anchors, logits, deltas, targets, keys, static=static)

    def propose(self, batch: ImageBatch, features: Mapping[str, Tensor]) -> Proposals:
        """As in evaluation: proposals [N, P, 4] (network frame) with their scores."""
        return self._select(batch, *self._outputs(batch, features), training=False)

    def _outputs(
        self, batch: ImageBatch, features: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Anchors, logits and deltas a level."""
        levels = [features[level] for level in self.levels]
        logits, deltas = self.head(levels)
        return self.anchors(levels, batch.padded_size, batch.tensor.dtype), logits, deltas

    def _select(
        self,
        batch: ImageBatch,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        *,
        training: bool,
    ) -> Proposals:
        return select_proposals(
            anchors,
            [level.detach() for level in logits],
            [level.detach() for level in deltas],
            batch.extents,
            pre_nms=self.pre_nms_train if training else self.pre_nms_test,
            post_nms=self.post_nms_train if training else self.post_nms_test,
            nms_threshold=self.nms_threshold,
            min_size=self.min_size,
            min_score=self.min_score,
            rank_by=self.rank_by,
        )

    def losses(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        targets: PaddedTargets,
        keys: Tensor,
        *,
        static: bool = False,
    ) -> dict[str, Tensor]:
        """``loss_rpn_cls`` and ``loss_rpn_box``, scalars.

        Args:
            anchors, logits, deltas: a level, as the head gives them.
            keys: int64 [N, A_all], of the sampling.
        """
        wanted = anchor_targets(
            torch.cat(list(anchors)),
            targets,
            self.sampler,
            low=self.negative_iou,
            high=self.positive_iou,
            count=self.samples,
            positive_fraction=self.positive_fraction,
            keys=keys,
            static=static,
        )
        all_logits = torch.cat(list(logits), dim=1).flatten()
        all_deltas = torch.cat(list(deltas), dim=1).flatten(0, 1)
        sampled, real, positive = wanted.sampled, wanted.real, wanted.anchors.shape[0]
        labels = torch.zeros(sampled.shape[0], dtype=wanted.anchors.dtype, device=sampled.device)
        labels[:positive] = 1
        normalizer = row_count(sampled, real)
        if self.normalize_by == "capacity":
            normalizer = self.samples * len(targets)
        # index_select: its gradient is added where it belongs, that of all_deltas[...] is sorted first.
        boxes = all_deltas.index_select(0, sampled[:positive]), wanted.anchors, wanted.truth
        parts = (normalizer, None if real is None else real[:positive])
        return {
            "loss_rpn_cls": objectness_loss(all_logits.index_select(0, sampled), labels, normalizer, real),
            "loss_rpn_box": box_regression_loss(*boxes, *parts, kind=self.box_loss, beta=self.beta),
        }
