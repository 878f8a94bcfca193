from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.data import apply_transforms
from maskrcnn.data.interfaces import Transform
from maskrcnn.data.transforms.moving import resample
from maskrcnn.data.transforms.resizing import Resize, ResizeLongest, ResizeShortestEdge
from maskrcnn.errors import UserError
from maskrcnn.inference.records import coco_results
from maskrcnn.modeling.preprocess import Preprocess
from maskrcnn.run.export.network import INPUTS, OUTPUTS, Told
from maskrcnn.run.export.onnx_parts import before, behind, network_names, told_names
from maskrcnn.run.export.onnx_pastes import PASTING_WAYS
from maskrcnn.run.export.openvino_file import converted
from maskrcnn.structures import Detections, ImageInfo, RawSample, Targets
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.rle import decode

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")

ALIGNED = PASTING_WAYS["aligned"]
PREPROCESS = Preprocess([120.0, 110.0, 100.0], [50.0, 60.0, 70.0], 32, True)


def session(text: str) -> Any:
    from onnx import parser

    model = parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


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


def given_by(runtime: str, folder: Path, text: str, feed: dict[str, Any]) -> list[Any]:
    if runtime == "onnxruntime":
        return list(session(text).run(None, feed))
    openvino = pytest.importorskip("openvino", reason="the package openvino is not installed")
    from onnx import parser

    file = folder / "behind.onnx"
    file.write_bytes(parser.parse_model(text).SerializeToString())
    model = converted(file, "float32", list)
    for output in model.outputs:
        assert output.get_any_name() != "masks" or output.get_element_type() == openvino.Type.u8
    found = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feed)
    return [found[i] for i in range(len(model.outputs))]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("size", [(77, 101), (192, 130), (40, 64)])
def test_boxes_and_masks_are_those_of_the_records(
    size: tuple[int, int], runtime: str, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    (height, width), network = size, (96, 128)
    detections, side = 12, 14
    corners = torch.rand(detections, 2, generator=generator) * 90
    boxes = torch.cat((corners, corners + 5 + torch.rand(detections, 2, generator=generator) * 50), dim=1)
    boxes[3] = torch.tensor([300.0, 10.0, 310.0, 20.0])  # beyond the image
    boxes[4] = torch.tensor([-30.0, -20.0, 150.0, 120.0])  # all of it
    masks = torch.rand(detections, side, side, generator=generator)
    masks[7] = 1.0  # to its edges
    scores = torch.linspace(0.9, 0.1, detections)
    labels = torch.arange(detections) % 3
    real = torch.ones(detections, dtype=torch.bool)
    real[5] = False
    rows = [i for i in range(detections) if i != 5]
    points = torch.rand(detections, 3, 3, generator=generator) * 60
    fills = torch.rand(detections, generator=generator)
    found = Detections(
        boxes[rows], scores[rows], labels[rows], masks[rows], points[rows], {"fill": fills[rows]}
    )
    info, categories = ImageInfo(7, "", height, width), Categories((1, 2, 5), ("a", "b", "c"))
    records = coco_results(info, found, network, categories)
    frames = np.array([width / network[1], height / network[0]] * 2, dtype=np.float32)
    image = np.zeros((2, height, width, 3), dtype=np.uint8)
    values = (boxes, scores, labels, real, masks, points, fills, labels)
    told = {
        name: Told(tuple(v.shape[1:]), v.dtype)
        for name, v in zip(("mask_probs", "keypoints", "fill", "sides"), values[4:], strict=True)
    }
    assert told_names(told) == {"told_2": "fill", "told_3": "sides"}
    feed = dict(
        zip(network_names(told), (v[None].repeat_interleave(2, 0).numpy() for v in values), strict=True)
    )
    feed |= {"frames": frames, "image": image}
    text = behind(told, detections, paste=ALIGNED)
    found_boxes, found_scores, classes, images, pasted, places, further, again = given_by(
        runtime, tmp_path, text, feed
    )
    assert images.tolist() == [0] * len(records) + [1] * len(records)
    for i, record in enumerate([*records, *records]):
        x, y, w, h = record["bbox"]
        assert found_boxes[i] == pytest.approx([x, y, x + w, y + h], abs=1e-4)
        assert found_scores[i] == pytest.approx(record["score"])
        assert categories.ids[classes[i]] == record["category_id"]
        assert (places[i] - [0.5, 0.5, 0]).ravel() == pytest.approx(record["keypoints"], abs=1e-4)
        assert further[i] == pytest.approx(record["fill"])
        assert (pasted[i] == decode(record["segmentation"])).mean() > 0.9995  # but where it rounds to 0.5
    assert (again == classes).all() and again.dtype == np.int64
    assert pasted.shape == (2 * len(records), height, width) and pasted.any()
    feed[OUTPUTS[3]] = np.zeros((2, detections), dtype=np.bool_)
    assert given_by(runtime, tmp_path, text, feed)[4].shape == (0, height, width)


def test_masks_can_be_left_to_paste() -> None:
    told = {"mask_probs": Told((28, 28), torch.float32), "keypoints": Told((17, 3), torch.float32)}
    outputs = session(behind(told, 5, paste=None)).get_outputs()
    first = ["boxes", "scores", "classes", "images"]
    assert [o.name for o in outputs] == [*first, "mask_probabilities", "mask_boxes", "keypoints"]
    assert [o.name for o in session(behind({}, 5, paste=ALIGNED)).get_outputs()] == first
    assert INPUTS[0] not in [o.name for o in outputs]
