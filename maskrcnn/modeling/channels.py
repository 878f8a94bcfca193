"""A network made for three channels takes any number: its first convolution is fitted.

Legend: O = output channels of that convolution, C = channels of the images.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from maskrcnn.errors import ConfigError
from maskrcnn.modeling.interfaces import CHANNEL_FITTINGS, ChannelFitting


class _Fitting(ChannelFitting):
    def weight(self, three: Tensor, channels: int) -> Tensor:
        """[O, 3, k, k] -> [O, ``channels``, k, k], as strong together."""
        raise NotImplementedError

    def fit(self, backbone: nn.Module, channels: int, *, trained: bool) -> None:
        """See there.

        Raises:
            ConfigError: it has no such convolution.
        """
        convolution = _first_convolution(backbone)
        three = convolution.weight.detach()
        weight = self.weight(three, channels)
        if not trained and not weight.is_meta:
            weight = nn.init.normal_(torch.empty_like(weight), std=float(three.std()) * (3 / channels) ** 0.5)
        convolution.weight = nn.Parameter(weight.contiguous())
        convolution.in_channels = channels

    def fit_state(self, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """See there."""
        own = model.state_dict()
        fitted = dict(state)
        for name, tensor in state.items():
            here = own.get(name)
            if here is None or tensor.ndim != 4 or here.ndim != 4 or not name.startswith("backbone."):
                continue
            shape = (tensor.shape[0], here.shape[1], *tensor.shape[2:])
            if tensor.shape[1] == 3 and here.shape[1] != 3 and here.shape == shape:
                fitted[name] = self.weight(tensor, here.shape[1])
                break
        return fitted


@CHANNEL_FITTINGS.register("mean")
class MeanOfThree(_Fitting):
    """Each channel has the mean of the three, times 3 / C."""

    def weight(self, three: Tensor, channels: int) -> Tensor:
        """[O, 3, k, k] -> [O, ``channels``, k, k]"""
        return three.mean(1, keepdim=True).mul(3 / channels).repeat(1, channels, 1, 1)


@CHANNEL_FITTINGS.register("copy")
class ThreeInTurn(_Fitting):
    """The first three channels keep theirs, further ones take them again in turn; times 3 / C."""

    def weight(self, three: Tensor, channels: int) -> Tensor:
        """[O, 3, k, k] -> [O, ``channels``, k, k]"""
        return three[:, torch.arange(channels, device=three.device) % 3] * (3 / channels)


def _first_convolution(model: nn.Module) -> nn.Conv2d:
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            return module
    raise ConfigError(
        f"model.backbone: {type(model).__name__} has no convolution of three channels that could be fitted to"
        " others; choose another backbone, or images of three channels"
    )
