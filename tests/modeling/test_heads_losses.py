"""GIoU, softmax masks and class-agnostic boxes: against torch's and torchvision's functions and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from maskrcnn.errors import ConfigError
from maskrcnn.modeling.box_coder import decode_boxes, encode_boxes
from maskrcnn.modeling.losses import box_regression_loss, giou_loss, smooth_l1
from maskrcnn.modeling.roi.box_head import TwoFCBoxHeadConfig
from maskrcnn.modeling.roi.decode import select_detections
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig, MaskLoss, PixelMaskHead
from maskrcnn.modeling.roi.mask_mlp import MLPMaskHeadConfig
from maskrcnn.modeling.roi.pooler import to_rois
from maskrcnn.modeling.rpn.rpn import RPN
from tests.modeling import tiny

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def random_boxes(count: int, seed: int) -> Tensor:
    draw = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    corner = draw[:, :2] * 50
    return torch.cat((corner, corner + 1 + draw[:, 2:] * 40), dim=1)


def test_giou_is_torchvisions() -> None:
    a, b = random_boxes(200, 0), random_boxes(200, 1)
    assert (giou_loss(a, b) > 1).any() and (giou_loss(a, b) < 0.7).any()  # apart, and well on each other
    torch.testing.assert_close(giou_loss(a, b), generalized_box_iou_loss(a, b), rtol=0, atol=1e-12)


def test_giou_by_hand() -> None:
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0]], dtype=torch.float64)
    beside = torch.tensor([[4.0, 0.0, 6.0, 2.0]], dtype=torch.float64)
    half = torch.tensor([[1.0, 0.0, 3.0, 2.0]], dtype=torch.float64)
    assert giou_loss(box, box).item() == pytest.approx(0, abs=1e-7)
    # union 8 of the hull's 12; nothing shared
    assert giou_loss(box, beside).item() == pytest.approx(1 + 4 / 12, abs=1e-7)
    # union 6 fills the hull; 2 shared
    assert giou_loss(box, half).item() == pytest.approx(1 - 2 / 6, abs=1e-7)


def test_giou_gradient() -> None:
    a, b = random_boxes(20, 2).requires_grad_(), random_boxes(20, 3).requires_grad_()
    assert torch.autograd.gradcheck(giou_loss, (a, b))
    reference = random_boxes(20, 4)
    deltas = encode_boxes(b.detach(), reference, WEIGHTS).requires_grad_()

    def loss(deltas: Tensor) -> Tensor:
        return box_regression_loss(deltas, reference, a.detach(), 7, kind="giou", weights=WEIGHTS)

    assert torch.autograd.gradcheck(loss, (deltas,))


def test_giou_of_degenerate_boxes_is_finite_and_so_is_its_gradient() -> None:
    truth = torch.tensor([[10.0, 10.0, 30.0, 50.0]]).expand(6, 4)
    reference = torch.tensor([[10.0, 10.0, 30.0, 50.0]]).expand(6, 4)
    deltas = torch.tensor(
        [
            [0.0, 0.0, 0.0, 0.0],  # the truth itself
            [0.0, 0.0, -1e4, 0.0],  # no width
            [0.0, 0.0, -1e4, -1e4],  # a point inside
            [90.0, 90.0, -1e4, -1e4],  # a point outside
            [0.0, 0.0, 1e4, 1e4],  # as large as the coder lets it be
            [1e5, -1e5, 0.0, 0.0],  # far away
        ],
        requires_grad=True,
    )
    loss = giou_loss(decode_boxes(deltas, reference), truth)
    assert loss[0] < 1e-6
    assert ((loss >= 0) & (loss <= 2)).all()
    loss.sum().backward()
    assert deltas.grad is not None and torch.isfinite(deltas.grad).all()
    empty = torch.zeros(2, 4, requires_grad=True)
    nothing = giou_loss(empty, torch.tensor([[0.0, 0, 0, 0], [5.0, 5, 5, 9]]))
    assert torch.isfinite(nothing).all()
    nothing.sum().backward()
    assert empty.grad is not None and torch.isfinite(empty.grad).all()


def test_giou_draws_a_box_that_does_not_overlap_to_its_place() -> None:
    """What IoU alone cannot: far from the truth it has no gradient."""
    reference = torch.tensor([[0.0, 0.0, 20.0, 20.0]])
    truth = torch.tensor([[60.0, 40.0, 90.0, 60.0]])
    deltas = torch.zeros(1, 4, requires_grad=True)
    optimizer = torch.optim.Adam([deltas], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        box_regression_loss(deltas, reference, truth, 1, kind="giou").backward()
        optimizer.step()
    assert giou_loss(decode_boxes(deltas.detach(), reference), truth).item() < 0.1


def test_both_kinds_are_sums_over_the_same_normalizer() -> None:
    """As Detectron2: a sum over the positives, divided by all sampled boxes, whichever the loss."""
    reference, truth = random_boxes(5, 5), random_boxes(5, 6)
    deltas = torch.randn(5, 4, dtype=torch.float64)
    giou = box_regression_loss(deltas, reference, truth, 64, kind="giou", weights=WEIGHTS)
    boxes = decode_boxes(deltas, reference, WEIGHTS)
    assert giou.item() == pytest.approx(generalized_box_iou_loss(boxes, truth, reduction="sum").item() / 64)
    l1 = box_regression_loss(deltas, reference, truth, 64, beta=0.5, weights=WEIGHTS)
    expected = F.smooth_l1_loss(deltas, encode_boxes(truth, reference, WEIGHTS), reduction="sum", beta=0.5)
    assert l1.item() == pytest.approx(expected.item() / 64)
    perfect = encode_boxes(truth, reference, WEIGHTS)
    assert box_regression_loss(perfect, reference, truth, 1, kind="giou", weights=WEIGHTS) < 1e-6
    for kind in ("smooth_l1", "giou"):
        none = torch.zeros(0, 4, requires_grad=True)
        loss = box_regression_loss(none, reference[:0], truth[:0], 1, kind=kind)
        loss.backward()
        assert loss.item() == 0 and none.grad is not None


def test_smooth_l1_is_torchs() -> None:
    a, b = torch.randn(50), torch.randn(50)
    for beta in (0.0, 1 / 9, 1.0):
        torch.testing.assert_close(smooth_l1(a, b, beta), F.smooth_l1_loss(a, b, reduction="none", beta=beta))


BOXES = [[10.0, 12.0, 60.0, 70.0], [50.0, 20.0, 90.0, 44.0]]


def test_the_model_takes_giou_in_both_stages() -> None:
    plain = tiny.build()
    model = tiny.build(
        rpn=replace(tiny.CONFIG.rpn, box_loss="giou"), roi=replace(tiny.CONFIG.roi, box_loss="giou")
    )
    assert model.state_dict().keys() == plain.state_dict().keys()
    images, targets = tiny.images(), tiny.targets(BOXES, [])
    a, b = (m.losses(images, targets, tiny.seeds()) for m in (plain, model))
    for name in ("loss_rpn_cls", "loss_box_cls", "loss_mask"):
        assert a[name].item() == b[name].item()
    for name in ("loss_rpn_box", "loss_box_reg"):
        assert a[name].item() != b[name].item()
    torch.stack(list(b.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    for parameter in (model.get_parameter("rpn.head.deltas.weight"),
                      model.get_parameter("roi.box_head.predictor.deltas.weight")):  # fmt: skip
        assert parameter.grad is not None and parameter.grad.any()


def test_the_rpns_giou_is_that_of_its_decoded_anchors() -> None:
    model = tiny.build(rpn=replace(tiny.CONFIG.rpn, box_loss="giou")).double()
    rpn = model.rpn
    assert isinstance(rpn, RPN)
    picked: list[tuple[Tensor, Tensor]] = []

    def sampler(labels: Tensor, count: int, fraction: float, keys: Tensor) -> tuple[Tensor, Tensor]:
        picked.append(((labels > 0).nonzero()[:3, 0], (labels == 0).nonzero()[:5, 0]))
        return picked[-1]

    rpn.sampler = sampler
    batch = model.preprocess(tiny.images()[:1])
    features = model.features(batch.tensor)
    _, losses = rpn(batch, features, tiny.targets(BOXES))
    levels = [features[name] for name in tiny.CONFIG.rpn.levels] if tiny.CONFIG.rpn else []
    anchors = torch.cat(list(rpn.anchors(levels, batch.padded_size, torch.float64)))[picked[0][0]]
    deltas = torch.cat([d[0] for d in rpn.head(levels)[1]])[picked[0][0]]
    boxes = decode_boxes(deltas, anchors)
    each = torch.stack(
        [generalized_box_iou_loss(boxes, t.expand_as(boxes)) for t in torch.tensor(BOXES).double()]
    )
    # an anchor's truth is the box that it overlaps most, and it hardly moves at the start
    expected = each.amin(dim=0).sum() / 64
    assert losses["loss_rpn_box"].item() == pytest.approx(expected.item(), rel=1e-6)


def mask_head(kind: str, loss: MaskLoss, agnostic: bool) -> PixelMaskHead:
    torch.manual_seed(0)
    if kind == "fcn":
        return FCNMaskHeadConfig(convs=0, width=8, pool_size=3, loss=loss, class_agnostic=agnostic).build(
            4, 3
        )
    return MLPMaskHeadConfig(
        hidden=8, pool_size=3, mask_size=6, loss=loss, class_agnostic=agnostic
    ).build(4, 3)  # fmt: skip


@pytest.mark.parametrize("kind", ["fcn", "mlp"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_softmax_masks_are_a_multinomial_cross_entropy_a_pixel(kind: str, agnostic: bool) -> None:
    head = mask_head(kind, "softmax", agnostic).double()
    labels = torch.tensor([2, 0, 2, 1])
    channels = 2 if agnostic else 4
    logits = torch.randn(4, channels, 6, 6, dtype=torch.float64) * 2
    targets = torch.rand(4, 6, 6, dtype=torch.float64)  # soft, as mask_target: bitmask gives them
    targets[0] = (targets[0] > 0.5).double()
    wanted = torch.zeros_like(logits)
    for row, label in enumerate(labels):
        wanted[row, 0 if agnostic else label] = targets[row]
        wanted[row, -1] = 1 - targets[row]
    loss = head.loss(logits, labels, targets)
    assert loss.item() == pytest.approx(F.cross_entropy(logits, wanted).item(), rel=1e-12)
    own = torch.zeros(4, dtype=torch.int64) if agnostic else labels
    hard = torch.where(targets >= 0.5, own[:, None, None], channels - 1)
    expected = F.cross_entropy(logits, hard).item()
    assert head.loss(logits, labels, (targets >= 0.5).double()).item() == pytest.approx(expected, rel=1e-12)
    found = head.probabilities(logits, labels)
    for row in range(4):
        assert torch.allclose(found[row], logits[row].softmax(dim=0)[own[row]])


def test_softmax_loss_of_even_logits_is_the_logarithm_of_the_channels() -> None:
    head = mask_head("fcn", "softmax", False)
    loss = head.loss(torch.zeros(2, 4, 6, 6), torch.tensor([0, 1]), torch.rand(2, 6, 6))
    assert loss.item() == pytest.approx(torch.tensor(4.0).log().item())


@pytest.mark.parametrize(("loss", "compete"), [("sigmoid", False), ("softmax", True)])
def test_only_softmax_makes_classes_compete(loss: MaskLoss, compete: bool) -> None:
    """He et al. 2017, section 4.2, "multinomial vs. independent masks"."""
    head = mask_head("fcn", loss, False)
    logits = torch.randn(1, 3 + compete, 6, 6, requires_grad=True)
    head.loss(logits, torch.tensor([1]), torch.ones(1, 6, 6)).backward()
    assert logits.grad is not None
    reached = logits.grad[0].abs().amax(dim=(1, 2)) > 0
    assert reached.tolist() == ([True] * 4 if compete else [False, True, False])


def test_the_model_trains_and_predicts_with_softmax_masks() -> None:
    head = FCNMaskHeadConfig(convs=1, width=16, loss="softmax")
    model = tiny.detecting(mask_head=head)
    losses = model.losses(tiny.images(), tiny.targets(BOXES, []), tiny.seeds())
    assert losses["loss_mask"].item() == pytest.approx(torch.tensor(4.0).log().item(), rel=0.05)
    found = model.predict(tiny.images())[0]
    assert found.mask_probs is not None and found.mask_probs.mean().item() == pytest.approx(0.25, abs=0.05)


def test_an_mlp_mask_sees_the_whole_roi_and_an_fcn_mask_a_part() -> None:
    pooled = torch.randn(1, 4, 5, 5, requires_grad=True)
    mlp = MLPMaskHeadConfig(hidden=64, pool_size=5, mask_size=10).build(4, 3)
    fcn = FCNMaskHeadConfig(convs=1, width=8, pool_size=5).build(4, 3)
    for head, cells in ((mlp, 25), (fcn, 4)):
        (gradient,) = torch.autograd.grad(head(pooled)[0, :, 0, 0].sum(), pooled)
        assert int((gradient.abs().sum(dim=1) > 0).sum()) == cells


def test_class_agnostic_deltas_train_as_those_of_every_class_at_once() -> None:
    """The class-specific head with the same deltas for all classes gives the same losses, and its gradients
    summed over the classes are those of the agnostic head."""
    agnostic = tiny.build(box_head=TwoFCBoxHeadConfig(hidden=32, class_agnostic=True)).double()
    specific = tiny.build(box_head=TwoFCBoxHeadConfig(hidden=32)).double()
    state = agnostic.state_dict()
    with torch.no_grad():
        for kind in ("weight", "bias"):
            value = state[f"roi.box_head.predictor.deltas.{kind}"].normal_(std=0.1)
            state[f"roi.box_head.predictor.deltas.{kind}"] = value.repeat(3, *[1] * (value.dim() - 1))
    specific.load_state_dict(state)
    gradients = []
    for model in (agnostic, specific):
        losses = model.losses(tiny.images(), tiny.targets(BOXES, BOXES[:1]), tiny.seeds())
        losses["loss_box_reg"].backward()
        gradients.append((losses["loss_box_reg"].item(), model.roi.box_head.predictor.deltas.weight.grad))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-12)
    assert gradients[1][1].view(3, 4, -1)[1].any()
    torch.testing.assert_close(gradients[0][1], gradients[1][1].view(3, 4, -1).sum(dim=0))


@pytest.mark.parametrize("agnostic", [True, False])
def test_every_class_decodes_its_own_deltas_or_the_common_ones(agnostic: bool) -> None:
    proposals = torch.tensor([[10.0, 10.0, 30.0, 30.0]])
    wanted = torch.tensor([[12.0, 8.0, 40.0, 30.0], [5.0, 5.0, 25.0, 45.0]])
    deltas = encode_boxes(wanted, proposals.expand(2, 4), WEIGHTS)
    found = select_detections(
        torch.tensor([[2.0, 1.0, 0.0]]).softmax(dim=1)[:, :-1],
        deltas[:1] if agnostic else deltas.view(1, 8),
        to_rois([proposals]),
        torch.tensor([[100.0, 100.0]]),
        weights=WEIGHTS,
        score_threshold=0.05,
        nms_threshold=0.5,
        max_detections=10,
    )
    assert found.labels.tolist() == [0, 1]
    expected = wanted[[0, 0]] if agnostic else wanted
    torch.testing.assert_close(found.boxes, expected)


@pytest.mark.parametrize("changes", [{"convs": 0}, {"width": 0}])
def test_an_rpn_without_layers_is_refused(changes: dict[str, int]) -> None:
    assert tiny.CONFIG.rpn is not None
    with pytest.raises(ConfigError, match="must be >= 1, got 0"):
        tiny.build(rpn=replace(tiny.CONFIG.rpn, **changes))
