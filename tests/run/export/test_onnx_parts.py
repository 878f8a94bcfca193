from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.data import apply_transforms
from maskrcnn.data.interfaces import Transform
from maskrcnn.data.transforms.resizing import Resize, ResizeLongest, ResizeShortestEdge
from maskrcnn.errors import UserError
from maskrcnn.inference.records import coco_results
from maskrcnn.modeling.preprocess import Preprocess
from maskrcnn.run.export.network import INPUTS, OUTPUTS
from maskrcnn.run.export.onnx_parts import before, behind
from maskrcnn.structures import Detections, ImageInfo, RawSample, Targets
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.rle import decode

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")

PREPROCESS = Preprocess([120.0, 110.0, 100.0], [50.0, 60.0, 70.0], 32, True)


def session(text: str) -> Any:
    from onnx import parser

    model = parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def smooth_image(height: int, width: int) -> np.ndarray[Any, Any]:
    ys, xs = np.mgrid[:height, :width]
    planes = [127 + 120 * np.sin(xs / a + ys / b) for a, b in ((9, 17), (23, 11), (31, 7))]
    return np.stack(planes, axis=2).round().astype(np.uint8)


@pytest.mark.parametrize("size", [(190, 233), (233, 190), (64, 300), (100, 100), (31, 33)])
@pytest.mark.parametrize(
    "transform",
    [
        ResizeShortestEdge(min_sizes=(128,), max_size=200),
        ResizeShortestEdge(min_sizes=(101,), max_size=1333, rounding="floor"),
        ResizeLongest(size=150),
        Resize(height=90, width=70),
        None,
    ],
)
def test_images_are_resized_normalised_and_padded_as_by_the_evaluation(
    transform: Transform | None, size: tuple[int, int]
) -> None:
    transforms = [] if transform is None else [transform]
    image = smooth_image(*size)
    none = torch.zeros(0, dtype=torch.int64)
    sample = RawSample(image, ImageInfo(0, "", *size), Targets(torch.zeros(0, 4), none, None, none))
    ours = apply_transforms(transforms, sample, np.random.default_rng(0)).to_sample().image
    batch = PREPROCESS([ours])
    given = session(before(transforms, PREPROCESS, resize=True)).run(None, {"image": image[None]})
    images, sizes, frames = given
    assert sizes.tolist() == batch.extents.tolist() and images.shape == tuple(batch.tensor.shape)
    # OpenCV rounds in fixed point: a value may be another by 1.
    off = np.abs(images - batch.tensor.numpy()) * PREPROCESS.std.numpy()
    assert off.max() <= 1.001
    assert off.mean() < 0.3
    height, width = batch.sizes[0]
    assert frames == pytest.approx([size[1] / width, size[0] / height] * 2, rel=1e-6)


def test_what_onnx_has_no_way_for_is_refused() -> None:
    for transforms, told in (
        ([Resize(height=9, width=9), Resize(height=8, width=8)], "not one resize"),
        ([ResizeLongest(size=99, resample="area")], "data.eval_transforms.0.resample: area"),
        ([ResizeShortestEdge(min_sizes=(99, 101))], "several lengths"),
    ):
        with pytest.raises(UserError, match=told):
            before(transforms, PREPROCESS, resize=True)


def test_boxes_and_masks_are_those_of_the_records() -> None:
    generator = torch.Generator().manual_seed(0)
    height, width, network = 77, 101, (96, 128)
    detections, side = 12, 14
    corners = torch.rand(detections, 2, generator=generator) * 90
    boxes = torch.cat((corners, corners + 5 + torch.rand(detections, 2, generator=generator) * 50), dim=1)
    boxes[3] = torch.tensor([300.0, 10.0, 310.0, 20.0])  # beyond the image
    masks = torch.rand(detections, side, side, generator=generator)
    scores = torch.linspace(0.9, 0.1, detections)
    labels = torch.arange(detections) % 3
    real = torch.ones(detections, dtype=torch.bool)
    real[5] = False
    rows = [i for i in range(detections) if i != 5]
    found = Detections(boxes[rows], scores[rows], labels[rows], masks[rows])
    info, categories = ImageInfo(7, "", height, width), Categories((1, 2, 5), ("a", "b", "c"))
    records = coco_results(info, found, network, categories)
    frames = np.array([width / network[1], height / network[0]] * 2, dtype=np.float32)
    image = np.zeros((2, height, width, 3), dtype=np.uint8)
    values = (boxes, scores, labels, real, masks)
    feed = dict(zip(OUTPUTS, (v[None].repeat_interleave(2, 0).numpy() for v in values), strict=True))
    found_boxes, found_scores, classes, images, pasted = session(
        behind(True, side, detections, paste=True)
    ).run(None, {**feed, "frames": frames, "image": image})
    assert images.tolist() == [0] * len(records) + [1] * len(records)
    for i, record in enumerate([*records, *records]):
        x, y, w, h = record["bbox"]
        assert found_boxes[i] == pytest.approx([x, y, x + w, y + h], abs=1e-4)
        assert found_scores[i] == pytest.approx(record["score"])
        assert categories.ids[classes[i]] == record["category_id"]
        assert (pasted[i] == decode(record["segmentation"])).mean() > 0.9995  # but where it rounds to 0.5
    assert pasted.shape == (2 * len(records), height, width) and pasted.any()


def test_masks_can_be_left_to_paste() -> None:
    outputs = session(behind(True, 28, 5, paste=False)).get_outputs()
    assert [o.name for o in outputs] == [
        "boxes",
        "scores",
        "classes",
        "images",
        "mask_probabilities",
        "mask_boxes",
    ]
    assert [o.name for o in session(behind(False, 4, 5, paste=True)).get_outputs()][-1] == "images"
    assert INPUTS[0] not in [o.name for o in outputs]
