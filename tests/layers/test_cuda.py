"""The CUDA operators on a GPU (skipped where there is none); they compile without register spills."""

from __future__ import annotations

import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskrcnn.layers import batched_nms, match, nms, ops, prroi_pool, roi_align
from maskrcnn.modeling.roi.mask_targets import rasterise
from maskrcnn.native import build as _build
from tests.layers.box_cases import crowd, pairs_to_match, rows_for_nms
from tests.layers.cases import VARIANTS, Operator, awkward_rois, features, generator, relative
from tests.structures.rasters import bitmap_rasters, polygon_rasters


def why_not() -> str:
    if not torch.cuda.is_available():
        return "no CUDA device"
    if "cuda" not in ops.compiled_devices():
        return "the CUDA object is not loaded (see `maskrcnn doctor`)"
    return ""


def gpu(test: object) -> object:
    return pytest.mark.gpu(pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")(test))


SCALES = [0.25, 0.125]
SIZES = ((21, 33), (10, 17))
#: Largest error beside the CPU, relative to the largest value.
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-12, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def inputs(dtype: torch.dtype, channels_last: bool, channels: int) -> tuple[list[Tensor], Tensor, Tensor]:
    maps = [features((2, channels, h, w), dtype, channels_last, seed=h) for h, w in SIZES]
    rois = awkward_rois(2, 84, 132, torch.float64 if dtype is torch.float64 else torch.float32)
    levels = torch.randint(0, 2, (len(rois),), generator=generator(4))
    return maps, rois, levels


def run(
    op: Operator,
    maps: list[Tensor],
    rois: Tensor,
    levels: Tensor,
    device: str,
    bins: tuple[int, int] = (7, 5),
) -> list[Tensor]:
    """Result and gradients on a device, given back on the CPU."""
    own = [m.detach().to(device).requires_grad_() for m in maps]
    out = op(own, rois.to(device), bins, SCALES, levels=levels.to(device))
    weight = torch.randn(out.shape, generator=generator(2), dtype=torch.float64).to(out)
    out.backward(weight)
    assert out.is_contiguous(
        memory_format=torch.channels_last
        if maps[0].is_contiguous(memory_format=torch.channels_last)
        else torch.contiguous_format
    )
    grads = [m.grad for m in own]
    return [out.detach().cpu(), *(g.cpu() for g in grads if g is not None)]


@gpu
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("name", list(VARIANTS))
def test_cuda_is_cpu(name: str, dtype: torch.dtype, channels_last: bool) -> None:
    for channels in (1, 5, 16, 72, 264):
        maps, rois, levels = inputs(dtype, channels_last, channels)
        on_cpu = run(VARIANTS[name], maps, rois, levels, "cpu")
        on_gpu = run(VARIANTS[name], maps, rois, levels, "cuda")
        assert len(on_gpu) == len(on_cpu) == 3
        assert relative(on_gpu[0], on_cpu[0]) <= TOLERANCE[dtype]
        pairs = list(zip(on_gpu[1:], on_cpu[1:], strict=True))
        if "max" in name:  # where samples are equal but for rounding, the gradient may choose another
            difference = sum(float((a.double() - b.double()).abs().sum()) for a, b in pairs)
            assert difference <= 5e-3 * sum(float(b.double().abs().sum()) for _, b in pairs)
        else:
            assert max(relative(a, b) for a, b in pairs) <= 2 * TOLERANCE[dtype]


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_two_runs_are_equal_to_the_bit(name: str, channels_last: bool, dtype: torch.dtype) -> None:
    maps, rois, _ = inputs(dtype, channels_last, 64)
    rois = rois.repeat(40, 1)  # many on every cell
    levels = torch.randint(0, 2, (len(rois),), generator=generator(4))
    first = run(VARIANTS[name], maps, rois, levels, "cuda")
    for a, b in zip(first, run(VARIANTS[name], maps, rois, levels, "cuda"), strict=True):
        assert torch.equal(a, b)


@gpu
@pytest.mark.parametrize("name", list(VARIANTS))
def test_gradient(name: str) -> None:
    maps = [features((2, 3, 7, 9), torch.float64, seed=1).detach().cuda().requires_grad_()]
    rois = awkward_rois(2, 28, 36, torch.float64)[:8].cuda()
    op = partial(VARIANTS[name], boxes=rois, output_size=(2, 3), spatial_scale=0.25)
    assert torch.autograd.gradcheck(lambda m: op(m), (maps[0],), fast_mode=True)


@gpu
def test_gradient_of_the_coordinates() -> None:
    feature = features((2, 3, 9, 11), torch.float64).detach().cuda()
    rois = torch.tensor([[0, 3.3, 4.1, 20.7, 30.2], [1, -3.2, 5.4, 50.1, 20.3]], dtype=torch.float64).cuda()
    batch = rois[:, :1]

    def op(boxes: Tensor) -> Tensor:
        return prroi_pool(feature, torch.cat([batch, boxes], dim=1), (2, 3), 0.25)

    assert torch.autograd.gradcheck(op, (rois[:, 1:].clone().requires_grad_(),))
    for last in (True, False):
        maps, boxes, levels = inputs(torch.float32, last, 40)
        keep = boxes[:, 1:].abs().amax(dim=1) < 1e3
        grads = []
        for device in ("cpu", "cuda"):
            own = boxes[keep].to(device).requires_grad_()
            x = [m.detach().to(device) for m in maps]
            prroi_pool(x, own, 5, SCALES, levels=levels[keep].to(device)).square().sum().backward()
            assert own.grad is not None
            grads.append(own.grad.cpu())
        assert relative(grads[1], grads[0]) < 1e-4


@gpu
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_bad_values_give_nothing(name: str, channels_last: bool) -> None:
    maps, good, _ = inputs(torch.float32, channels_last, 16)
    bad = good.clone()
    bad[0, 0], bad[1, 0], bad[2, 0], bad[3, 0] = 2, -1, 0.5, float("nan")
    bad[4, 1], bad[5, 4] = float("nan"), float("-inf")
    levels = torch.zeros(len(good), dtype=torch.int64)
    wrong = levels.clone()
    wrong[6], wrong[7] = 2, -(1 << 40)
    ours = run(VARIANTS[name], maps, bad, wrong, "cuda")
    assert bool((ours[0][:8] == 0).all())
    # The bad RoIs moved far off the map, so that random positions and the others' order stay.
    harmless = good.clone()
    harmless[:8, 1:] = 1e5
    expected = run(VARIANTS[name], maps, harmless, levels, "cuda")
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a, b)


@gpu
def test_checks_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    feature = torch.zeros(1, 1, 4, 4, device="cuda")
    bad = torch.tensor([[1.0, 0, 0, 1, 1]], device="cuda")
    assert float(roi_align(feature, bad, 2).abs().sum()) == 0
    monkeypatch.setenv("MASKRCNN_CHECK", "1")
    with pytest.raises(RuntimeError, match="batch index 1, but the input holds 1 image"):
        roi_align(feature, bad, 2)
    with pytest.raises(RuntimeError, match="NaN"):
        roi_align(feature, bad * float("nan"), 2)


@gpu
@pytest.mark.parametrize("name", list(VARIANTS))
def test_nothing_to_do(name: str) -> None:
    for count, channels in ((0, 4), (3, 0)):
        x = torch.zeros(2, channels, 5, 5, device="cuda", requires_grad=True)
        out = VARIANTS[name](x, torch.zeros(count, 5, device="cuda"), 2, 1.0)
        assert out.shape == (count, channels, 2, 2)
        out.sum().backward()
        assert x.grad is not None and bool((x.grad == 0).all())


@gpu
def test_the_current_stream_is_used_and_nothing_waits() -> None:
    maps, rois, levels = inputs(torch.float32, True, 64)
    own = [m.detach().cuda().requires_grad_() for m in maps]
    boxes, index = rois.cuda(), levels.cuda()
    expected = roi_align(own, boxes, 7, SCALES, 2, levels=index)
    grad = torch.ones_like(expected)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()  # capture fails on a synchronisation and on work in another stream
    with torch.cuda.graph(graph):
        out = torch.ops.maskrcnn.roi_average(own, boxes, index, SCALES, 7, 7, 0, 2, True)
        sizes = [2, 64, *SIZES[0], *SIZES[1]]
        back = torch.ops.maskrcnn.roi_average_backward(grad, boxes, index, SCALES, sizes, [1, 1], 0, 2, True)
    for t in (out, *back):
        t.detach().fill_(7)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)
    expected.backward(grad)
    for ours, m in zip(back, own, strict=True):
        assert m.grad is not None and torch.equal(ours, m.grad)


@gpu
@pytest.mark.parametrize("grouped", [False, True])
def test_suppression_is_the_cpu_s_to_the_index(grouped: bool) -> None:
    for boxes, scores, real, threshold, count, groups in rows_for_nms(range(90)):
        arguments = boxes, scores, real, threshold, count, groups if grouped else None
        on_gpu = nms(*(t.cuda() if isinstance(t, Tensor) else t for t in arguments))  # type: ignore[arg-type]
        for ours, expected in zip(on_gpu, nms(*arguments), strict=True):
            assert torch.equal(ours.cpu(), expected)
    boxes, scores = crowd((5000,), 1) * 9, torch.rand(5000, generator=generator(1))
    labels = torch.randint(0, 80, (5000,), generator=generator(2))
    kept = batched_nms(boxes.cuda(), scores.cuda(), labels.cuda(), 0.5)
    assert torch.equal(kept.cpu(), batched_nms(boxes, scores, labels, 0.5))


@gpu
def test_matching_is_the_cpu_s() -> None:
    for truth, real, boxes, *options in pairs_to_match(range(90)):
        on_gpu = match(truth.cuda(), real.cuda(), boxes.cuda(), *options)
        for ours, expected in zip(on_gpu, match(truth, real, boxes, *options), strict=True):
            assert torch.equal(ours.cpu(), expected)


@gpu
def test_suppression_and_matching_do_not_wait() -> None:
    boxes, scores = crowd((4, 3000), 1).cuda(), torch.rand(4, 3000, generator=generator(1)).cuda()
    real, groups = scores > 0.1, (scores * 50).long()

    def both() -> tuple[Tensor, ...]:
        return (
            *nms(boxes, scores, real, 0.5, 500, groups),
            *match(boxes[:, :50], real[:, :50], boxes, 0.3, 0.7, True),
        )

    expected = both()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()  # capture fails on a synchronisation and on work in another stream
    with torch.cuda.graph(graph):
        captured = both()
    for t in captured:
        t.fill_(7)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


@gpu
def test_an_input_beyond_two_billion_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GB of GPU memory")
    x = torch.zeros(3, 8, 10240, 10240, dtype=torch.float16, device="cuda")
    x[2, 7] = 1
    rois = torch.tensor([[2.0, 10000, 10000, 10200, 10200]], device="cuda")
    out = roi_align(x, rois, 2, 1.0, 2)
    assert out[0].flatten(1).sum(1).tolist() == [0] * 7 + [4]


@gpu
def test_masks_in_boxes_are_those_of_the_cpu_to_the_bit() -> None:
    for raster in [*polygon_rasters(80, seed=7), *bitmap_rasters(60, seed=7)]:
        there = raster._replace(
            packed=raster.packed.to("cuda"),
            boxes=raster.boxes.to("cuda"),
            instance=raster.instance.to("cuda"),
        )
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = rasterise(*there)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(found.cpu(), rasterise(*raster))


NVCC = _build.find_nvcc()


def has_headers() -> bool:
    torch_dir = _build.find_torch()
    return torch_dir is not None and _build.torch_cuda(torch_dir) is not None


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not found (install the CUDA toolkit)")
@pytest.mark.skipif(not has_headers(), reason="torch is a CPU-only build")
@pytest.mark.parametrize("arch", ["8.0", "9.0", "10.0"])
def test_compiles_without_register_spills(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", arch)
    plan = _build.plan("cuda", _build.find_torch())
    said = ""
    for unit in _build.sources("cuda"):
        command = [
            *plan.compiler,
            *plan.compile_flags,
            "-Xptxas=-v",
            "-c",
            str(unit),
            "-o",
            str(tmp_path / "o"),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        said += result.stderr + result.stdout
    kernels = re.findall(r"Compiling entry function '(\S+)'", said)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(kernels) > 40
    assert len(frames) >= len(kernels)
    spilling = [f for f in frames if f != ("0", "0", "0")]
    assert not spilling, said


@pytest.mark.skipif(NVCC is None, reason="nvcc is not found (install the CUDA toolkit)")
@pytest.mark.skipif(not has_headers(), reason="torch is a CPU-only build")
@pytest.mark.slow
def test_the_object_loads_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "cpu" not in ops.compiled_devices() or torch.version.cuda is None:
        pytest.skip("needs the CPU object and a CUDA build of torch")
    if "cuda" not in ops.compiled_devices():
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
        _build.build(_build.plan("cuda", _build.find_torch()), tmp_path / "cuda.so")
        torch.ops.load_library(tmp_path / "cuda.so")
    for name in (
        "roi_average",
        "roi_average_backward",
        "roi_sample",
        "roi_sample_backward",
        "roi_pool",
        "roi_pool_backward",
        "roi_precise_rois_backward",
        "nms",
        "match",
        "rasterise",
    ):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"maskrcnn::{name}", "CUDA")
