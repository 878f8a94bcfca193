"""The residual blocks of ResNet, ResNeXt and Wide ResNet, and a stage of them.

Parameter names are torchvision's (``conv1``, ``bn1``, ``downsample.0`` ...).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from maskrcnn.modeling.norms import NormName, conv_norm, make_norm, start_convs


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    padding = kernel_size // 2 * dilation
    shape = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
    return nn.Conv2d(*shape, bias=False)


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

    def __init__(self, in_channels: int, width: int, stride: int, norm: NormName) -> None:
        super().__init__(in_channels, width, stride, norm)
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = make_norm(norm, width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = make_norm(norm, width)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [N, Cin, H, W] -> [N, C, H / stride, W / stride]."""
        out = conv_norm(self.conv1, self.bn1, x, relu=True)
        return conv_norm(self.conv2, self.bn2, out, relu=True, add=self._shortcut(x))


class Bottleneck(_Block):
    """1x1, 3x3, 1x1 (He et al. 2015, figure 5 right), four times as many channels out.

    The stride is in the 3x3 convolution, or in the first 1x1 as in the original release.  The 3x3 convolution
    has ``inner`` channels in ``groups`` groups (Xie et al. 2017, "Aggregated Residual Transformations",
    figure 3c); a wide network has more of them than ``width`` (Zagoruyko & Komodakis 2016).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        norm: NormName,
        *,
        inner: int,
        groups: int = 1,
        dilation: int = 1,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__(in_channels, width * self.expansion, stride, norm)
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _conv(in_channels, inner, 1, first)
        self.bn1 = make_norm(norm, inner)
        self.conv2 = _conv(inner, inner, 3, second, groups, dilation)
        self.bn2 = make_norm(norm, inner)
        self.conv3 = _conv(inner, width * self.expansion, 1)
        self.bn3 = make_norm(norm, width * self.expansion)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [N, Cin, H, W] -> [N, C, H / stride, W / stride]."""
        out = conv_norm(self.conv1, self.bn1, x, relu=True)
        out = conv_norm(self.conv2, self.bn2, out, relu=True)
        return conv_norm(self.conv3, self.bn3, out, relu=True, add=self._shortcut(x))


def initialise(module: nn.Module, zero_init_residual: bool) -> None:
    """Random weights for convolutions and residual blocks inside ``module``."""
    start_convs(module)
    for part in module.modules():
        if zero_init_residual and isinstance(part, (BasicBlock, Bottleneck)):
            weight = part.last_norm.weight
            assert isinstance(weight, Tensor)
            nn.init.zeros_(weight)


# Blocks a stage, He et al. 2015, table 1; the deep ones use the bottleneck block.
BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def make_stage(
    depth: int,
    index: int,
    *,
    norm: NormName,
    width: int = 64,
    groups: int = 1,
    width_per_group: int = 64,
    stride: int = 2,
    dilation: int = 1,
    stride_in_1x1: bool = False,
) -> nn.Sequential:
    """Stage ``index`` of a ResNet: 0 = c2 ... 3 = c5.  It reads what the stage before gives (0: the stem).

    Args:
        depth: 18, 34, 50, 101 or 152.
        width: channels of the stem.
        groups, width_per_group: of a bottleneck's 3x3 convolution in c2, where ``width`` is 64.
        stride: of the first block.
        dilation: of every 3x3 convolution in bottlenecks, the first block's too.
    """
    planes = width * 2**index
    block: Callable[..., nn.Module] = BasicBlock
    if depth >= 50:
        inner = max(1, planes * width_per_group // 64) * groups
        options = {"inner": inner, "groups": groups, "dilation": dilation, "stride_in_1x1": stride_in_1x1}
        block = partial(Bottleneck, **options)
    before = width if index == 0 else stage_channels(depth, index - 1, width)
    after = stage_channels(depth, index, width)
    blocks = range(BLOCKS[depth][index])
    return nn.Sequential(*(block(after if j else before, planes, 1 if j else stride, norm) for j in blocks))


def stage_channels(depth: int, index: int, width: int = 64) -> int:
    """Channels that stage ``index`` (0 = c2 ... 3 = c5) gives."""
    expansion = BasicBlock.expansion if depth < 50 else Bottleneck.expansion
    return int(2**index) * width * expansion
