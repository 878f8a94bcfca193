from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.errors import DataError
from maskrcnn.recipe import load_recipe
from maskrcnn.run.benchmark.loading import measure_loading
from tests.engine.tiny import write_recipe


def test_images_are_read_without_their_cache_by_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    train: Any = recipe.data.build(recipe.data.train, True)
    load, seen, kept = train.load, [], object()

    def loading(place: int) -> Any:
        seen.append((train.cache, torch.get_num_threads()))
        return load(place)

    monkeypatch.setattr(train, "load", loading)
    train.cache = kept
    threads = torch.get_num_threads()
    found = measure_loading(recipe, train)
    assert found.read > 0 and found.changed > 0
    assert {*seen} == {(None, 1)}
    assert train.cache is kept and torch.get_num_threads() == threads


def test_a_set_that_cannot_be_read_has_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    train = recipe.data.build(recipe.data.train, True)

    def fails(place: int) -> Any:
        raise DataError(f"image {place} is no image")

    monkeypatch.setattr(train, "load", fails)
    found = measure_loading(recipe, train)
    assert math.isnan(found.read) and math.isnan(found.changed)
