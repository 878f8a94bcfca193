"""The whole model: training and prediction in every odd situation, and golden numbers."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskrcnn.errors import ConfigError
from maskrcnn.layers import RoIPool
from maskrcnn.modeling import MaskRCNN, MaskRCNNConfig
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.roi.box_head import TwoFCBoxHeadConfig
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from tests.modeling import tiny

GOLDEN = Path(__file__).parent / "golden_losses.json"
NAMES = ["loss_rpn_cls", "loss_rpn_box", "loss_box_cls", "loss_box_reg", "loss_mask"]
BOXES = [[10.0, 12.0, 60.0, 70.0], [50.0, 20.0, 90.0, 44.0]]


def without_gradient(model: MaskRCNN) -> list[str]:
    return [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def step(model: MaskRCNN, *boxes: list[list[float]]) -> dict[str, float]:
    losses = model.losses(tiny.images()[: len(boxes)], tiny.targets(*boxes), tiny.seeds(images=len(boxes)))
    model.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return {name: loss.item() for name, loss in losses.items()}


def test_losses_have_the_contract_names_and_reach_every_parameter() -> None:
    model = tiny.build()
    losses = step(model, BOXES, [[5.0, 5.0, 40.0, 50.0]])
    assert list(losses) == NAMES
    assert all(value > 0 for value in losses.values())
    assert without_gradient(model) == []


@pytest.mark.parametrize("boxes", [([], []), ([],), (BOXES, [])], ids=["all empty", "one empty", "mixed"])
def test_images_without_objects_train(boxes: tuple[list[list[float]], ...]) -> None:
    model = tiny.build()
    losses = step(model, *boxes)
    assert all(torch.isfinite(torch.tensor(list(losses.values()))))
    assert losses["loss_rpn_cls"] > 0
    assert losses["loss_box_cls"] > 0
    if not any(boxes):
        assert losses["loss_rpn_box"] == losses["loss_box_reg"] == losses["loss_mask"] == 0
    assert without_gradient(model) == []  # or a distributed run would hang


def test_no_proposal_and_no_object_trains_and_predicts() -> None:
    """Proposals can all vanish: here every one is smaller than the least size."""
    model = tiny.build(rpn=replace(tiny.CONFIG.rpn, min_size=1e4))
    losses = step(model, [], [])
    assert losses["loss_box_cls"] == losses["loss_box_reg"] == losses["loss_mask"] == 0
    assert without_gradient(model) == []
    for found in model.predict(tiny.images()):
        assert len(found) == 0
        assert found.mask_probs is not None
        assert found.mask_probs.shape == (0, 28, 28)


def test_predict_gives_sorted_detections_inside_the_image() -> None:
    model = tiny.detecting()
    for image, found in zip(tiny.images(), model.predict(tiny.images()), strict=True):
        height, width = image.shape[1:]
        assert 0 < len(found) <= 10
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert (found.scores > 0.05).all()
        assert (found.scores.diff() <= 0).all()
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([width, height, width, height])).all()
        assert ((found.labels >= 0) & (found.labels < tiny.CLASSES)).all()
        assert found.mask_probs is not None
        assert found.mask_probs.shape == (len(found), 28, 28)
        assert ((found.mask_probs >= 0) & (found.mask_probs <= 1)).all()
        assert not found.boxes.requires_grad


def test_predict_leaves_the_mode_as_it_was_and_takes_no_images() -> None:
    model = tiny.build().train()
    assert model.predict([]) == []
    model.predict(tiny.images())
    assert model.training
    assert model.rpn.training
    model.eval()
    model.predict(tiny.images())
    assert not model.training


def test_predict_does_not_depend_on_the_company_of_an_image() -> None:
    """Two images padded together give what each gives alone, at the size they were padded to."""
    model = tiny.detecting().double()
    first, second = tiny.images(sizes=((64, 96), (64, 96)))
    together = model.predict([first, second])
    alone = model.predict([first])[0]
    torch.testing.assert_close(together[0].boxes, alone.boxes, rtol=0, atol=1e-9)
    torch.testing.assert_close(together[0].scores, alone.scores, rtol=0, atol=1e-9)


def test_no_detection_above_the_threshold() -> None:
    model = tiny.build(roi=replace(tiny.CONFIG.roi, score_threshold=0.999))
    assert [len(found) for found in model.predict(tiny.images())] == [0, 0]


def test_forward_dispatches() -> None:
    model = tiny.build()
    images, targets = tiny.images(), tiny.targets(BOXES, [])
    called = model(images, targets, tiny.seeds())
    direct = model.losses(images, targets, tiny.seeds())
    assert isinstance(called, dict)
    assert {n: v.item() for n, v in called.items()} == {n: v.item() for n, v in direct.items()}
    assert isinstance(model(images), list)


def test_the_seeds_decide_the_samples() -> None:
    model = tiny.build()
    images, targets = tiny.images(), tiny.targets(BOXES, [])
    first, again, other = (model.losses(images, targets, tiny.seeds(s)) for s in (1, 1, 2))
    assert first["loss_rpn_cls"].item() == again["loss_rpn_cls"].item()
    assert first["loss_rpn_cls"].item() != other["loss_rpn_cls"].item()


def test_without_a_mask_head_it_is_faster_rcnn() -> None:
    model = tiny.detecting(mask_head=None)
    assert list(step(model, BOXES, [])) == NAMES[:-1]
    assert all(found.mask_probs is None for found in model.predict(tiny.images()))


def test_without_a_neck_it_reads_one_level() -> None:
    model = tiny.build(
        backbone=ResNetConfig(depth=18, width=8, norm="gn", freeze_at=0, outputs=("c4",)),
        neck=None,
        rpn=replace(tiny.CONFIG.rpn, levels=("c4",), anchors=AnchorConfig(sizes=((16.0, 32.0, 64.0),))),
        roi=replace(tiny.CONFIG.roi, levels=("c4",)),
    )
    assert all(value >= 0 for value in step(model, BOXES, []).values())
    assert without_gradient(model) == []


def test_class_agnostic_heads() -> None:
    model = tiny.detecting(
        box_head=TwoFCBoxHeadConfig(hidden=32, class_agnostic=True),
        mask_head=FCNMaskHeadConfig(convs=1, width=16, class_agnostic=True),
    )
    assert list(step(model, BOXES, [])) == NAMES
    assert without_gradient(model) == []
    assert len(model.predict(tiny.images())[0]) > 0


def test_roi_op_is_swapped_in_both_heads() -> None:
    align, pool = tiny.build(), tiny.build(roi_op=RoIPool())
    pool.load_state_dict(align.state_dict())
    images, targets = tiny.images(), tiny.targets(BOXES, [])
    a, b = (m.losses(images, targets, tiny.seeds()) for m in (align, pool))
    assert a["loss_rpn_cls"].item() == b["loss_rpn_cls"].item()
    assert a["loss_box_cls"].item() != b["loss_box_cls"].item()
    assert a["loss_mask"].item() != b["loss_mask"].item()


@pytest.mark.parametrize("mode", ["polygon", "bitmask", "bitmask_hard"])
def test_mask_target_modes_train(mode: str) -> None:
    losses = step(tiny.build(mask_target=mode), BOXES, [])
    assert 0 < losses["loss_mask"] < 10


def test_bfloat16_autocast_trains_and_predicts() -> None:
    model = tiny.detecting()
    with torch.autocast("cpu", torch.bfloat16):
        losses = step(model, BOXES, [])
        found = model.predict(tiny.images())[0]
    exact = step(model, BOXES, [])
    assert losses["loss_mask"] == pytest.approx(exact["loss_mask"], rel=0.02)
    assert losses["loss_rpn_cls"] == pytest.approx(exact["loss_rpn_cls"], rel=0.02)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert without_gradient(model) == []


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_layout_changes_no_number(channels_last: bool) -> None:
    base = tiny.build(channels_last=not channels_last).double()
    model = tiny.build(channels_last=channels_last).double()
    weight = model.get_parameter("backbone.layer1.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    batch = model.preprocess(tiny.images())
    assert batch.tensor.is_contiguous(memory_format=torch.channels_last) == channels_last
    a, b = (m.losses(tiny.images(), tiny.targets(BOXES, []), tiny.seeds()) for m in (base, model))
    for name in NAMES:
        assert a[name].item() == pytest.approx(b[name].item(), rel=1e-9), name


def test_state_dict_round_trip() -> None:
    one, two = tiny.detecting(seed=0), tiny.build(seed=1)
    two.load_state_dict(one.state_dict())
    for a, b in zip(one.predict(tiny.images()), two.predict(tiny.images()), strict=True):
        assert torch.equal(a.boxes, b.boxes)
    assert not any(name.startswith("preprocess") for name in one.state_dict())


def test_one_batch_can_be_learned() -> None:
    model = tiny.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    history = []
    for _ in range(12):
        losses = model.losses(tiny.images(), tiny.targets(BOXES, [[5.0, 5.0, 40.0, 50.0]]), tiny.seeds())
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        history.append(total.item())
    assert history[-1] < 0.75 * history[0]


def test_golden_losses() -> None:
    """Losses of a seeded float64 model; ``MASKRCNN_RECORD=1`` writes them anew after a wanted change."""
    torch.manual_seed(0)
    model = tiny.build().double()
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.copy_(noise * 0.5 / max(parameter[0].numel(), 1) ** 0.5 + (parameter.dim() == 1) * 0.5)
    found = step(model, BOXES, [[5.0, 5.0, 40.0, 50.0]])
    if os.environ.get("MASKRCNN_RECORD") == "1":
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert found == pytest.approx(golden, rel=1e-8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neck": None}, "model.roi.levels"),
        ({"rpn": replace(tiny.CONFIG.rpn, levels=("p2", "p9"))}, "p9"),
        ({"rpn": replace(tiny.CONFIG.rpn, levels=("p2", "p3"))}, "5 entries for 2 levels"),
        ({"rpn": replace(tiny.CONFIG.rpn, negative_iou=0.8)}, "negative_iou"),
        ({"preprocess": replace(tiny.CONFIG.preprocess, std=(1.0, 1.0))}, "model.preprocess.std"),
    ],
)
def test_contradicting_configs_say_so(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny.build(**changes)


def test_no_classes_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one class"):
        MaskRCNNConfig().build(0)
