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


#: Fewer RoIs for the small test: torchvision's argument, our key, the value.
SMALLER = (
    ("rpn_post_nms_top_n_test", "rpn.post_nms_test", 100),
    ("rpn_post_nms_top_n_train", "rpn.post_nms_train", 200),
    ("box_detections_per_img", "roi.max_detections", 20),
    ("box_batch_size_per_image", "roi.samples", 64),
)


def compare(
    parity: ModuleType,
    depth: int,
    labels: int,
    images: list[torch.Tensor],
    limits: Sequence[tuple[str, str, int]] = (),
) -> None:
    batch = parity.image_batch(images)
    arguments = {name: value for name, _, value in limits}
    theirs = parity.their_model(depth, labels, batch.tensor, 0, **arguments)
    ours = parity.our_model(theirs, depth, [f"{key}={value}" for _, key, value in limits])
    exact = parity.compare_float64(ours, theirs, batch)
    assert exact.pop("detections an image") >= 5, "the random model must detect something"
    assert exact.pop("proposals an image") >= 50
    assert {"proposals", "boxes", "scores", "masks"} <= set(exact)
    assert max(exact.values()) <= 1e-6, exact
    stages = parity.compare_float32(ours, theirs, batch)
    assert len(stages) >= 10
    assert max(stages.values()) <= 1e-4, stages
    training = parity.compare_training(ours, theirs, batch, 0)
    assert training.pop("parameters compared") >= 50
    assert training.pop("gradients") <= 1e-7
    assert len(training) == 5
    assert max(training.values()) <= 1e-9, training


def test_small(parity: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 13, 17, generator=generator)
    image = torch.nn.functional.interpolate(noise[None], size=(104, 136), mode="bilinear")[0]
    compare(parity, 18, 5, [(image * 255).round()], SMALLER)


@pytest.mark.slow
def test_full_size_on_real_images(parity: ModuleType, shared_data: Callable[[str], Path]) -> None:
    images = parity.load_images(shared_data("coco") / "val2017", 2, 800)
    assert len(images) == 2
    compare(parity, 50, 91, images)
