"""Cross-validation: each image is judged once, intervals are as published, a call goes on with the last.

Covers ``maskrcnn/cli/cross_validate.py``.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.data import CocoConfig
from maskrcnn.errors import UserError
from maskrcnn.recipe import load_recipe
from maskrcnn.studies.cross_validation import collect_folds, interval, plan_folds, student, write_folds
from tests.engine.tiny import write_data, write_recipe


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = write_recipe(tmp_path)
    write_data(tmp_path / "images", train=10)
    return path


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_each_image_is_judged_once_by_a_model_that_has_not_seen_it(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    folds = plan_folds(recipe, tmp_path / "out", 3)
    whole = read(tmp_path / "images/train.json")
    judged: Counter[int] = Counter()
    for run, count in zip(folds.runs, folds.images, strict=True):
        train, val = run.recipe.data.train, run.recipe.data.val
        assert isinstance(train, CocoConfig) and isinstance(val, CocoConfig)
        parts = [read(config.annotations) for config in (train, val)]
        ids = [{image["id"] for image in part["images"]} for part in parts]
        assert not ids[0] & ids[1] and ids[0] | ids[1] == {image["id"] for image in whole["images"]}
        assert len(ids[1]) == count and 3 <= count <= 4
        for part, own in zip(parts, ids, strict=True):
            assert {a["image_id"] for a in part["annotations"]} <= own
        assert sum(len(part["annotations"]) for part in parts) == len(whole["annotations"])
        judged.update(ids[1])
        assert run.recipe.model == recipe.model and run.recipe.seed == recipe.seed
    assert judged == Counter(image["id"] for image in whole["images"])
    again = plan_folds(recipe, tmp_path / "out", 3)
    assert again.images == folds.images


def test_other_data_or_another_division_are_not_mixed_in(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    plan_folds(recipe, tmp_path / "out", 3)
    for options in ({"folds": 2}, {"folds": 3, "seed": 1}):
        with pytest.raises(UserError, match=r"fold1_train.json: was made of other annotations, or divided"):
            plan_folds(recipe, tmp_path / "out", **options)
    plan_folds(recipe, tmp_path / "other", 2)  # the advice
    content = read(tmp_path / "images/train.json")
    content["annotations"].pop()
    (tmp_path / "images/train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="was made of other annotations"):
        plan_folds(recipe, tmp_path / "out", 3)


@pytest.mark.parametrize(
    ("folds", "words"), [(1, "must be at least 2"), (11, "has 10 images; take at most as many folds")]
)
def test_what_cannot_be_is_told(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], folds: int, words: str
) -> None:
    command = ["cross-validate", str(recipe_file), "--folds", str(folds), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
    assert main([*command[:3], "2", *command[4:], "--report"]) == 2  # nothing was trained
    assert "no fold is finished" in capsys.readouterr().err


def test_quantiles_of_student() -> None:
    """Table of Fisher's t, two-sided, 95 % and 99 %."""
    for freedom, wanted in ((1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (100, 1.984)):
        assert student(freedom) == pytest.approx(wanted, abs=6e-4)
    assert student(4, 99) == pytest.approx(4.604, abs=6e-4)


def test_the_interval_is_nadeau_and_bengios_and_holds_the_truth() -> None:
    values = [0.30, 0.34, 0.33, 0.29, 0.35]
    low, high = interval(values)
    assert low is not None and high is not None
    half = 2.776 * statistics.stdev(values) * math.sqrt(1 / 5 + 1 / 4)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-3)
    assert (high + low) / 2 == pytest.approx(statistics.fmean(values))
    assert interval([0.3]) == (None, None)
    # Folds whose models have 3/4 of their images in common: correlated by 1/5 (rho = test / all, section 3).
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(2000, 1)), rng.normal(size=(2000, 5))
    found = [interval(list(row)) for row in math.sqrt(0.2) * shared + math.sqrt(0.8) * own]
    held = np.mean([low <= 0 <= high for low, high in found if low is not None and high is not None])
    assert 0.93 < held < 0.99


def finish(folder: Path, step: int, ap: float, average: float | None = None) -> None:
    def figures(value: float) -> dict[str, Any]:
        return {"figures": {"segm": {"AP": value, "APs": None}, "bbox": {"AP": value + 0.1}}}

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text("[]")
    more = {} if average is None else {"ema": figures(average)}
    (folder / "figures.json").write_text(json.dumps({"step": step, **figures(ap), **more}))


def test_the_report_is_of_the_finished_folds(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    folds = plan_folds(recipe, tmp_path / "out", 3)
    for run, ap in zip(folds.runs, (0.2, 0.3), strict=False):
        finish(run.folder.path, 6, ap, 0.9)
    finish(folds.runs[2].folder.path, 5, 0.8)  # not of its last step
    table = write_folds(folds, tmp_path / "out")
    assert table.title == f"2 of 3 folds, judged on {', '.join(map(str, folds.images))} images"
    rows = {row[0]: row for row in table.rows}
    assert set(rows) == {"segm/AP", "bbox/AP"} and rows["segm/AP"][1] == "0.250"
    assert rows["segm/AP"][-2:] == ["0.200", "0.300"]
    content = read(tmp_path / "out/folds.json")
    assert content["finished"] == ["fold 1", "fold 2"]
    assert content["figures"]["segm/AP"]["values"] == [0.2, 0.3]
    assert "| segm/AP | 0.250 |" in (tmp_path / "out/folds.md").read_text()
    judged = ["solver.ema={}", "eval.best_metric=ema/segm/AP"]
    by_average = plan_folds(load_recipe(recipe_file, judged), tmp_path / "out", 3)
    assert [f.mean for f in collect_folds(by_average) if f.name == "segm/AP"] == [0.9]


def test_the_command_trains_each_fold_and_goes_on(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["cross-validate", str(recipe_file), "--folds", "2", "--output", str(out)]
    command += ["--set", "solver.steps=1", "--set", "model.mask_head=null", "--set", "eval.iou_types=[bbox]"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "data.val is left out" in said and "2 of 2 folds, judged on 5, 5 images" in said
    assert {path.name for path in out.iterdir()} >= {"data", "fold1", "fold2", "folds.json", "folds.md"}
    made = [read(out / f"fold{k}/figures.json")["figures"]["bbox"]["AR100"] for k in (1, 2)]
    assert read(out / "folds.json")["figures"]["bbox/AR100"]["values"] == made
    kept = (out / "fold1/checkpoints/last.pt").read_bytes()
    for path in (out / "fold2").rglob("*"):
        if path.is_file() and path.name != "config.yaml":
            path.unlink()
    assert main(command) == 0  # the second alone
    assert "2 runs in" in (said := capsys.readouterr().out) and "1 finished" in said
    assert (out / "fold1/checkpoints/last.pt").read_bytes() == kept
    assert read(out / "folds.json")["figures"]["bbox/AR100"]["values"] == made
