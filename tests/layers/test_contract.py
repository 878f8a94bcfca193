"""What torch and users may rely on: sentences for bad input, opcheck, compile, export, ONNX, autocast.

Covers ``maskrcnn/layers/autograd.py``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from maskrcnn.layers import prroi_pool, roi_align, roi_pool, roi_warp
from tests.layers.cases import VARIANTS, awkward_rois, features, needs_kernels, reference_twins, relative

ROIS = torch.tensor([[0, 1.0, 2.0, 9.0, 11.0], [1, 3.0, 0.5, 14.0, 6.0]])


# ------------------------------------------------------------------ bad input


def check(sentence: str, error: type[Exception], call: Callable[[], object]) -> None:
    with pytest.raises(error, match=sentence):
        call()


def test_bad_arguments_raise_sentences() -> None:
    x = torch.zeros(2, 3, 8, 8)
    check(r"must be \[N, C, H, W\], got shape \(3, 8, 8\)", ValueError, lambda: roi_align(x[0], ROIS, 2))
    check("must be floating point, got torch.int64", TypeError, lambda: roi_align(x.long(), ROIS, 2))
    check("boxes must be floating point, got torch.int64", TypeError, lambda: roi_align(x, ROIS.long(), 2))
    check(r"boxes must be a \[K, 5\] tensor", ValueError, lambda: roi_align(x, ROIS[:, :4], 2))
    check(r"1 box list\(s\) for 2 image", ValueError, lambda: roi_align(x, [ROIS[:, 1:]], 2))
    check(r"boxes of image 1 must be", ValueError, lambda: roi_align(x, [ROIS[:, 1:], ROIS], 2))
    check("output_size must be positive", ValueError, lambda: roi_align(x, ROIS, (2, 0)))
    check("one or two integers", ValueError, lambda: roi_align(x, ROIS, (2, 2, 2)))
    check("spatial_scale must be a positive", ValueError, lambda: roi_align(x, ROIS, 2, 0.0))
    check("sampling_ratio must be an integer", ValueError, lambda: roi_align(x, ROIS, 2, 1.0, 5000))
    check("aggregation must be one of avg, max", ValueError, lambda: roi_align(x, ROIS, 2, aggregation="sum"))  # type: ignore[arg-type]
    check("samples must be one of", ValueError, lambda: roi_align(x, ROIS, 2, samples="sobol"))  # type: ignore[arg-type]
    check("seed must be", ValueError, lambda: roi_align(x, ROIS, 2, samples="random", seed=-1))
    check("rounding must be one of round", ValueError, lambda: roi_pool(x, ROIS, 2, rounding="up"))  # type: ignore[arg-type]
    check("bins must be one of", ValueError, lambda: roi_pool(x, ROIS, 2, bins="all"))  # type: ignore[arg-type]
    check("empty map", ValueError, lambda: roi_pool(x[:, :, :0], ROIS, 2))
    check("are on cpu but the boxes on meta", ValueError, lambda: roi_pool(x, ROIS.to("meta"), 2))


def test_bad_levels_raise_sentences() -> None:
    x = torch.zeros(2, 3, 8, 8)
    levels = torch.zeros(2, dtype=torch.int64)
    check("list of feature levels is empty", ValueError, lambda: roi_align([], ROIS, 2, [], levels=levels))
    check("need `levels`", ValueError, lambda: roi_align([x, x], ROIS, 2, [1.0, 0.5]))
    check(
        r"2 feature level\(s\) need a list",
        ValueError,
        lambda: roi_align([x, x], ROIS, 2, 1.0, levels=levels),
    )
    check("levels must be int64", TypeError, lambda: roi_align([x], ROIS, 2, [1.0], levels=levels.int()))
    check(r"levels must be \[K\]", ValueError, lambda: roi_align([x], ROIS, 2, [1.0], levels=levels[:1]))
    check(
        "feature level 1 .* differs from level 0",
        ValueError,
        lambda: roi_align([x, x[:, :2]], ROIS, 2, [1.0, 0.5], levels=levels),
    )


@pytest.mark.parametrize("twin", [False, True], ids=["compiled", "twin"])
@pytest.mark.parametrize("name", VARIANTS)
def test_bad_values_raise_before_any_work(name: str, twin: bool) -> None:
    x = torch.zeros(2, 3, 8, 8)

    def run() -> None:
        for column, value, sentence in (
            (1, float("nan"), "RoI 1 holds a NaN or an infinite number"),
            (4, float("inf"), "RoI 1 holds a NaN or an infinite number"),
            (0, float("nan"), "RoI 1 holds a NaN"),
            (0, 2.0, r"RoI 1 has batch index 2, but the input holds 2 image\(s\)"),
            (0, -1.0, "RoI 1 has batch index -1"),
            (0, 0.5, "RoI 1 has batch index 0.5"),
        ):
            rois = ROIS.clone()
            rois[1, column] = value
            with pytest.raises(RuntimeError, match=sentence):
                VARIANTS[name](x, rois, 2, spatial_scale=1.0)
        with pytest.raises(RuntimeError, match=r"RoI 0 asks for level 2, but there are 2 level\(s\)"):
            VARIANTS[name]([x, x], ROIS, 2, spatial_scale=[1.0, 0.5], levels=torch.tensor([2, 0]))
        with pytest.raises(RuntimeError, match="RoI 1 asks for level -1"):
            VARIANTS[name]([x, x], ROIS, 2, spatial_scale=[1.0, 0.5], levels=torch.tensor([0, -1]))

    if twin:
        with reference_twins():
            run()
    else:
        run()


def test_absurd_boxes_cost_nothing() -> None:
    """A box of 1e30 pixels samples the map where they meet; nothing overflows, loops or reads outside."""
    x = torch.ones(1, 2, 6, 6)
    rois = torch.tensor([[0, -1e30, -1e30, 1e30, 1e30], [0, 1e30, 1e30, 2e30, 2e30], [0, -3e9, 0, 3e9, 5]])
    for name, operator in VARIANTS.items():
        out = operator(x, rois, 2, spatial_scale=0.5)
        assert bool(torch.isfinite(out).all()), name
        assert not out[1].any(), name


# ------------------------------------------------------------------ torch's own checks


def arguments() -> dict[str, tuple[Any, ...]]:
    x = [features((2, 5, 8, 9)), features((2, 5, 4, 5), seed=1)]
    last = [t.detach().to(memory_format=torch.channels_last).requires_grad_() for t in x]
    levels = torch.tensor([0, 1])
    o = torch.ops.maskrcnn
    detached = [t.detach() for t in x]
    sizes = [2, 5, 8, 9, 4, 5]
    grad = torch.randn(2, 5, 2, 3)
    argmax = torch.zeros(2, 5, 2, 3, dtype=torch.int32)
    scales = [1.0, 0.5]
    rois = ROIS.clone().requires_grad_()
    return {
        "average": (o.roi_average.default, (x, ROIS, levels, scales, 2, 3, 1, 0, False)),
        "average last": (o.roi_average.default, (last, ROIS, levels, scales, 2, 3, 0, 2, True)),
        "average one level": (o.roi_average.default, (x[:1], ROIS, None, [1.0], 2, 3, 2, 2, False)),
        "precise": (o.roi_average.default, (x, rois, levels, scales, 2, 3, 4, 0, False)),
        "sample": (o.roi_sample.default, (x, ROIS, levels, scales, 2, 3, 1, 2, True, False, 0, False)),
        "random": (o.roi_sample.default, (last, ROIS, levels, scales, 2, 3, 1, 2, False, True, 3, True)),
        "pool": (o.roi_pool.default, (last, ROIS, levels, scales, 2, 3, 0, 0, True)),
        "average backward": (
            o.roi_average_backward.default,
            (grad, ROIS, levels, scales, sizes, [0, 1], 1, 0, False),
        ),
        "sample backward": (
            o.roi_sample_backward.default,
            (grad, argmax, ROIS, levels, scales, sizes, [1, 0], 1, 2, True, False, 0, False),
        ),
        "pool backward": (
            o.roi_pool_backward.default,
            (grad, argmax, ROIS, levels, scales, sizes, [1, 1], 0, 0, True),
        ),
        "coordinates": (o.roi_precise_rois_backward.default, (grad, detached, ROIS, levels, scales)),
    }


CASES = [
    "average",
    "average last",
    "average one level",
    "precise",
    "sample",
    "random",
    "pool",
    "average backward",
    "sample backward",
    "pool backward",
    "coordinates",
]


@needs_kernels
@pytest.mark.parametrize("case", CASES)
def test_opcheck(case: str) -> None:
    operator, args = arguments()[case]
    torch.library.opcheck(operator, args)


@needs_kernels
@pytest.mark.parametrize("name", ["aligned_adaptive", "align_max", "random", "precise", "pool_round_overlap"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiles_into_one_graph(name: str, channels_last: bool) -> None:
    maps = [
        features((2, 4, 8, 9), channels_last=channels_last),
        features((2, 4, 4, 5), channels_last=channels_last),
    ]
    levels = torch.tensor([0, 1, 1])
    rois = torch.cat([ROIS, ROIS[:1]])

    def step(a: Tensor, b: Tensor, r: Tensor, lv: Tensor) -> Tensor:
        return VARIANTS[name]([a * 2, b], r, 3, spatial_scale=[1.0, 0.5], levels=lv) * 0.5

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=False)
    a, b = step(*maps, rois, levels), compiled(*maps, rois, levels)
    assert torch.equal(a, b)
    assert a.stride() == b.stride()
    grad = torch.randn(a.shape)
    for p, q in zip(torch.autograd.grad(a, maps, grad), torch.autograd.grad(b, maps, grad), strict=True):
        assert torch.equal(p, q)


@needs_kernels
@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    x = features((2, 8, 8, 9))

    def step(value: Tensor, rois: Tensor) -> Tensor:
        return roi_align(value.relu(), rois, 3, 0.5, 2, True).sigmoid()

    compiled = torch.compile(step, fullgraph=True)
    a, b = step(x, ROIS), compiled(x, ROIS)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(
        torch.autograd.grad(a.sum(), x)[0], torch.autograd.grad(b.sum(), x)[0], rtol=1e-5, atol=1e-6
    )


class Head(torch.nn.Module):
    """Pools two levels."""

    def forward(self, a: Tensor, b: Tensor, rois: Tensor, levels: Tensor) -> Tensor:
        return roi_align([a, b], rois, 3, [0.5, 0.25], 2, True, levels=levels)


@needs_kernels
def test_exports_with_a_dynamic_number_of_rois() -> None:
    a, b = features((2, 4, 16, 18)).detach(), features((2, 4, 8, 9)).detach()
    k = torch.export.Dim("k", min=2, max=4096)
    program = torch.export.export(
        Head(), (a, b, ROIS, torch.tensor([0, 1])), dynamic_shapes=(None, None, {0: k}, {0: k})
    )
    rois = awkward_rois(2, 32, 36)
    levels = torch.arange(len(rois)) % 2
    assert torch.equal(program.module()(a, b, rois, levels), Head()(a, b, rois, levels))


class OneLevel(torch.nn.Module):
    """Pools one level, aligned or not."""

    def __init__(self, ratio: int, aligned: bool) -> None:
        super().__init__()
        self.ratio, self.aligned = ratio, aligned

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        return roi_align(x, rois, (3, 2), 0.5, self.ratio, self.aligned)


@needs_kernels
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_onnx_standard_operator(ratio: int, aligned: bool, tmp_path: Path) -> None:
    x = features((2, 4, 16, 18)).detach()
    k = torch.export.Dim("k", min=2, max=4096)
    run, kinds = onnx_session(OneLevel(ratio, aligned), (x, ROIS), (None, {0: k}), tmp_path)
    assert "RoiAlign" in kinds
    rois = awkward_rois(2, 32, 36)[:-1]
    assert relative(run(x, rois), OneLevel(ratio, aligned)(x, rois)) <= 1e-5


@needs_kernels
def test_onnx_levels(tmp_path: Path) -> None:
    a, b = features((2, 4, 16, 18)).detach(), features((2, 4, 8, 9)).detach()
    k = torch.export.Dim("k", min=2, max=4096)
    example = (a, b, ROIS, torch.tensor([0, 1]))
    run, kinds = onnx_session(Head(), example, (None, None, {0: k}, {0: k}), tmp_path)
    assert kinds.count("RoiAlign") == 2
    rois = awkward_rois(2, 32, 36)[:-1]
    for levels in (torch.arange(len(rois)) % 2, torch.ones(len(rois), dtype=torch.int64)):
        assert relative(run(a, b, rois, levels), Head()(a, b, rois, levels)) <= 1e-5


class Pools(torch.nn.Module):
    """RoIPool of one level."""

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        return roi_pool(x, rois, (7, 5), 0.25)


@needs_kernels
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("channels", [4, 40])
def test_onnx_roi_pool_to_the_bit(channels: int, runtime: str, tmp_path: Path) -> None:
    """Rounded halves, bins without a cell, boxes off the map, of no size and turned round."""
    x = features((2, channels, 16, 18)).detach()
    k = torch.export.Dim("k", min=2, max=4096)
    run, kinds = onnx_session(Pools(), (x, ROIS), (None, {0: k}), tmp_path, runtime)
    assert "MaxRoiPool" in kinds
    rng = torch.Generator().manual_seed(0)
    corners = torch.rand(900, 4, generator=rng) * 120 - 30
    corners[:300] = corners[:300].round() + 2.0  # halves of a cell of 4 pixels
    corners[300:400, 2:] = corners[300:400, :2]
    corners[400] = -(2.0**20)
    random = torch.cat((torch.randint(0, 2, (900, 1), generator=rng).float(), corners), dim=1)
    for rois in (random, awkward_rois(2, 64, 72)[:-1]):
        ours = Pools()(x, rois)
        assert torch.equal(run(x, rois), ours)
        assert (ours == 0).any()


def onnx_session(
    model: torch.nn.Module,
    example: tuple[Tensor, ...],
    dynamic: tuple[Any, ...],
    folder: Path,
    runtime: str = "onnxruntime",
) -> tuple[Callable[..., Tensor], list[str]]:
    """Export, check and load a model: a function that runs it, and its operator types."""
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
    pytest.importorskip("onnxscript", reason="the package onnxscript is not installed")
    library = pytest.importorskip(runtime, reason=f"the package {runtime} is not installed")
    from maskrcnn.layers.onnx import translation_table

    path = folder / "model.onnx"
    torch.onnx.export(
        model,
        example,
        path,
        dynamo=True,
        dynamic_shapes=dynamic,
        custom_translation_table=translation_table(),
        verbose=False,
    )
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    names = [i.name for i in proto.graph.input]
    call: Callable[[dict[str, Any]], Any]
    if runtime == "openvino":
        call = library.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    else:
        session = library.InferenceSession(path, providers=["CPUExecutionProvider"])
        call = partial(session.run, None)

    def run(*values: Tensor) -> Tensor:
        return torch.from_numpy(call({n: v.numpy() for n, v in zip(names, values, strict=True)})[0])

    return run, [node.op_type for node in proto.graph.node]


# ------------------------------------------------------------------ types and conversions


class Recorder(TorchDispatchMode):
    """Remembers which operators run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operator", [roi_align, roi_pool, roi_warp, prroi_pool])
def test_autocast_converts_nothing(operator: Callable[..., Tensor], dtype: torch.dtype) -> None:
    x = features((2, 4, 8, 9), dtype)
    plain = operator(x, ROIS, 3, 0.5)
    with torch.autocast("cpu", torch.bfloat16), Recorder() as recorder:
        out = operator(x, ROIS, 3, 0.5)
    assert out.dtype == dtype
    assert torch.equal(out, plain)
    assert len(recorder.seen) == 1
    assert "maskrcnn" in recorder.seen[0]


@needs_kernels
def test_half_precision_boxes_are_widened() -> None:
    x = features((2, 4, 8, 9)).detach()
    assert torch.equal(roi_align(x, ROIS.half(), 2, 0.5), roi_align(x, ROIS.half().float(), 2, 0.5))
    double = roi_align(x.double(), ROIS, 2, 0.5)
    assert double.dtype == torch.float64
    assert relative(double, roi_align(x.double(), ROIS.double(), 2, 0.5)) == 0


@needs_kernels
def test_levels_may_differ_in_layout() -> None:
    a, b = features((2, 20, 8, 9)), features((2, 20, 4, 5), channels_last=True, seed=1)
    plain = b.detach().contiguous().requires_grad_()
    levels = torch.tensor([0, 1])
    first = roi_align([a, b], ROIS, 3, [0.5, 0.25], levels=levels)
    second = roi_align([a, plain], ROIS, 3, [0.5, 0.25], levels=levels)
    assert relative(first, second) <= 1e-6
    ga, gb = torch.autograd.grad(first.sum(), [a, b])
    pa, pb = torch.autograd.grad(second.sum(), [a, plain])
    assert relative(ga, pa) <= 1e-6
    assert relative(gb, pb) <= 1e-6
    assert gb.is_contiguous(memory_format=torch.channels_last)


SCRIPT = """
import torch
from tests.layers.cases import VARIANTS, awkward_rois, features, reference_twins, relative
for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
    for name in ("aligned_adaptive", "align_max", "random", "precise", "pool_round_overlap"):
        for last in (False, True) if name == "aligned_adaptive" else (False,):
            x = features((2, 27, 9, 11), dtype, last)
            rois = awkward_rois(2, 36, 44, dtype)[:9]
            out = VARIANTS[name](x, rois, 3, spatial_scale=0.25)
            (grad,) = torch.autograd.grad(out, x, torch.ones_like(out))
            half = VARIANTS[name](x.detach().half(), rois, 3, spatial_scale=0.25)
            with reference_twins():
                twin = VARIANTS[name](x, rois, 3, spatial_scale=0.25)
                (expected,) = torch.autograd.grad(twin, x, torch.ones_like(out))
            assert relative(out, twin) <= tolerance and relative(grad, expected) <= tolerance, name
            assert relative(half, twin) <= 2e-3, name
print("agrees")
"""


@needs_kernels
@pytest.mark.parametrize("processor", ["baseline", "avx2"])
def test_every_processor_version_agrees(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions for older processors, which this machine would not choose."""
    monkeypatch.setenv("MASKRCNN_CPU", processor)
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "agrees", result.stderr
