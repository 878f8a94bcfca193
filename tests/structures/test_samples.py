"""The records between data, model and evaluation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskrcnn.structures import Detections, ImageInfo, InstanceMasks, Sample, Targets, collate


def targets(count: int) -> Targets:
    squares = [[[i, i, i + 4, i, i + 4, i + 4, i, i + 4]] for i in range(count)]
    masks = InstanceMasks.from_coco(squares, 20, 20)
    return Targets(masks.boxes(), torch.arange(count), masks, torch.arange(count) + 100)


def test_select_keeps_all_parts_together() -> None:
    for keep in (torch.tensor([False, True, False, True]), torch.tensor([1, 3])):
        some = targets(4).select(keep)
        assert some.labels.tolist() == [1, 3]
        assert some.annotation_ids.tolist() == [101, 103]
        assert some.masks is not None
        assert torch.equal(some.masks.boxes(), some.boxes)
    assert len(targets(4).select(torch.zeros(4, dtype=torch.bool))) == 0


def test_collate_keeps_sizes_and_order() -> None:
    samples = [
        Sample(torch.zeros((3, h, 7), dtype=torch.uint8), ImageInfo(h, f"{h}.png", h, 7), targets(h))
        for h in (5, 2)
    ]
    batch = collate(samples)
    assert [i.shape[1] for i in batch.images] == [5, 2]
    assert [i.image_id for i in batch.infos] == [5, 2]
    assert batch.targets is not None
    assert [len(t) for t in batch.targets] == [5, 2]
    assert len(batch) == 2
    without = Sample(samples[0].image, samples[0].info, None)
    assert collate([samples[0], without]).targets is None


def test_packed_masks_travel_with_their_targets() -> None:
    samples = [
        Sample(torch.zeros((3, 9, 7), dtype=torch.uint8), ImageInfo(n, f"{n}.png", 9, 7), targets(n))
        for n in (2, 0, 3)
    ]
    plain = collate(samples).targets
    assert plain is not None and [t.packed for t in plain] == [None] * 3
    batch = collate(samples, drawn_masks=True)
    for there in (batch, batch.to("cpu"), batch.to("meta")):
        assert there.targets is not None
        (packed, first), *others = [t.packed for t in there.targets if t.packed is not None]
        assert first == 0 and packed.drawn and packed.points.device == there.images[0].device
        # One set of tensors for all, so that it is sent and moved once.
        assert [(p is packed, row) for p, row in others] == [(True, 3), (True, 6)]
    assert batch.targets is not None
    assert batch.targets[0].to("cpu").packed is None
    assert batch.targets[0].select(torch.tensor([1])).packed is None
    without = replace(samples[0], targets=replace(targets(0), masks=None))
    assert collate([without, samples[0]], drawn_masks=False).targets is not None


def test_all_that_goes_to_a_gpu_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """From other memory a copy waits for the GPU.  Without one nothing is pinned, so calls are counted."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: (pinned.append(self), self.clone())[1])
    given = replace(targets(2), keypoints=torch.zeros(2, 5, 3))
    sample = Sample(torch.zeros(3, 5, 7), ImageInfo(1, "1.png", 5, 7), given, torch.zeros(4, 4))
    batch = collate([sample], [3]).pin_memory()
    assert batch.seeds is not None and batch.targets is not None and batch.proposals is not None
    (moved,) = batch.targets
    assert moved.annotation_ids is given.annotation_ids and moved.masks is given.masks
    after = [batch.images[0], moved.boxes, moved.labels, moved.keypoints, batch.proposals[0], batch.seeds]
    assert all(tensor is not None for tensor in after) and len(pinned) == len(after)
    bare = collate([Sample(torch.zeros(3, 5, 7), sample.info, None)]).pin_memory()
    assert bare.targets is None and bare.seeds is None and bare.proposals is None


def test_proposals_travel_with_their_images() -> None:
    image, info = torch.zeros((3, 5, 7), dtype=torch.uint8), ImageInfo(1, "1.png", 5, 7)
    samples = [Sample(image, info, None, torch.full((n, 4), float(n))) for n in (2, 0)]
    batch = collate(samples)
    assert batch.proposals is not None
    assert [p.tolist() for p in batch.proposals] == [[[2.0] * 4] * 2, []]
    moved = batch.to("meta").proposals
    assert moved is not None and [p.device.type for p in moved] == ["meta", "meta"]
    assert collate([samples[0], Sample(image, info, None)]).proposals is None
    assert collate([Sample(image, info, None)]).to("cpu").proposals is None


def test_detections_rescale_each_axis() -> None:
    found = Detections(torch.tensor([[1.0, 2, 3, 4]]), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    assert found.rescale((10, 20), (30, 100)).boxes.tolist() == [[5, 6, 15, 12]]


def test_keypoints_travel_with_their_instances() -> None:
    points = torch.arange(4 * 2 * 3.0).reshape(4, 2, 3)
    some = replace(targets(4), keypoints=points)
    chosen = some.select(torch.tensor([3, 1])).keypoints
    assert chosen is not None and torch.equal(chosen, points[[3, 1]])
    moved = some.to("meta").keypoints
    assert moved is not None and moved.device.type == "meta"

    found = Detections(torch.ones(4, 4), torch.ones(4), torch.arange(4), keypoints=points)
    chosen = found.select(torch.tensor([False, True, False, False])).keypoints
    assert chosen is not None and torch.equal(chosen, points[1:2])
    assert found.to("meta").keypoints is not None
    scaled = found.rescale((10, 20), (30, 100)).keypoints
    assert scaled is not None and torch.equal(scaled, points * torch.tensor([5.0, 3.0, 1.0]))


def test_extras_travel_with_their_instances() -> None:
    extras = {"tilt": torch.arange(4.0), "corners": torch.arange(4 * 3 * 2.0).reshape(4, 3, 2)}
    found = Detections(torch.ones(4, 4), torch.ones(4), torch.arange(4), extras=extras)
    for keep in (torch.tensor([3, 1]), torch.tensor([False, True, False, True])):
        chosen = found.select(keep)
        assert [*chosen.extras] == ["tilt", "corners"]
        assert all(chosen.extras[name].equal(values[keep]) for name, values in extras.items())
    assert {v.device.type for v in found.to("meta").extras.values()} == {"meta"}
    assert found.rescale((10, 20), (30, 100)).extras == extras
