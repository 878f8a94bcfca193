"""The sampling of Fast R-CNN (Girshick 2015, section 2.3), and dropout that survives an interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.engine.checkpoint import Checkpoint, load
from maskrcnn.errors import ConfigError
from maskrcnn.modeling import MaskRCNN
from maskrcnn.modeling.matching import balanced_sample
from maskrcnn.modeling.preprocess import ImageBatch
from maskrcnn.modeling.roi.box_head import TwoFCBoxHeadConfig
from maskrcnn.modeling.roi.roi_heads import RoIHeadsConfig
from maskrcnn.modeling.roi.rois import SampledRoIs
from maskrcnn.structures import Targets, box_iou
from tests.engine.line import batches, trainer
from tests.modeling import tiny

#: 2 images give 128 RoIs, a quarter with IoU >= 0.5, the rest in [0.1, 0.5).
FAST = RoIHeadsConfig(samples=64, positive_fraction=0.25, background_iou=0.1)
TRUTH = [[0.0, 0.0, 100.0, 100.0]]


def strips(ious: Tensor) -> Tensor:
    """Boxes that lie within the truth and overlap it by ``ious``."""
    zero = torch.zeros_like(ious)
    return torch.stack((zero, zero, zero + 100, ious * 100), dim=1)


def images_of(
    model: MaskRCNN, proposals: list[Tensor], targets: list[Targets], seeds: Tensor
) -> list[SampledRoIs]:
    """The sampled RoIs of every image."""
    sample = model.roi.sample(proposals, targets, seeds)
    return [sample.where(sample.images == i) for i in range(len(targets))]


def sampled(proposals: list[Tensor], truths: list[list[list[float]]]) -> list[tuple[Tensor, Tensor]]:
    """Of each image: the IoU of the sampled RoIs with the truth, and which are positive."""
    model = tiny.build(roi=replace(FAST, levels=tiny.CONFIG.roi.levels))
    result = []
    for sample in images_of(model, proposals, tiny.targets(*truths), tiny.seeds(images=len(truths))):
        positive = torch.arange(len(sample)) < len(sample.positive)
        assert ((sample.labels < tiny.CLASSES) == positive).all()
        result.append((box_iou(sample.boxes, torch.tensor(TRUTH))[:, 0], positive))
    return result


def test_sixteen_positives_and_the_rest_between_a_tenth_and_a_half() -> None:
    ious = torch.cat(
        (torch.linspace(0.5, 1, 40), torch.linspace(0.1, 0.499, 100), torch.linspace(0, 0.099, 90))
    )
    for iou, positive in sampled([strips(ious)] * 2, [TRUTH] * 2):
        assert len(iou) == 64
        assert int(positive.sum()) == 16
        assert (iou[positive] >= 0.5).all()
        assert ((iou[~positive] >= 0.1) & (iou[~positive] < 0.5)).all()


def test_the_bounds_belong_to_the_upper_side() -> None:
    ((iou, positive),) = sampled([strips(torch.tensor([0.5, 0.1, 0.09]))], [TRUTH])
    # the ground truth itself joined the proposals
    assert sorted(zip(iou.tolist(), positive.tolist(), strict=True)) == [
        (pytest.approx(0.1), False), (0.5, True), (1.0, True),
    ]  # fmt: skip


def test_boxes_under_a_tenth_are_never_drawn_even_where_nothing_else_is() -> None:
    far = strips(torch.linspace(0.01, 0.09, 50))
    ((iou, positive),) = sampled([far], [TRUTH])
    assert (iou.tolist(), positive.tolist()) == ([1.0], [True])
    # Without an object all overlap nothing: such an image has no RoI, and the batch still trains.
    model = tiny.build(roi=replace(FAST, levels=tiny.CONFIG.roi.levels))
    features = model.features(model.preprocess(tiny.images()).tensor)
    targets = tiny.targets([], TRUTH)
    assert [len(s) for s in images_of(model, [far, far], targets, tiny.seeds())] == [0, 1]
    losses = model.roi.losses(features, [far, far], tiny.targets([], []), tiny.seeds())
    assert [value.item() for value in losses.values()] == [0, 0, 0]
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in model.roi.parameters())


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="background_iou must not be greater"):
        tiny.build(roi=replace(tiny.CONFIG.roi, background_iou=0.6))


class Dropping(nn.Module):
    """A box head with dropout on the pixels of each image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = TwoFCBoxHeadConfig(hidden=16, pool_size=2, dropout=0.5).build(3, 2)

    def forward(self, images: list[Tensor], targets: Any, seeds: Tensor | None) -> dict[str, Tensor]:
        logits, deltas = self.head(torch.stack(images).float())
        return {"loss": F.cross_entropy(logits, torch.tensor([0, 2])) + (deltas - 1).abs().mean()}


def test_training_with_dropout_resumes_to_the_bit(tmp_path: Path) -> None:
    """Dropout draws from torch's global generator; the trainer seeds that one, too, for every step."""
    torch.manual_seed(0)
    start = Dropping().state_dict()

    def run(first: int, steps: int, folder: Path, checkpoint: Checkpoint | None = None) -> Checkpoint:
        torch.manual_seed(first + 123)  # a new process has another state
        model = Dropping()
        model.load_state_dict(start)
        trainer(model, folder, total_steps=steps, resume=checkpoint).fit(batches(first))
        return load(folder / "last.pt")

    whole = run(0, 4, tmp_path / "whole")
    half = run(0, 2, tmp_path / "half")
    resumed = run(2, 4, tmp_path / "half", half)
    assert resumed.step == whole.step == 4
    for name, value in whole.model.items():
        assert torch.equal(value, resumed.model[name]), name
        assert not torch.equal(value, start[name]), name


def anchors_drawn(model: MaskRCNN, padded: tuple[int, int], seeds: Tensor) -> list[set[tuple[float, ...]]]:
    """The anchors that the RPN trains on in images of one size, padded to ``padded``, as boxes."""
    rpn = model.rpn
    assert rpn is not None
    drawn: list[set[tuple[float, ...]]] = []
    inside: list[Tensor] = []

    def sampler(labels: Tensor, count: int, fraction: float, keys: Tensor) -> tuple[Tensor, Tensor]:
        # Only anchors of the image itself: padding adds others, which may be drawn in their place.
        labels = torch.where(inside[0], labels, -1)
        rows = torch.cat(balanced_sample(labels, count, fraction, keys))
        drawn.append({tuple(box) for box in inside[1][rows].tolist()})
        return rows[:0], rows[:0]

    rpn.sampler = sampler
    batch = ImageBatch(torch.zeros(len(seeds), 3, *padded), [(96, 120)] * len(seeds))
    features = model.features(batch.tensor)
    anchors = torch.cat(list(rpn.anchors([features[f"p{i}"] for i in range(2, 7)], padded, torch.float32)))
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    inside += [(centre[:, 0] < 120) & (centre[:, 1] < 96), anchors]
    rpn(batch, features, tiny.targets(*[[[10.0, 10.0, 60.0, 70.0]]] * len(seeds)), seeds)
    return drawn


def test_an_image_draws_the_same_anchors_whatever_it_is_padded_to_and_beside_whom() -> None:
    model = tiny.build()
    seeds = torch.tensor([11, 12, 13])
    first, second, third = anchors_drawn(model, (128, 128), seeds)
    assert len(first) == len(second) == 64 and first != second
    assert anchors_drawn(model, (160, 256), seeds) == [first, second, third]
    assert anchors_drawn(model, (128, 128), seeds[[2, 0]]) == [third, first]


def test_an_image_draws_the_same_rois_whatever_its_place_in_the_batch() -> None:
    model = tiny.build()
    torch.manual_seed(0)
    corner = torch.rand(3, 200, 2) * 60
    proposals = list(torch.cat((corner, corner + 20 + torch.rand(3, 200, 2) * 30), dim=2))
    targets = tiny.targets(*[[[10.0, 10.0, 60.0, 70.0], [30.0, 20.0, 90.0, 80.0]]] * 3)
    seeds = torch.tensor([11, 12, 13])
    whole = images_of(model, proposals, targets, seeds)
    alone = [model.roi.sample([proposals[i]], [targets[i]], seeds[i : i + 1]) for i in range(3)]
    for a, b in zip(whole, alone, strict=True):
        assert a.boxes.equal(b.boxes) and a.labels.equal(b.labels) and a.truth.equal(b.truth)
    other = images_of(model, proposals, targets, seeds + 100)
    assert not other[0].boxes.equal(whole[0].boxes)
