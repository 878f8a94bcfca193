"""``maskrcnn benchmark``: the times add up, and nothing is left behind.

Covers ``maskrcnn/run/benchmark/evaluating.py`` and ``maskrcnn/run/benchmark/peak.py`` besides.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from maskrcnn.cli import main
from maskrcnn.recipe import load_recipe
from maskrcnn.run.benchmark.figures import PARTS
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
