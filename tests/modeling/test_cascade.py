"""Cascade R-CNN: stages worked by hand, one stage against the plain head, gradients, empty images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.errors import ConfigError
from maskrcnn.modeling import MaskRCNN
from maskrcnn.modeling.roi.roi_heads import RoIHeads
from maskrcnn.modeling.roi.rois import SampledRoIs
from maskrcnn.modeling.roi.stages import CascadeConfig, relabel, scale_gradient
from maskrcnn.structures import Targets
from maskrcnn.structures.padded import pad_targets
from tests.modeling import tiny

BOXES = [[10.0, 12.0, 60.0, 50.0], [70.0, 20.0, 110.0, 90.0]]
AGNOSTIC = replace(tiny.CONFIG.box_head, class_agnostic=True)  # type: ignore[type-var]


def one_stage() -> CascadeConfig:
    return CascadeConfig(ious=(0.5,), box_weights=((10.0, 10.0, 5.0, 5.0),))


def build(cascade: CascadeConfig | None, **changes: Any) -> MaskRCNN:
    return tiny.build(roi=replace(tiny.CONFIG.roi, cascade=cascade), box_head=AGNOSTIC, **changes)


def losses(model: MaskRCNN, *boxes: list[list[float]]) -> dict[str, Tensor]:
    return model.losses(tiny.images()[: len(boxes)], tiny.targets(*boxes), tiny.seeds(images=len(boxes)))


def test_a_stage_is_relabelled_at_its_own_iou() -> None:
    truth = Targets(
        torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]]), torch.tensor([2, 0]), None, torch.tensor([1, 2])
    )
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 5.9],  # IoU 0.59 with the first
            [20, 0, 30, 8],  # 0.8 with the second
            [0, 0, 10, 6],  # 0.6, just enough
            [-4, -4, 10, 10],  # the first, once cut to the image
            [40, 40, 39, 50],  # turned inside out
            [60, 0, 70, 10],  # outside
        ]
    )
    size = torch.tensor([[20.0, 50.0]])

    def stage(boxes: Tensor, truth: Targets, iou: float, real: Tensor | None = None) -> SampledRoIs:
        rows = torch.arange(len(boxes))
        before = torch.cat((torch.zeros(len(boxes), 1), boxes.flip(0)), dim=1)
        sample = SampledRoIs(before, rows * 0, real, rows * 0, rows, pad_targets([truth]), 3, len(rows), 1)
        return relabel(sample, boxes, size, iou=iou)

    found = stage(boxes, truth, 0.6)
    assert found.boxes.tolist() == [
        [0, 0, 10, pytest.approx(5.9)],
        [20, 0, 30, 8],
        [0, 0, 10, 6],
        [0, 0, 10, 10],
    ]
    assert found.labels.tolist() == [3, 0, 2, 2]
    assert found.positive.truth.tolist() == [1, 0, 0]
    assert stage(boxes, truth, 0.7).labels.tolist() == [3, 0, 3, 2]
    none = stage(boxes, truth.select(torch.zeros(0, dtype=torch.int64)), 0.6)
    assert none.labels.tolist() == [3] * 4 and len(none.positive) == 0
    assert len(stage(boxes[4:], truth, 0.6)) == 0
    # In the static form nothing goes, and what is not real stays so.
    there = torch.tensor([True, False, True, True, True, True])
    fixed = stage(boxes, truth, 0.6, there)
    assert fixed.real is not None and fixed.real.tolist() == [True, False, True, True, False, False]
    assert fixed.boxes[[1, 4, 5]].tolist() == [[0, 0, 1, 1]] * 3
    assert fixed.positive.real is not None and fixed.positive.real.nonzero().flatten().tolist() == [2, 3]


class Fixed(nn.Module):
    """A box head that always says the same, and keeps how many RoIs it was shown."""

    def __init__(self, logits: list[float], deltas: list[float]) -> None:
        super().__init__()
        self.logits, self.deltas = torch.tensor(logits), nn.Parameter(torch.tensor(deltas))
        self.shown: list[int] = []

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        count = pooled.shape[0]
        self.shown.append(count)
        return self.logits.expand(count, -1), self.deltas.expand(count, -1)


def with_heads(*heads: Fixed, **changes: Any) -> RoIHeads:
    weights = ((1.0, 1.0, 1.0, 1.0), (2.0, 2.0, 2.0, 2.0))
    model = build(CascadeConfig(ious=(0.5, 0.75), box_weights=weights), mask_head=None, **changes)
    roi = model.roi
    roi.box_heads = nn.ModuleList(heads)
    return roi


def features() -> dict[str, Tensor]:
    return {f"p{k}": torch.zeros(1, 16, 128 >> k, 128 >> k) for k in range(2, 6)}


def test_boxes_run_from_stage_to_stage() -> None:
    """Deltas (0.5, 0) move a box by half its width; the second stage's weight 2 halves them."""
    even = [0.0, 0.0, 0.0, 0.0]
    heads = Fixed(even, [0.5, 0.0, 0.0, 0.0]), Fixed(even, [0.5, 0.0, 0.0, 0.0])
    roi = with_heads(*heads)
    proposals = [torch.tensor([[0.0, 0, 40, 40], [100, 0, 140, 40], [10, 0, 50, 40]])]
    targets = tiny.targets([[20.0, 0, 60, 40]])
    found = roi.losses(features(), proposals, targets, tiny.seeds(images=len(proposals)), [(128, 128)])
    assert set(found) == {f"loss_box_{kind}_stage{k}" for kind in ("cls", "reg") for k in (1, 2)}
    # Stage 1: IoU 1/3, 0, 0.6 and 1 (the ground truth itself).  The last two are positive; dx should be
    # 0.25 and 0.
    assert float(found["loss_box_reg_stage1"].detach()) == pytest.approx((0.25 + 0.5) / 4)
    # Stage 2: (20, 0, 60, 40), IoU 1; (120, 0, 128, 40), cut; (30, 0, 70, 40), IoU 0.6, now too little;
    # (40, 0, 80, 40), IoU 1/3.
    assert heads[1].shown == [4]
    assert float(found["loss_box_reg_stage2"].detach()) == pytest.approx(0.5 / 4)
    assert float(found["loss_box_cls_stage2"]) == pytest.approx(1.3862944)  # log 4
    # What stage 2 wants of its boxes says nothing to stage 1's deltas.
    found["loss_box_reg_stage2"].backward()
    assert heads[0].deltas.grad is None
    assert heads[1].deltas.grad is not None

    heads = Fixed(even, [0.5, 0.0, 0.0, 0.0]), Fixed(even, [-2.0, 0.0, 0.0, 0.0])
    roi = with_heads(*heads)
    # To the right by 20, cut at 128, then left by its width.
    (detected,) = roi.predict(features(), [torch.tensor([[100.0, 0, 140, 40]])], [(128, 128)])
    assert detected.boxes[0].tolist() == [112.0, 0.0, 120.0, 40.0]


def test_a_stage_whose_boxes_all_vanish_trains_on_none() -> None:
    even = [0.0, 0.0, 0.0, 0.0]
    roi = with_heads(Fixed(even, [9.0, 0.0, 0.0, 0.0]), Fixed(even, [0.0, 0.0, 0.0, 0.0]))
    proposals = [torch.tensor([[100.0, 0, 120, 40]])]
    found = roi.losses(features(), proposals, tiny.targets([]), tiny.seeds(images=1), [(128, 128)])
    assert float(found["loss_box_cls_stage2"]) == float(found["loss_box_reg_stage2"].detach()) == 0.0
    # At test the empty RoI stays, for its score.
    (detected,) = roi.predict(features(), proposals, [(128, 128)])
    assert detected.scores.tolist() == pytest.approx([0.25] * 3)


def test_scores_are_the_mean_of_the_stages() -> None:
    first, second = [2.0, 0.0, 0.0, 1.0], [0.0, 3.0, 0.0, 0.0]
    roi = with_heads(Fixed(first, [0.0] * 4), Fixed(second, [0.0] * 4))
    (found,) = roi.predict(features(), [torch.tensor([[10.0, 10, 50, 50]])], [(128, 128)])
    mean = (torch.tensor(first).softmax(0) + torch.tensor(second).softmax(0)) / 2
    order = mean[:3].sort(descending=True)
    assert found.labels.tolist() == order.indices.tolist()
    assert torch.allclose(found.scores, order.values)


def test_one_stage_is_the_plain_head_to_the_bit() -> None:
    plain, cascade = build(None), build(one_stage())
    renamed = {k.replace("roi.box_head.", "roi.box_heads.0."): v for k, v in plain.state_dict().items()}
    assert set(renamed) == set(cascade.state_dict())
    for model in (plain, cascade):  # so that something is detected
        ((head, _),) = model.roi.box_stages
        torch.manual_seed(1)
        head.get_submodule("predictor.logits").reset_parameters()  # type: ignore[operator]
    ours, theirs = losses(cascade, BOXES, []), losses(plain, BOXES, [])
    assert {k.removesuffix("_stage1"): v.tolist() for k, v in ours.items()} == {
        k: v.tolist() for k, v in theirs.items()
    }
    for found in (ours, theirs):
        torch.stack(list(found.values())).sum().backward()
    gradients = {name: p.grad for name, p in cascade.named_parameters()}
    for name, parameter in plain.named_parameters():
        own = gradients[name.replace("roi.box_head.", "roi.box_heads.0.")]
        assert own is not None and parameter.grad is not None and torch.equal(own, parameter.grad), name
    for a, b in zip(cascade.predict(tiny.images()), plain.predict(tiny.images()), strict=True):
        assert len(a) > 0
        assert torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores)
        assert a.mask_probs is not None and b.mask_probs is not None
        assert torch.equal(a.mask_probs, b.mask_probs)


def test_features_hear_a_third_of_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for scaled in (True, False):
        if not scaled:
            monkeypatch.setattr("maskrcnn.modeling.roi.roi_heads.scale_gradient", lambda x, factor: x)
        model = build(CascadeConfig(), mask_head=None)
        found = losses(model, BOXES)
        torch.stack([v for k, v in found.items() if "stage" in k]).sum().backward()
        neck, head = model.neck, model.roi.get_submodule("box_heads.1.fc1")
        assert neck is not None
        below = torch.cat([p.grad.flatten() for p in neck.parameters() if p.grad is not None])
        gradients.append((below, head.weight.grad))
    (scaled_below, scaled_head), (below, head_gradient) = gradients
    assert float(below.abs().max()) > 0
    assert float((scaled_below * 3 - below).norm()) < 1e-6 * float(below.norm())
    assert torch.equal(scaled_head, head_gradient)  # type: ignore[arg-type]
    x = torch.ones(2, requires_grad=True)
    scale_gradient(x, 0.25).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.25, 0.25]


@pytest.mark.parametrize("boxes", [([],), ([], []), (BOXES, [])])
def test_every_parameter_trains_whatever_is_there(boxes: tuple[list[list[float]], ...]) -> None:
    model = build(CascadeConfig())
    found = losses(model, *boxes)
    assert [k for k in found if "stage3" in k] == ["loss_box_cls_stage3", "loss_box_reg_stage3"]
    assert all(torch.isfinite(v) for v in found.values())
    torch.stack(list(found.values())).sum().backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_no_proposals_no_detections() -> None:
    model = build(CascadeConfig(), rpn=None)
    given = [torch.zeros(0, 4), torch.zeros(0, 4)]
    assert [len(d) for d in model.predict(tiny.images(), given)] == [0, 0]
    found = model.losses(tiny.images(), tiny.targets(BOXES, []), tiny.seeds(), given)
    assert all(torch.isfinite(v) for v in found.values())
    assert float(found["loss_box_reg_stage1"].detach()) >= 0


def test_masks_train_on_the_first_stage() -> None:
    """As in Detectron2, whose mask head sees the sampled RoIs, not the refined ones."""
    seen: dict[str, Tensor] = {}
    for name, cascade in (("cascade", CascadeConfig()), ("plain", None)):
        model = build(cascade)
        assert model.roi.mask_head is not None
        model.roi.mask_head.pooler.register_forward_hook(
            lambda _, inputs, out, name=name: seen.__setitem__(name, out)
        )
        losses(model, BOXES)
    assert len(seen["plain"]) >= 2
    assert torch.equal(seen["cascade"], seen["plain"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"box_head": tiny.CONFIG.box_head}, "set model.box_head.class_agnostic: true"),
        ({"cascade": CascadeConfig(ious=(0.6, 0.7, 0.8))}, "starts with 0.6"),
        ({"cascade": CascadeConfig(ious=(0.5,))}, "one entry a stage"),
        ({"cascade": CascadeConfig(ious=(), box_weights=())}, "at least one"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], sentence: str) -> None:
    roi = replace(tiny.CONFIG.roi, cascade=changes.pop("cascade", CascadeConfig()))
    with pytest.raises(ConfigError, match=sentence):
        tiny.build(**({"roi": roi, "box_head": AGNOSTIC} | changes))


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ious must be in \(0, 1\], got 1.2"):
        CascadeConfig(ious=(0.5, 0.6, 1.2))
    with pytest.raises(ConfigError, match="box_weights must be > 0, got 0.0"):
        replace(one_stage(), box_weights=((1.0, 1.0, 0.0, 1.0),))


def test_a_trunk_and_a_cascade_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"model.roi.cascade and model.roi_trunk exclude each other"):
        CascadeConfig().check(0.5, has_trunk=True)
