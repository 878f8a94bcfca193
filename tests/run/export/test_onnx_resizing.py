from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.data import apply_transforms
from maskrcnn.data.interfaces import Transform
from maskrcnn.data.transforms.moving import resample
from maskrcnn.data.transforms.resizing import Resize, ResizeLongest, ResizeShortestEdge
from maskrcnn.errors import UserError
from maskrcnn.modeling.preprocess import Preprocess
from maskrcnn.run.export.onnx_parts import before
from maskrcnn.structures import ImageInfo, RawSample, Targets
from tests.run.export.runtimes import given_by

PREPROCESS = Preprocess([120.0, 110.0, 100.0], [50.0, 60.0, 70.0], 32, True)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("size", [(190, 233), (233, 190), (64, 300), (100, 100), (31, 33)])
@pytest.mark.parametrize(
    "transform",
    [
        ResizeShortestEdge(min_sizes=(128,), max_size=200),
        ResizeShortestEdge(min_sizes=(101,), max_size=1333, rounding="floor"),
        ResizeLongest(size=150),
        Resize(height=90, width=70),
        Resize(height=300, width=500),
        Resize(height=95, width=116),  # of the first size half, where OpenCV takes means of four
        None,
    ],
)
def test_images_are_resized_normalised_and_padded_as_by_the_evaluation(
    transform: Transform | None, size: tuple[int, int], runtime: str, tmp_path: Path
) -> None:
    transforms = [] if transform is None else [transform]
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    none = torch.zeros(0, dtype=torch.int64)
    sample = RawSample(image, ImageInfo(0, "", *size), Targets(torch.zeros(0, 4), none, None, none))
    ours = apply_transforms(transforms, sample, np.random.default_rng(0)).to_sample().image
    batch = PREPROCESS([ours])
    images, sizes, frames = given_by(
        runtime, tmp_path, before(transforms, PREPROCESS, resize=True), {"image": image[None]}
    )
    assert sizes.tolist() == batch.extents.tolist() and images.shape == tuple(batch.tensor.shape)
    off = np.abs(images - batch.tensor.numpy()) * PREPROCESS.std.numpy()
    if runtime == "onnxruntime":
        assert off.max() < 1e-4  # of values in [0, 255], whole numbers: OpenCV's own
    else:  # it divides by way of the reciprocal, so that a weight here and there is another
        assert off.max() < 1.001 and off.mean() < 0.01
    height, width = batch.sizes[0]
    assert frames == pytest.approx([size[1] / width, size[0] / height] * 2, rel=1e-6)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("size", [(190, 233), (301, 140), (96, 300), (60, 50)])
def test_smooth_shrinking_is_that_of_the_evaluation_but_for_rounding(
    size: tuple[int, int], runtime: str, tmp_path: Path
) -> None:
    """PIL's weights are whole numbers, and it rounds between rows and columns: a value may be off by 1."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    transform = ResizeShortestEdge(min_sizes=(100,), max_size=200, resample="antialias")
    given = given_by(runtime, tmp_path, before([transform], PREPROCESS, resize=True), {"image": image[None]})
    height, width = transform.output_size(*size, 100)
    resized = torch.from_numpy(resample(image, height, width, "antialias")).permute(2, 0, 1)
    off = np.abs(given[0] - PREPROCESS([resized]).tensor.numpy()) * PREPROCESS.std.numpy()
    assert off.max() < 1.001 and off.mean() < 0.3


def test_what_onnx_has_no_way_for_is_refused() -> None:
    for transforms, told in (
        ([Resize(height=9, width=9), Resize(height=8, width=8)], "not one resize"),
        ([ResizeLongest(size=99, resample="area")], "data.eval_transforms.0.resample: area"),
        ([ResizeShortestEdge(min_sizes=(99, 101))], "several lengths"),
    ):
        with pytest.raises(UserError, match=told):
            before(transforms, PREPROCESS, resize=True)
