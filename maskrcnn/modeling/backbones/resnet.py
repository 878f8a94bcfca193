"""ResNet-18/34/50/101/152 (He et al. 2015, "Deep Residual Learning", table 1).

Parameter names are torchvision's (``conv1``, ``bn1``, ``layer1.0.conv1`` ...), so its ImageNet checkpoints
load without a table of names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.errors import ConfigError
from maskrcnn.modeling.backbones.weights import load_imagenet_weights
from maskrcnn.modeling.norms import FrozenBatchNorm2d, NormName, conv_norm, make_norm
from maskrcnn.modeling.registries import BACKBONES, Backbone

Depth = Literal[18, 34, 50, 101, 152]
Level = Literal["c2", "c3", "c4", "c5"]

# Blocks a stage, He et al. 2015, table 1; the deep ones use the bottleneck block.
BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
LEVELS: tuple[Level, ...] = ("c2", "c3", "c4", "c5")


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False
    )


class _Block(nn.Module):
    """What both residual blocks share: the shortcut, projected where the shape changes."""

    expansion: int

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: NormName) -> None:
        super().__init__()
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                _conv(in_channels, out_channels, 1, stride), make_norm(norm, out_channels)
            )

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.downsample is None:
            return x
        conv = self.downsample[0]
        assert isinstance(conv, nn.Conv2d)
        return conv_norm(conv, self.downsample[1], x)


class BasicBlock(_Block):
    """Two 3x3 convolutions (He et al. 2015, figure 5 left)."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, norm: NormName, stride_in_1x1: bool
    ) -> None:
        super().__init__(in_channels, width, stride, norm)
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = make_norm(norm, width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = make_norm(norm, width)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(conv_norm(self.conv1, self.bn1, x))
        return F.relu_(conv_norm(self.conv2, self.bn2, out).add_(self._shortcut(x)))


class Bottleneck(_Block):
    """1x1, 3x3, 1x1 (He et al. 2015, figure 5 right), four times as many channels out.

    The stride is in the 3x3 convolution, or in the first 1x1 as in the original release.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, norm: NormName, stride_in_1x1: bool
    ) -> None:
        super().__init__(in_channels, width * self.expansion, stride, norm)
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _conv(in_channels, width, 1, first)
        self.bn1 = make_norm(norm, width)
        self.conv2 = _conv(width, width, 3, second)
        self.bn2 = make_norm(norm, width)
        self.conv3 = _conv(width, width * self.expansion, 1)
        self.bn3 = make_norm(norm, width * self.expansion)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(conv_norm(self.conv1, self.bn1, x))
        out = F.relu_(conv_norm(self.conv2, self.bn2, out))
        return F.relu_(conv_norm(self.conv3, self.bn3, out).add_(self._shortcut(x)))


class ResNet(Backbone):
    """The convolutional part of a ResNet; outputs c2..c5 at strides 4, 8, 16, 32.

    Args:
        depth: 18, 34, 50, 101 or 152.
        norm: normalisation layers, see :func:`maskrcnn.modeling.norms.make_norm`.
        width: channels of the stem; the stages have 1, 2, 4, 8 times as many (times 4 in bottlenecks).
        outputs: which levels to return; stages above the last of them are not built.
        freeze_at: 0 trains all; 1 freezes the stem; n + 1 the stem and the first n stages too.
        stride_in_1x1: put a bottleneck's stride into its first 1x1 convolution.
        zero_init_residual: start every block as the identity (Goyal et al. 2017, section 5.1).
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        norm: NormName = "frozen_bn",
        width: int = 64,
        outputs: tuple[Level, ...] = LEVELS,
        freeze_at: int = 2,
        stride_in_1x1: bool = False,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if depth < 50 else Bottleneck
        self.outputs = tuple(level for level in LEVELS if level in outputs)
        self.freeze_at = freeze_at
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, width)
        self.stages = LEVELS[: LEVELS.index(self.outputs[-1]) + 1]
        self.channels, self.strides = {}, {}
        channels = width
        for i, level in enumerate(self.stages):
            blocks = []
            for j in range(BLOCKS[depth][i]):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(block(channels, width * 2**i, stride, norm, stride_in_1x1))
                channels = width * 2**i * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            if level in self.outputs:
                self.channels[level], self.strides[level] = channels, 4 * 2**i
        self._initialise(zero_init_residual)
        self._freeze()

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al. 2015, "Delving Deep into Rectifiers", eq. 14 (backward form).
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                weight = module.last_norm.weight
                assert isinstance(weight, Tensor)
                nn.init.zeros_(weight)

    def _frozen(self) -> list[nn.Module]:
        stem: list[nn.Module] = [self.conv1, self.bn1] if self.freeze_at >= 1 else []
        stages = range(1, min(self.freeze_at - 1, len(self.stages)) + 1)
        return stem + [self.get_submodule(f"layer{i}") for i in stages]

    def _freeze(self) -> None:
        for module in self._frozen():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> ResNet:
        """As ``nn.Module.train``, but frozen stages keep their statistics too."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[N, 3, H, W] -> the levels in ``outputs``."""
        x = F.relu_(conv_norm(self.conv1, self.bn1, x))
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        features: dict[str, Tensor] = {}
        for i, level in enumerate(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
            if level in self.outputs:
                features[level] = x
        return features


@BACKBONES.register("resnet")
@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """A ResNet; see :class:`ResNet`."""

    #: Layers: 18, 34, 50, 101 or 152.
    depth: Depth = 50
    #: Normalisation: frozen_bn (fine-tuning, the default of all peers), bn, sync_bn, gn (from scratch).
    norm: NormName = "frozen_bn"
    #: ImageNet weights: a torchvision checkpoint file of the same depth (its ``fc`` layer is left out).
    weights: Path | None = None
    #: 0 = train everything, 1 = freeze the stem, 2 = stem and c2 (Detectron2's default), ... 5 = all.
    freeze_at: int = 2
    #: Stem channels; 64 is the published network, smaller ones are for tests.
    width: int = 64
    #: Levels to return.
    outputs: tuple[Level, ...] = LEVELS
    #: Stride in the first 1x1 convolution of a bottleneck (original release) and not in its 3x3.
    stride_in_1x1: bool = False
    #: Start each residual block as the identity; for training from scratch with bn, sync_bn or gn.
    zero_init_residual: bool = False

    def build(self) -> ResNet:
        """
        Raises:
            ConfigError: a key is out of range, or two contradict each other.
            CheckpointError: ``weights`` cannot be read or does not fit.
        """
        if self.depth not in BLOCKS:
            raise ConfigError(f"backbone.depth is {self.depth}; choose one of {', '.join(map(str, BLOCKS))}")
        if not 0 <= self.freeze_at <= 5:
            raise ConfigError(f"backbone.freeze_at is {self.freeze_at}; it must be 0 to 5")
        if self.width < 1:
            raise ConfigError(f"backbone.width is {self.width}; it must be at least 1")
        if not self.outputs:
            raise ConfigError("backbone.outputs is empty; name at least one of c2, c3, c4, c5")
        if self.zero_init_residual and self.norm == "frozen_bn":
            raise ConfigError(
                "backbone.zero_init_residual needs a norm that trains; with frozen_bn the blocks would stay"
                " the identity for ever. Set backbone.norm to bn, sync_bn or gn"
            )
        model = ResNet(
            self.depth,
            norm=self.norm,
            width=self.width,
            outputs=self.outputs,
            freeze_at=self.freeze_at,
            stride_in_1x1=self.stride_in_1x1,
            zero_init_residual=self.zero_init_residual,
        )
        if self.weights is not None:
            load_imagenet_weights(model, self.weights)
        return model


__all__ = ["BasicBlock", "Bottleneck", "FrozenBatchNorm2d", "ResNet", "ResNetConfig"]
