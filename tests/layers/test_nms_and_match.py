"""NMS of fixed size beside torchvision's, matching beside its definition, and what torch asks of both.

Covers ``maskrcnn/layers/ops.py`` and ``reference.py`` beside it, each case compiled and as the slow twin.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torch._subclasses import FakeTensorMode

from maskrcnn.layers import batched_nms, match, nms, nms_of_lists, ops, reference
from maskrcnn.modeling.matching import match_boxes
from maskrcnn.structures import box_iou
from tests.layers.box_cases import NAN, Pairs, Rows, crowd, pairs_to_match, rows_for_nms
from tests.layers.cases import generator, needs_kernels, reference_twins

SEEDS = [range(start, start + 45) for start in range(0, 180, 45)]


@pytest.fixture(params=[pytest.param("compiled", marks=needs_kernels), "twin"], autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test with the compiled operators and with their twins."""
    with reference_twins() if request.param == "twin" else contextlib.nullcontext():
        yield request.param


#: For a test of what the operator has and its twin has not.
compiled_only = pytest.mark.parametrize("way", [pytest.param("compiled", marks=needs_kernels)], indirect=True)


def peer(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """torchvision's ``batched_nms``, equal scores by place (over 1000 boxes it leaves their order open)."""
    kept = torchvision.ops.batched_nms(boxes, scores, groups, threshold).sort().values
    return kept[scores[kept].argsort(descending=True, stable=True)]


def check_rows(rows: Rows, grouped: bool) -> None:
    """Every row beside torchvision's operator on its real boxes."""
    boxes, scores, real, threshold, count, groups = rows
    before = [t.clone() for t in (boxes, scores, real, groups)]
    index, number = nms(boxes, scores, real, threshold, count, groups if grouped else None)
    assert index.shape == (len(boxes), count) and index.dtype == number.dtype == torch.int64
    for b in range(len(boxes)):
        places = real[b].nonzero()[:, 0]
        box, score = boxes[b, places], scores[b, places]
        if grouped:
            kept = peer(box, score, groups[b, places], threshold)
        else:
            kept = torchvision.ops.nms(box, score, threshold)
        kept = places[kept][:count]
        assert int(number[b]) == len(kept)
        assert torch.equal(index[b, : len(kept)], kept)
        assert not index[b, len(kept) :].any()
    for was, now in zip(before, (boxes, scores, real, groups), strict=True):
        assert torch.equal(was.nan_to_num(7), now.nan_to_num(7))


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_a_row_is_torchvision_s_nms_to_the_index(seeds: range) -> None:
    for rows in rows_for_nms(seeds):
        check_rows(rows, grouped=False)


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_a_row_of_groups_is_torchvision_s_batched_nms(seeds: range) -> None:
    for rows in rows_for_nms(seeds):
        check_rows(rows, grouped=True)


@pytest.mark.parametrize("places", [1000, 1001, 1300])
def test_many_boxes_are_suppressed_by_group_as_there(places: int) -> None:
    """torchvision moves the groups of up to 1000 boxes apart, which rounds, and goes by group beyond."""
    boxes = crowd((2, places), 1) * 7.3
    scores = torch.rand(2, places, generator=generator(3))
    groups = torch.randint(0, 40, (2, places), generator=generator(4))
    real = torch.ones(2, places, dtype=torch.bool)
    real[1, 5] = False
    check_rows((boxes, scores, real, 0.4, places, groups), grouped=True)


def test_moved_apart_boxes_round_as_torchvision_s() -> None:
    """IoUs at the threshold, of groups so far from 0 that their boxes lose fractions of a pixel."""
    differ = 0
    scores, real = torch.rand(1, 40, generator=generator()), torch.ones(1, 40, dtype=torch.bool)
    groups = torch.full((1, 40), 79)
    for seed in range(40):
        g = generator(seed)
        corner = torch.rand(1, 20, 2, generator=g) * 900
        boxes = torch.cat((corner, corner + 6 + torch.rand(1, 20, 2, generator=g) * 6), dim=2)
        boxes = torch.cat((boxes, boxes + torch.tensor([0.0, 0.0, 0.0, 1.0])), dim=1)
        threshold = float(box_iou(boxes[0, :1], boxes[0, 20:21]))
        check_rows((boxes, scores, real, threshold, 40, groups), grouped=True)
        plain = nms(boxes, scores, real, threshold, 40)[0]
        differ += not torch.equal(plain, nms(boxes, scores, real, threshold, 40, groups)[0])
    assert differ > 5  # so the rounding was there to be reproduced


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("overlap", "threshold"), [(3, 0.3), (7, 0.7), (5, 0.5), (1, 0.1), (9, 0.9)])
def test_the_threshold_is_not_rounded(overlap: int, threshold: float, dtype: torch.dtype) -> None:
    """In float32 3/10 is above the number 0.3 of float64 and 7/10 below 0.7: so it is with torchvision."""
    boxes = torch.tensor([[[0, 0, 10, 1], [0, 0, overlap, 1]]], dtype=dtype)
    scores = torch.tensor([[2.0, 1.0]], dtype=dtype)
    real = torch.ones(1, 2, dtype=torch.bool)
    kept = torchvision.ops.nms(boxes[0], scores[0], threshold)
    assert int(nms(boxes, scores, real, threshold, 2)[1]) == len(kept)
    assert len(kept) == (1 if float(torch.tensor(overlap / 10, dtype=dtype)) > threshold else 2)


def test_equal_scores_go_by_place() -> None:
    boxes = torch.tensor([[[5.0, 5, 9, 9], [0, 0, 4, 4], [0, 0, 4, 4], [5, 5, 9, 9], [20, 0, 24, 4]]])
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.9, 0.5]])
    index, number = nms(boxes, scores, torch.ones(1, 5, dtype=torch.bool), 0.5, 4)
    assert (index.tolist(), number.tolist()) == ([[3, 1, 4, 0]], [3])


@pytest.mark.parametrize("size", [7, 900, 1500, 3000])
def test_batched_nms_of_a_list(size: int) -> None:
    boxes, scores = crowd((size,), 1) * 9, torch.randperm(size, generator=generator(1)) / size
    groups = torch.randint(0, 80, (size,), generator=generator(2))
    expected = torchvision.ops.batched_nms(boxes, scores, groups, 0.5)
    assert torch.equal(batched_nms(boxes, scores, groups, 0.5), expected)
    assert torch.equal(batched_nms(boxes, scores, groups, 0.5, 5), expected[:5])
    assert torch.equal(batched_nms(boxes, scores, groups, 0.5, size + 5), expected)
    half = boxes.half()
    expected = peer(half.float(), scores.half().float(), groups, 0.5)  # many scores are equal
    assert torch.equal(batched_nms(half, scores.half(), groups, 0.5), expected)


@pytest.mark.parametrize("sizes", [(40,), (0,), (0, 0), (30, 0, 1, 50), (1200, 900)], ids=str)
@pytest.mark.parametrize("count", [7, 2000])
def test_lists_are_what_each_is_alone(sizes: tuple[int, ...], count: int) -> None:
    boxes, scores = crowd((sum(sizes),), 1) * 9, torch.rand(sum(sizes), generator=generator(1))
    groups = torch.randint(0, 5, scores.shape, generator=generator(2))
    start, expected = 0, []
    for size in sizes:
        some = slice(start, start + size)
        expected += (batched_nms(boxes[some], scores[some], groups[some], 0.3, count) + start).tolist()
        start += size
    kept = nms_of_lists(boxes, scores, groups, sizes, 0.3, count)
    assert kept.dtype == torch.int64 and kept.tolist() == expected
    assert nms_of_lists(boxes.half(), scores.half(), groups, sizes, 0.3, count).dtype == torch.int64


def test_batched_nms_of_nothing() -> None:
    kept = batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5)
    assert kept.shape == (0,) and kept.dtype == torch.int64


# ------------------------------------------------------------------ matching


def defined(
    truth: Tensor, boxes: Tensor, low: float, high: float, low_quality: bool, floor: float
) -> tuple[Tensor, Tensor]:
    """Matching of one image as its words have it, all pairs at once."""
    labels = torch.zeros(len(boxes), dtype=torch.int8)
    if len(truth) == 0:
        return torch.zeros(len(boxes), dtype=torch.int64), labels - int(floor > 0)
    iou = box_iou(truth, boxes)
    value, index = iou.amax(dim=0), (iou == iou.amax(dim=0)).int().argmax(dim=0)
    labels[value >= low] = -1
    labels[value >= high] = 1
    labels[value < floor] = -1
    if low_quality:
        for row in iou:
            if len(row) and row.max() > 0:
                labels[row == row.max()] = 1
    return index, labels


def check_pairs(pairs: Pairs) -> None:
    truth, real, boxes, low, high, low_quality, floor = pairs
    index, labels = match(*pairs)
    assert index.dtype == torch.int64 and labels.dtype == torch.int8
    for n in range(len(truth)):
        box, own = boxes if boxes.ndim == 2 else boxes[n], real[n].nonzero()[:, 0]
        where, label = defined(truth[n, own], box, low, high, low_quality, floor)
        assert torch.equal(labels[n], label)
        assert torch.equal(index[n], own[where] if len(own) else where)
        alone = match_boxes(truth[n, own], box, low, high, low_quality=low_quality, floor=floor)
        assert torch.equal(alone[0], where) and torch.equal(alone[1], label)


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_matching_is_its_definition(seeds: range) -> None:
    for pairs in pairs_to_match(seeds):
        check_pairs(pairs)


def test_matching_in_pieces_gives_the_same(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """The twin bounds its memory: many ground truths meet many boxes in pieces."""
    calls = []
    whole = reference._iou
    monkeypatch.setattr(reference, "_iou", lambda *pair: calls.append(pair) or whole(*pair))  # type: ignore[func-returns-value]
    monkeypatch.setattr(reference, "MAX_PAIRS", 20 * 3 * 50)
    for pairs in pairs_to_match(range(25)):
        check_pairs(pairs)
    assert (max((boxes.shape[-2] for _, boxes in calls), default=0) > 0) == (way == "twin")
    assert all(truth[..., 0].numel() * boxes.shape[-2] <= 20 * 3 * 50 for truth, boxes in calls)


def test_limits_are_of_the_boxes_type() -> None:
    """An IoU of 3/10 in float32 is the limit 0.3, which is rounded to float32: as torch compares."""
    truth, boxes = torch.tensor([[[0.0, 0, 10, 1]]]), torch.tensor([[0.0, 0, 3, 1]])
    real = torch.ones(1, 1, dtype=torch.bool)
    assert match(truth, real, boxes, 0.1, 0.3, False)[1].item() == 1
    assert match(truth, real, boxes, 0.3, 0.5, False)[1].item() == -1
    assert match(truth, real, boxes, 0.5, 0.5, False, 0.3)[1].item() == 0


def test_types_that_have_no_kernel_are_matched_all_the_same() -> None:
    truth, boxes = crowd((1, 4), 2), crowd((30,), 4)
    real = torch.ones(1, 4, dtype=torch.bool)
    expected = match(truth, real, boxes, 0.3, 0.7, True)
    for a, b in (
        (torch.float16, torch.float16),
        (torch.float32, torch.float64),
    ):  # whole numbers: no rounding
        found = match(truth.to(a), real, boxes.to(b), 0.3, 0.7, True)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


# ------------------------------------------------------------------ what torch asks


def test_bad_arguments_raise_sentences(way: str) -> None:
    boxes, scores, real = torch.zeros(1, 2, 4), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    for threshold, count in ((-0.1, 1), (NAN, 1), (0.5, -1)):
        with pytest.raises(ValueError, match="must not be negative"):
            nms(boxes, scores, real, threshold, count)
    if way == "twin":
        return
    o, groups = torch.ops.maskrcnn, torch.zeros(1, 2, dtype=torch.int64)
    bad: list[tuple[str, Callable[[], object]]] = [
        (r"boxes must be \[B, M, 4\]", lambda: o.nms(boxes[0], scores, real, None, 0.5, 2)),
        (r"scores must be \[B, M\]", lambda: o.nms(boxes, scores[:, :1], real, None, 0.5, 2)),
        (r"scores must be \[B, M\] of", lambda: o.nms(boxes, scores.double(), real, None, 0.5, 2)),
        (r"real must be bool \[B, M\]", lambda: o.nms(boxes, scores, real.long(), None, 0.5, 2)),
        ("groups must be int64", lambda: o.nms(boxes, scores, real, groups.int(), 0.5, 2)),
        ("must be float32 or float64", lambda: o.nms(boxes.half(), scores.half(), real, None, 0.5, 2)),
        ("must not be negative", lambda: o.nms(boxes, scores, real, None, -1.0, 2)),
        (r"truth must be \[N, G, 4\]", lambda: o.match(boxes[0], real, boxes, 0.3, 0.7, True, 0.0)),
        ("truth_real must be bool", lambda: o.match(boxes, real[:, :1], boxes, 0.3, 0.7, True, 0.0)),
        (r"boxes must be \[M, 4\]", lambda: o.match(boxes, real, boxes.repeat(2, 1, 1), 0.3, 0.7, True, 0.0)),
        ("of the type and device", lambda: o.match(boxes, real, boxes.double(), 0.3, 0.7, True, 0.0)),
    ]
    for sentence, call in bad:
        with pytest.raises(RuntimeError, match=sentence):
            call()


def select(boxes: Tensor, scores: Tensor, real: Tensor, groups: Tensor) -> tuple[Tensor, ...]:
    return (*nms(boxes * 2, scores, real, 0.5, 7, groups), *nms(boxes, scores + 1, real, 0.5, 7))


def assign(truth: Tensor, real: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
    return match(truth + 1, real, boxes + 1, 0.3, 0.7, True, 0.1)


def calls(places: int) -> list[tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]]]:
    boxes, real = crowd((2, places), 2), torch.arange(2 * places).view(2, -1) % 3 > 0
    groups = torch.arange(2 * places).view(2, -1) % 4
    scores = torch.rand(2, places, generator=generator(places))
    return [(select, (boxes, scores, real, groups)), (assign, (boxes[:, :9], real[:, :9], boxes))]


@pytest.mark.parametrize("which", [0, 1], ids=["nms", "match"])
def test_compiles_into_one_graph_of_any_size(which: int, way: str) -> None:
    torch._dynamo.reset()
    function = calls(1)[which][0]
    # The twin of NMS is a loop over the places: a graph of its own for each number of them.
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=way == "compiled")
    for places in (5, 9) if way == "twin" else (20, 33, 70):
        arguments = calls(places)[which][1]
        for ours, expected in zip(compiled(*arguments), function(*arguments), strict=True):
            assert torch.equal(ours, expected)


class Selection(torch.nn.Module):
    """What an exported prediction does."""

    def forward(self, boxes: Tensor, scores: Tensor, real: Tensor, groups: Tensor) -> tuple[Tensor, ...]:
        return select(boxes, scores, real, groups)


@compiled_only
def test_exports_with_any_number_of_rows_and_boxes() -> None:
    b, m = torch.export.Dim("b", min=1, max=64), torch.export.Dim("m", min=2, max=5000)
    program = torch.export.export(
        Selection(), calls(20)[0][1], dynamic_shapes=tuple({0: b, 1: m} for _ in range(4))
    )
    for places in (33, 1200):
        arguments = tuple(t[:1] for t in calls(places)[0][1])
        for ours, expected in zip(program.module()(*arguments), select(*arguments), strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("which", [0, 1], ids=["nms", "match"])
def test_shapes_follow_from_shapes(which: int) -> None:
    """Under fake tensors, whose values nobody knows, nothing asks for one."""
    function, arguments = calls(20)[which]
    with FakeTensorMode() as mode:
        fakes = function(*(mode.from_tensor(t) for t in arguments))
    for fake, real in zip(fakes, function(*arguments), strict=True):
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


@compiled_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype: torch.dtype) -> None:
    o: Any = torch.ops.maskrcnn
    boxes, scores = crowd((2, 30), 1, dtype), torch.rand(2, 30, dtype=dtype)
    real, groups = torch.rand(2, 30) < 0.8, torch.randint(0, 3, (2, 30))
    torch.library.opcheck(o.nms.default, (boxes, scores, real, None, 0.5, 6))
    torch.library.opcheck(o.nms.default, (boxes, scores, real, groups, 0.5, 40))
    torch.library.opcheck(o.match.default, (boxes[:, :5], real[:, :5], boxes, 0.3, 0.7, True, 0.0))
    torch.library.opcheck(o.match.default, (boxes[:, :0], real[:, :0], boxes[0], 0.3, 0.7, False, 0.1))


def test_gradients_stop_here() -> None:
    boxes = crowd((1, 9), 1).requires_grad_()
    scores = torch.rand(1, 9, generator=generator()).requires_grad_()
    real = torch.ones(1, 9, dtype=torch.bool)
    found = (*nms(boxes, scores, real, 0.5, 3), *match(boxes, real, boxes, 0.3, 0.7, True))
    assert not any(t.requires_grad for t in found)


@compiled_only
def test_threads_change_nothing() -> None:
    boxes, scores = crowd((40, 300), 1), torch.rand(40, 300, generator=generator(1))
    real, threads, found = torch.ones(40, 300, dtype=torch.bool), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            pairs = match(boxes[:, :30], real[:, :30], boxes, 0.3, 0.7, True)
            found.append((*nms(boxes, scores, real, 0.5, 100), *pairs))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_memory_in_any_order() -> None:
    boxes, scores = crowd((30, 2), 1).transpose(0, 1), torch.rand(30, 2, generator=generator(1)).T
    real = torch.rand(30, 2, generator=generator(2)).T < 0.8
    plain = [t.contiguous() for t in (boxes, scores, real)]
    for ours, expected in zip(nms(boxes, scores, real, 0.5, 9), nms(*plain, 0.5, 9), strict=True):  # type: ignore[misc]
        assert torch.equal(ours, expected)
    pairs = match(boxes[:, ::3], real[:, ::3], boxes, 0.3, 0.7, True)
    expected_pairs = match(
        plain[0][:, ::3].contiguous(), plain[2][:, ::3].contiguous(), plain[0], 0.3, 0.7, True
    )
    assert all(torch.equal(a, b) for a, b in zip(pairs, expected_pairs, strict=True))


SCRIPT = """
from tests.layers.box_cases import pairs_to_match, rows_for_nms
from tests.layers.test_nms_and_match import check_pairs, check_rows
for rows in rows_for_nms(range(36)):
    check_rows(rows, grouped=False)
for pairs in pairs_to_match(range(36)):
    check_pairs(pairs)
print("agrees")
"""


@compiled_only
@pytest.mark.parametrize("processor", ["baseline", "avx2"])
def test_every_processor_version_agrees(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions for older processors, which this machine would not choose."""
    monkeypatch.setenv("MASKRCNN_CPU", processor)
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "agrees", result.stderr


@compiled_only
def test_more_than_a_gpu_takes_at_once_is_torchvision_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice is by device type, so the CPU stands in for a GPU here."""
    monkeypatch.setattr(ops, "nms", lambda *_: pytest.fail("the operator was called"))
    monkeypatch.setattr(ops, "MOST_AT_ONCE", {"cpu": 100})
    boxes, scores, groups = crowd((101,), 1), torch.rand(101), torch.randint(0, 3, (101,))
    expected = torchvision.ops.batched_nms(boxes, scores, groups, 0.5)
    assert torch.equal(batched_nms(boxes, scores, groups, 0.5), expected)
    two = [torch.cat((x, x)) for x in (boxes, scores, groups)]
    assert torch.equal(nms_of_lists(*two, (101, 101), 0.5, 101), torch.cat((expected, expected + 101)))
