"""Normalisation layers, and the convolution + normalisation step that all parts share."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.errors import UserError

NormName = Literal["frozen_bn", "bn", "sync_bn", "gn"]


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and a fixed affine: ``y = x * scale + shift`` a channel.

    The state dict has the names of ``nn.BatchNorm2d`` (its ``num_batches_tracked`` is accepted and dropped).
    Why: batches of 1-2 images a device give useless statistics (He et al. 2017, section 3.1 keeps BN frozen).
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """``scale`` [C] and ``shift`` [C] of the affine map that this layer is."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W], same dtype."""
        scale, shift = (t.to(x.dtype).view(1, -1, 1, 1) for t in self.scale_shift())
        return x * scale + shift

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation, which of RoIs in fixed shapes sees those that there are."""

    #: bool [N], the rows that statistics are taken over while it trains; None: all.
    real: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """``input`` [N, C, H, W] -> [N, C, H, W]."""
        if self.real is None or not self.training:
            return super().forward(input)
        return _over_real_rows(self, input, self.real, together=False)


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalisation over the batches of all processes (Peng et al. 2018, "MegDet", section 3.2).

    PyTorch synchronises on GPUs alone.  On the CPU one process computes plain batch normalisation, also
    where it has joined a process group, and several are refused rather than left unsynchronised.
    """

    #: As of :class:`BatchNorm2d`.
    real: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """``input`` [N, C, H, W] -> [N, C, H, W].

        Raises:
            UserError: training on the CPU with more than one process.
        """
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if self.training and self.real is not None:
            return _over_real_rows(self, input, self.real, together=together)
        if not self.training or input.device.type != "cpu":
            return super().forward(input)
        if together:
            raise UserError(
                "norm: sync_bn cannot be trained on the CPU with more than one process, because PyTorch"
                " synchronises it on GPUs only; use one process, device: cuda, or norm: gn"
            )
        return super(nn.SyncBatchNorm, self).forward(input)


def _over_real_rows(norm: BatchNorm2d | SyncBatchNorm, x: Tensor, real: Tensor, *, together: bool) -> Tensor:
    """What ``norm`` gives, and learns, of the ``real`` rows of ``x`` [N, C, H, W] alone, as it trains.

    Of the other rows come finite values; where nothing asks for them, they have no part in any gradient.
    Sums are float32 at least; without a real row the running statistics stay.

    Args:
        together: over the rows of all processes; each has to call it.
    """
    assert norm.momentum is not None and norm.num_batches_tracked is not None
    assert norm.running_mean is not None and norm.running_var is not None
    values, mask = x if x.dtype.itemsize >= 4 else x.float(), real.view(-1, 1, 1, 1)
    number = (real.sum() * (x.shape[2] * x.shape[3])).to(values.dtype)

    def average(parts: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.cat((torch.where(mask, parts, 0).sum(dim=(0, 2, 3)), count.view(1)))
        if together:
            from torch.distributed.nn.functional import all_reduce  # whose gradient is summed up, too

            sums = all_reduce(sums, group=getattr(norm, "process_group", None) or dist.group.WORLD)
        return sums[:-1] / sums[-1].clamp(min=1), sums[-1]

    mean, count = average(values, number)
    centred = values - mean.view(1, -1, 1, 1)
    variance, _ = average(centred.square(), number)
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        share = norm.momentum * (count > 0).to(values.dtype)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        for kept, found in ((norm.running_mean, mean), (norm.running_var, unbiased)):
            kept.add_((share * (found - kept)).to(kept.dtype))
    scale = (norm.weight * (variance + norm.eps).rsqrt()).view(1, -1, 1, 1)
    return (centred * scale + norm.bias.view(1, -1, 1, 1)).to(x.dtype)


#: From so many pixels a map on, the channels_last forward pass alone is fast.
_FAST_FORWARD = 1024


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018) that goes round a slow kernel of PyTorch's.

    On a CPU half precision in channels_last memory takes up to seven times as long backward, and on small
    maps forward, as in plain memory with both copies (``benchmarks/group_norm.py``).  Statistics are float32
    sums in either.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``input`` [N, C, H, W] -> [N, C, H, W], same dtype and memory layout."""
        slow = input.device.type == "cpu" and input.dtype.itemsize < 4
        slow = slow and (torch.is_grad_enabled() or input.shape[2] * input.shape[3] < _FAST_FORWARD)
        if not slow or not input.is_contiguous(memory_format=torch.channels_last):
            return super().forward(input)
        return super().forward(input.contiguous()).contiguous(memory_format=torch.channels_last)


def make_norm(name: NormName, channels: int) -> nn.Module:
    """The normalisation layer called ``name`` for ``channels`` channels.

    GN has 32 groups (Wu & He 2018, section 4), fewer where 32 does not divide a small test width.
    """
    if name == "frozen_bn":
        return FrozenBatchNorm2d(channels)
    if name == "bn":
        return BatchNorm2d(channels)
    if name == "sync_bn":
        return SyncBatchNorm(channels)
    return GroupNorm(math.gcd(32, channels), channels)


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._NormBase]:
    """The layers inside ``module`` that take statistics over a batch while they train."""
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]


def norms_of_rows(module: nn.Module) -> list[BatchNorm2d | SyncBatchNorm]:
    """Those inside ``module`` that can be told which rows are real; others take statistics over all."""
    return [part for part in module.modules() if isinstance(part, BatchNorm2d | SyncBatchNorm)]


def start_convs(module: nn.Module) -> None:
    """Random weights for every convolution inside ``module``, biases 0.

    He et al. 2015, "Delving Deep into Rectifiers", eq. 14 (backward form), as torchvision and Detectron.
    """
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))`` of ``x`` [N, C, H, W]; a frozen norm is folded into the convolution's weights.

    Folding saves two passes over the activations forward and one backward, and their memory; gradients
    reach ``conv.weight`` through the product.  It differs from the plain form by rounding alone.
    """
    if not isinstance(norm, FrozenBatchNorm2d) or conv.bias is not None:
        out: Tensor = norm(conv(x))
        return out
    scale, shift = norm.scale_shift()
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ValueError("conv_norm folds zero-padded convolutions only")
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


class ConvNorm(nn.Sequential):
    """A convolution, an optional normalisation (then the convolution has no bias), an optional ReLU.

    Entry "0" is the convolution and "1" the normalisation; the ReLU has no entry.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: NormName | None = None,
        relu: bool = False,
    ) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=norm is None)
        super().__init__(conv, *([] if norm is None else [make_norm(norm, out_channels)]))
        self.relu = relu

    @property
    def conv(self) -> nn.Conv2d:
        conv = self[0]
        assert isinstance(conv, nn.Conv2d)
        return conv

    def forward(self, x: Tensor) -> Tensor:
        """[N, Cin, H, W] -> [N, Cout, H, W]."""
        out = self.conv(x) if len(self) == 1 else conv_norm(self.conv, self[1], x)
        return F.relu_(out) if self.relu else out
