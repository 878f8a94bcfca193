"""What stays float32 under half precision: every line of the list, seen in a step and in a prediction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from maskrcnn.engine.ema import WeightAverage
from maskrcnn.engine.strategy import choose_strategy
from maskrcnn.modeling import interfaces
from maskrcnn.modeling import losses as loss_functions
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.precision import STAYS_FLOAT32, autocast
from maskrcnn.modeling.roi.keypoint_head import ConvKeypointHeadConfig
from maskrcnn.modeling.roi.roi_heads import RoIHeads
from tests.engine.line import ALONE, CPU
from tests.modeling.tiny import detecting, images, seeds, targets


def tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


class Seen:
    """Floating-point types by what they are of."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.types: dict[str, set[torch.dtype]] = defaultdict(set)
        self.patch = patch

    def add(self, name: str, *values: Any) -> None:
        self.types[name] |= {t.dtype for value in values for t in tensors(value) if t.is_floating_point()}

    def results(self, owner: Any, function: str, name: str) -> None:
        """Note what ``owner.function`` returns."""
        inner = getattr(owner, function)

        def noting(*args: Any, **named: Any) -> Any:
            found = inner(*args, **named)
            self.add(name, found)
            return found

        self.patch.setattr(owner, function, noting)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_every_line_of_the_list_holds_and_the_rest_is_half(
    precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = getattr(torch, precision)
    seen = Seen(monkeypatch)
    keypoints = ConvKeypointHeadConfig(num_keypoints=2, convs=1, width=16, pool_size=14)
    model = detecting(
        backbone=ResNetConfig(depth=18, width=8, norm="bn", freeze_at=0), keypoint_head=keypoints
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    average = WeightAverage(choose_strategy(ALONE, model), decay=0.9, warmup=1.0)

    seen.results(model.preprocess, "_normalise_together", "images")
    model.preprocess.register_forward_hook(lambda *found: seen.add("images", found[2].tensor))
    assert model.rpn is not None
    model.rpn.register_forward_hook(
        lambda *found: seen.add("proposals", found[2][0].boxes, found[2][0].scores)
    )
    for name in ("box_pooler", "mask_head.pooler", "keypoint_head.pooler"):
        pooler = model.roi.get_submodule(name)
        pooler.register_forward_pre_hook(lambda _, args: seen.add("rois", args[1]))
        pooler.register_forward_hook(lambda *found: seen.add("half", found[2]))
    model.roi.box_head.register_forward_hook(lambda *found: seen.add("half", found[2]))
    seen.results(loss_functions, "encode_boxes", "box_targets")
    seen.results(interfaces, "mask_targets", "mask_targets")
    seen.results(RoIHeads, "losses", "losses")

    truth = [
        replace(t, keypoints=torch.tensor([[[20.0, 20.0, 2.0], [25.0, 30.0, 2.0]]] * len(t.labels)))
        for t in targets([[10.0, 10.0, 60.0, 60.0]], [[5.0, 8.0, 40.0, 50.0]])
    ]
    with autocast(CPU, precision):
        found = model(images(), truth, seeds())
    seen.add("losses", found)
    torch.stack([*found.values()]).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    average.update(0)
    seen.add("weights", dict(model.named_parameters()))
    seen.add("gradients", [p.grad for p in model.parameters()])
    seen.add("optimizer", list(optimizer.state.values()))
    seen.add("average", average.state())
    seen.add("statistics", dict(model.named_buffers()))
    with autocast(CPU, precision):
        detections = model.predict(images())
    assert sum(len(d.scores) for d in detections)
    for one in detections:
        seen.add("detections", one.boxes, one.scores)
        seen.add("mask_probabilities", one.mask_probs)
        seen.add("keypoints", one.keypoints)

    with autocast(CPU, precision), torch.no_grad():
        batch = model.preprocess(images())
        anchors, *given = model.rpn._outputs(batch, model.features(batch.tensor))
    seen.add("anchors", anchors)
    seen.add("half", given)
    assert seen.types.pop("half") == {half}
    assert set(seen.types) == set(STAYS_FLOAT32)
    assert {name: types for name, types in seen.types.items() if types != {torch.float32}} == {}
