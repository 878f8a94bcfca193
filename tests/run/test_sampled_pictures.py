"""Pictures of proposals and of sampled RoIs: of which images, what they show; nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.engine.console import Console
from maskrcnn.engine.events import Events
from maskrcnn.recipe import load_recipe
from maskrcnn.run import sampled_pictures as module
from maskrcnn.run import train
from maskrcnn.run.sampled_pictures import sampled_pictures
from tests.engine.tiny import write_recipe
from tests.test_resume import assert_same_state, last

KEYS = ["solver.steps=4", "train.eval_every=2", "train.pictures=2", "solver.ema={decay: 0.5}"]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


def test_trackers_get_them_and_the_training_is_the_same_to_the_bit(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[int, str]] = []
    monkeypatch.setattr(Events, "tracked", True)
    monkeypatch.setattr(Events, "picture", lambda _, step, name, image: taken.append((step, name)))
    train(load_recipe(recipe_file, KEYS), tmp_path / "without", console=Console(quiet=True))
    assert not [name for _, name in taken if name.startswith("train/")]
    recipe = load_recipe(recipe_file, [*KEYS, "train.pictures_of=[proposals, rois]"])
    train(recipe, tmp_path / "with", console=Console(quiet=True))
    found = [(step, name) for step, name in taken if name.startswith("train/")]
    assert found == [
        (step, f"train/{kind}/{image}")
        for step in (2, 4)
        for image in (101, 102)
        for kind in ("proposals", "rois")
    ]
    assert_same_state(last(tmp_path / "with"), last(tmp_path / "without"))


@pytest.mark.parametrize("rpn", [True, False])
def test_what_they_show(recipe_file: Path, rpn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(recipe_file, ["train.pictures=1", "train.pictures_of=[rois, proposals]"])
    assert recipe.data.val is not None
    val = recipe.data.build(recipe.data.val, False)
    torch.manual_seed(0)
    model = recipe.model.build(2)
    seen: dict[str, Mapping[str, Any]] = {}

    def keep(picture: Any, what: str, boxes: Any, with_object: Any, truth: Any) -> Any:
        seen[what] = {"boxes": boxes, "with": with_object, "truth": truth, "picture": picture}
        return real(picture, what, boxes, with_object, truth)

    real = module._draw
    monkeypatch.setattr(module, "_draw", keep)
    given = [torch.tensor([[0.0, 0.0, 90.0, 90.0], [1.0, 2.0, 9.0, 9.0]])]
    if not rpn:
        model.rpn = None
        loader = module.eval_loader

        def with_proposals(*args: Any) -> Any:
            for batch in loader(*args):
                yield replace(batch, proposals=given)

        monkeypatch.setattr(module, "eval_loader", with_proposals)
    model.train()
    before = torch.get_rng_state()
    once, again = (list(sampled_pictures(model, val, recipe, torch.device("cpu"))) for _ in range(2))
    assert torch.get_rng_state().equal(before)
    assert [name for name, _ in once] == ["train/rois/101", "train/proposals/101"]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(once, again, strict=True))
    assert seen["RoIs"]["picture"].shape == (64, 64, 3)
    # The true boxes are among the RoIs, in the frame of the picture, and have an object.
    for box in val.load(0).targets.boxes:
        distance = (seen["RoIs"]["boxes"] - torch.as_tensor(box)).abs().amax(dim=1)
        assert distance.min() < 1e-3 and seen["RoIs"]["with"][distance.argmin()]
    assert 0 < seen["RoIs"]["with"].sum() < len(seen["RoIs"]["with"])
    if not rpn:
        assert seen["proposals"]["boxes"].equal(given[0]) and not seen["proposals"]["with"].any()
