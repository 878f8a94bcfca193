"""`maskrcnn strip`: what stays and goes, and that no training goes on from it, while any starts from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.engine.checkpoint import Checkpoint, load, save
from maskrcnn.run import Predictor
from maskrcnn.run.thresholds import Thresholds, read_thresholds, write_thresholds
from tests.engine.tiny import write_recipe


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose evaluated weights are their average."""
    folder = tmp_path_factory.mktemp("averaged")
    wishes = ("solver.steps=2", "solver.ema={decay: 0.5}", "eval.best_metric=ema/segm/AP")
    options = [part for wish in wishes for part in ("--set", wish)]
    assert main(["train", str(write_recipe(folder)), "--output", str(folder / "run"), *options]) == 0
    return folder / "run"


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_what_is_evaluated_stays(averaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best, out = averaged / "checkpoints/best.pt", tmp_path / "new" / "model.pt"
    write_thresholds(best, Thresholds({"box": 0.25}, "null"))
    assert main(["strip", str(averaged), "--output", str(out)]) == 0
    told = capsys.readouterr().out
    before, after = load(best), load(out)
    average = before.more["ema"]
    assert average and all(after.model[name].equal(value) for name, value in average.items())
    assert any(not before.model[name].equal(value) for name, value in average.items())
    assert not after.optimizer and not after.scaler and not after.more and after.step == 2
    assert after.category_names == ("box", "disc") and after.image_size == before.image_size
    assert out.stat().st_size < best.stat().st_size / 2
    for words in (f"{best.stat().st_size / 1000:.0f} kB", f"{out.stat().st_size / 1000:.0f} kB", "average"):
        assert words in told
    assert read_thresholds(out) == Thresholds({"box": 0.25}, "null")
    found, wanted = (Predictor(file, score=0.0)(image()).records for file in (out, best))
    assert found == wanted and len(found) == 10
    best.with_name("best.thresholds.json").unlink()


def test_the_weights_themselves_where_they_are_evaluated(averaged: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt"
    assert main(["strip", str(averaged), "--output", str(out), "--set", "eval.ema=false"]) == 0
    before, after = load(averaged / "checkpoints/best.pt"), load(out)
    assert all(after.model[name].equal(value) for name, value in before.model.items())


def test_it_never_replaces_a_file(averaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = averaged / "checkpoints/best.pt"
    kept = best.read_bytes()
    assert main(["strip", str(best), "--output", str(best)]) == 2
    assert "is there already; name another file" in capsys.readouterr().err
    assert best.read_bytes() == kept


def test_weights_of_no_known_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(Checkpoint(model={"a": torch.zeros(1)}), tmp_path / "bare.pt")
    assert main(["strip", str(tmp_path / "bare.pt"), "--output", str(tmp_path / "out.pt")]) == 2
    assert not (tmp_path / "out.pt").exists() and "holds no recipe" in capsys.readouterr().err


def test_no_run_goes_on_from_it_and_the_advice_works(
    averaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run, file = averaged.parent / "tiny.yaml", tmp_path / "run", tmp_path / "model.pt"
    assert main(["strip", str(averaged), "--output", str(file)]) == 0
    shutil.copytree(averaged, run)
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    shutil.copy(file, run / "checkpoints/step_00000002.pt")
    for resumed in (run, file):
        assert main(["train", str(recipe), "--resume", str(resumed), "--set", "solver.steps=3"]) == 2
        told = capsys.readouterr().err
        assert "for inference alone" in told and "maskrcnn train CONFIG --set weights=" in told
    options = ["--set", f"weights={file}", "--set", "solver.steps=1", "--output", str(tmp_path / "another")]
    assert main(["train", str(recipe), *options]) == 0
    assert f"weights from {file}" in capsys.readouterr().out
