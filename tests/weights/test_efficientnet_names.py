"""The names of EfficientNet-PyTorch, written from its source (efficientnet_pytorch/model.py), to timm's."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from torch import Tensor

from maskrcnn.weights.efficientnet_names import is_efficientnet, to_timm

timm = pytest.importorskip("timm")

#: EfficientNet-B0's stages (utils.py): blocks, and whether they widen first (expand ratio 6, not 1).
STAGES = ((1, False), (2, True), (2, True), (3, True), (3, True), (4, True), (1, True))
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def their_names(squeeze: bool) -> list[str]:
    """In the order in which model.py makes the layers of a B0; ``squeeze``: not of the Lite ones."""

    def norm(name: str) -> list[str]:
        return [f"{name}.{kind}" for kind in NORM]

    names = ["_conv_stem.weight", *norm("_bn0")]
    numbers = count()
    for blocks, widens in STAGES:
        for _ in range(blocks):
            at = f"_blocks.{next(numbers)}"
            if widens:
                names += [f"{at}._expand_conv.weight", *norm(f"{at}._bn0")]
            names += [f"{at}._depthwise_conv.weight", *norm(f"{at}._bn1")]
            if squeeze:
                for layer in ("_se_reduce", "_se_expand"):
                    names += [f"{at}.{layer}.weight", f"{at}.{layer}.bias"]
            names += [f"{at}._project_conv.weight", *norm(f"{at}._bn2")]
    return [*names, "_conv_head.weight", *norm("_bn1"), "_fc.weight", "_fc.bias"]


@pytest.mark.parametrize(
    ("model", "squeeze"), [("tf_efficientnet_b0", True), ("tf_efficientnet_lite0", False)]
)
def test_each_tensor_finds_its_place(model: str, squeeze: bool) -> None:
    """timm makes its layers in the same order, so that the n-th tensors of both are the same."""
    with torch.device("meta"):
        own: dict[str, Tensor] = timm.create_model(model).state_dict()
    names = their_names(squeeze)
    assert len(names) == len(own)
    state = dict(zip(names, own.values(), strict=True))
    assert is_efficientnet(state) and not is_efficientnet(own)
    assert list(to_timm(state)) == list(own)


def test_a_name_without_a_place_keeps_its_own() -> None:
    state = {
        "_blocks.0._project_conv.weight": torch.ones(3, 2, 1, 1),
        "_blocks.0._gate.weight": torch.ones(1),
    }
    assert list(to_timm(state | {"_swish.x": torch.ones(1)})) == [
        "blocks.0.0.conv_pw.weight",
        "_blocks.0._gate.weight",
        "_swish.x",
    ]
