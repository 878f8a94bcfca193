"""A 1x1 convolution a level, to give every level the same few channels; nothing flows between levels.

With one level this is the plain network of Fast and Faster R-CNN, cut where the config says: what the RoI
operators do at a stride shows without a pyramid that sends small objects to a finer level.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from maskrcnn.config import Config
from maskrcnn.config.ranges import Width
from maskrcnn.modeling.interfaces import NECKS, Neck
from maskrcnn.modeling.norms import ConvNorm, NormName, start_convs


class Reduce(Neck):
    """c2..c5 in, p2..p5 out, each through its own 1x1 convolution, normalisation and ReLU.

    Args:
        channels, strides: of every input level.
        out_channels, norm: see :class:`ReduceConfig`.
    """

    def __init__(
        self,
        channels: dict[str, int],
        strides: dict[str, int],
        *,
        out_channels: int = 256,
        norm: NormName | None = None,
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleDict(
            {n: ConvNorm(c, out_channels, 1, norm=norm, relu=True) for n, c in channels.items()}
        )
        self.strides = {n.replace("c", "p"): s for n, s in strides.items()}
        self.channels = dict.fromkeys(self.strides, out_channels)
        start_convs(self)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """name: [N, C, H, W] for c2..c5 -> name: [N, out_channels, H, W] for p2..p5."""
        return {name.replace("c", "p"): layer(features[name]) for name, layer in self.lateral.items()}


@NECKS.register("reduce")
@dataclass(frozen=True, kw_only=True)
class ReduceConfig(Config):
    """A 1x1 convolution a level; see :class:`Reduce`."""

    #: Channels of every level.
    out_channels: Width = 256
    #: Normalisation after the convolution, or none.
    norm: NormName | None = None

    def build(self, channels: dict[str, int], strides: dict[str, int]) -> Reduce:
        """See :class:`Reduce`."""
        return Reduce(channels, strides, **self.arguments())
