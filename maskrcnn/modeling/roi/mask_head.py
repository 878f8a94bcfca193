"""Mask heads of convolutions (He et al. 2017, section 3 and figure 4), and what every mask head shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.config import Config
from maskrcnn.config.ranges import Cells, Layers, Width
from maskrcnn.modeling.interfaces import MASK_HEADS, MaskHead
from maskrcnn.modeling.losses import mask_loss, softmax_mask_loss, wide
from maskrcnn.modeling.norms import ConvNorm, NormName, start_convs
from maskrcnn.modeling.onednn import product
from maskrcnn.modeling.roi.decode import own_class

MaskLoss = Literal["sigmoid", "softmax"]


class PixelMaskHead(MaskHead):
    """A mask head with a logit a class and pixel, and one of the two losses of He et al. 2017, table 2b.

    sigmoid: a binary mask a class (K channels, or 1); only the RoI's own is trained, the classes do not
    compete.  softmax: one label a pixel out of the classes and the background (K + 1 channels, or 2; the
    background last).  In both the mask is where the probability of the RoI's own class is >= 0.5.

    Args:
        num_classes: K.  loss: see above.  class_agnostic: one foreground for all classes.
    """

    def __init__(self, num_classes: int, loss: MaskLoss, class_agnostic: bool) -> None:
        super().__init__()
        self.softmax = loss == "softmax"
        self.out_channels = (1 if class_agnostic else num_classes) + self.softmax

    def loss(self, logits: Tensor, labels: Tensor, targets: Tensor, real: Tensor | None = None) -> Tensor:
        """Scalar: logits [P, out_channels, M, M], labels int64 [P], targets [P, M, M], real bool [P]."""
        if not self.softmax:
            return mask_loss(own_class(logits, labels), targets, real)
        log_p = wide(logits).log_softmax(dim=1)
        return softmax_mask_loss(own_class(log_p[:, :-1], labels), log_p[:, -1], targets, real)

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[D, M, M] in [0, 1]: logits [D, out_channels, M, M], labels int64 [D]."""
        if not self.softmax:
            return wide(own_class(logits, labels)).sigmoid()
        return own_class(wide(logits).softmax(dim=1)[:, :-1], labels)


class FCNMaskHead(PixelMaskHead):
    """3x3 convolutions, a 2x2 deconvolution of stride 2, a 1x1 convolution.

    Args:
        channels: of the pooled features.  num_classes: K.
        convs and the rest: see :class:`FCNMaskHeadConfig`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        convs: int = 4,
        width: int = 256,
        pool_size: int = 14,
        norm: NormName | None = None,
        loss: MaskLoss = "sigmoid",
        class_agnostic: bool = False,
    ) -> None:
        super().__init__(num_classes, loss, class_agnostic)
        self.pool_size = pool_size
        self.mask_size = 2 * pool_size
        self.convs = nn.Sequential(
            *(ConvNorm(channels if i == 0 else width, width, 3, norm=norm, relu=True) for i in range(convs))
        )
        self.deconv = nn.ConvTranspose2d(width if convs else channels, width, 2, stride=2)
        self.logits = nn.Conv2d(width, self.out_channels, 1)
        # Not bound to this head, so that a copy runs its own layers.
        self._run: Callable[[FCNMaskHead, Tensor], Tensor] = FCNMaskHead._features
        start_convs(self)
        nn.init.normal_(self.logits.weight, std=0.001)  # as Detectron: start near probability 0.5

    def _features(self, pooled: Tensor) -> Tensor:
        return F.relu_(self.deconv(self.convs(pooled)))

    def compile_layers(self) -> None:
        """See :class:`RoIHead`; all but the last layer, of which :meth:`own` computes a part."""
        self._run = torch.compile(FCNMaskHead._features)

    def forward(self, pooled: Tensor) -> Tensor:
        """``pooled`` [R, C, s, s] -> logits [R, K or 1, M, M], K + 1 with softmax; see :class:`MaskHead`."""
        if self._in_cells(pooled):
            return self._placed(product(self._cells(pooled), self.logits.weight.flatten(1), self.logits.bias))
        logits: Tensor = self.logits(self._run(self, pooled))
        return logits

    def own(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """As ``forward``, but [R, 1, M, M] where the classes do not compete: 1/K of the last layer's work,
        and 64 MB less for 128 RoIs of 80 classes in training.
        """
        if self.softmax or self.out_channels == 1:
            logits: Tensor = self(pooled)
            return logits
        in_cells = self._in_cells(pooled)
        if in_cells:
            pixels = self._cells(pooled).view(-1, self.mask_size**2, self.logits.in_channels)
        else:
            pixels = self._run(self, pooled).permute(0, 2, 3, 1).flatten(1, 2)  # [R, M M, width]
        weight = self.logits.weight.flatten(1)[labels]
        assert self.logits.bias is not None
        eager = not torch.compiler.is_compiling()
        if in_cells and eager and pixels.dtype == weight.dtype:  # no autocast: on a CPU half the time of bmm
            rows = (pixels * weight[:, None]).sum(2)
        else:
            rows = torch.bmm(pixels, weight[:, :, None])[:, :, 0]
        rows = rows + self.logits.bias[labels, None]
        if in_cells:
            return self._placed(rows.view(-1, 1))
        return rows.view(-1, 1, self.mask_size, self.mask_size)

    def _in_cells(self, pooled: Tensor) -> bool:
        """Whether the deconvolution is computed as :meth:`_cells` does: on a CPU, uncompiled or exported."""
        if torch.compiler.is_exporting():  # 8 bits have a matrix product where they have no deconvolution
            return True
        plain = self._run is FCNMaskHead._features and not torch.compiler.is_compiling()
        return plain and pooled.device.type == "cpu"

    def _cells(self, pooled: Tensor) -> Tensor:
        """[R, C, s, s] -> [R s s 4, width]: of each cell its four pixels, one after the other.

        A 2x2 deconvolution of stride 2 is a matrix product a cell.  On a CPU its backward takes half the
        time as such, and the pixels are only put in place when each is a number a class.
        """
        maps = self.convs(pooled)
        weight, bias = self.deconv.weight, self.deconv.bias  # [C, width, 2, 2]
        assert bias is not None
        rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
        out = product(rows, weight.permute(2, 3, 1, 0).flatten(0, 2), bias.repeat(4), relu=True)
        return out.view(-1, weight.size(1))

    def _placed(self, cells: Tensor) -> Tensor:
        """[R s s 4, classes], the pixels in the order of :meth:`_cells` -> [R, classes, M, M]."""
        size = self.mask_size // 2
        pixels = cells.view(-1, size, size, 2, 2, cells.shape[1])
        return pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


@MASK_HEADS.register("fcn")
@dataclass(frozen=True, kw_only=True)
class FCNMaskHeadConfig(Config):
    """Four convolutions and a deconvolution, 14x14 to 28x28 (He et al. 2017, figure 4 right).

    ``convs: 0, pool_size: 7`` after ``roi_trunk`` is the C4 form, 7x7 to 14x14 (ibid., left).
    """

    #: 3x3 convolutions; 0 in the C4 form.
    convs: Layers = 4
    #: Channels of all hidden layers.
    width: Width = 256
    #: Side of the pooled features; the masks are twice as large.
    pool_size: Cells = 14
    #: Normalisation after the 3x3 convolutions; none in the paper, gn in the GN recipes.
    norm: NormName | None = None
    #: sigmoid = a mask a class, which do not compete; softmax = one label a pixel (He et al. 2017, table 2b).
    loss: MaskLoss = "sigmoid"
    #: One mask for all classes instead of one a class (He et al. 2017, section 4.2).
    class_agnostic: bool = False

    def build(self, channels: int, num_classes: int) -> FCNMaskHead:
        """See :class:`FCNMaskHead`."""
        return FCNMaskHead(channels, num_classes, **self.arguments())
