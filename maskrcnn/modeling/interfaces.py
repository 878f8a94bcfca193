"""The model's swappable slots: what each part must offer, and the registry of its kinds.

A part is a module; its config is a frozen dataclass with ``build()``.  To add your own, subclass the base
class here, register its config, and list your module under ``plugins:``.

Legend: N = images of a batch, R = RoIs of a batch, P = positive ones, D = detections, K = classes without
background, J = keypoints, s = pooled size.  In the static form R, P and D are what there is room for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from torch import Tensor, nn

from maskrcnn.config.registry import Named, Registry
from maskrcnn.layers.operator import ROI_OPS as ROI_OPS
from maskrcnn.layers.operator import RoIOpConfig as RoIOpConfig
from maskrcnn.modeling.norms import BatchNorm2d, SyncBatchNorm
from maskrcnn.modeling.roi.mask_targets import MaskTarget
from maskrcnn.modeling.roi.rois import DetectedRoIs, FoundRoIs, RoIs, SampledRoIs
from maskrcnn.modeling.roi.targets import keypoint_targets, mask_targets, show_keypoints

Head = TypeVar("Head", covariant=True)


class Backbone(nn.Module):
    """Image tensor -> feature maps by name, finest first.

    channels: channel count of every output, e.g. ``{"c2": 256, ..., "c5": 2048}``.
    strides: input pixels a cell, in the same order, e.g. ``{"c2": 4, ..., "c5": 32}``.
    """

    channels: dict[str, int]
    strides: dict[str, int]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``x`` [N, 3, H, W] float, normalised -> name: [N, channels[name], H / stride, W / stride]."""
        raise NotImplementedError

    def blocks(self) -> list[nn.Module]:
        """The parts that run one after the other, each of several layers: what
        ``solver.checkpoint_activations`` computes anew.  What ``nn.Sequential`` and ``nn.ModuleList`` hold,
        of such that hold each other the inner ones.
        """
        return _blocks(self)


def _blocks(module: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    held = isinstance(module, (nn.Sequential, nn.ModuleList))
    for child in module.children():
        inside = [part for part in child.children() if any(True for _ in part.children())]
        holds = type(child) in (nn.Sequential, nn.ModuleList) and inside
        found += [child] if held and not holds and any(True for _ in child.children()) else _blocks(child)
    return found


class Neck(nn.Module):
    """Feature maps -> feature maps; described by ``channels`` and ``strides`` as a :class:`Backbone` is."""

    channels: dict[str, int]
    strides: dict[str, int]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The backbone's maps [N, C, h, w] by name -> its own, by the names in ``strides``."""
        raise NotImplementedError


class RoIOp(nn.Module):
    """An RoI operator with weights of its own; one without is a :class:`maskrcnn.layers.RoIOperator`."""

    def forward(
        self, features: Sequence[Tensor], rois: Tensor, levels: Tensor, scales: Sequence[float]
    ) -> Tensor:
        """Pool every RoI [R, 5] from its own level -> [R, C, s, s]; as an operator's call."""
        raise NotImplementedError


class RoITrunk(nn.Module):
    """Layers between pooling and the heads, shared by them: C4's fifth stage (He et al. 2017, figure 4 left).

    pool_size: the side s of the RoI features that it reads.
    channels, output_size: what it gives to the heads.
    """

    pool_size: int
    channels: int
    output_size: int

    def forward(self, pooled: Tensor) -> Tensor:
        """``pooled`` [R, C, s, s] -> [R, channels, output_size, output_size]."""
        raise NotImplementedError


@dataclass(frozen=True)
class RoIFeatures:
    """What heads read: the feature maps, and the layers that they share.

    maps: [N, C, h, w] by level name.
    trunk: layers between the poolers and the heads, or None.
    sampled, shared: the sampled RoIs, and for each the trunk's output [R, C, s, s], which the box head read;
        in training with a trunk alone (He et al. 2017, figure 4 left).
    norms: batch normalisations of the heads and of what they share: told which rows there are.
    """

    maps: Mapping[str, Tensor]
    trunk: RoITrunk | None = None
    sampled: SampledRoIs | None = None
    shared: Tensor | None = None
    norms: Sequence[BatchNorm2d | SyncBatchNorm] = ()

    def pool(self, pooler: nn.Module, rois: RoIs) -> Tensor:
        """Features [R, C, s, s] of RoIs; of sampled ones those that are shared, where there are such.

        Without a RoI a head runs on none: its loss is 0, all its parameters stay in the graph.
        """
        for norm in self.norms:
            norm.real = rois.real
        if self.shared is not None and self.sampled is not None and isinstance(rois, SampledRoIs):
            return self.sampled.pick(self.shared, rois)
        pooled: Tensor = pooler(self.maps, rois.pooled)
        return pooled if self.trunk is None else self.trunk(pooled)


class BoxHead(nn.Module):
    """Pooled features -> class logits and box deltas.

    pool_size: the side s of the RoI features that it reads.
    """

    pool_size: int

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """``pooled`` [R, C, s, s] -> logits [R, K + 1] (background last), deltas [R, 4K] or [R, 4]."""
        raise NotImplementedError

    def class_layers(self) -> tuple[str, ...]:
        """See :meth:`RoIHead.class_layers`."""
        return ("predictor.logits", "predictor.deltas")


class RoIHead(nn.Module):
    """What is predicted of each RoI besides class and box: its network, its training, its predictions.

    pool_size: the side s of the RoI features that it reads.
    pooler: pools boxes out of the feature maps at that size; given by the model that it becomes part of.
    name: its key in the config; what it returns is called by it, so that two heads of a kind do not clash.
    """

    pool_size: int
    pooler: nn.Module
    name: str = ""

    def forward(self, pooled: Tensor) -> Tensor:
        """``pooled`` [R, C, s, s] -> what the layers give, a row a RoI."""
        raise NotImplementedError

    def losses(self, features: RoIFeatures, rois: SampledRoIs) -> dict[str, Tensor]:
        """The terms to be minimised, each a scalar called ``loss_...``; 0, and in the graph, without a RoI.

        Args:
            features: ``features.pool(self.pooler, rois.positive)`` are those of the positive RoIs.
            rois: that were sampled, with the ground truth.  ``rois.positive.mean(values)`` leaves out what is
                not real.
        """
        raise NotImplementedError

    def predict(self, features: RoIFeatures, rois: DetectedRoIs) -> Tensor:
        """What the layers give of every detection: [D, ...], from ``features.pool(self.pooler, rois)``."""
        raise NotImplementedError

    def finish(self, rois: DetectedRoIs, values: Tensor) -> dict[str, Tensor]:
        """What is told of the detections by its name: [D, ...], from ``values`` [D, ...] of :meth:`predict`.

        Here all RoIs are real, and what is computed need not be of fixed shape.
        """
        return {self.name: values}

    def in_graph(self, rois: DetectedRoIs, values: Tensor) -> dict[str, Tensor]:
        """What an exported file tells of the detections (``maskrcnn export``): as :meth:`finish` has it, by
        operations that ``torch.export`` traces and the file's format has.

        Shapes follow from shapes, and some rows are not real (``rois.real``): what they get is not told.
        ``return self.finish(rois, values)`` where that is so of it.  A head that says nothing here is not
        exported.
        """
        raise NotImplementedError

    def class_layers(self) -> tuple[str, ...]:
        """The layers below the head that depend on the classes, or that ``--drop-head`` starts afresh.

        Rows of weights for other classes are taken over by the classes' names
        (``weights.restore.take_by_class``), so they lie class after class, what belongs to none behind them.
        """
        return ()

    def compile_layers(self) -> None:
        """Let torch.compile fuse the layers; a head that does not run them by ``self(pooled)`` says how."""
        self.compile()


class MaskHead(RoIHead):
    """Pooled features -> mask logits, with the loss and the probability that belong to them.

    mask_size: the side M of the masks that it predicts.
    mask_target: how ground-truth masks are rasterised, see ``mask_targets.rasterise``.
    """

    mask_size: int
    mask_target: MaskTarget = "polygon"

    def forward(self, pooled: Tensor) -> Tensor:
        """``pooled`` [R, C, s, s] -> logits [R, K or 1, M, M]; one channel more with a background."""
        raise NotImplementedError

    def own(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """The logits that ``loss`` and ``probabilities`` read for RoIs of these classes (int64 [R]).

        All of ``forward`` here; a head that can leave the other classes out gives [R, 1, M, M].
        """
        logits: Tensor = self(pooled)
        return logits

    def loss(self, logits: Tensor, labels: Tensor, targets: Tensor, real: Tensor | None = None) -> Tensor:
        """Scalar loss: logits [R, K or 1, M, M], labels int64 [R], targets [R, M, M] in [0, 1].

        real: bool [R], which RoIs count; None: all.
        """
        raise NotImplementedError

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Foreground probability [R, M, M] of each RoI's own class, from logits and labels int64 [R]."""
        raise NotImplementedError

    def losses(self, features: RoIFeatures, rois: SampledRoIs) -> dict[str, Tensor]:
        """``loss_mask``, a scalar; see :class:`RoIHead`."""
        rois = rois.positive
        logits = self.own(features.pool(self.pooler, rois), rois.labels)
        wanted = mask_targets(rois, self.mask_size, self.mask_target)
        real = () if rois.real is None else (rois.real,)
        return {"loss_mask": self.loss(logits, rois.labels, wanted, *real)}

    def predict(self, features: RoIFeatures, rois: DetectedRoIs) -> Tensor:
        """[D, M, M], the probabilities of the predicted class."""
        logits = self.own(features.pool(self.pooler, rois), rois.labels)
        return self.probabilities(logits, rois.labels)

    def finish(self, rois: DetectedRoIs, values: Tensor) -> dict[str, Tensor]:
        """``mask_probs``: ``values`` [D, M, M]."""
        return {"mask_probs": values}

    def in_graph(self, rois: DetectedRoIs, values: Tensor) -> dict[str, Tensor]:
        """See :class:`RoIHead`."""
        return self.finish(rois, values)

    def class_layers(self) -> tuple[str, ...]:
        """See :meth:`RoIHead.class_layers`."""
        return ("logits",)


class KeypointHead(RoIHead):
    """Pooled features -> a heat map a keypoint, with the loss and the decoding that belong to it.

    heatmap_size: the side M of the heat maps.
    num_keypoints: J.
    """

    heatmap_size: int
    num_keypoints: int

    def forward(self, pooled: Tensor) -> Tensor:
        """``pooled`` [R, C, s, s] -> logits [R, J, M, M]."""
        raise NotImplementedError

    def loss(self, logits: Tensor, boxes: Tensor, keypoints: Tensor, real: Tensor | None = None) -> Tensor:
        """Scalar loss of positive RoIs: logits [P, J, M, M], boxes [P, 4] xyxy, keypoints [P, J, 3] in the
        boxes' frame (x, y, visibility as COCO: 0 not labelled).

        real: bool [P], which RoIs count; None: all.
        """
        raise NotImplementedError

    def decode(self, logits: Tensor, boxes: Tensor) -> Tensor:
        """logits [D, J, M, M], boxes [D, 4] -> [D, J, 3]: x, y in the boxes' frame, score."""
        raise NotImplementedError

    def losses(self, features: RoIFeatures, rois: SampledRoIs) -> dict[str, Tensor]:
        """``loss_keypoint``, a scalar, of the positive RoIs that show a labelled keypoint."""
        rois = rois.positive
        rois = rois.where(show_keypoints(rois.boxes, keypoint_targets(rois, self.num_keypoints)))
        logits = self(features.pool(self.pooler, rois))
        wanted = keypoint_targets(rois, self.num_keypoints)
        real = () if rois.real is None else (rois.real,)
        return {"loss_keypoint": self.loss(logits, rois.boxes, wanted, *real)}

    def predict(self, features: RoIFeatures, rois: DetectedRoIs) -> Tensor:
        """The heat maps' logits [D, J, M, M]."""
        logits: Tensor = self(features.pool(self.pooler, rois))
        return logits

    def finish(self, rois: DetectedRoIs, values: Tensor) -> dict[str, Tensor]:
        """``keypoints`` [D, J, 3], out of ``values`` [D, J, M, M]."""
        return {"keypoints": self.decode(values, rois.boxes)}


class BackboneConfig(Protocol):
    """What a ``backbone`` registration makes from a YAML mapping."""

    def build(self) -> Backbone:
        """The network; ConfigError or CheckpointError where keys or ``weights`` do not fit."""
        ...


class NeckConfig(Protocol):
    """What a ``neck`` registration makes from a YAML mapping."""

    def build(self, channels: dict[str, int], strides: dict[str, int]) -> Neck:
        """``channels``, ``strides`` (pixels a cell): of the backbone's maps, by their names."""
        ...


class RoITrunkConfig(Protocol):
    """What a ``roi_trunk`` registration makes from a YAML mapping."""

    def build(self, backbone: BackboneConfig, channels: int) -> RoITrunk:
        """``backbone``: the model's, whose next stage a trunk may be.  ``channels``: of the pooled map."""
        ...


class HeadConfig(Protocol[Head]):
    """What a ``box_head`` or ``mask_head`` registration makes from a YAML mapping, and ``roi_head``, under a
    name in ``model.heads``.
    """

    def build(self, channels: int, num_classes: int) -> Head:
        """``channels``: of the pooled map.  ``num_classes``: K, without background."""
        ...


class ChannelFitting(Protocol):
    """How a network for three channels is fitted to images of others."""

    def fit(self, backbone: nn.Module, channels: int, *, trained: bool) -> None:
        """Let ``backbone`` take ``channels``; its first convolution then trains, frozen or not.

        trained: its weights come from a file, and are fitted; else they are drawn anew, as strong as before.
        """
        ...

    def fit_state(self, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """``state`` of a model for three channels, its first convolution fitted to that of ``model``."""
        ...


class KeypointHeadConfig(Protocol):
    """What a ``keypoint_head`` registration makes from a YAML mapping."""

    def build(self, channels: int) -> KeypointHead:
        """``channels``: of the pooled map."""
        ...


BoxHeadConfig: TypeAlias = HeadConfig[BoxHead]
MaskHeadConfig: TypeAlias = HeadConfig[MaskHead]
RoIHeadConfig: TypeAlias = HeadConfig[RoIHead]

_ROI = "maskrcnn.modeling.roi"
BACKBONES: Registry[BackboneConfig] = Registry(
    "backbone", "maskrcnn.modeling.backbones", resnet="resnet", timm="timm_backbone", vgg16="vgg"
)
NECKS: Registry[NeckConfig] = Registry("neck", "maskrcnn.modeling.backbones", fpn="fpn", reduce="reduce")
ROI_TRUNKS: Registry[RoITrunkConfig] = Registry("RoI trunk", _ROI, res5="trunk")
BOX_HEADS: Registry[BoxHeadConfig] = Registry(
    "box head", _ROI, two_fc="box_head", vgg_fc="box_head", conv_fc="box_head", linear="box_head"
)
MASK_HEADS: Registry[MaskHeadConfig] = Registry("mask head", _ROI, fcn="mask_head", mlp="mask_mlp")
KEYPOINT_HEADS: Registry[KeypointHeadConfig] = Registry("keypoint head", _ROI, conv="keypoint_head")
ROI_HEADS: Registry[RoIHeadConfig] = Registry("RoI head")
#: How detections are suppressed besides by their boxes (``model.roi.mask_nms``), see its module.
DUPLICATES: Named[Callable[[FoundRoIs, float, bool], FoundRoIs]] = Named(
    "suppression", _ROI, masks="duplicates"
)
CHANNEL_FITTINGS: Named[type[ChannelFitting]] = Named(
    "fitting of channels", "maskrcnn.modeling", copy="channels", mean="channels"
)
