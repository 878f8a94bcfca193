"""Every YAML that we ship is valid, builds, and trains and predicts one step: small always, full if asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.config.shipped import shipped_recipes
from maskrcnn.engine.optim import OptimizerConfig
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig, without_weights
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run.zoo import METRICS
from maskrcnn.structures import InstanceMasks, Targets

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = list(shipped_recipes())
#: `configs/base` holds parts; `configs/suites` another kind of file.
VARIANTS = sorted(
    p.relative_to(CONFIGS).with_suffix("").as_posix() for p in CONFIGS.glob("ablations/**/*.yaml")
)
#: What makes a full-size part a small one, where it has the key.
SMALL = {
    "backbone": {"width": 8},
    "neck": {"out_channels": 16},
    "rpn": {
        "width": None,
        "pre_nms_train": 60,
        "pre_nms_test": 60,
        "post_nms_train": 30,
        "post_nms_test": 30,
    },
    "box_head": {"hidden": 16, "width": 16},
    "mask_head": {"hidden": 16, "width": 16},
    "keypoint_head": {"width": 16},
}


def recipe(name: str) -> Recipe:
    return load_recipe(CONFIGS / f"{name}.yaml")


def small(model: MaskRCNNConfig) -> MaskRCNNConfig:
    """The model at small widths."""
    parts: dict[str, Any] = {}
    for key, values in SMALL.items():
        part: Any = getattr(model, key)
        if part is not None:
            parts[key] = replace(part, **{k: v for k, v in values.items() if hasattr(part, k)})
    return replace(model, **parts)


def example(model: MaskRCNNConfig) -> tuple[torch.Tensor, Targets, list[torch.Tensor] | None]:
    """An image, its ground truth, and proposals where the model wants them."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 96, 128), dtype=np.uint8))
    polygons = [[[10.0, 12.0, 60.0, 12.0, 60.0, 50.0, 10.0, 50.0]], [[70.0, 40.0, 90.0, 40.0, 80.0, 90.0]]]
    masks = InstanceMasks.from_coco(polygons, 96, 128)
    boxes = masks.boxes()
    keypoints = None
    if model.keypoint_head is not None:
        points = torch.stack((boxes[:, :2], boxes[:, 2:] - 1), 1).repeat(1, 20, 1)
        keypoints = torch.cat((points, torch.full((2, 40, 1), 2.0)), 2)[
            :, : model.keypoint_head.num_keypoints
        ]
    targets = Targets(boxes, torch.tensor([0, 1]), masks, torch.tensor([1, 2]), keypoints)
    around = torch.cat((boxes + torch.tensor([-4.0, 3, 2, -5]), torch.tensor([[0.0, 60, 40, 95]])))
    return image, targets, [around.clamp(min=0)] if model.rpn is None else None


@cache
def step(model_config: MaskRCNNConfig, optimizer_config: OptimizerConfig) -> None:
    """Build, train a step, predict.  Recipes that differ in their schedule alone share it."""
    torch.manual_seed(0)
    model = model_config.build(2)
    optimizer = optimizer_config.build(model, 0.01)
    image, targets, proposals = example(model_config)
    model.train()
    losses: Any = model([image], [targets], torch.tensor([0]), proposals)
    wanted = {"loss_box_cls", "loss_box_reg"}
    wanted |= set() if model_config.rpn is None else {"loss_rpn_cls", "loss_rpn_box"}
    wanted |= set() if model_config.mask_head is None else {"loss_mask"}
    wanted |= set() if model_config.keypoint_head is None else {"loss_keypoint"}
    assert wanted <= {name.split("_stage")[0] for name in losses}, losses
    assert all(torch.isfinite(v) for v in losses.values()), losses
    torch.stack(list(losses.values())).sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None for p in trained)
    before = [p.detach().clone() for p in trained]
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))
    found = model.predict([image], proposals)[0]
    assert len(found) <= model_config.roi.max_detections
    assert torch.isfinite(found.boxes).all()


@pytest.mark.parametrize("name", NAMES + VARIANTS)
def test_builds_and_takes_a_step(name: str) -> None:
    found = recipe(name)
    step(small(without_weights(found.model)), found.solver.optimizer)


def full_size() -> list[str]:
    """A recipe for each model, whatever their schedules."""
    return list({repr(without_weights(recipe(name).model)): name for name in reversed(NAMES)}.values())[::-1]


# The peak of getrusage would be that of the process which started this one, if that was larger.
FULL = """
import json, sys
from maskrcnn.engine.memory import peak_memory
from tests.rules.test_configs import recipe, replace, step, without_weights
found = recipe(sys.argv[1])
model = without_weights(found.model)
step(replace(model, roi=replace(model.roi, samples=min(model.roi.samples, 64))), found.solver.optimizer)
print(json.dumps(peak_memory() / 2**30))
"""


@pytest.mark.slow
@pytest.mark.large
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("name", full_size())
def test_builds_and_takes_a_step_at_full_width(name: str) -> None:
    """In a process of its own, which gives its memory back: at most 8 GiB."""
    told = subprocess.run(
        [sys.executable, "-c", FULL, name], cwd=CONFIGS.parent, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout.splitlines()[-1]) < 8


@pytest.mark.parametrize("name", NAMES)
def test_rate_data_and_evaluation_fit_the_recipe(name: str) -> None:
    found = recipe(name)
    solver = found.solver
    rates = [solver.rate_at(at) for at in (0, solver.steps // 2, solver.steps - 1)]
    warm = getattr(solver.schedule, "warmup_steps", 1) > 0
    assert 0 < rates[0] < rates[1] or (not warm and rates[0] == rates[1]), "the rate warms up"
    assert rates[2] < rates[1], "and falls at the end"
    assert all(callable(t) for t in (*found.data.train_transforms, *found.data.eval_transforms))
    for expected in found.expect:
        assert 0 < expected.value < 1 and expected.metric in METRICS and expected.source
        assert expected.tolerance == 0.003 and expected.source.endswith("; not re-run here")
    kinds = {item.metric.split("/")[0] for item in found.expect}
    assert "segm" not in kinds or found.model.mask_head is not None
    assert ("keypoints" in kinds) <= (found.model.keypoint_head is not None)
    if found.data.copy_paste is not None:
        assert getattr(found.data.train, "masks", True), "copy-paste needs masks"


def test_every_file_below_base_is_used() -> None:
    text = "".join(p.read_text() for p in CONFIGS.rglob("*.yaml"))
    # laid over a recipe by those who have the weights; for data of one's own
    optional = {"msra.yaml", "scratch.yaml"}
    unused = [p.name for p in (CONFIGS / "base").glob("*.yaml") if f"{p.name}" not in text.replace("# ", "")]
    assert set(unused) <= optional


def test_the_original_weights_lie_over_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    bases = [str(CONFIGS / "coco/mask_rcnn_r50_fpn_1x.yaml"), str(CONFIGS / "base/msra.yaml")]
    path.write_text(json.dumps({"base": bases}))
    model = load_recipe(path).model
    assert model.preprocess.std == (1.0, 1.0, 1.0) and model.backbone.stride_in_1x1  # type: ignore[attr-defined]
    assert model.neck is not None


@pytest.mark.parametrize("where", ["demo", "nuclei", "coco"])
def test_ablation_pairs_differ_in_one_idea(where: str) -> None:
    pool, align = (load_recipe(CONFIGS / "ablations" / where / f"roi_{op}.yaml") for op in ("pool", "align"))
    assert type(pool.model.roi_op) is not type(align.model.roi_op)
    same = replace(pool, model=replace(pool.model, roi_op=align.model.roi_op))
    assert same == align


def test_images_are_resized_as_where_the_figures_come_from() -> None:
    """PIL smooths what it shrinks (Detectron2); OpenCV (mmdetection, Detectron) and torchvision do not."""

    def ways(transforms: Sequence[object]) -> set[str]:
        return {t.resample for t in transforms if hasattr(t, "resample")}

    for name in NAMES:
        data = recipe(name).data
        source = " ".join(e.source for e in recipe(name).expect)
        pil = "Detectron2" in source
        smooth = {"antialias"} if pil else {"linear"}
        assert ways(data.eval_transforms) <= smooth, name  # the demo has none
        # torchvision's references jitter PIL images, and leave other resizing to the model.
        jitters = "torchvision_v2" in name
        assert ways(data.train_transforms) <= ({"antialias"} if jitters else smooth), name
        assert bool(ways(data.train_transforms)) == bool(ways(data.eval_transforms)) == (name != "demo")
