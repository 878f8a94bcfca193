"""oneDNN called by name, where PyTorch takes a slower way on a CPU: large float32 products, and inference.

It never applies while a graph is traced or operators are counted; the plain form gives the same to rounding.
``benchmarks/onednn.py`` shows what it is worth.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

#: Multiply-adds of a product from which another call is worth it.
_LARGE = 1 << 24
#: ... and rows and columns that all its matrices have.
_WIDE = 32
#: Values of each row from which the gradient of a weight is worth it.
_WIDE_ROWS = 2048


@cache
def _computes(dtype: torch.dtype) -> bool:
    """Whether this processor and this build of PyTorch do."""
    if not torch.backends.mkldnn.is_available() or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _precision(x: Tensor) -> torch.dtype | None:
    """The type in which a layer computes ``x``; None where nothing here applies to it."""
    if torch.compiler.is_compiling() or type(x) is not Tensor or x.device.type != "cpu":
        return None
    if torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack():
        return None
    if not torch._C._get_mkldnn_enabled():
        return None
    casts = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    dtype = torch.get_autocast_dtype("cpu") if casts else x.dtype
    return dtype if _computes(dtype) and x.numel() else None


def product(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """``F.linear`` of ``x`` [R, Cin], ``weight`` [Cout, Cin], ``bias`` [Cout] -> [R, Cout], then ReLU or not.

    Large products are oneDNN's, bias and ReLU with them.  PyTorch calls MKL in float32, forward and backward,
    which is slower on AMD's processors, and oneDNN in bfloat16, but writes the bias in a pass of its own.
    """
    dtype = _precision(x) if x.dim() == 2 and weight.dtype == torch.float32 else None
    # (Sizes come last: a traced graph would be tied to what is asked of them.)
    large = dtype is not None and x.shape[0] * weight.numel() >= _LARGE
    if dtype is None or not large or min(*x.shape, *weight.shape) < _WIDE:
        result = F.linear(x, weight, bias)
        return F.relu_(result) if relu else result
    given = (x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    return cast(Tensor, _Product.apply(*given, relu))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        then = "relu" if relu else "none"
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "")
        ctx.save_for_backward(x, weight, result if relu else None)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, result = ctx.saved_tensors
        if result is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, result, 0)
        single = x.dtype == torch.float32
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _Product.apply(gradient, weight.t(), None, False) if single else gradient @ weight
        if ctx.needs_input_grad[1]:
            # The call lays its first matrix out anew where it is transposed: a pass that must be worth it.
            aside = single and x.shape[1] >= _WIDE_ROWS
            turned = gradient.t()
            of_weight = _Product.apply(turned, x.t(), None, False) if aside else turned @ x
        return of_x, of_weight, gradient.sum(0) if ctx.needs_input_grad[2] else None, None


@dataclass(frozen=True)
class _Prepared:
    """Weights as an inference uses them, and the tensors that they were made of."""

    #: Kept, so that no other tensor takes their place in memory.
    sources: tuple[Tensor, ...]
    stamp: tuple[Any, ...]
    weight: Tensor
    bias: Tensor | None


#: By layer; a pass that records gradients drops the layer's, and a step of an optimizer drops all: fused ones
#: change parameters without a new version.
_kept: WeakKeyDictionary[nn.Module, _Prepared] = WeakKeyDictionary()
register_optimizer_step_post_hook(lambda *_: _kept.clear())


def _weights(
    layer: nn.Module,
    form: Hashable,
    sources: Sequence[Tensor | None],
    make: Callable[[], tuple[Tensor, Tensor | None]],
) -> tuple[Tensor, Tensor | None]:
    """What ``make`` gives for ``form``, made anew where ``sources`` have changed, as their versions tell.

    (A change through ``.data`` has no version, as for autograd.)
    """
    given = tuple(tensor for tensor in sources if tensor is not None)
    if any(tensor.is_inference() for tensor in given):  # they have no versions
        return make()
    stamp = (form, *((tensor.data_ptr(), tensor._version) for tensor in given))
    kept = _kept.get(layer)
    if kept is None or kept.stamp != stamp:
        kept = _Prepared(tuple(tensor.detach() for tensor in given), stamp, *make())
        _kept[layer] = kept
    return kept.weight, kept.bias


def _drop(layer: nn.Module) -> None:
    if not torch.compiler.is_compiling():
        _kept.pop(layer, None)


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`product`; for inference its weights are cast and turned once."""

    def forward(self, input: Tensor) -> Tensor:
        """``input`` [R, Cin] -> [R, Cout]."""
        if torch.is_grad_enabled():
            _drop(self)
        elif _precision(input) == torch.bfloat16 and input.dim() == 2:
            weight, bias = self._made(torch.bfloat16)
            return F.linear(input, weight, bias)
        return product(input, self.weight, self.bias)

    def of_maps(self, maps: Tensor) -> Tensor:
        """``maps`` [R, C, H, W], C H W = Cin -> [R, Cout].

        Where no gradients are recorded, channels_last maps are read as they lie, and the weights turned once.
        """
        dtype = None if torch.is_grad_enabled() or self._forward_hooks else _precision(maps)
        if dtype is None or not maps.is_contiguous(memory_format=torch.channels_last):
            return cast(Tensor, self(maps.flatten(1)))
        weight, bias = self._made(dtype, maps.shape[1:])
        rows = maps.permute(0, 2, 3, 1).flatten(1).to(dtype)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return result

    def _made(self, dtype: torch.dtype, maps: torch.Size | None = None) -> tuple[Tensor, Tensor | None]:
        def make() -> tuple[Tensor, Tensor | None]:
            weight = self.weight.to(dtype)
            if maps is not None:
                weight = weight.unflatten(1, maps).permute(0, 2, 3, 1).flatten(1)
            return weight, self.bias.to(dtype)

        return _weights(self, (dtype, maps), (self.weight, self.bias), make)


def convolution(
    conv: nn.Conv2d, norm: nn.Module | None, x: Tensor, *, relu: bool = False, add: Tensor | None = None
) -> Tensor | None:
    """``relu(norm(conv(x)) + add)`` in one call; None where gradients are recorded or it does not apply.

    The weights are folded, cast and laid out once, and again when they have changed.

    Args:
        conv: zero-padded.
        norm: with fixed statistics, folded into the weights; or None.
        x: [N, Cin, H, W], in channels_last memory.
        add: [N, Cout, H', W'], or None.

    Returns:
        [N, Cout, H', W'], in channels_last memory.
    """
    if torch.is_grad_enabled():
        _drop(conv)
        return None
    dtype = _precision(x) if x.is_contiguous(memory_format=torch.channels_last) else None
    if dtype is None or not _is_plain(conv):
        return None
    if add is not None and not _is_added(conv, add, dtype):
        return None
    places = conv.padding, conv.stride, conv.dilation, conv.groups

    def make() -> tuple[Tensor, Tensor | None]:
        weight, bias = _folded(conv, norm)
        # An opaque tensor, blocked as the kernel for these sizes reads it; others read it as well.
        laid_out = torch.ops.mkldnn._reorder_convolution_weight(weight.to(dtype), *places, x.shape)
        return laid_out, None if bias is None else bias.to(dtype)

    weight, bias = _weights(conv, dtype, (conv.weight, conv.bias, *_statistics(norm)), make)
    x, then = x.to(dtype), "relu" if relu else "none"
    if add is None:
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *places, then, [], "")
    else:
        call = torch.ops.mkldnn._convolution_pointwise.binary
        result = call(x, add, weight, bias, *places, "add", None, "relu" if relu else None, [], None)
    return result


def _is_plain(conv: nn.Conv2d) -> bool:
    hooks = conv._forward_hooks or conv._forward_pre_hooks
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str) and not hooks


def _is_added(conv: nn.Conv2d, add: Tensor, dtype: torch.dtype) -> bool:
    """Whether the call fuses this sum: it does not fuse groups and sums."""
    return add.dtype == dtype and conv.groups == 1


def activated_convolution(
    conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool, add: Tensor | None
) -> Tensor | None:
    """``relu(conv2d(x) + add)`` in one call that gradients go back through; None where it does not apply.

    ReLU and shortcut take no passes of their own over the maps, and what is before them is not kept.

    Args:
        conv: says how, but not with which weights; zero-padded.
        x: [N, Cin, H, W], in channels_last memory.
        weight, bias: [Cout, Cin / groups, kh, kw] and [Cout], or None.
        add: [N, Cout, H', W'], or None.

    Returns:
        [N, Cout, H', W'], in channels_last memory.
    """
    if not relu and add is None:  # a convolution as PyTorch calls it
        return None
    dtype = _precision(x) if x.is_contiguous(memory_format=torch.channels_last) else None
    if dtype is None or weight.dtype != torch.float32 or not _is_plain(conv):
        return None
    if add is not None and not _is_added(conv, add, dtype):
        return None
    places = conv.padding, conv.stride, conv.dilation, conv.groups
    given = (x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    return cast(Tensor, _Convolution.apply(*given, add, relu, *places))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        add: Tensor | None,
        relu: bool,
        padding: Any,
        stride: Any,
        dilation: Any,
        groups: int,
    ) -> Tensor:
        ctx.places = stride, padding, dilation, groups
        places = padding, stride, dilation, groups
        result: Tensor
        if add is None:
            then = "relu" if relu else "none"
            result = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *places, then, [], "")
        else:
            call = torch.ops.mkldnn._convolution_pointwise.binary
            result = call(x, add, weight, bias, *places, "add", None, "relu" if relu else None, [], None)
        ctx.save_for_backward(x, weight, result if relu else None)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, result = ctx.saved_tensors
        if result is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, result, 0)
        stride, padding, dilation, groups = ctx.places
        wanted = ctx.needs_input_grad[:3]
        found = torch.ops.aten.convolution_backward(
            *(gradient, x, weight, [weight.shape[0]] if wanted[2] else None, stride, padding, dilation),
            *(False, [0, 0], groups, wanted),
        )
        return *found, gradient if ctx.needs_input_grad[3] else None, *[None] * 5


def _statistics(norm: Any) -> tuple[Tensor, ...]:
    return () if norm is None else (norm.weight, norm.bias, norm.running_mean, norm.running_var)


def _folded(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor | None]:
    if norm is None:
        return conv.weight, conv.bias
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    return conv.weight * scale.view(-1, 1, 1, 1), norm.bias - mean * scale
