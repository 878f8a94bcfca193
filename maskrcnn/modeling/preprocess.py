"""Images of different sizes -> one normalised, padded tensor, made on the images' device."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import Positive, any_number
from maskrcnn.errors import ConfigError, plural

logger = logging.getLogger(__name__)

#: Values that are normalised in one go on a CPU: 256 KiB, which a core's cache holds.
_CACHED = 2**16

Pixel = Annotated[float, any_number("pixels of one's own may lie anywhere")]


@dataclass(frozen=True)
class ImageBatch:
    """What the backbone reads.

    tensor: float [N, 3, H, W], normalised, zeros where padded (right and below).
    sizes: (height, width) of every image before padding, pixels: the network frame.
    given_extents: the same as a float32 tensor [N, 2] on the images' device, for a graph; None: made of them,
        once, since that is a copy to the device.
    """

    tensor: Tensor
    sizes: Sequence[tuple[int, int]]
    given_extents: Tensor | None = None

    def __post_init__(self) -> None:
        if self.given_extents is None:
            extents = torch.tensor(self.sizes, dtype=torch.float32).view(-1, 2)
            extents = extents.to(self.tensor.device, non_blocking=True)
            object.__setattr__(self, "given_extents", extents)

    @property
    def extents(self) -> Tensor:
        """The sizes as a float32 tensor [N, 2], on the images' device."""
        assert self.given_extents is not None
        return self.given_extents

    @property
    def padded_size(self) -> tuple[int, int]:
        """(H, W) of the tensor."""
        return self.tensor.shape[2], self.tensor.shape[3]


class Preprocess(nn.Module):
    """``(pixel - mean) / std`` a channel, then zeros to the right and below.

    Args:
        mean, std: of every channel, in 0..255, RGB order.
        size_divisor: the padded sides are multiples of it.
        channels_last: memory layout of the batch.

    Attributes:
        pad_sizes: (H, W), multiples of ``size_divisor``: a batch is padded to the smallest, in either
            orientation, that holds it.  None by default: to as little as the divisor allows.
        size_of_whole: (H, W), to which a piece of a batch is padded: the batch's; (0, 0): it is a whole one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], size_divisor: int, channels_last: bool
    ) -> None:
        super().__init__()
        self.size_divisor = size_divisor
        self.pad_sizes: Sequence[tuple[int, int]] = ()
        self.size_of_whole = (0, 0)
        self._told = False
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        # Not weights: they come from the config, so a checkpoint does not carry them.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> ImageBatch:
        """
        Args:
            images: [C, h, w] uint8 or float in 0..255, RGB, each of its own size; at least one.
        """
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        shape = (len(images), self.mean.shape[0], *self.padded_size(sizes))
        batch = torch.empty(
            shape, dtype=self.mean.dtype, device=self.mean.device, memory_format=self.memory_format
        )
        if batch.is_cuda:
            return ImageBatch(self._normalise_together(images, sizes, batch), sizes)
        for image, (h, w), slot in zip(images, sizes, batch, strict=True):
            slot[:, h:].zero_()
            slot[:, :h, w:].zero_()
            self._normalise(image, slot[:, :h, :w])
        return ImageBatch(batch, sizes)

    def _normalise_together(
        self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]], batch: Tensor
    ) -> Tensor:
        """``batch``, filled, by the fewest calls: where no image is stands the mean, which becomes 0."""
        batch.copy_(self.mean.expand(batch.shape))
        for image, (h, w), slot in zip(images, sizes, batch, strict=True):
            slot[:, :h, :w].copy_(image, non_blocking=True)
        return batch.sub_(self.mean).div_(self.std)

    def padded_size(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """(H, W) of a batch of images of these (height, width)."""
        if any(self.size_of_whole):
            return self.size_of_whole
        d = self.size_divisor
        height, width = (-(-max(size[axis] for size in sizes) // d) * d for axis in (0, 1))
        either = [*self.pad_sizes, *((w, h) for h, w in self.pad_sizes)]
        holding = [(h, w) for h, w in either if h >= height and w >= width]
        if holding:
            return min(holding, key=math.prod)  # of equal ones the first: as it is listed
        if self.pad_sizes and not self._told:
            self._told = True
            logger.warning(
                "data.pad_sizes: none holds a batch of %d x %d px, so it is padded to %d x %d, as little as"
                " can be; so are others that are too large; add [%d, %d] to data.pad_sizes (told once)",
                *(max(size[axis] for size in sizes) for axis in (0, 1)),
                *(height, width) * 2,
            )
        return height, width

    def _normalise(self, image: Tensor, area: Tensor) -> None:
        """``image`` [C, h, w] into ``area``, a part of the batch.

        In channels_last memory a row of pixels is one row of values, which is several times faster than
        channels one by one; on a CPU so many rows at a time as stay in its cache.
        """
        mean, std, (channels, height, width) = self.mean, self.std, area.shape
        if self.memory_format == torch.channels_last:
            image = image.permute(1, 2, 0).reshape(height, width * channels)
            area = area.permute(1, 2, 0).view(height, width * channels)
            mean, std = (values.view(-1).repeat(width) for values in (mean, std))
        else:
            image, area = image.transpose(0, 1), area.transpose(0, 1)
            mean, std = mean.view(-1, 1), std.view(-1, 1)
        parts = [(image, area)]
        if area.device.type == "cpu" and not torch.compiler.is_compiling():  # which joins the three itself
            rows = max(_CACHED // (width * channels), 1)
            parts = list(zip(image.split(rows), area.split(rows), strict=True))
        for values, part in parts:
            part.copy_(values).sub_(mean).div_(std)


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(Config):
    """Pixel statistics and padding; as many channels as there are means, see ``data.channels``."""

    #: Mean of R, G, B (or of each channel) in 0..255 (ImageNet, as torchvision's weights were trained: 0.485,
    #: 0.456, 0.406 x 255).
    mean: tuple[Pixel, ...] = (123.675, 116.28, 103.53)
    #: Standard deviation of R, G, B (or of each channel) in 0..255 (ibid.: 0.229, 0.224, 0.225 x 255).
    std: tuple[Positive, ...] = (58.395, 57.12, 57.375)
    #: Pad the sides to a multiple of this; a pyramid to stride 32 needs 32 (Detectron2, torchvision: 32).
    size_divisor: Annotated[int, Range(1, 16_384, "images padded so far fill the memory")] = 32

    def build(self, channels_last: bool) -> Preprocess:
        """
        Raises:
            ConfigError: no values, or not as many of one as of the other.
        """
        if not self.mean or len(self.mean) != len(self.std):
            raise ConfigError(
                f"model.preprocess.mean has {plural(len(self.mean), 'value')} and model.preprocess.std"
                f" {len(self.std)}; give one of each to every channel (three, of R, G and B)"
            )
        return Preprocess(**self.arguments(), channels_last=channels_last)
