"""Feature Pyramid Network (Lin et al. 2017, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.config import Config
from maskrcnn.config.ranges import Width
from maskrcnn.errors import ConfigError
from maskrcnn.modeling.interfaces import NECKS, Neck
from maskrcnn.modeling.norms import ConvNorm, NormName


class _AddDoubled(torch.autograd.Function):
    """``fine`` [N, C, 2H, 2W] plus ``coarse`` [N, C, H, W], each of whose pixels stands for four."""

    @staticmethod
    def forward(ctx: Any, fine: Tensor, coarse: Tensor) -> Tensor:
        n, c, h, w = coarse.shape
        return (fine.reshape(n, c, h, 2, w, 2) + coarse[:, :, :, None, :, None]).reshape(fine.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, F.avg_pool2d(grad, 2, divisor_override=1)


def add_upsampled(fine: Tensor, coarse: Tensor) -> Tensor:
    """``fine`` [N, C, H, W] plus ``coarse`` [N, C, h, w] at its size, by the nearest pixel.

    Where that doubles the sides, as with padded images, neither pass writes the enlarged map, and autocast
    keeps its precision.  Compiled or exported predictions, whose sizes may be open, have PyTorch's operator.
    """
    open_sizes = torch.compiler.is_compiling() and not torch.is_grad_enabled()
    doubled = not open_sizes and fine.dtype == coarse.dtype
    if not doubled or fine.shape[2] != 2 * coarse.shape[2] or fine.shape[3] != 2 * coarse.shape[3]:
        return fine + F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
    added: Tensor = _AddDoubled.apply(fine, coarse)
    return added


class FPN(Neck):
    """Top-down pyramid over the backbone's levels; c2..c5 in, p2..p5 out, and p6 if asked for.

    Args:
        channels: channel count of every input level, finest first.
        strides: stride of every input level, each twice the one before.
        out_channels and the rest: see :class:`FPNConfig`.
    """

    def __init__(
        self,
        channels: dict[str, int],
        strides: dict[str, int],
        *,
        out_channels: int = 256,
        norm: NormName | None = None,
        top: Literal["max_pool"] | None = "max_pool",
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleDict(
            {n: ConvNorm(c, out_channels, 1, norm=norm) for n, c in channels.items()}
        )
        self.output = nn.ModuleDict({n: ConvNorm(out_channels, out_channels, 3, norm=norm) for n in channels})
        self.strides = {n.replace("c", "p"): s for n, s in strides.items()}
        self.top: str | None = None
        if top is not None:
            last = list(self.strides)[-1]
            self.top = f"p{int(last[1:]) + 1}"
            self.strides[self.top] = 2 * self.strides[last]
        self.channels = dict.fromkeys(self.strides, out_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # "Xavier" of Caffe2, which Detectron's pyramid starts from: uniform, variance 1 / fan-in.
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """name: [N, C, H, W] for c2..c5 -> name: [N, out_channels, H, W] for p2..p5 (and p6)."""
        outputs: list[Tensor] = []
        merged: Tensor | None = None
        for name in reversed(list(self.lateral)):
            lateral: Tensor = self.lateral[name](features[name])
            if merged is not None:
                lateral = add_upsampled(lateral, merged)
            merged = lateral
            outputs.insert(0, self.output[name](merged))
        if self.top is not None:
            outputs.append(F.max_pool2d(outputs[-1], kernel_size=1, stride=2))
        return dict(zip(self.strides, outputs, strict=True))


@NECKS.register("fpn")
@dataclass(frozen=True, kw_only=True)
class FPNConfig(Config):
    """A feature pyramid; see :class:`FPN`."""

    #: Channels of every level (Lin et al. 2017, section 3: 256).
    out_channels: Width = 256
    #: Normalisation after each convolution; none in the paper, gn in the GN recipes (Wu & He 2018).
    norm: NormName | None = None
    #: p6 for the RPN's largest anchors: p5 subsampled by 2 (Lin et al. 2017, footnote 2), or none.
    top: Literal["max_pool"] | None = "max_pool"

    def build(self, channels: dict[str, int], strides: dict[str, int]) -> FPN:
        """
        Raises:
            ConfigError: the backbone's levels are not c<n> at doubling strides.
        """
        values = list(strides.values())
        if any(not n.startswith("c") or not n[1:].isdigit() for n in strides) or any(
            b != 2 * a for a, b in pairwise(values)
        ):
            raise ConfigError(
                "model.backbone.outputs: model.neck fpn needs levels called c2, c3, ... whose strides double;"
                f" model.backbone gives {strides}"
            )
        return FPN(channels, strides, **self.arguments())
