"""Mask R-CNN (He et al. 2017): the whole model on one screen.

preprocess -> backbone -> neck -> RPN -> RoI heads; ``mask_head: null`` makes it Faster R-CNN, ``rpn: null``
besides (proposals come with the images) Fast R-CNN, ``keypoint_head`` Keypoint R-CNN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from maskrcnn.config import Config
from maskrcnn.config.registry import Named
from maskrcnn.errors import ConfigError
from maskrcnn.modeling.interfaces import (
    BACKBONES,
    BOX_HEADS,
    CHANNEL_FITTINGS,
    KEYPOINT_HEADS,
    MASK_HEADS,
    NECKS,
    ROI_HEADS,
    ROI_OPS,
    ROI_TRUNKS,
    Backbone,
    BackboneConfig,
    BoxHeadConfig,
    KeypointHeadConfig,
    MaskHeadConfig,
    Neck,
    NeckConfig,
    RoIHead,
    RoIHeadConfig,
    RoIOpConfig,
    RoITrunkConfig,
)
from maskrcnn.modeling.norms import batch_norms, norms_of_rows
from maskrcnn.modeling.preprocess import ImageBatch, Preprocess, PreprocessConfig
from maskrcnn.modeling.roi.mask_targets import MaskTarget
from maskrcnn.modeling.roi.roi_heads import TAKEN_NAMES, RoIHeads, RoIHeadsConfig
from maskrcnn.modeling.roi.rois import FoundRoIs
from maskrcnn.modeling.rpn.rpn import RPN, RPNConfig, check_levels
from maskrcnn.structures import Detections, Targets
from maskrcnn.structures.padded import PaddedTargets, pad_targets

#: By the part of the model: what makes it compute activations anew (``solver.checkpoint_activations``); they
#: return of how many blocks.
RECOMPUTATIONS: Named[Callable[[MaskRCNN], int]] = Named(
    "recomputation", "maskrcnn.modeling", backbone="recompute"
)

Arguments = ParamSpec("Arguments")
T = TypeVar("T")


class MaskRCNN(nn.Module):
    """A two-stage detector with masks.

    Args:
        neck: None feeds the backbone's levels to the RPN and the heads directly.
        rpn: None wants proposals in every call.
        static_shapes: whether all shapes are fixed; None: where it is faster, see :meth:`in_static_form`.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        backbone: Backbone,
        neck: Neck | None,
        rpn: RPN | None,
        roi: RoIHeads,
        *,
        static_shapes: bool | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn
        self.roi = roi
        self.static_shapes = static_shapes
        #: Modules that stay in evaluation mode while the others train.
        self.frozen: list[nn.Module] = []

    def train(self, mode: bool = True) -> MaskRCNN:
        """As ``nn.Module.train``, but what is frozen keeps its statistics too."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    @property
    def num_classes(self) -> int:
        """K, without background."""
        return self.roi.num_classes

    def in_static_form(self, device: torch.device) -> bool:
        """Whether a pass on ``device`` has fixed shapes, so that it never waits for the host.

        Left open, it has on a GPU; but a batch normalisation in a head of one's own that is not from
        ``modeling.norms`` would take statistics of empty rows.
        """
        if self.static_shapes is not None:
            return self.static_shapes
        return device.type == "cuda" and not any(norm.training for norm in _norms_of_all(self.roi))

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Targets] | None = None,
        seeds: Tensor | None = None,
        proposals: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor] | Sequence[Detections]:
        """``images`` [3, h, w] each -> :meth:`losses` with targets, else :meth:`predict`; for DDP's sake."""
        if targets is None:
            return self.predict(images, proposals)
        return self.losses_of_batch(self.preprocess(images), targets, seeds, proposals)

    def losses(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Targets] | PaddedTargets,
        seeds: Tensor | None = None,
        proposals: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The terms to be minimised, each a scalar (float32, or float64 in a float64 model).

        Args:
            images: [3, h, w] uint8 or float in 0..255, RGB, each of its own size.
            targets: ground truth of every image, network frame, on the images' device; may be empty.
            seeds: int64 [N], which decide what anchors and RoIs are sampled (``structures.seeds``); None =
                drawn from torch's global generator.
            proposals: [P, 4] xyxy of every image, network frame; for a model without RPN, which needs them.

        Returns:
            loss_rpn_cls, loss_rpn_box (with an RPN), loss_box_cls, loss_box_reg and those of the other heads,
            as loss_mask, loss_keypoint.
        """
        return self.losses_of_batch(self.preprocess(images), targets, seeds, proposals)

    def predict(
        self, images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None
    ) -> list[Detections]:
        """Detections of ``images`` [3, h, w] each (see :meth:`losses`), network frame, in evaluation mode."""
        return [*self.predict_batch(self.preprocess(images), proposals)] if images else []

    def losses_of_batch(
        self,
        batch: ImageBatch,
        targets: Sequence[Targets] | PaddedTargets,
        seeds: Tensor | None = None,
        proposals: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """:meth:`losses` of an image batch [N, 3, H, W] that is already normalised and padded."""
        static = self.in_static_form(batch.tensor.device)
        targets = pad_targets(targets, static=static)
        features = self.features(batch.tensor)
        losses: dict[str, Tensor] = {}
        if self.rpn is not None:
            proposals, losses = self.rpn(batch, features, targets, seeds, static=static)
        heads = self.roi.losses(features, _given(proposals), targets, seeds, batch.extents, static=static)
        return losses | heads

    @torch.no_grad()
    def predict_batch(self, batch: ImageBatch, proposals: Sequence[Tensor] | None = None) -> FoundRoIs:
        """:meth:`predict` of an image batch [N, 3, H, W] that is already normalised and padded.

        In the static form nothing has waited for the device until the detections are read.
        """
        if self.training:
            self.eval()
            try:
                return self.predict_batch(batch, proposals)
            finally:
                self.train()
        features = self.features(batch.tensor)
        if self.rpn is not None:
            proposals, _ = self.rpn(batch, features)
        static = self.in_static_form(batch.tensor.device)
        return self.roi.predict(features, _given(proposals), batch.extents, static=static)

    def features(self, tensor: Tensor) -> dict[str, Tensor]:
        """[N, 3, H, W] normalised -> feature maps by level name."""
        features: dict[str, Tensor] = self.backbone(tensor)
        if self.neck is not None:
            pyramid: dict[str, Tensor] = self.neck(features)
            return pyramid
        return features


def _norms_of_all(roi: RoIHeads) -> list[nn.Module]:
    """Batch normalisations that take statistics over all rows, real or not."""
    known = {*norms_of_rows(roi)}
    return [norm for norm in batch_norms(roi) if norm not in known]


def _given(proposals: Sequence[Tensor] | None) -> Sequence[Tensor]:
    if proposals is None:
        raise ValueError("a model without RPN (model.rpn: null) needs proposals with the images")
    return proposals


@dataclass(frozen=True, kw_only=True)
class MaskRCNNConfig(Config):
    """The model; defaults are Detectron2's R50-FPN."""

    #: Feature extractor.
    backbone: Annotated[BackboneConfig, BACKBONES] = field(default_factory=BACKBONES.default("resnet"))
    #: Pyramid over the backbone, or none.
    neck: Annotated[NeckConfig, NECKS] | None = field(default_factory=NECKS.default("fpn"))
    #: First stage; none = Fast R-CNN, whose proposals come with the data.
    rpn: RPNConfig | None = field(default_factory=RPNConfig)
    #: Second stage: sampling, thresholds, losses.
    roi: RoIHeadsConfig = field(default_factory=RoIHeadsConfig)
    #: How RoIs are pooled, in all heads.
    roi_op: Annotated[RoIOpConfig, ROI_OPS] = field(default_factory=ROI_OPS.default("roi_align"))
    #: Layers between pooling and the heads, which share them (C4: res5); none with a pyramid.
    roi_trunk: Annotated[RoITrunkConfig, ROI_TRUNKS] | None = None
    #: Classes and boxes of RoIs.
    box_head: Annotated[BoxHeadConfig, BOX_HEADS] = field(default_factory=BOX_HEADS.default("two_fc"))
    #: Masks of RoIs; none = Faster R-CNN.
    mask_head: Annotated[MaskHeadConfig, MASK_HEADS] | None = field(default_factory=MASK_HEADS.default("fcn"))
    #: Keypoints of RoIs, or none.
    keypoint_head: Annotated[KeypointHeadConfig, KEYPOINT_HEADS] | None = None
    #: Further heads of RoIs by a name of one's own, ``{name: {type: ...}}``, from plugins (CONTRIBUTING.md);
    #: a loss is logged as loss_<name>, a number of each instance stands in the records as <name>.
    heads: dict[str, Annotated[RoIHeadConfig, ROI_HEADS]] = field(default_factory=dict, hash=False)
    #: Training masks: polygon = rasterised inside the RoI at mask size; bitmask = RoIAlign of the full mask,
    #: soft, as torchvision; bitmask_hard = the same, aligned and thresholded, as Detectron2 on bitmaps.
    mask_target: MaskTarget = "polygon"
    #: Pixel statistics and padding.
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    #: For images of another number of channels than 3 (``data.channels``, and as many means): how the first
    #: convolution is fitted from weights of three: mean: each channel has the mean of the three; copy: they
    #: are taken in turn.  It then trains, even where the rest is frozen.  Default mean.
    channels_from: Literal["mean", "copy"] = "mean"
    #: Whether all shapes are fixed, so that a step or a prediction never waits for the host and can be one
    #: graph: room for all RoIs and detections, a mask tells the real ones.  auto (default): on a GPU, but
    #: not while a head of one's own trains a batch norm of torch's, whose statistics would be of empty room.
    static_shapes: bool | Literal["auto"] = "auto"
    #: Keep activations in channels_last memory.
    channels_last: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.heads:
            if not name.isidentifier() or name in TAKEN_NAMES or hasattr(RoIHeads, name):
                raise ValueError(
                    f"heads cannot hold one called {name!r}: a name is of letters, digits and _,"
                    " and not one that the model or a record has already; choose another"
                )

    @property
    def num_channels(self) -> int:
        """C, of the images."""
        return len(self.preprocess.mean)

    def build(self, num_classes: int) -> MaskRCNN:
        """The model for ``num_classes`` classes (without background), randomly initialised but the backbone.

        Raises:
            ConfigError: the parts do not fit together; the message names the key or the part.
            CheckpointError: the backbone's weights cannot be read or do not fit.
        """
        if num_classes < 1:
            raise ConfigError(f"the model needs at least one class, got {num_classes}")
        backbone = _built("model.backbone", self.backbone.build)
        if self.num_channels != 3:
            trained = getattr(self.backbone, "weights", None) is not None
            fitting = CHANNEL_FITTINGS.get(self.channels_from)()
            _built("model.backbone", partial(fitting.fit, trained=trained), backbone, self.num_channels)
        channels, strides = backbone.channels, backbone.strides
        neck = None
        if self.neck is not None:
            neck = _built("model.neck", self.neck.build, channels, strides)
            channels, strides = neck.channels, neck.strides
        if self.roi.cascade is not None and getattr(self.box_head, "class_agnostic", True) is False:
            raise ConfigError(
                "model.roi.cascade hands boxes from stage to stage, so it needs one set of deltas for all"
                " classes: set model.box_head.class_agnostic: true"
            )
        check_levels("model.roi.levels", self.roi.levels, channels)
        pooled, trunk = channels[self.roi.levels[0]], None
        if self.roi_trunk is not None:
            trunk = _built("model.roi_trunk", self.roi_trunk.build, self.backbone, pooled)
            pooled = trunk.channels
        # The order decides which random numbers a part starts from.
        rpn = None if self.rpn is None else _built("model.rpn", self.rpn.build, channels, strides)
        heads: dict[str, RoIHead] = {}
        if self.mask_head is not None:
            mask_head = _built("model.mask_head", self.mask_head.build, pooled, num_classes)
            heads["mask_head"], mask_head.mask_target = mask_head, self.mask_target
        if self.keypoint_head is not None:
            heads["keypoint_head"] = _built("model.keypoint_head", self.keypoint_head.build, pooled)
        stages = range(self.roi.num_stages)
        box_heads = [_built("model.box_head", self.box_head.build, pooled, num_classes) for _ in stages]
        for name, head in self.heads.items():
            heads[name] = _built(f"model.heads.{name}", head.build, pooled, num_classes)
        parts = (self.roi_op, trunk, box_heads, heads)
        roi = _built("model.roi", self.roi.build, strides, num_classes, *parts)
        static = None if self.static_shapes == "auto" else self.static_shapes
        if static and any(p.requires_grad for norm in _norms_of_all(roi) for p in norm.parameters()):
            raise ConfigError(
                "model.static_shapes is true, but a head has a batch normalisation that takes its statistics"
                " over RoIs, empty room among them; set model.static_shapes: auto, or make it by"
                " maskrcnn.modeling.norms.make_norm"
            )
        preprocess = self.preprocess.build(self.channels_last)
        model = MaskRCNN(preprocess, backbone, neck, rpn, roi, static_shapes=static)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model


def _built(path: str, build: Callable[Arguments, T], *args: Arguments.args, **named: Arguments.kwargs) -> T:
    """``build(*args)``, of the part at a key path: what it finds wrong with its values says where that is.

    Raises:
        ConfigError: in place of a ValueError; the message begins with a key path.
    """
    try:
        return build(*args, **named)
    except ValueError as error:
        told = str(error)
        raise ConfigError(told if told.startswith("model.") else f"{path}: {told}") from error


def without_weights(model: MaskRCNNConfig) -> MaskRCNNConfig:
    """The same model, its parts without the weight files that they would start from."""
    return with_weights(model, lambda _: None)


def with_weights(model: MaskRCNNConfig, change: Callable[[Path], Path | None]) -> MaskRCNNConfig:
    """The same model, with ``change`` of each file of weights that its parts name."""

    def changed(part: Any) -> Any:
        changes: dict[str, Any] = {}
        for item in fields(part):
            value = getattr(part, item.name)
            if item.name == "weights" and value is not None:
                changes[item.name] = change(value)
            elif is_dataclass(value):
                changes[item.name] = changed(value)
            elif isinstance(value, dict):
                parts = value.items()
                changes[item.name] = {n: changed(part) if is_dataclass(part) else part for n, part in parts}
        return replace(part, **changes)

    result: MaskRCNNConfig = changed(model)
    return result
