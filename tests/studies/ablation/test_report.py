"""What the report says of runs whose results are known."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.config import fingerprint
from maskrcnn.config.plugins import plugins_fingerprint
from maskrcnn.data import CocoDataset, Dataset
from maskrcnn.errors import UserError
from maskrcnn.evaluation import evaluate_coco, ground_truth_results
from maskrcnn.recipe import NEUTRAL_KEYS
from maskrcnn.structures.rle import as_text
from maskrcnn.studies.ablation import pictures, tabulate
from maskrcnn.studies.ablation.plan import Run, check_runs, plan_runs
from maskrcnn.studies.ablation.report import write_report
from maskrcnn.studies.ablation.results import Difference, VariantRow, collect
from maskrcnn.studies.ablation.suite import Suite, load_suite
from tests.studies.ablation.tiny import CODE, write_suite


def finish(run: Run, data: Dataset, records: list[dict[str, Any]], seconds: float = 2.0) -> None:
    """Write what a run leaves that found ``records``."""
    folder = run.folder
    folder.path.mkdir(parents=True)
    entry = {"config": fingerprint(run.recipe, NEUTRAL_KEYS), "code": CODE, "threads": 1}
    folder.facts.write_text(json.dumps([entry]))
    folder.results.write_text(json.dumps(records))
    found = evaluate_coco(data.annotation_file, records, image_ids=[int(i) for i in data.image_ids])
    folder.figures.write_text(json.dumps({"step": run.recipe.solver.steps, **found.as_json()}))
    lines = [
        {"step": 1, "kind": "train", "loss": 3.0, "images_per_second": 0.01, "memory_bytes": 2**30},
        {"step": 2, "kind": "train", "loss": 1.0, "images_per_second": 2 / seconds, "memory_bytes": 2**29},
    ]
    (folder.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def perfect(data: Dataset) -> list[dict[str, Any]]:
    """The ground truth as detections, with run-length masks as a run writes them."""
    truth = ground_truth_results(json.loads(data.annotation_file.read_text()))
    samples = [data.load(i) for i in range(len(data))]
    codes = [as_text(code) for s in samples if s.targets.masks for code in s.targets.masks.to_rles(64, 64)]
    return [{**record, "segmentation": code} for record, code in zip(truth, codes, strict=True)]


@pytest.fixture
def case(tmp_path: Path) -> tuple[Suite, list[Run], Dataset]:
    """RoIPool (the reference) finds all but the boxes of image 101; RoIAlign all, in both seeds."""
    suite = load_suite(write_suite(tmp_path))
    runs = plan_runs(suite, tmp_path / "out" / "pair", suite.chosen(full=False))
    data = check_runs(suite, runs)
    everything = perfect(data)
    fewer = [r for r in everything if r["image_id"] != 101 or r["category_id"] != 2]
    for run in runs:
        finish(run, data, fewer if run.variant.label == "RoIPool" else everything, seconds=2.0 + run.seed)
    return suite, runs, data


def rows_of(case: tuple[Suite, list[Run], Dataset]) -> dict[str, VariantRow]:
    return {row.variant.label: row for row in collect(*case)}


def test_rows_hold_means_differences_and_costs(case: tuple[Suite, list[Run], Dataset]) -> None:
    rows = rows_of(case)
    pool, align = rows["RoIPool"], rows["RoIAlign, avg"]
    # Of two classes one is found in two of three images: recall 2/3, so 67 of COCO's 101 levels.
    expected = (67 / 101 + 1) / 2
    assert pool.mean("segm/AP") == pytest.approx(expected)
    assert align.values["segm/AP"] == (1.0, 1.0) and align.deviation("segm/AP") == 0.0
    assert pool.differences == {}
    found = align.differences["segm/AP"]
    assert found.value == pytest.approx(1 - expected)
    # Image 101 is not drawn in (2/3)^3 = 30 % of the resamples: the interval begins at no difference ...
    assert found.low == pytest.approx(0.0, abs=1e-12) and not found.separated
    # ... and ends where it is drawn alone (1/27 of them) and the class has no precision at all.
    assert found.high == pytest.approx(0.5)
    assert align.published_difference == {"segm/AP": pytest.approx(0.034)}
    assert align.step_seconds == pytest.approx(2.5)  # the first interval left out
    assert align.memory == 2**30


def test_equal_runs_differ_by_nothing(case: tuple[Suite, list[Run], Dataset]) -> None:
    suite, runs, data = case
    for run in runs:
        run.folder.results.write_text(runs[1].folder.results.read_text())
        run.folder.figures.write_text(runs[1].folder.figures.read_text())
    found = rows_of((suite, runs, data))["RoIAlign, avg"].differences["bbox/AP"]
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_seed_without_partner_is_left_out_of_the_difference(
    case: tuple[Suite, list[Run], Dataset],
) -> None:
    suite, runs, data = case
    lone = next(r for r in runs if r.variant.label == "RoIPool" and r.seed == 1)
    lone.folder.figures.unlink()
    rows = rows_of((suite, runs, data))
    assert len(rows["RoIPool"].outcomes) == 1 and len(rows["RoIAlign, avg"].outcomes) == 2
    assert rows["RoIAlign, avg"].differences["segm/AP"].value == pytest.approx(1 - (67 / 101 + 1) / 2)
    text = write_report(suite, runs, data, lone.folder.path.parents[1]).text
    assert "Not finished: RoIPool, seed 1." in text


def test_tables_say_the_same_in_every_form(case: tuple[Suite, list[Run], Dataset]) -> None:
    suite = case[0]
    rows = list(rows_of(case).values())
    titles = [t.title.partition(":")[0] for t in tabulate.tables(rows, suite.metrics)]
    assert titles == ["Boxes", "Boxes", "Masks", "Masks", "Cost"]
    figures, differences = tabulate.tables(rows, suite.metrics)[2:4]
    assert figures.head == ("variant", "seeds", "AP", "AP75", "source AP")
    assert figures.rows[0] == ("RoIPool", "2", "0.832 ±0.000", "0.832 ±0.000", "0.269")
    assert differences.rows == [
        ("RoIAlign, avg", "RoIPool", "+0.168 [+0.000, +0.500]", "+0.168 [+0.000, +0.500]", "+0.034"),
    ]
    assert differences.markdown().splitlines()[-1].count("|") == 6
    assert differences.text().splitlines()[-1].startswith("RoIAlign, avg  RoIPool  +0.168 [")
    numbers = tabulate.numbers(rows, suite.metrics).comma_separated()
    lines = list(csv.DictReader(io.StringIO(numbers)))
    assert len(lines) == 2 * (len(suite.metrics) + 2)
    sizes = next(x for x in lines if x["variant"] == "RoIAlign, avg" and x["metric"] == "bbox/APs")
    assert sizes["difference"] and not sizes["low"]


def test_a_star_marks_what_is_separated() -> None:
    assert Difference(0.1, 0.05, 0.2).separated and Difference(-0.1, -0.2, -0.05).separated
    assert not Difference(0.1, -0.05, 0.2).separated and not Difference(0.1).separated


def test_the_report_is_the_same_every_time(case: tuple[Suite, list[Run], Dataset], tmp_path: Path) -> None:
    suite, runs, data = case
    first, second = (write_report(suite, runs, data, tmp_path / name) for name in "ab")
    assert first.text == second.text
    for a, b in zip(first.files, second.files, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_runs_of_two_codes_are_not_reported_together(case: tuple[Suite, list[Run], Dataset]) -> None:
    suite, runs, data = case
    entries = runs[0].folder.history()
    runs[0].folder.facts.write_text(json.dumps([{**entries[0], "code": "other"}]))
    with pytest.raises(UserError, match=r"cannot be compared(.|\n)*code other(.|\n)*code c0de"):
        write_report(suite, runs, data, runs[0].folder.path.parents[1])


def test_other_machines_are_noted(case: tuple[Suite, list[Run], Dataset]) -> None:
    suite, runs, data = case
    assert "Threads: 1." in write_report(suite, runs, data, runs[0].folder.path.parents[1]).text
    runs[0].folder.facts.write_text(json.dumps([{**runs[0].folder.history()[0], "threads": 2}]))
    text = write_report(suite, runs, data, runs[0].folder.path.parents[1]).text
    assert "Threads: 1, 2 (the runs differ, so seeds do not repeat to the bit)." in text


def test_damaged_results_are_named(case: tuple[Suite, list[Run], Dataset]) -> None:
    suite, runs, data = case
    folder = runs[0].folder
    folder.results.write_text(folder.results.read_text()[:-9])
    with pytest.raises(UserError, match=r"seed0/results\.json:1:\d+: the json is broken: .* Move its run"):
        write_report(suite, runs, data, folder.path.parents[1])
    folder.figures.write_text("[]")
    assert not runs[0].is_finished()


@pytest.mark.parametrize("content", ["", "[", "[null]", "{}"])
def test_work_that_nobody_vouches_for_is_stale(case: tuple[Suite, list[Run], Dataset], content: str) -> None:
    suite, runs, data = case
    folder = runs[0].folder
    folder.facts.write_text(content)
    assert runs[0].state(CODE) == "stale"
    with pytest.raises(UserError, match=r"RoIPool, seed 0: .*run\.json is missing or damaged"):
        write_report(suite, runs, data, folder.path.parents[1])
    runs[0].set_aside()
    assert runs[0].state(CODE) == "new"


def test_changed_annotations_are_noticed(case: tuple[Suite, list[Run], Dataset]) -> None:
    suite, runs, data = case
    file = data.annotation_file
    content = json.loads(file.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 101]
    file.write_text(json.dumps(content))
    data = CocoDataset(file.parent, file)
    with pytest.raises(UserError, match=r"detections give .* as they are now"):
        write_report(suite, runs, data, runs[0].folder.path.parents[1])


def test_changed_plugins_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[Suite, list[Run], Dataset]
) -> None:
    _, runs, _ = case
    module = types.ModuleType("a_plugin")
    module.__file__ = str(tmp_path / "a_plugin.py")
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    run = replace(runs[0], recipe=replace(runs[0].recipe, plugins=("a_plugin",)))
    (tmp_path / "a_plugin.py").write_text("x = 1")
    run.folder.facts.unlink()
    run.folder.begin(run.recipe, {"code": CODE, "plugins": plugins_fingerprint(run.recipe.plugins)})
    assert run.why_stale(CODE) is None
    (tmp_path / "a_plugin.py").write_text("x = 2")
    assert run.why_stale(CODE) == "the sources of its plugins changed"


def test_a_stored_config_that_cannot_be_read_is_stale(case: tuple[Suite, list[Run], Dataset]) -> None:
    suite, runs, _ = case
    runs[0].folder.config.write_text("model: {no_such_key: 1}")
    changed = plan_runs(suite, runs[0].folder.path.parents[1], suite.variants, overrides=["solver.steps=9"])
    assert "cannot be read any more" in str(changed[0].why_stale(None))


def test_figures_are_reported_where_no_picture_can_be(
    case: tuple[Suite, list[Run], Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, runs, data = case
    monkeypatch.setattr(
        type(data), "load", lambda *_: (_ for _ in ()).throw(UserError("image 100 is damaged"))
    )
    report = write_report(suite, runs, data, runs[0].folder.path.parents[1])
    assert "RoIAlign" in report.text and all(f.is_file() for f in report.files)
    monkeypatch.undo()
    folder = runs[0].folder.path.parents[1]
    (folder / "pictures").write_text("in the way")
    with pytest.raises(UserError, match=r"pictures/101\.png: could not be written: File exists"):
        write_report(suite, runs, data, folder)


@pytest.mark.parametrize(
    ("seeds", "overrides", "message"),
    [
        ([1, 1], [], "--seeds 1 1: one of them is named twice"),
        ([-1], [], "--seeds -1: a seed must be >= 0"),
        ([], ["seed=4"], "name them with --seeds"),
    ],
)
def test_seeds_that_make_no_sense_are_refused(
    tmp_path: Path, seeds: list[int], overrides: list[str], message: str
) -> None:
    suite = load_suite(write_suite(tmp_path))
    with pytest.raises(UserError, match=message):
        plan_runs(suite, tmp_path, suite.variants, seeds, overrides)


def test_what_was_set_on_the_command_line_is_told(case: tuple[Suite, list[Run], Dataset]) -> None:
    suite, runs, data = case
    folder = runs[0].folder.path.parents[1]
    assert "Set for every row" not in write_report(suite, runs, data, folder).text
    report = write_report(suite, runs, data, folder, ["solver.precision=bfloat16", "solver.steps=3"])
    for text in (report.text, *(f.read_text() for f in report.files if f.suffix in (".md", ".html"))):
        assert "Set for every row: solver.precision=bfloat16, solver.steps=3." in text


def test_pictures_mark_the_pixels_that_differ(case: tuple[Suite, list[Run], Dataset]) -> None:
    suite, runs, data = case
    rows = list(rows_of(case).values())
    shown = dict(pictures.compare(rows, data, 2))
    assert list(shown) == ["101", "102"]
    for run in runs:  # now both find everything
        shutil.rmtree(run.folder.path)
        finish(run, data, perfect(data))
    alike = dict(pictures.compare(list(rows_of((suite, runs, data)).values()), data, 2))
    first, last = shown["101"].shape[1] // 3, shown["101"].shape[1] * 2 // 3 + 8
    assert np.array_equal(shown["101"][:, :first], alike["101"][:, :first])  # ground truth
    changed = (shown["101"][:, last:] != alike["101"][:, last:]).any(axis=-1)
    assert changed.sum() > 0.05 * changed.size
    assert np.array_equal(shown["102"], alike["102"])
