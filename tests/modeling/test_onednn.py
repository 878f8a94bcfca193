"""What is computed by oneDNN's own calls is what the plain form computes, and follows the weights."""

from __future__ import annotations

import copy
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from maskrcnn.modeling import onednn
from maskrcnn.modeling.norms import ConvNorm, FrozenBatchNorm2d, NormName, conv_norm, make_norm
from maskrcnn.modeling.roi.mask_head import FCNMaskHead

pytestmark = pytest.mark.skipif(
    not onednn._computes(torch.float32), reason="needs oneDNN on an x86 processor"
)
PRECISIONS = [torch.float32, torch.bfloat16]


def computing(dtype: torch.dtype) -> torch.autocast:
    if not onednn._computes(dtype):
        pytest.skip(f"this processor has no {dtype}")
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)


def assert_near(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    assert found.shape == wanted.shape
    unit = torch.finfo(dtype).eps
    assert (found.double() - wanted.double()).abs().max() <= 8 * unit * wanted.double().abs().max()


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("sizes", [(64, 2304, 128), (4096, 64, 64)])  # both forms of the weight's gradient
def test_a_product_and_its_gradients(sizes: tuple[int, int, int], relu: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, wide, out = sizes
    given = (torch.randn(rows, wide), torch.randn(out, wide) / wide**0.5, torch.randn(out))
    ours = [value.clone().requires_grad_() for value in given]
    exact = [value.double().requires_grad_() for value in given]
    with computing(dtype):
        found = onednn.product(*ours, relu=relu)
    assert type(found.grad_fn).__name__ == "_ProductBackward" and found.dtype == dtype
    wanted = F.linear(*exact)
    if relu:
        # Where rounding decides on which side of 0 a value is, either gradient is right.
        wanted = wanted * (found.detach() > 0)
    assert_near(found, wanted, dtype)
    gradient = torch.randn(rows, out)
    found.backward(gradient.to(dtype))
    wanted.backward(gradient.double())
    for mine, other in zip(ours, exact, strict=True):
        assert mine.grad is not None and other.grad is not None and mine.grad.dtype == torch.float32
        assert_near(mine.grad, other.grad, dtype)


def test_a_product_can_be_differentiated_twice_and_from_an_expanded_gradient() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(64, 2304).requires_grad_(), torch.randn(128, 2304)
    found = []
    for product in (onednn.product, F.linear):
        (once,) = torch.autograd.grad(product(x, weight, None).square().sum(), x, create_graph=True)
        (twice,) = torch.autograd.grad(once.square().sum(), x)
        (plain,) = torch.autograd.grad(product(x, weight, None).sum(), x)
        found.append((once, twice, plain))
    for mine, other in zip(*found, strict=True):
        assert_near(mine, other, torch.float32)


def norm_of(name: NormName | None, channels: int) -> nn.Module | None:
    if name is None:
        return None
    norm = make_norm(name, channels).eval()
    for value in norm.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + 0.5)
    return norm


def some_maps() -> Tensor:
    return torch.randn(1, 8, 9, 9).to(memory_format=torch.channels_last)


def plainly(conv: nn.Conv2d, norm: nn.Module | None, x: Tensor, *, relu: bool, add: Tensor | None) -> Tensor:
    with patch.object(onednn, "_computes", lambda dtype: False):
        return conv_norm(conv, norm, x, relu=relu, add=add)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", [None, "frozen_bn", "bn", "gn"])
@pytest.mark.parametrize(("relu", "adds"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_convolution_with_all_that_follows(
    layout: torch.memory_format, relu: bool, adds: bool, name: NormName | None, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    groups = 1 if adds and name != "bn" else 2
    conv = nn.Conv2d(32, 64, 3, 2, 2, dilation=2, groups=groups, bias=name != "frozen_bn")
    conv = conv.to(memory_format=layout)
    norm = norm_of(name, 64)
    for size in (18, 11):  # the weights are laid out for the first
        x = torch.randn(2, 32, size, 20).to(memory_format=layout)
        with torch.inference_mode(), computing(dtype):
            wanted = plainly(conv, norm, x, relu=relu, add=None)
            add = torch.randn_like(wanted) if adds else None
            wanted = plainly(conv, norm, x, relu=relu, add=add)
            kept = None if add is None else add.clone()
            found = conv_norm(conv, norm, x, relu=relu, add=add)
            assert (conv in onednn._kept) == (layout == torch.channels_last)
        assert found.dtype == dtype and found.is_contiguous(memory_format=layout)
        assert_near(found, wanted, dtype)
        assert add is None or (kept is not None and torch.equal(add, kept))


def test_weights_are_made_once_and_again_when_they_change() -> None:
    torch.manual_seed(0)
    conv, norm, x = nn.Conv2d(8, 16, 3, bias=False), norm_of("bn", 16), some_maps()
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    others = nn.Conv2d(8, 16, 3, bias=False).state_dict()

    def both() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return conv_norm(conv, norm, x), plainly(conv, norm, x, relu=False, add=None)

    with patch.object(onednn, "_folded", wraps=onednn._folded) as folded:
        first = both()[0]
        assert torch.equal(both()[0], first) and folded.call_count == 1
        changes = [
            lambda: norm.running_mean.add_(1),
            lambda: conv.load_state_dict(others),
            lambda: setattr(conv.weight, "data", torch.randn(16, 8, 3, 3)),
            lambda: setattr(conv, "weight", nn.Parameter(torch.randn(16, 8, 3, 3))),
            lambda: torch.optim.SGD([conv.weight], lr=1.0, fused=True).step(),
        ]
        conv.weight.grad = torch.ones_like(conv.weight)
        for number, change in enumerate(changes, start=2):
            with torch.no_grad():
                change()
            conv.weight.grad = torch.ones_like(conv.weight)
            found, wanted = both()
            assert folded.call_count == number
            assert_near(found, wanted, torch.float32)
    conv_norm(conv, norm, x)
    assert conv not in onednn._kept, "a training pass keeps no second copy"


def test_weights_without_versions_are_made_anew() -> None:
    with torch.inference_mode():
        conv, x = nn.Conv2d(8, 16, 3), some_maps()
        for _ in range(2):
            conv.weight.mul_(2)
            found = onednn.convolution(conv, None, x)
            assert found is not None
            assert_near(found, conv(x), torch.float32)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("norm_name", [None, "frozen_bn"])
@pytest.mark.parametrize(("relu", "adds", "groups"), [(True, False, 4), (False, True, 1), (True, True, 1)])
def test_a_convolution_that_is_trained(
    relu: bool, adds: bool, groups: int, norm_name: NormName | None, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 64, 3, 2, 2, dilation=2, groups=groups, bias=norm_name is None)
    norm = norm_of(norm_name, 64)
    exact, exact_norm = copy.deepcopy(conv).double(), copy.deepcopy(norm)
    x = torch.randn(2, 32, 18, 20).to(memory_format=torch.channels_last)
    add = torch.randn(2, 64, 9, 10).to(dtype, memory_format=torch.channels_last) if adds else None
    given = [value.detach().requires_grad_() for value in (x, add) if value is not None]
    wide = [value.detach().double().requires_grad_() for value in given]
    with computing(dtype):
        found = conv_norm(conv, norm, given[0], relu=relu, add=given[1] if adds else None)
    assert type(found.grad_fn).__name__ == "_ConvolutionBackward" and found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    wanted = exact(wide[0])
    if exact_norm is not None:
        wanted = exact_norm.double()(wanted)
    if adds:
        wanted = wanted + wide[1]
    if relu:
        assert 0.2 < (found == 0).double().mean() < 0.8
        # Where rounding decides on which side of 0 a value is, either gradient is right.
        wanted = wanted * (found.detach() > 0)
    assert_near(found, wanted, dtype)
    gradient = torch.randn(found.shape)
    found.backward(gradient.to(dtype))
    wanted.backward(gradient.double())
    parameters = zip(conv.parameters(), exact.parameters(), strict=True)
    for mine, other in (*zip(given, wide, strict=True), *parameters):
        assert mine.grad is not None and other.grad is not None and mine.grad.dtype == mine.dtype
        assert_near(mine.grad, other.grad, dtype)


def test_a_trained_convolution_keeps_out_of_graphs_counters_and_hooks() -> None:
    step = ConvNorm(8, 16, 3, norm="frozen_bn", relu=True)
    x = some_maps()

    def grad_fn(values: Tensor = x) -> str:
        return type(step(values).grad_fn).__name__

    assert grad_fn() == "_ConvolutionBackward"
    with FlopCounterMode(display=False) as counter:
        assert grad_fn() == "ReluBackward0"
    assert counter.get_total_flops() == 2 * 81 * 8 * 16 * 9
    assert grad_fn(x.contiguous()) == "ReluBackward0"
    with patch.object(onednn, "_computes", lambda dtype: False):
        assert grad_fn() == "ReluBackward0"
    handle = step.conv.register_forward_hook(lambda *_: None)
    assert grad_fn() == "ReluBackward0"
    handle.remove()
    assert type(step.double()(x.double()).grad_fn).__name__ == "ReluBackward0"


class _Scaled(nn.Module):
    scale = 1.0

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


def test_computed_weights_are_followed() -> None:
    conv, scaled = nn.Conv2d(8, 16, 3), _Scaled()
    parametrize.register_parametrization(conv, "weight", scaled)
    x = some_maps()
    with torch.no_grad():
        for scale in (1.0, 2.0, 3.0, 4.0):
            scaled.scale = scale
            assert_near(conv_norm(conv, None, x), conv(x), torch.float32)


def test_it_keeps_out_of_graphs_counters_and_hooks() -> None:
    step = ConvNorm(8, 16, 3, norm="frozen_bn", relu=True)
    x = some_maps()
    with torch.no_grad():
        graph = torch.export.export(step, (x,)).graph
        assert not any("mkldnn" in str(node.target) for node in graph.nodes)
        with FlopCounterMode(display=False) as counter:
            step(x)
        assert counter.get_total_flops() == 2 * 81 * 8 * 16 * 9
        assert onednn.convolution(step.conv, None, x) is not None
        handle = step.conv.register_forward_hook(lambda *_: None)
        assert onednn.convolution(step.conv, None, x) is None
        handle.remove()
        assert onednn.convolution(step.conv, None, x.double()) is None
    assert onednn.convolution(step.conv, None, x) is None  # gradients are recorded
    assert isinstance(step[1], FrozenBatchNorm2d)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_layer_reads_channels_last_maps_as_they_lie(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = onednn.Linear(64 * 12, 32)
    for shape in ((5, 64, 3, 4), (5, 64, 4, 3), (5, 32, 4, 6), (0, 64, 3, 4)):
        with torch.no_grad(), computing(dtype):
            maps = torch.randn(shape).to(memory_format=torch.channels_last)
            wanted = F.linear(maps.flatten(1), layer.weight, layer.bias)
            for found in (layer.of_maps(maps), layer(maps.flatten(1)), layer.of_maps(maps.contiguous())):
                if shape[0]:
                    assert_near(found, wanted, dtype)
                assert found.dtype == wanted.dtype and found.shape == (shape[0], 32)
            layer.bias.add_(1)


@pytest.mark.parametrize("options", [{}, {"class_agnostic": True}, {"loss": "softmax"}])
def test_masks_by_cells_are_those_of_the_deconvolution(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    head = FCNMaskHead(6, 3, convs=1, width=8, pool_size=4, **options).double()  # type: ignore[arg-type]
    nn.init.normal_(head.logits.weight)
    pooled, labels = torch.randn(5, 6, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    for logits_of in (lambda x: head(x), lambda x: head.own(x, labels)):
        found = []
        for by_cells in (True, False):
            x = pooled.clone().requires_grad_()
            with patch.object(FCNMaskHead, "_in_cells", lambda *_, by_cells=by_cells: by_cells):
                logits = logits_of(x)
            weights = torch.arange(logits.numel(), dtype=torch.float64).view(logits.shape).sin()
            found.append((logits, *torch.autograd.grad((logits * weights).sum(), (x, *head.parameters()))))
        for mine, other in zip(*found, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
