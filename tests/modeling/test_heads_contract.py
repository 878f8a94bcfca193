"""What every registered box head and mask head keeps, whatever its type."""

from __future__ import annotations

import io
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.config.registry import Registry
from maskrcnn.errors import ConfigError
from maskrcnn.layers import RoIAlign
from maskrcnn.modeling.interfaces import BOX_HEADS, MASK_HEADS, BoxHead, MaskHead
from maskrcnn.modeling.losses import box_regression_loss, class_loss
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from maskrcnn.modeling.roi.roi_heads import RoIHeads, RoIHeadsConfig
from maskrcnn.structures import Targets
from tests.modeling import tiny

CHANNELS, CLASSES = 6, tiny.CLASSES

#: Small members of each registered kind.
BOX: dict[str, list[dict[str, Any]]] = {
    "two_fc": [{"hidden": 32, "pool_size": 3}, {"hidden": 32, "pool_size": 3, "dropout": 0.3}],
    "vgg_fc": [{"hidden": 32, "pool_size": 3}],
    "conv_fc": [
        {"convs": 2, "width": 8, "hidden": 32, "pool_size": 3},
        {"convs": 2, "width": 8, "hidden": 32, "pool_size": 3, "norm": "gn"},
        {"convs": 1, "width": 8, "fcs": 0, "pool_size": 3, "norm": "bn"},
        {"convs": 0, "fcs": 2, "hidden": 32, "pool_size": 3},
    ],
    "linear": [{"pool_size": 3}],
}
MASK: dict[str, list[dict[str, Any]]] = {
    "fcn": [
        {"convs": 1, "width": 8, "pool_size": 4},
        {"convs": 0, "width": 8, "pool_size": 4},
        {"convs": 2, "width": 8, "pool_size": 4, "norm": "bn"},
        {"convs": 1, "width": 8, "pool_size": 4, "norm": "gn", "loss": "softmax"},
    ],
    "mlp": [
        {"fcs": 2, "hidden": 32, "pool_size": 4, "mask_size": 6},
        {"fcs": 3, "hidden": 32, "pool_size": 4, "mask_size": 6, "loss": "softmax"},
    ],
}


def cases(small: dict[str, list[dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Every small member, with a set of outputs a class and with one for all."""
    return [
        (name, options | {"class_agnostic": agnostic})
        for name, all_options in small.items()
        for options, agnostic in product(all_options, (False, True))
    ]


def box_head(name: str, options: dict[str, Any], seed: int = 0) -> BoxHead:
    torch.manual_seed(seed)
    return wake(BOX_HEADS.get(name)(**options).build(CHANNELS, CLASSES))


def mask_head(name: str, options: dict[str, Any], seed: int = 0) -> MaskHead:
    torch.manual_seed(seed)
    return wake(MASK_HEADS.get(name)(**options).build(CHANNELS, CLASSES))


def wake(head: Any) -> Any:
    """Weights large enough that the outputs, near 0 at the start, say something."""
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.7 / parameter.std() / parameter[0].numel() ** 0.5)
    return head


def features(head: BoxHead | MaskHead, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, CHANNELS, head.pool_size, head.pool_size, generator=generator)


def boxes(count: int = 5) -> Tensor:
    corner = torch.arange(count * 2, dtype=torch.float32).view(count, 2)
    return torch.cat((corner, corner + 20), dim=1)


def box_loss(head: BoxHead, pooled: Tensor) -> Tensor:
    count = len(pooled)
    labels = torch.arange(count) % (CLASSES + 1)
    logits, deltas = head(pooled)
    regression = box_regression_loss(deltas[:, :4], boxes(count), boxes(count) + 5, max(count, 1))
    if deltas.shape[1] > 4:  # reach the deltas of every class
        regression = regression + (deltas[:, 4:] - 1).square().sum()
    return class_loss(logits, labels) + regression


def mask_loss(head: MaskHead, pooled: Tensor) -> Tensor:
    count, side = len(pooled), head.mask_size
    targets = torch.rand(count, side, side, generator=torch.Generator().manual_seed(2))
    return head.loss(head(pooled), torch.arange(count) % CLASSES, targets)


@pytest.mark.parametrize(("registry", "small"), [(BOX_HEADS, BOX), (MASK_HEADS, MASK)], ids=["box", "mask"])
def test_every_registered_head_is_here(registry: Registry[Any], small: dict[str, Any]) -> None:
    # Plugins that other tests register do not count.
    ours = [name for name in registry.names() if registry.get(name).__module__.startswith("maskrcnn.")]
    assert sorted(small) == ours


@pytest.mark.parametrize(("name", "options"), cases(BOX))
def test_box_head_shapes(name: str, options: dict[str, Any]) -> None:
    head = box_head(name, options)
    logits, deltas = head(features(head))
    assert logits.shape == (5, CLASSES + 1)
    assert deltas.shape == (5, 4 if options["class_agnostic"] else 4 * CLASSES)


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize(("name", "options"), cases(MASK))
def test_own_logits_are_those_of_all_classes(name: str, options: dict[str, Any], count: int) -> None:
    """Loss, probabilities and gradients do not depend on whether the other classes were computed."""
    head = mask_head(name, options).double()
    labels = torch.arange(count) % CLASSES
    targets = torch.rand(
        count, head.mask_size, head.mask_size, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    found = []
    for logits_of in (lambda x: head(x), lambda x: head.own(x, labels)):
        pooled = features(head, count).double().requires_grad_()
        logits = logits_of(pooled)
        loss = head.loss(logits, labels, targets)
        gradients = torch.autograd.grad(loss, [pooled, *head.parameters()])
        found.append([loss, head.probabilities(logits, labels), *gradients])
    for whole, own in zip(*found, strict=True):
        torch.testing.assert_close(own, whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), cases(MASK))
def test_mask_head_shapes(name: str, options: dict[str, Any]) -> None:
    head = mask_head(name, options)
    logits = head(features(head))
    foreground = 1 if options["class_agnostic"] else CLASSES
    channels = foreground + (options.get("loss") == "softmax")
    assert logits.shape == (5, channels, head.mask_size, head.mask_size)
    labels = torch.arange(5) % CLASSES
    found = head.probabilities(logits, labels)
    assert found.shape == (5, head.mask_size, head.mask_size)
    assert ((found > 0) & (found < 1)).all()
    # A higher logit of the RoI's own class is a higher probability; another RoI's is none of its business.
    own = 0 if options["class_agnostic"] else labels[3]
    logits = logits.detach().clone()
    logits[3, own] += 1
    change = head.probabilities(logits, labels) - found
    assert (change[3] > 0).all()
    assert not change[[0, 1, 2, 4]].any()


HEADS = [(box_head, box_loss, *case) for case in cases(BOX)] + [
    (mask_head, mask_loss, *case) for case in cases(MASK)
]
every_head = pytest.mark.parametrize(
    ("build", "loss_of", "name", "options"),
    HEADS,
    ids=["-".join([case[2], *(str(v) for v in case[3].values())]) for case in HEADS],
)


@every_head
def test_gradient_reaches_the_input_and_every_parameter(
    build: Any, loss_of: Any, name: str, options: dict[str, Any]
) -> None:
    head = build(name, options)
    pooled = features(head).requires_grad_()
    loss = loss_of(head, pooled)
    assert loss.dim() == 0 and loss > 0
    loss.backward()
    assert pooled.grad is not None
    assert (pooled.grad.flatten(1).abs().amax(dim=1) > 0).all()  # of each RoI
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@every_head
def test_no_roi_is_no_loss_and_a_gradient_of_zero(
    build: Any, loss_of: Any, name: str, options: dict[str, Any]
) -> None:
    head = build(name, options)
    before = {key: value.clone() for key, value in head.named_buffers() if "tracked" not in key}
    loss = loss_of(head, features(head, 0))
    assert loss.item() == 0
    loss.backward()
    for key, parameter in head.named_parameters():  # or a distributed run would hang
        assert parameter.grad is not None and not parameter.grad.any(), key
    for key, value in before.items():
        assert torch.equal(value, dict(head.named_buffers())[key]), key
    if isinstance(head, MaskHead):
        labels = torch.zeros(0, dtype=torch.int64)
        assert head.probabilities(head(features(head, 0)), labels).shape == (0,) + (head.mask_size,) * 2


@every_head
def test_bfloat16_autocast(build: Any, loss_of: Any, name: str, options: dict[str, Any]) -> None:
    head = build(name, options)
    torch.manual_seed(0)  # the same dropout
    exact = loss_of(head, features(head))
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(head, features(head))
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.03)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


@every_head
def test_save_and_load(build: Any, loss_of: Any, name: str, options: dict[str, Any]) -> None:
    one, two = build(name, options, seed=0), build(name, options, seed=1)
    loss_of(one, features(one))  # BN has statistics now
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    one.eval()
    two.eval()
    before = loss_of(two, features(two))
    two.load_state_dict(torch.load(file, weights_only=True))
    assert loss_of(one, features(one)) == loss_of(two, features(two)) != before


@every_head
def test_memory_layout_changes_no_number(
    build: Any, loss_of: Any, name: str, options: dict[str, Any]
) -> None:
    head = build(name, options).double().eval()
    pooled = features(head).double()
    other = loss_of(head.to(memory_format=torch.channels_last), pooled.to(memory_format=torch.channels_last))
    assert loss_of(head, pooled).item() == pytest.approx(other.item(), rel=1e-12)


def second_stage(box: BoxHead, mask: MaskHead) -> RoIHeads:
    config = RoIHeadsConfig(levels=("c3",), samples=16, beta=1.0, score_threshold=0.0, max_detections=5)
    return config.build({"c3": 8}, CLASSES, RoIAlign(), None, [box], {"mask_head": mask})


PROPOSALS = [torch.tensor([[8.0, 8, 40, 40], [20, 20, 60, 50], [0, 0, 64, 64], [30, 5, 50, 25]])]


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [("box", *case) for case in cases(BOX)] + [("mask", *case) for case in cases(MASK)],
)
def test_trains_and_predicts(kind: str, name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    box = BOX_HEADS.get(name if kind == "box" else "linear")(**(options if kind == "box" else {}))
    mask = MASK_HEADS.get(name)(**options) if kind == "mask" else FCNMaskHeadConfig(convs=0, width=8)
    roi = second_stage(box.build(CHANNELS, CLASSES), mask.build(CHANNELS, CLASSES))
    maps = {"c3": torch.randn(1, CHANNELS, 10, 10)}
    targets: list[Targets] = tiny.targets([[10.0, 10.0, 42.0, 38.0], [28.0, 6.0, 52.0, 26.0]], size=(80, 80))
    optimizer = torch.optim.Adam(roi.parameters(), lr=0.02)

    def losses() -> dict[str, Tensor]:
        torch.manual_seed(3)  # the same dropout in every step, so that the loss must fall
        return roi.losses(maps, PROPOSALS, targets, tiny.seeds(images=len(targets)))

    def total() -> Tensor:
        found = losses()
        keys = ("loss_box_cls", "loss_box_reg") if kind == "box" else ("loss_mask",)
        return torch.stack([found[key] for key in keys]).sum()

    first = total().item()
    for _ in range(3):
        optimizer.zero_grad()
        total().backward()
        optimizer.step()
    assert total().item() < 0.99 * first
    roi.eval()
    (found,) = roi.predict(maps, PROPOSALS, [(80, 80)])
    assert 0 < len(found) <= 5
    assert found.mask_probs is not None and len(found.mask_probs) == len(found)
    (empty,) = roi.predict(maps, [torch.zeros(0, 4)], [(80, 80)])
    assert len(empty) == 0


@pytest.mark.parametrize(
    ("registry", "name", "options", "message"),
    [
        (BOX_HEADS, "two_fc", {"hidden": 0}, "hidden must be >= 1, got 0"),
        (BOX_HEADS, "two_fc", {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        (BOX_HEADS, "vgg_fc", {"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
        (BOX_HEADS, "conv_fc", {"convs": -1}, "convs must be >= 0"),
        (
            BOX_HEADS,
            "conv_fc",
            {"width": 2**30},
            "width must be at most 1,048,576",
        ),
        (BOX_HEADS, "linear", {"pool_size": 0}, "pool_size must be >= 1"),
        (MASK_HEADS, "fcn", {"convs": -1}, "convs must be >= 0"),
        (MASK_HEADS, "mlp", {"fcs": 0}, "fcs must be >= 1"),
    ],
)
def test_values_out_of_range_say_so(
    registry: Registry[Any], name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.get(name)(**options).build(CHANNELS, CLASSES)


def test_dropout_is_off_in_evaluation_and_scales_in_training() -> None:
    head = box_head("two_fc", {"hidden": 64, "pool_size": 3, "dropout": 0.5})
    assert isinstance(head.predictor, nn.Module)
    seen: list[Tensor] = []
    head.predictor.register_forward_hook(lambda _module, inputs, _out: seen.append(inputs[0]))
    pooled = features(head)
    head.eval()
    head(pooled)
    head(pooled)
    assert torch.equal(seen[0], seen[1])
    head.train()
    with torch.no_grad():
        head.get_submodule("fc2").weight.zero_()
        head.get_submodule("fc2").bias.fill_(1.0)  # now all hidden values are 1 before dropout
    head(pooled)
    assert set(seen[2].flatten().tolist()) == {0.0, 2.0}
