"""Every YAML that we ship is valid, builds, and trains and predicts one step at a small size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.config import load_traced
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.structures import InstanceMasks, Targets

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
#: `configs/base` holds parts, not recipes.
RECIPES = sorted(p for p in CONFIGS.rglob("*.yaml") if "base" not in p.relative_to(CONFIGS).parts)
#: What makes a full-size recipe a small one, where it has the key.
SMALL = {
    "model.backbone.width": "8",
    "model.backbone.weights": "null",
    "model.neck.out_channels": "16",
    "model.box_head.hidden": "16",
    "model.mask_head.width": "16",
}


def small(path: Path) -> Recipe:
    """The recipe of ``path`` at small widths, from random weights."""
    loaded = load_traced(Recipe, path)
    text = loaded.render()
    overrides = [f"{key}={value}" for key, value in SMALL.items() if f"{key.rsplit('.', 1)[1]}:" in text]
    return load_recipe(path, overrides)


def targets() -> Targets:
    polygons = [[[10.0, 12.0, 60.0, 12.0, 60.0, 50.0, 10.0, 50.0]], [[70.0, 40.0, 90.0, 40.0, 80.0, 90.0]]]
    masks = InstanceMasks.from_coco(polygons, 96, 128)
    return Targets(masks.boxes(), torch.tensor([0, 1]), masks, torch.tensor([1, 2]))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_builds_and_takes_a_step(path: Path) -> None:
    recipe = small(path)
    torch.manual_seed(0)
    model = recipe.model.build(2)
    optimizer = recipe.solver.optimizer.build(model, recipe.solver.rate_at(0))
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 96, 128), dtype=np.uint8))
    model.train()
    losses: Any = model([image], [targets()], torch.Generator().manual_seed(0))
    assert losses and all(torch.isfinite(v) for v in losses.values()), losses
    torch.stack(list(losses.values())).sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None for p in trained)
    before = [p.detach().clone() for p in trained]
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))
    found = model.predict([image])[0]
    assert len(found) <= recipe.model.roi.max_detections
    assert torch.isfinite(found.boxes).all()


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_rate_and_evaluation_fit_the_schedule(path: Path) -> None:
    recipe = load_recipe(path)
    solver = recipe.solver
    rates = [solver.rate_at(step) for step in (0, solver.steps // 2, solver.steps - 1)]
    assert 0 < rates[0] < rates[1], "the rate warms up"
    assert rates[2] < rates[1], "and falls at the end"
    for expected in recipe.expect:
        assert 0 < expected.value < 1 and "/" in expected.metric and expected.source


@pytest.mark.parametrize("where", ["demo", "nuclei", "coco"])
def test_ablation_pairs_differ_in_one_idea(where: str) -> None:
    pool, align = (load_recipe(CONFIGS / "ablations" / where / f"roi_{op}.yaml") for op in ("pool", "align"))
    assert type(pool.model.roi_op) is not type(align.model.roi_op)
    same = replace(pool, model=replace(pool.model, roi_op=align.model.roi_op))
    assert same == align
