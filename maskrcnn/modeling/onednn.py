"""oneDNN called by name, where PyTorch takes a slower way on a CPU: large float32 products, and inference.

It never applies while a graph is traced or operators are counted; the plain form is then the same to rounding.
``benchmarks/onednn.py`` shows what each part is worth.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    if torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() or not torch.backends.mkldnn.enabled:
        return None
    cast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    dtype = torch.get_autocast_dtype("cpu") if cast else x.dtype
    return dtype if _computes(dtype) and x.numel() else None


def product(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """``F.linear`` of ``x`` [R, Cin], ``weight`` [Cout, Cin] and ``bias`` [Cout] -> [R, Cout], with a ReLU or not.

    Large products are oneDNN's, bias and ReLU with them.  PyTorch calls MKL in float32, forward and backward,
    which is slower on AMD's processors, and oneDNN in bfloat16, but writes the bias in a pass of its own.
    """
    large = x.dim() == 2 and x.shape[0] * weight.numel() >= _LARGE and min(*x.shape, *weight.shape) >= _WIDE
    dtype = _precision(x) if large and weight.dtype == torch.float32 else None
    if dtype is None:
        result = F.linear(x, weight, bias)
        return F.relu_(result) if relu else result
    given = (x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    result = _Product.apply(*given, relu)
    return result


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


#: By layer; a pass that records gradients drops the layer's.
_prepared: WeakKeyDictionary[nn.Module, _Prepared] = WeakKeyDictionary()


def _weights(
    layer: nn.Module,
    dtype: torch.dtype,
    sources: Sequence[Tensor | None],
    make: Callable[[], tuple[Tensor, Tensor | None]],
) -> tuple[Tensor, Tensor | None]:
    """What ``make`` gives, made anew where ``sources`` have changed since, as their versions tell.

    (A change through ``.data`` has no version, as for autograd.)
    """
    given = tuple(tensor for tensor in sources if tensor is not None)
    if any(tensor.is_inference() for tensor in given):  # they have no versions
        return make()
    stamp = (dtype, *((tensor.data_ptr(), tensor._version) for tensor in given))
    kept = _prepared.get(layer)
    if kept is None or kept.stamp != stamp:
        kept = _Prepared(tuple(tensor.detach() for tensor in given), stamp, *make())
        _prepared[layer] = kept
    return kept.weight, kept.bias


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`product`; in inference at bfloat16 its weights are cast once, not at each call."""

    def forward(self, input: Tensor) -> Tensor:
        """``input`` [R, Cin] -> [R, Cout]."""
        if torch.is_grad_enabled():
            _prepared.pop(self, None)
        elif _precision(input) == torch.bfloat16:
            weight, bias = _weights(self, torch.bfloat16, (self.weight, self.bias), self._cast)
            return F.linear(input, weight, bias)
        return product(input, self.weight, self.bias)

    def _cast(self) -> tuple[Tensor, Tensor]:
        return self.weight.bfloat16(), self.bias.bfloat16()


def convolution(
    conv: nn.Conv2d, norm: nn.Module | None, x: Tensor, *, relu: bool = False, add: Tensor | None = None
) -> Tensor | None:
    """``relu(norm(conv(x)) + add)`` in one call; None where gradients are recorded, or where it does not apply.

    The weights are folded, cast and laid out once, and again when they have changed.

    Args:
        conv: zero-padded.
        norm: with fixed statistics, folded into the weights; or None.
        x: [N, Cin, H, W].
        add: [N, Cout, H', W'], or None.

    Returns:
        [N, Cout, H', W'], in the memory layout of ``x``.
    """
    if torch.is_grad_enabled():
        _prepared.pop(conv, None)
        return None
    dtype = _precision(x)
    if dtype is None or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return None
    if (add is not None and add.dtype != dtype) or conv._forward_hooks or conv._forward_pre_hooks:
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


def _statistics(norm: Any) -> tuple[Tensor, ...]:
    return () if norm is None else (norm.weight, norm.bias, norm.running_mean, norm.running_var)


def _folded(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor | None]:
    if norm is None:
        return conv.weight, conv.bias
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    return conv.weight * scale.view(-1, 1, 1, 1), norm.bias - mean * scale
