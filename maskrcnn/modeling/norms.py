"""Normalisation layers, and the convolution + normalisation step that all parts share."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.modeling import onednn

ATEN = torch.ops.aten

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
        if torch.compiler.is_exporting() and not self.training:
            return _affine(self, input)
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
        if torch.compiler.is_exporting() and not self.training:
            return _affine(self, input)
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


def _affine(norm: BatchNorm2d | SyncBatchNorm, x: Tensor) -> Tensor:
    """What ``norm`` computes in evaluation; unlike PyTorch's it asks nothing of how many rows there are, as a
    graph to export must not.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    result: Tensor = x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    return result


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


#: From so many pixels a map on, PyTorch's forward pass in channels_last memory is fast in half precision, and
#: :class:`_LargeGroupNorm` backward; in float32 the latter is from twice the side on.
_LARGE_MAP = 1024


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018) that goes round slow kernels of PyTorch's.

    On a CPU, in channels_last memory, large maps take twice as long backward as batch normalisation's kernels
    do, and half precision up to seven times as long (``benchmarks/group_norm.py``).  Statistics are float32
    sums in any way.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``input`` [N, C, H, W] -> [N, C, H, W], same dtype and memory layout."""
        if torch.compiler.is_compiling():  # a choice by size would tie the graph to it
            plain: Tensor = torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
            return plain
        if input.device.type != "cpu" or not input.is_contiguous(memory_format=torch.channels_last):
            return super().forward(input)
        half, pixels = input.dtype.itemsize < 4, input.shape[2] * input.shape[3]
        if half and pixels < _LARGE_MAP:
            return super().forward(input.float()).to(input.dtype)
        large = half or (input.dtype == torch.float32 and pixels >= 4 * _LARGE_MAP)
        if not large or not torch.is_grad_enabled():
            return super().forward(input)
        result: Tensor = _LargeGroupNorm.apply(input, self.weight, self.bias, self.num_groups, self.eps)
        return result


class _LargeGroupNorm(torch.autograd.Function):
    """Its backward pass goes image by image through the kernels of batch normalisation with fixed statistics,
    which are those of the groups: one gives the sums, two the gradient, an affine map of both maps.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        n, c, height, width = x.shape
        y, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, height * width, groups, eps)
        ctx.save_for_backward(x, weight, mean.float(), rstd.float())
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        (n, c, height, width), groups = x.shape, mean.shape[1]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        mean, rstd = (of_group.repeat_interleave(c // groups, dim=1) for of_group in (mean, rstd))
        variance, zeros, ones = rstd**-2, torch.zeros(c), torch.ones(c)
        none = torch.empty(0)
        sums = torch.empty(2, n, c)  # over the pixels, of gradient times normalised x, and of gradient
        for i in range(n):
            values = (gradient[i : i + 1], x[i : i + 1], weight, mean[i], variance[i], none, none)
            parts = ATEN.native_batch_norm_backward(*values, False, 0.0, [False, True, True])
            sums[0, i], sums[1, i] = parts[1], parts[2]
        # Mean and deviation of a group depend on all its pixels: their mean gradients are taken off.
        means = (sums * weight).view(2, n, groups, -1).sum(3).repeat_interleave(c // groups, dim=2)
        means /= c // groups * height * width
        by_gradient, by_x = rstd * weight, -(rstd**2) * means[0]
        constant = -rstd * means[1] - by_x * mean
        of_x, part = torch.empty_like(x), torch.empty_like(x[:1])
        for i in range(n):
            out = of_x[i : i + 1]
            fixed = (zeros, ones, False, 0.0, 0.0)
            outputs = {"save_mean": none, "save_invstd": none}
            ATEN.native_batch_norm.out(
                gradient[i : i + 1], by_gradient[i], constant[i], *fixed, out=out, **outputs
            )
            ATEN.native_batch_norm.out(x[i : i + 1], by_x[i], zeros, *fixed, out=part, **outputs)
            out.add_(part)
        return of_x, sums[0].sum(0), sums[1].sum(0), None, None


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


def has_fixed_statistics(norm: nn.Module) -> bool:
    """Whether ``norm`` is an affine map in this pass: frozen, or batch normalisation in evaluation."""
    if isinstance(norm, nn.modules.batchnorm._NormBase):
        return not norm.training and norm.running_mean is not None and norm.affine
    return isinstance(norm, FrozenBatchNorm2d)


def conv_norm(
    conv: nn.Conv2d, norm: nn.Module | None, x: Tensor, *, relu: bool = False, add: Tensor | None = None
) -> Tensor:
    """``relu(norm(conv(x)) + add)`` of ``x`` [N, C, H, W]; a frozen norm is folded into the weights.

    Folding saves two passes over the activations forward and one backward, and their memory; gradients
    reach ``conv.weight`` through the product.  It differs from the plain form by rounding alone.
    """
    if norm is None or has_fixed_statistics(norm):
        done = onednn.convolution(conv, norm, x, relu=relu, add=add)
        if done is not None:
            return done
    if norm is None:
        done = onednn.activated_convolution(conv, x, conv.weight, conv.bias, relu=relu, add=add)
        if done is not None:
            return done
        out: Tensor = conv(x)
    elif isinstance(norm, FrozenBatchNorm2d) and conv.bias is None:
        scale, shift = norm.scale_shift()
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError("conv_norm folds zero-padded convolutions only")
        done = onednn.activated_convolution(conv, x, weight, shift, relu=relu, add=add)
        if done is not None:
            return done
        out = F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)
    else:
        plain = onednn.convolution(conv, None, x)
        out = norm(conv(x) if plain is None else plain)
    if add is not None:
        out = out.add_(add)
    return F.relu_(out) if relu else out


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
        return conv_norm(self.conv, self[1] if len(self) > 1 else None, x, relu=self.relu)
