"""What is advised can be followed."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run.benchmark import advice as module
from maskrcnn.run.benchmark.advice import advise
from maskrcnn.run.benchmark.figures import Benchmark
from tests.engine.tiny import write_recipe
from tests.run.benchmark.made import made


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


def told(recipe: Recipe, found: Benchmark, monkeypatch: pytest.MonkeyPatch, side: int = 1100) -> str:
    monkeypatch.setattr(module.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(module, "free_memory", lambda cuda: 10**9)
    sizes = np.full((1000, 2), side, dtype=np.int32)
    data: Any = SimpleNamespace(train=SimpleNamespace(cache=None, sizes=sizes, bytes_each=1), val=None)
    return advise(found, recipe, data)


def test_what_is_said_of_each_bound(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(recipe_file)
    assert told(recipe, made(), monkeypatch) == (
        "compute bound: images are there in time, and the backward pass takes most"
    )
    single = told(recipe, made(precision="float32"), monkeypatch)
    assert single.endswith("takes most; solver.precision: bfloat16 may be faster")
    assert told(recipe, made(busy=0.5), monkeypatch) == (
        "host bound: the GPU works for 50% of a step, and waits for the host else; try"
        " solver.compile: true and a larger solver.batch_size"
    )
    # 8 images of 0.2 s in 0.4 s keep 4 workers busy.
    late = made(parts={"data": 0.4})
    assert told(recipe, late, monkeypatch) == (
        "data bound: 50% of a step is the wait for images; set data.workers to 5 (now 2; 5 would keep up);"
        " set data.cache to disk (reading and decoding are 50% of the loading, and the decoded images take"
        " 3.63 GB)"
    )
    changed = load_recipe(recipe_file, ["data.cache=disk"])
    enough = made(parts={"data": 0.4}, workers=16)
    assert told(changed, enough, monkeypatch).endswith(
        "use fewer or simpler data.train_transforms, or a machine with more cores"
    )
    assert told(changed, enough, monkeypatch, side=4000).endswith(
        "store the images smaller: they are shrunk on loading"
    )


def test_the_advice_can_be_followed(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = told(load_recipe(recipe_file), made(parts={"data": 0.4}), monkeypatch)
    settings = [f"{key}={value}" for key, value in re.findall(r"set (data\.\w+) to (\w+)", said)]
    recipe = load_recipe(recipe_file, settings)
    assert (recipe.data.workers, recipe.data.cache) == (5, "disk")
    said = told(recipe, made(busy=0.5), monkeypatch)
    (setting,) = re.findall(r"(solver\.\w+): (\w+)", said)
    assert load_recipe(recipe_file, ["=".join(setting)]).solver.compile
