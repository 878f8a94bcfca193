"""``maskrcnn benchmark``: the times add up, the advice can be followed, and nothing is left behind."""

from __future__ import annotations

import gzip
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn.cli import main
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run import benchmark as module
from maskrcnn.run.benchmark import PARTS, Benchmark, Evaluating, Loading, _Clock, advise
from maskrcnn.run.flops import count_cost
from tests.engine.tiny import write_recipe


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


def test_a_config_is_measured_and_nothing_is_left_behind(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(recipe_file.parent.rglob("*"))
    fixed = "data.train_transforms=[{type: resize, height: 64, width: 96}]"
    options = ["--set", fixed, "--set", "solver.accumulate=2", "--steps", "2", "--json"]
    assert main(["benchmark", str(recipe_file), *options, "--profile", "trace.json.gz"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["steps"] == 2 and found["batch"] == 2 and found["size"] == [64, 96]
    assert found["weights"] == "random" and found["device"] == "CPU" and found["busy"] is None
    assert found["rate"] > 0 and found["memory"] > 10**7 and found["peak"] > 10**8
    assert sum(found["parts"].values()) == pytest.approx(2 / found["rate"], rel=0.05)
    assert all(found["parts"][name] > 0 for name in PARTS)
    assert found["evaluation"]["images"] == 3 and found["evaluation"]["found"] > 0
    assert found["loading"]["read"] > 0 and found["loading"]["changed"] > 0
    assert 0 < found["share_of_peak"] < 1
    # Forward and backward of two images; RoIs are fewer than that count assumes.
    recipe = load_recipe(recipe_file)
    forward = 2 * 2 * count_cost(recipe.model, 2, (64, 96), 16, 4).flops
    assert 1.5 * forward < found["flops"] < 3.3 * forward
    assert "timed step 2 of 2" in err and "evaluating 3 images" in err
    with gzip.open("trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert any("convolution_backward" in event.get("name", "") for event in events)
    assert sorted(recipe_file.parent.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json.gz"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--profile", "trace.txt"], "--profile trace.txt: name a file that ends in .json or .json.gz"),
        (["--set", "data.train.annotations=gone.json"], "gone.json: "),
        (["--set", "data.train.images=gone"], "gone: there is no such folder of images"),
        (["--set", "solver.batch_size=3", "--set", "solver.accumulate=2"], "batch_size 3 cannot be cut"),
    ],
)
def test_a_mistake_is_one_sentence(
    options: list[str], sentence: str, recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", str(recipe_file), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_the_clock_divides_all_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(2 ** next(ticks)))
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    step: Any = SimpleNamespace(strategy=SimpleNamespace(module=layer), optimizer=optimizer)
    clock = _Clock(step, torch.device("cpu"))  # at 1
    batch: Any = SimpleNamespace(images=[torch.zeros(3, 5, 7)])
    source = clock.timed(iter([batch, batch]))
    for _ in range(2):  # two passes of one step: each asks the clock 4 times
        next(source)
        layer(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    clock.enter("rest")
    marks = [2**k for k in range(12)]
    spans = [b - a for a, b in itertools.pairwise(marks)]
    order = ["rest", "data", "rest", "forward", "backward", "data", "backward", "forward", "backward"]
    wanted = dict.fromkeys(PARTS, 0.0)
    for name, span in zip([*order, "optimizer", "rest"], spans, strict=True):
        wanted[name] += span
    assert clock.parts == wanted
    assert clock.sizes == [(5, 7), (5, 7)]


def made(**changes: Any) -> Benchmark:
    """A GPU's figures; 8 images a step of 0.4 s without the wait for images."""
    parts = {"data": 0.0, "forward": 0.15, "backward": 0.2, "optimizer": 0.02, "rest": 0.03}
    parts |= changes.pop("parts", {})
    fields = {
        "device": "GPU", "threads": 8, "workers": 2, "precision": "bfloat16", "weights": "random", "ranks": 1,
        "batch": 8, "size": (800, 1066), "steps": 10, "seconds": sum(parts.values()), "rate": 20.0,
        "parts": parts, "busy": 0.95, "flops": 10**12, "peak": 10**13, "memory": 10**10,
        "loading": Loading(0.1, 0.1), "evaluation": Evaluating(10, 5.0, 7.0, 100.0),
    }  # fmt: skip
    return Benchmark(**fields | changes)


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


def test_the_lines_say_it_all() -> None:
    text = "\n".join(made(advice="the advice").lines())
    for part in (
        "20 images/s",
        "median 1066 x 800",
        "backward",
        "at work for 95%",
        "5 images/s",
        "the advice",
    ):
        assert part in text
    assert made().share_of_peak == pytest.approx(10**12 / 0.4 / 10**13)
