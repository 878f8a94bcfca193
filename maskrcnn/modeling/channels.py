"""A network made for three channels takes any number: its first convolution is fitted.

Legend: O = output channels of that convolution, C = channels of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from maskrcnn.errors import ConfigError

#: How weights of three channels become those of C: ``mean``: each channel has the mean of the three;
#: ``copy``: the first three keep theirs, and further ones take them again in turn.
ChannelsFrom: TypeAlias = Literal["mean", "copy"]


def fit_weight(weight: Tensor, channels: int, how: ChannelsFrom) -> Tensor:
    """Weights [O, 3, k, k] -> [O, ``channels``, k, k], times 3 / C, so that all together are as strong."""
    if how == "mean":
        return weight.mean(1, keepdim=True).mul(3 / channels).repeat(1, channels, 1, 1)
    return weight[:, torch.arange(channels, device=weight.device) % 3] * (3 / channels)


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """The first convolution of three channels, and its name.

    Raises:
        ConfigError: there is none.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            return name, module
    raise ConfigError(
        f"model.backbone: {type(model).__name__} has no convolution of three channels that could be fitted to"
        " others; choose another backbone, or images of three channels"
    )


def fit_backbone(backbone: nn.Module, channels: int, how: ChannelsFrom, *, trained: bool) -> None:
    """Let a backbone for three channels take ``channels``; its first convolution then trains, frozen or not.

    trained: its weights come from a file and are fitted; else they are drawn anew, as strong as they were.

    Raises:
        ConfigError: it has no such convolution.
    """
    _, convolution = first_convolution(backbone)
    weight = fit_weight(convolution.weight.detach(), channels, how)
    if not trained and not weight.is_meta:
        std = float(convolution.weight.detach().std()) * (3 / channels) ** 0.5
        weight = nn.init.normal_(torch.empty_like(weight), std=std)
    convolution.weight = nn.Parameter(weight.contiguous())
    convolution.in_channels = channels


def fit_state(state: Mapping[str, Tensor], model: nn.Module, how: ChannelsFrom) -> dict[str, Tensor]:
    """``state`` of a model for three channels, its first convolution fitted to those of ``model``."""
    own = model.state_dict()
    fitted = dict(state)
    for name, tensor in state.items():
        here = own.get(name)
        if here is None or tensor.ndim != 4 or here.ndim != 4 or not name.startswith("backbone."):
            continue
        shape = (tensor.shape[0], here.shape[1], *tensor.shape[2:])
        if tensor.shape[1] == 3 and here.shape[1] != 3 and here.shape == shape:
            fitted[name] = fit_weight(tensor, here.shape[1], how)
            break
    return fitted
