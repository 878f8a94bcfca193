"""The 1x1 neck: a convolution, a normalisation and a ReLU a level, and nothing between levels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maskrcnn.errors import ConfigError
from maskrcnn.modeling import NECKS
from maskrcnn.modeling.backbones.reduce import ReduceConfig


def test_each_level_goes_through_its_own_convolution() -> None:
    neck = ReduceConfig(out_channels=5).build({"c3": 4, "c5": 7}, {"c3": 8, "c5": 32})
    assert neck.strides == {"p3": 8, "p5": 32} and neck.channels == {"p3": 5, "p5": 5}
    features = {"c3": torch.randn(2, 4, 6, 5), "c5": torch.randn(2, 7, 3, 2)}
    out = neck(features)
    for name, x in features.items():
        conv = neck.lateral[name].conv
        assert conv.kernel_size == (1, 1)
        torch.testing.assert_close(out[name.replace("c", "p")], F.relu(F.conv2d(x, conv.weight, conv.bias)))
    out["p5"].sum().backward()
    assert neck.lateral["c3"].conv.weight.grad is None
    assert NECKS.get("reduce") is ReduceConfig


def test_a_norm_takes_the_place_of_the_bias() -> None:
    neck = ReduceConfig(out_channels=4, norm="gn").build({"c4": 3}, {"c4": 16})
    assert neck.lateral["c4"].conv.bias is None
    assert neck({"c4": torch.randn(1, 3, 4, 4)})["p4"].shape == (1, 4, 4, 4)


def test_no_channels_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="out_channels must be >= 1, got 0"):
        ReduceConfig(out_channels=0).build({"c4": 3}, {"c4": 16})
