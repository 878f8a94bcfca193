"""The CUDA operators without a GPU: their sources compiled for the CPU, beside its own kernels.

This holds the logic of kernels and launches (who computes what, in which order, what lies where), for every
operator, type and layout.  What only hardware can show is in ``test_cuda.py``.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskrcnn.layers import ops
from maskrcnn.native import build as _build
from maskrcnn.structures import InstanceMasks, PackedMasks
from tests.layers.box_cases import crowd, pairs_to_match, rows_for_nms
from tests.layers.cases import awkward_rois, generator, relative
from tests.structures.rasters import Raster, bitmap_rasters, polygon_rasters

HERE = Path(__file__).resolve().parent / "emulation"

pytestmark = [
    pytest.mark.skipif("cpu" not in ops.compiled_devices(), reason="the compiled operators are not loaded"),
    pytest.mark.skipif(_build.find_cxx() is None, reason="no C++ compiler (apt-get install g++)"),
    pytest.mark.skipif("MASKRCNN_SANITIZE" in os.environ, reason="fibers confuse AddressSanitizer"),
]

#: Largest error, relative to the largest value.  Both sides sum in float32 (float64) and round once.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
SIZES = ((21, 33), (10, 17))
SCALES = [0.25, 0.125]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``torch.ops.maskrcnn_emulated``: the operators of csrc/cuda, on CPU tensors."""
    folder = tmp_path_factory.mktemp("emulation")
    csrc, torch_dir = _build.csrc_dir(), Path(torch.__file__).resolve().parent
    schemas = folder / "ops.cpp"
    text = (csrc / "ops.cpp").read_text(encoding="utf-8")
    schemas.write_text(text.replace("LIBRARY(maskrcnn,", "LIBRARY(maskrcnn_emulated,"), encoding="utf-8")
    cxx = str(_build.find_cxx()).split()
    common = [*cxx, "-std=c++17", "-O0", "-fPIC", "-w", "-ffp-contract=off", "-fvisibility=hidden"]
    common += [f"-DTORCH_TARGET_VERSION={_build.TORCH_TARGET}", f"-I{HERE}", f"-I{torch_dir / 'include'}"]
    common += [f"-I{csrc}", "-include", str(HERE / "cuda_runtime.h"), "-x", "c++", "-c"]
    units = [schemas, *_build.sources("cuda")]
    objects = [folder / f"{unit.stem}.o" for unit in units]

    def run(command: list[str]) -> None:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-3000:]

    with ThreadPoolExecutor(2) as pool:
        commands = [[*common, str(unit), "-o", str(obj)] for unit, obj in zip(units, objects, strict=True)]
        list(pool.map(run, commands))
    library = folder / "emulated.so"
    run([*cxx, "-shared", *map(str, objects), "-o", str(library), f"-L{torch_dir / 'lib'}", "-ltorch_cpu"])
    torch.ops.load_library(library)
    return torch.ops.maskrcnn_emulated


def noise(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False, seed: int = 0) -> Tensor:
    """Normal noise in either layout."""
    x = torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def assert_close(ours: Tensor, expected: Tensor, tolerance: float) -> None:
    assert ours.dtype == expected.dtype
    assert ours.stride() == expected.stride()
    assert relative(ours, expected) <= tolerance


class Case:
    """Two levels, awkward RoIs, and a gradient, for one type and pair of layouts."""

    def __init__(self, dtype: torch.dtype, channels: int, last: bool, grad_last: bool, bins: tuple[int, int]):
        self.last, self.bins, self.tolerance = last, bins, TOLERANCE[dtype]
        self.maps = [noise(2, channels, h, w, dtype=dtype, last=last, seed=h) for h, w in SIZES]
        wide = torch.float64 if dtype is torch.float64 else torch.float32
        self.rois = awkward_rois(2, 84, 132, wide)
        count = len(self.rois)
        self.levels = torch.randint(0, 2, (count,), generator=generator(9))
        self.grad = noise(count, channels, *bins, dtype=dtype, last=grad_last, seed=3)
        self.sizes = [2, channels, *itertools.chain(*SIZES)]
        self.layouts = [int(not m.is_contiguous()) for m in self.maps]

    @property
    def forward(self) -> tuple[Any, ...]:
        return self.maps, self.rois, self.levels, SCALES, *self.bins

    @property
    def backward(self) -> tuple[Any, ...]:
        return self.rois, self.levels, SCALES, self.sizes, self.layouts


CASES = [
    # type, channels, channels_last features, channels_last gradient, bins
    (torch.float32, 16, True, True, (7, 7)),
    (torch.float32, 34, False, False, (3, 5)),
    (torch.float32, 5, True, False, (40, 2)),
    (torch.float64, 3, False, True, (2, 3)),
    (torch.float64, 4, True, True, (2, 3)),
    (torch.float16, 40, True, False, (3, 2)),
    (torch.bfloat16, 8, True, True, (7, 7)),
    (torch.bfloat16, 1, False, False, (2, 2)),
]


@pytest.fixture(params=CASES, ids=lambda c: "-".join(str(v).removeprefix("torch.") for v in c))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


@pytest.mark.parametrize(("geometry", "ratio"), [(0, 0), (0, 2), (1, 0), (1, 5), (2, 2), (3, 0), (4, 0)])
def test_averages(emulated: Any, case: Case, geometry: int, ratio: int) -> None:
    arguments = (*case.forward, geometry, ratio, case.last)
    assert_close(emulated.roi_average(*arguments), torch.ops.maskrcnn.roi_average(*arguments), case.tolerance)
    back = (case.grad, *case.backward, geometry, ratio, True)
    for ours, expected in zip(
        emulated.roi_average_backward(*back), torch.ops.maskrcnn.roi_average_backward(*back), strict=True
    ):
        assert_close(ours, expected, 2 * case.tolerance)


@pytest.mark.parametrize(("rounding", "bins"), [(0, 0), (1, 1), (2, 2), (2, 0)])
def test_pools(emulated: Any, case: Case, rounding: int, bins: int) -> None:
    arguments = (*case.forward, rounding, bins, case.last)
    out, arg = torch.ops.maskrcnn.roi_pool(*arguments)
    ours, our_arg = emulated.roi_pool(*arguments)
    assert torch.equal(ours, out) and torch.equal(our_arg, arg)
    assert ours.stride() == out.stride() and our_arg.stride() == arg.stride()
    back = (case.grad, arg, *case.backward, rounding, bins, True)
    for mine, expected in zip(
        emulated.roi_pool_backward(*back), torch.ops.maskrcnn.roi_pool_backward(*back), strict=True
    ):
        assert_close(mine, expected, 2 * case.tolerance)


@pytest.mark.parametrize(
    ("maximum", "random", "ratio"), [(True, False, 0), (True, False, 2), (False, True, 2), (True, True, 3)]
)
def test_samples(emulated: Any, case: Case, maximum: bool, random: bool, ratio: int) -> None:
    arguments = (*case.forward, 1, ratio, maximum, random, 7, case.last)
    out, arg = torch.ops.maskrcnn.roi_sample(*arguments)
    ours, our_arg = emulated.roi_sample(*arguments)
    assert_close(ours, out, case.tolerance)
    if maximum:  # fused and unfused sums may choose differently where two samples are equal but for rounding
        assert float((our_arg != arg).float().mean()) < 2e-3
    back = (case.grad, arg, *case.backward, 1, ratio, maximum, random, 7, True)
    for mine, expected in zip(
        emulated.roi_sample_backward(*back), torch.ops.maskrcnn.roi_sample_backward(*back), strict=True
    ):
        assert_close(mine, expected, 2 * case.tolerance)


def test_precise_coordinates(emulated: Any, case: Case) -> None:
    keep = case.rois[:, 1:].abs().amax(dim=1) < 1e4
    arguments = (case.grad[keep], case.maps, case.rois[keep], case.levels[keep], SCALES)
    ours = emulated.roi_precise_rois_backward(*arguments)
    expected = torch.ops.maskrcnn.roi_precise_rois_backward(*arguments)
    assert relative(ours, expected) <= (1e-11 if ours.dtype is torch.float64 else 2e-5)


def test_bad_rois_give_nothing(emulated: Any) -> None:
    feature = noise(2, 16, 9, 9, last=True)
    good = awkward_rois(2, 36, 36)[:8]
    bad = good.clone()
    bad[0, 0], bad[1, 0], bad[2, 0], bad[5, 0] = 2, -1, 0.5, float("nan")
    bad[3, 1], bad[4, 4] = float("nan"), float("-inf")
    levels = torch.tensor([0, 0, 0, 0, 0, 0, 1 << 40, 0])
    out = emulated.roi_average([feature], bad, levels, [0.25], 7, 7, 1, 2, True)
    assert bool((out[:7] == 0).all())
    expected = torch.ops.maskrcnn.roi_average([feature], good, None, [0.25], 7, 7, 1, 2, True)
    assert relative(out[7:], expected[7:]) < 1e-6
    pooled, arg = emulated.roi_pool([feature], bad, levels, [0.25], 7, 7, 0, 0, True)
    assert bool((pooled[:7] == 0).all()) and bool((arg[:7] == -1).all())
    sampled, arg = emulated.roi_sample([feature], bad, levels, [0.25], 7, 7, 1, 2, True, False, 0, True)
    assert bool((sampled[:7] == 0).all()) and bool((arg[:7] == -1).all())
    grad = noise(8, 16, 7, 7)
    rest = ([0.25], [2, 16, 9, 9], [1], 1, 2, False)
    expected = torch.ops.maskrcnn.roi_average_backward(grad[7:], good[7:], None, *rest)[0]
    assert relative(emulated.roi_average_backward(grad, bad, levels, *rest)[0], expected) < 1e-6
    coordinates = emulated.roi_precise_rois_backward(grad, [feature], bad, levels, [0.25])
    assert bool((coordinates[:7] == 0).all()) and bool((coordinates[7, 1:] != 0).any())


@pytest.mark.parametrize(("count", "channels", "images"), [(0, 4, 2), (3, 0, 2), (0, 4, 0)])
def test_nothing_to_do(emulated: Any, count: int, channels: int, images: int) -> None:
    feature, rois = torch.zeros(images, channels, 5, 5), torch.zeros(count, 5)
    grad = torch.zeros(count, channels, 2, 2)
    sizes = [images, channels, 5, 5]
    arguments = ([feature], rois, None, [1.0], 2, 2, 0, 0, False)
    assert emulated.roi_average(*arguments).shape == (count, channels, 2, 2)
    out, arg = emulated.roi_pool(*arguments)
    assert out.shape == arg.shape == (count, channels, 2, 2)
    assert bool(emulated.roi_average_backward(grad, rois, None, [1.0], sizes, [0], 0, 0, True)[0].eq(0).all())
    assert bool(
        emulated.roi_pool_backward(grad, arg, rois, None, [1.0], sizes, [0], 0, 0, True)[0].eq(0).all()
    )


def test_many_rois_on_a_tile_and_strided_memory(emulated: Any) -> None:
    feature = noise(1, 4, 12, 12).transpose(2, 3)
    rois = awkward_rois(1, 48, 48)[:9].repeat(80, 1)  # more than a block lists at once
    arguments = ([feature], rois, None, [0.25], 3, 3, 1, 2, False)
    expected = torch.ops.maskrcnn.roi_average(*arguments)
    assert relative(emulated.roi_average(*arguments), expected) < 2e-6
    grad = noise(1, 4, 1, 1).expand(len(rois), 4, 3, 3)
    back = (grad, rois, None, [0.25], [1, 4, 12, 12], [0], 1, 2, True)
    expected = torch.ops.maskrcnn.roi_average_backward(*back)[0]
    assert relative(emulated.roi_average_backward(*back)[0], expected) < 5e-6


def test_taps_of_a_huge_map_go_to_memory(emulated: Any) -> None:
    feature = noise(1, 1, 3500, 3500)
    rois = torch.tensor([[0.0, 0.0, 0.0, 3500.0, 3500.0], [0.0, 100.0, 200.0, 300.0, 900.0]])
    arguments = ([feature], rois, None, [1.0], 2, 2, 1, 0, False)
    expected = torch.ops.maskrcnn.roi_average(*arguments)
    assert relative(emulated.roi_average(*arguments), expected) < 1e-4  # 3 million cells of mean 0 a bin


@pytest.mark.parametrize("grouped", [False, True])
def test_suppresses(emulated: Any, grouped: bool) -> None:
    for boxes, scores, real, threshold, count, groups in rows_for_nms(range(45)):
        arguments = boxes, scores, real, groups if grouped else None, threshold, count
        for ours, expected in zip(emulated.nms(*arguments), torch.ops.maskrcnn.nms(*arguments), strict=True):
            assert torch.equal(ours, expected)


def test_suppresses_over_many_words(emulated: Any) -> None:
    """More words of boxes than a walking block has lanes, most boxes kept, and few real ones among many."""
    boxes, scores = crowd((2, 2200), 1) * 40, torch.rand(2, 2200, generator=generator(1))
    boxes[..., 2:] = boxes[..., :2] + (boxes[..., 2:] - boxes[..., :2]) / 8
    real = torch.ones(2, 2200, dtype=torch.bool)
    real[1] = torch.arange(2200) % 31 == 0
    for count in (2200, 1000):
        arguments = boxes, scores, real, None, 0.3, count
        ours, expected = emulated.nms(*arguments), torch.ops.maskrcnn.nms(*arguments)
        assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])
        assert int(expected[1][0]) >= 1000


def test_too_many_boxes_to_suppress_are_told(emulated: Any) -> None:
    boxes = torch.zeros(1, 1, 4).expand(1, 500_000, 4)
    scores = torch.zeros(1, 1).expand(1, 500_000)
    with pytest.raises(RuntimeError, match=r"1 row\(s\) of 500000 boxes are more than a GPU takes at once"):
        emulated.nms(boxes, scores, scores > 0, None, 0.5, 9)


def test_matches(emulated: Any) -> None:
    for pairs in pairs_to_match(range(45)):
        for ours, expected in zip(emulated.match(*pairs), torch.ops.maskrcnn.match(*pairs), strict=True):
            assert torch.equal(ours, expected)


def operands(raster: Raster) -> tuple[Any, ...]:
    return *raster.packed.tensors, raster.boxes, raster.instance, raster.size, raster.mode == "bitmask"


def test_rasterise_to_the_bit(emulated: Any) -> None:
    for raster in [*polygon_rasters(24, seed=5), *bitmap_rasters(15, seed=5)]:
        found = emulated.rasterise(*operands(raster))
        assert torch.equal(found, torch.ops.maskrcnn.rasterise(*operands(raster)))
    assert emulated.rasterise(
        *operands(raster._replace(boxes=torch.zeros(0, 4), instance=raster.instance[:0]))
    ).shape == (0, raster.size, raster.size)


def test_rasterise_more_vertices_than_threads(emulated: Any) -> None:
    angles = torch.arange(300, dtype=torch.float64) * (6.28 / 300)
    star = torch.stack((angles.cos(), angles.sin()), 1) * (20 + 10 * (angles * 40).sin())[:, None] + 30
    packed = PackedMasks.of([InstanceMasks.from_coco([[star.reshape(-1).tolist()]], 60, 60)], drawn=True)
    raster = Raster(
        packed, torch.tensor([[0.0, 0, 60, 60], [10, 12, 40, 70]]), torch.tensor([0, 0]), 28, "polygon"
    )
    found = emulated.rasterise(*operands(raster))
    assert torch.equal(found, torch.ops.maskrcnn.rasterise(*operands(raster)))
    assert 100 < float(found[0].sum()) < 700


def test_rasterise_reads_nothing_outside_memory(emulated: Any) -> None:
    """What the CPU kernel refuses gives 0 here, since a GPU cannot look before it works."""
    raster = next(polygon_rasters(3, seed=1))
    bad = raster._replace(instance=torch.tensor([-5, 1 << 40, 0]), boxes=torch.full((3, 4), float("nan")))
    assert not emulated.rasterise(*operands(bad)).any()
    with pytest.raises(RuntimeError, match="box 0 asks for instance -5"):
        torch.ops.maskrcnn.rasterise(*operands(bad))
    wild = [t.clone() for t in raster.packed.tensors]
    wild[1], wild[4] = wild[1] + (1 << 40), wild[4] - 7
    found = emulated.rasterise(*wild, raster.boxes, raster.instance, 7, False)
    assert bool(torch.isfinite(found).all())
    with pytest.raises(RuntimeError, match="ends of polygons must ascend"):
        torch.ops.maskrcnn.rasterise(*wild, raster.boxes, raster.instance, 7, False)
