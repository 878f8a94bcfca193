"""Normalising and padding: the same values from any memory layout of the images into either of the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from maskrcnn.modeling.preprocess import ImageBatch, Preprocess
from maskrcnn.structures import ImageInfo, RawSample, Targets


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_value_is_normalised_and_the_rest_is_zero(
    channels_last: bool, channels: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, std = [120.0 + c for c in range(channels)], [50.0 + 3 * c for c in range(channels)]
    preprocess = Preprocess(mean, std, 32, channels_last)
    sizes = [(41, 700), (97, 33), (1, 1)]  # the first of more values than are normalised in one go
    by_pixel = [(torch.rand((h, w, channels), generator=generator) * 255).to(dtype) for h, w in sizes]
    images = [image.permute(2, 0, 1) for image in by_pixel]
    out, planar = preprocess(images), preprocess([image.contiguous() for image in images])
    memory = torch.channels_last if channels_last else torch.contiguous_format
    assert out.tensor.shape == (3, channels, 128, 704) and out.tensor.is_contiguous(memory_format=memory)
    assert torch.equal(out.tensor, planar.tensor) and out.sizes == sizes
    together = preprocess._normalise_together(images, sizes, torch.full_like(out.tensor, math.nan))
    assert torch.equal(out.tensor, together)  # as on a GPU
    for image, (h, w), slot in zip(images, sizes, out.tensor, strict=True):
        centre, scale = (torch.tensor(v)[:, None, None] for v in (mean, std))
        assert torch.equal(slot[:, :h, :w], (image.float() - centre) / scale)
        assert not slot[:, h:].any() and not slot[:, :, w:].any()


def test_an_image_reaches_the_model_without_a_copy() -> None:
    image, none = np.zeros((5, 7, 3), dtype=np.uint8), torch.zeros(0, dtype=torch.int64)
    targets = Targets(torch.zeros(0, 4), none, None, none)
    tensor = RawSample(image, ImageInfo(1, "", 5, 7), targets).to_sample().image
    image[2, 3] = 1, 2, 3
    assert tensor.shape == (3, 5, 7) and tensor[:, 2, 3].tolist() == [1, 2, 3]


def test_sizes_become_a_tensor_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Preprocess([0.0], [1.0], 8, True)([torch.ones(1, 5, 7), torch.ones(1, 6, 4)])
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("made again"))
    assert batch.extents.tolist() == [[5.0, 7.0], [6.0, 4.0]] and batch.extents.dtype == torch.float32
    given = torch.zeros(2, 2)
    assert ImageBatch(batch.tensor, (), given).extents is given


def test_batches_are_padded_to_the_smallest_size_that_holds_them(caplog: pytest.LogCaptureFixture) -> None:
    preprocess = Preprocess([0.0], [1.0], 32, True)
    assert preprocess.padded_size([(33, 64), (50, 30)]) == (64, 64)
    preprocess.pad_sizes = ((64, 128), (96, 96), (256, 160))
    wanted = {
        (10, 10): (64, 128),
        (64, 128): (64, 128),
        (65, 60): (128, 64),
        (65, 65): (96, 96),
        (97, 90): (256, 160),
        (160, 250): (160, 256),
    }
    assert {size: preprocess.padded_size([size]) for size in wanted} == wanted
    assert preprocess.padded_size([(10, 97), (97, 10)]) == (256, 160)  # what holds both
    assert not caplog.records
    image = torch.ones(1, 10, 200)
    out = preprocess([image])
    assert out.padded_size == (160, 256)
    assert torch.equal(out.tensor[0, :, :10, :200], image) and out.tensor.sum() == image.sum()
    assert preprocess.padded_size([(300, 20)]) == (320, 32)
    assert preprocess.padded_size([(500, 20)]) == (512, 32)
    (told,) = caplog.messages
    assert "none holds a batch of 300 x 20 px, so it is padded to 320 x 32" in told
    preprocess.pad_sizes = (*preprocess.pad_sizes, (320, 32))  # as the advice says
    assert preprocess.padded_size([(20, 300)]) == (32, 320)
