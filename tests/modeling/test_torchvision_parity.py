"""Our model computes torchvision's function: benchmarks/parity on a small image, and full size when slow."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "parity" / "torchvision.py"


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_torchvision", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


#: Fewer RoIs for the small test: torchvision's argument, our part and key, the value.
SMALLER = (
    ("rpn_post_nms_top_n_test", "rpn", "post_nms_test", 100),
    ("rpn_post_nms_top_n_train", "rpn", "post_nms_train", 200),
    ("box_detections_per_img", "roi", "max_detections", 20),
    ("box_batch_size_per_image", "roi", "samples", 64),
)

#: What every model is compared in, and how many losses it has.
PARTS = {
    "mask_v1": ({"masks"}, 5),
    "mask_v2": ({"masks"}, 5),
    "faster_v1": (set(), 4),
    "faster_v2": (set(), 4),
    "keypoint_v1": ({"keypoints", "keypoint scores"}, 5),
}


def compare(
    parity: ModuleType,
    name: str,
    depth: int,
    labels: int,
    images: list[torch.Tensor],
    limits: Sequence[tuple[str, str, str, int]] = (),
    width: int = 256,
) -> None:
    parts, losses = PARTS[name]
    batch = parity.image_batch(images)
    theirs = parity.their_model(
        name, depth, labels, batch.tensor, 0, width=width, **{a: v for a, _, _, v in limits}
    )
    ours = parity.our_model(theirs, [limit[1:] for limit in limits])
    exact = parity.compare_float64(ours, theirs, batch)
    assert exact.pop("detections an image") >= 5, "the random model must detect something"
    assert exact.pop("proposals an image") >= 50
    assert set(exact) == {"features", "proposals", "boxes", "scores", "labels"} | parts
    assert max(exact.values()) <= 1e-6, exact
    stages = parity.compare_float32(ours, theirs, batch)
    assert len(stages) >= 10
    assert max(stages.values()) <= 1e-4, stages
    training = parity.compare_training(ours, theirs, batch, 0)
    assert training.pop("parameters compared") >= 40
    assert training.pop("gradients") <= 1e-7
    assert len(training) == losses
    assert max(training.values()) <= 1e-9, training


@pytest.mark.parametrize("name", PARTS)
def test_small(parity: ModuleType, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 13, 17, generator=generator)
    image = torch.nn.functional.interpolate(noise[None], size=(104, 136), mode="bilinear")[0]
    labels = 2 if name == "keypoint_v1" else 5
    compare(parity, name, 18, labels, [(image * 255).round()], SMALLER, width=32)


@pytest.mark.slow
@pytest.mark.large
@pytest.mark.parametrize("name", PARTS)
def test_full_size_on_real_images(parity: ModuleType, name: str, shared_data: Callable[[str], Path]) -> None:
    images = parity.load_images(shared_data("coco") / "val2017", 1, 800)
    assert len(images) == 1
    compare(parity, name, 50, 2 if name == "keypoint_v1" else 91, images)
