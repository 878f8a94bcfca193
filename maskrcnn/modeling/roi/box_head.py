"""Box heads: what a RoI shows, and where exactly (Girshick 2015, Fast R-CNN, section 2.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import Cells, Layers, Width
from maskrcnn.modeling.backbones.vgg import load_vgg_classifier
from maskrcnn.modeling.interfaces import BOX_HEADS, BoxHead
from maskrcnn.modeling.norms import ConvNorm, NormName, start_convs
from maskrcnn.modeling.onednn import Linear


class BoxPredictor(nn.Module):
    """The two output layers: K + 1 logits (background last) and deltas a class, or one set for all.

    Args:
        channels: width of the features.  num_classes: K.
        class_agnostic: [R, 4] deltas in place of [R, 4K].
    """

    def __init__(self, channels: int, num_classes: int, *, class_agnostic: bool = False) -> None:
        super().__init__()
        self.logits = nn.Linear(channels, num_classes + 1)
        self.deltas = nn.Linear(channels, 4 if class_agnostic else 4 * num_classes)
        # Girshick 2015, section 2.3: standard deviations 0.01 and 0.001, biases 0.
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.logits.bias)
        nn.init.zeros_(self.deltas.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[R, channels] -> logits [R, K + 1], deltas [R, 4K] or [R, 4]."""
        return self.logits(x), self.deltas(x)


def xavier(layers: Iterable[nn.Linear]) -> None:
    """Initialise fully connected layers as Detectron does: Caffe2's "Xavier", biases 0."""
    for layer in layers:
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)


class TwoFCBoxHead(BoxHead):
    """Two fully connected layers with ReLU (Lin et al. 2017, section 4.2), then the predictor.

    Args:
        channels: of the pooled features.  num_classes: K.
        dropout: drawn from torch's global generator, which the trainer seeds anew for every step.
        hidden and the rest: see :class:`TwoFCBoxHeadConfig`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        hidden: int = 1024,
        pool_size: int = 7,
        dropout: float = 0.0,
        class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        self.pool_size = pool_size
        self.dropout = dropout
        self.fc1 = Linear(channels * pool_size**2, hidden)
        self.fc2 = Linear(hidden, hidden)
        xavier((self.fc1, self.fc2))
        self.predictor = BoxPredictor(hidden, num_classes, class_agnostic=class_agnostic)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """``pooled`` [R, C, s, s] -> logits [R, K + 1], deltas [R, 4 K or 4]."""
        x = pooled
        for i, layer in enumerate((self.fc1, self.fc2)):
            x = F.relu_(layer(x) if i else layer.of_maps(x))
            if self.dropout > 0:
                x = F.dropout(x, self.dropout, self.training)
        out: tuple[Tensor, Tensor] = self.predictor(x)
        return out


@BOX_HEADS.register("two_fc")
@dataclass(frozen=True, kw_only=True)
class TwoFCBoxHeadConfig(Config):
    """Two fully connected layers; the head of the FPN models."""

    #: Width of both layers (Lin et al. 2017, section 4.2: 1024).
    hidden: Width = 1024
    #: Side of the pooled features (ibid.: 7).
    pool_size: Cells = 7
    #: Part of both layers' outputs that training drops, 0 to below 1; none in the FPN models.
    dropout: Annotated[float, Range(0, below=1)] = 0.0
    #: One set of box deltas for all classes instead of one a class.
    class_agnostic: bool = False

    def build(self, channels: int, num_classes: int) -> TwoFCBoxHead:
        """See :class:`TwoFCBoxHead`."""
        return TwoFCBoxHead(channels, num_classes, **self.arguments())


@BOX_HEADS.register("vgg_fc")
@dataclass(frozen=True, kw_only=True)
class VGGBoxHeadConfig(Config):
    """VGG-16's own fc6 and fc7 with dropout (Girshick 2015, section 2.2), as ``fc1`` and ``fc2``."""

    #: ImageNet weights: a torchvision vgg16 checkpoint file, usually the backbone's; none = random.
    weights: Path | None = None
    #: Width of both layers (Simonyan & Zisserman 2014, table 1: 4096); smaller ones are for tests.
    hidden: Width = 4096
    #: Side of the pooled features (Girshick 2015, section 2.2: 7).
    pool_size: Cells = 7
    #: Part of both layers' outputs that training drops, 0 to below 1 (0.5 in VGG and in Fast R-CNN).
    dropout: Annotated[float, Range(0, below=1)] = 0.5
    #: One set of box deltas for all classes instead of one a class.
    class_agnostic: bool = False

    def build(self, channels: int, num_classes: int) -> TwoFCBoxHead:
        """
        Raises:
            CheckpointError: ``weights`` cannot be read or does not fit.
        """
        head = TwoFCBoxHead(channels, num_classes, **self.arguments("weights"))
        if self.weights is not None:
            load_vgg_classifier(head.fc1, head.fc2, self.weights)
        return head


class ConvFCBoxHead(BoxHead):
    """3x3 convolutions, then fully connected layers, all with ReLU (Wu & He 2018, section 4.2: 4 and 1).

    Args:
        channels: of the pooled features.  num_classes: K.
        convs and the rest: see :class:`ConvFCBoxHeadConfig`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        convs: int = 4,
        width: int = 256,
        fcs: int = 1,
        hidden: int = 1024,
        pool_size: int = 7,
        norm: NormName | None = None,
        class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        self.pool_size = pool_size
        self.convs = nn.Sequential(
            *(ConvNorm(width if i else channels, width, 3, norm=norm, relu=True) for i in range(convs))
        )
        start_convs(self.convs)
        features = (width if convs else channels) * pool_size**2
        layers = [Linear(hidden if i else features, hidden) for i in range(fcs)]
        xavier(layers)
        self.fcs = nn.ModuleList(layers)
        self.predictor = BoxPredictor(hidden if fcs else features, num_classes, class_agnostic=class_agnostic)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """``pooled`` [R, C, s, s] -> logits [R, K + 1], deltas [R, 4 K or 4]."""
        maps = self.convs(pooled)
        x = maps if self.fcs else maps.flatten(1)
        for i, layer in enumerate(self.fcs):
            assert isinstance(layer, Linear)
            x = F.relu_(layer(x) if i else layer.of_maps(x))
        out: tuple[Tensor, Tensor] = self.predictor(x)
        return out


@BOX_HEADS.register("conv_fc")
@dataclass(frozen=True, kw_only=True)
class ConvFCBoxHeadConfig(Config):
    """Four convolutions and a fully connected layer; the head of the GN and from-scratch models.

    With ``norm: gn`` it is Detectron2's, with ``norm: bn`` that of torchvision's v2 models.
    """

    #: 3x3 convolutions (Wu & He 2018, section 4.2: 4).
    convs: Layers = 4
    #: Their channels (Detectron2, torchvision: 256).
    width: Width = 256
    #: Fully connected layers after them (Wu & He 2018, section 4.2: 1).
    fcs: Layers = 1
    #: Their width (Detectron2, torchvision: 1024).
    hidden: Width = 1024
    #: Side of the pooled features.
    pool_size: Cells = 7
    #: Normalisation between each convolution, which then has no bias, and its ReLU.
    norm: NormName | None = None
    #: One set of box deltas for all classes instead of one a class.
    class_agnostic: bool = False

    def build(self, channels: int, num_classes: int) -> ConvFCBoxHead:
        """See :class:`ConvFCBoxHead`."""
        return ConvFCBoxHead(channels, num_classes, **self.arguments())


class LinearBoxHead(BoxHead):
    """The mean over the RoI's cells, then the predictor: all that follows res5 (He et al. 2015, section 4.3).

    Args:
        channels: of the pooled features.  num_classes: K.
        pool_size, class_agnostic: see :class:`LinearBoxHeadConfig`.
    """

    def __init__(
        self, channels: int, num_classes: int, *, pool_size: int = 7, class_agnostic: bool = False
    ) -> None:
        super().__init__()
        self.pool_size = pool_size
        self.predictor = BoxPredictor(channels, num_classes, class_agnostic=class_agnostic)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """``pooled`` [R, C, s, s] -> logits [R, K + 1], deltas [R, 4 K or 4]."""
        out: tuple[Tensor, Tensor] = self.predictor(pooled.mean(dim=(2, 3)))
        return out


@BOX_HEADS.register("linear")
@dataclass(frozen=True, kw_only=True)
class LinearBoxHeadConfig(Config):
    """Global average pooling and the two output layers; the head of the C4 models, after ``roi_trunk``."""

    #: Side of the features that it averages; no weight depends on it.
    pool_size: Cells = 7
    #: One set of box deltas for all classes instead of one a class.
    class_agnostic: bool = False

    def build(self, channels: int, num_classes: int) -> LinearBoxHead:
        """See :class:`LinearBoxHead`."""
        return LinearBoxHead(channels, num_classes, **self.arguments())
