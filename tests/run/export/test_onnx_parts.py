from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.inference.records import coco_results
from maskrcnn.run.export.network import INPUTS, OUTPUTS, Told
from maskrcnn.run.export.onnx_parts import behind, network_names, told_names
from maskrcnn.run.export.onnx_pastes import PASTING_WAYS
from maskrcnn.structures import Detections, ImageInfo
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.rle import decode
from tests.run.export.runtimes import given_by, session

ALIGNED = PASTING_WAYS["aligned"]


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
