"""Reports of trainings, of ``maskrcnn eval --report`` and of ``maskrcnn report RUN``, and what they call."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maskrcnn.cli import main
from maskrcnn.engine.console import Console
from maskrcnn.engine.metrics_file import MetricsFile
from maskrcnn.recipe import TTAConfig, load_recipe
from maskrcnn.run.folder import RunFolder
from maskrcnn.run.report import origins
from maskrcnn.run.report import page as pages
from maskrcnn.run.report.best import keep_best
from maskrcnn.run.thresholds import NO_VIEWS, Thresholds, read_thresholds, thresholds_file, views_of
from tests.engine.tiny import write_recipe
from tests.rules.pages import ROOT
from tests.run.test_tiled_evaluation import recipe_on_tiles
from tests.viz.test_pages import read


def train(recipe: Path, output: Path, *wishes: str) -> int:
    options = [part for wish in ("eval.report=true", "solver.steps=4", *wishes) for part in ("--set", wish)]
    return main(["train", str(recipe), "--output", str(output), *options])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two evaluations, with its page."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = write_recipe(folder)
    assert train(recipe, folder / "run", "train.eval_every=2") == 0
    return folder / "run"


def test_a_training_ends_with_its_page(run: Path) -> None:
    figures, best = (json.loads((run / f"{n}.json").read_text()) for n in ("report", "best_figures"))
    html = (run / "report.html").read_text(encoding="utf-8")
    read(html)
    assert f"step {best['step']}</h1>" in html and 'id="training"' in html and html.count("<article") == 3
    for kind in ("bbox", "segm"):
        told = {name: value["value"] for name, value in figures["figures"][kind].items()}
        assert told == best["figures"][kind]  # to the last digit
    kept = read_thresholds(run / "checkpoints" / "best.pt")
    assert kept == Thresholds(figures["thresholds"], NO_VIEWS)


def test_the_figures_of_a_page_are_those_of_eval(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    own = tmp_path / "run"
    shutil.copytree(run, own)
    (own / "checkpoints/best.thresholds.json").unlink(missing_ok=True)
    assert main(["eval", "--checkpoint", str(own), "--report", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"{out}: report of" in told
    found = json.loads(out.with_suffix(".json").read_text())
    wanted = json.loads((run / "report.json").read_text())
    for name in ("figures", "per_class", "tide", "f1", "calibration", "confusion", "images_ranked", "limits"):
        assert found[name] == wanted[name], name
    assert found["proposals"].keys() == {"AR@100", "AR@1000"} and found["proposals"] == wanted["proposals"]
    assert found["proposals"]["AR@1000"] > 0
    assert read_thresholds(own / "checkpoints/best.pt") == Thresholds(found["thresholds"], NO_VIEWS)
    assert 'id="proposals"' in out.read_text() and 'id="training"' not in out.read_text()


def test_a_run_of_which_the_page_failed_is_whole_and_the_advice_works(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(pages, "figures_of", fail)
    assert train(run.parent / "tiny.yaml", tmp_path / "other") == 0
    told = capsys.readouterr()
    (warning,) = [line for line in told.err.splitlines() if "report" in line]
    assert "report was not written (ZeroDivisionError: of all things)" in warning
    assert f"`maskrcnn report {tmp_path / 'other'}` tries again" in warning
    assert not (tmp_path / "other/report.html").exists() and (tmp_path / "other/checkpoints/last.pt").exists()
    monkeypatch.undo()
    assert main(["report", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other/report.html").exists()


def test_no_page_is_made_where_none_is_wanted(run: Path, tmp_path: Path) -> None:
    assert train(run.parent / "tiny.yaml", tmp_path / "other", "eval.report=false", "solver.steps=1") == 0
    names = {p.name for p in (tmp_path / "other").iterdir()}
    assert not {"report.html", "report.json", "best_results.json"} & names
    assert train(run.parent / "tiny.yaml", tmp_path / "blind", "data.val=null", "solver.steps=1") == 0
    assert not (tmp_path / "blind/report.html").exists()


def test_the_page_changes_nothing_of_a_run(run: Path, tmp_path: Path) -> None:
    assert train(run.parent / "tiny.yaml", tmp_path / "other", "eval.report=false", "train.eval_every=2") == 0
    for name in ("results.json", "figures.json"):
        assert (tmp_path / "other" / name).read_bytes() == (run / name).read_bytes()
    entries = [
        json.loads((folder / "run.json").read_text())[0]["config"] for folder in (run, tmp_path / "other")
    ]
    assert entries[0] == entries[1]


def test_what_the_best_evaluation_found_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    recipe = load_recipe(write_recipe(tmp_path / "data"))
    metrics = MetricsFile(folder.metrics)
    run: Any = SimpleNamespace(recipe=recipe, folder=folder, console=Console(quiet=True))
    kept = []
    for step, ap in ((1, 0.2), (2, 0.5), (3, 0.4), (4, float("nan")), (5, 0.5)):
        folder.results.unlink(missing_ok=True)  # a new file each time, as writes make it
        folder.results.write_text(json.dumps([step]))
        folder.figures.unlink(missing_ok=True)
        folder.figures.write_text(json.dumps({"step": step}))
        keep_best(run, step, {"segm/AP": ap}, None)
        metrics.write(step, "eval", {"segm/AP": ap})
        kept.append(
            (json.loads(folder.best_results.read_text()), json.loads(folder.best_figures.read_text()))
        )
    assert kept == [([step], {"step": step}) for step in (1, 2, 2, 2, 2)]
    keep_best(run, 6, {"segm/AP": 0.6}, [{"image_id": 1}])  # type: ignore[list-item]
    assert json.loads(folder.best_results.read_text()) == [{"image_id": 1}]


def test_the_page_is_about_the_best_and_not_the_last(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    records = json.loads((own / "best_results.json").read_text())
    (own / "results.json").write_text(json.dumps(records[:1]))  # what the last one found
    assert main(["report", str(own), "--out", str(tmp_path / "new.html")]) == 0
    found, wanted = (json.loads(p.read_text()) for p in (tmp_path / "new.json", run / "report.json"))
    assert found["figures"] == wanted["figures"] and found["proposals"] == wanted["proposals"]
    shutil.copy(run / "report.json", own / "report.json")
    other = wanted | {"about": wanted["about"] | {"step": 1}}
    (own / "report.json").write_text(json.dumps(other))  # of another evaluation
    assert main(["report", str(own), "--out", str(tmp_path / "new.html")]) == 0
    assert json.loads((tmp_path / "new.json").read_text())["proposals"] is None


def test_a_page_without_recall_of_proposals_says_why(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(origins.proposals, "recall", fail)
    assert train(run.parent / "tiny.yaml", tmp_path / "other", "solver.steps=1") == 0
    told = capsys.readouterr().err
    assert "recall of the proposals is not on the page (ZeroDivisionError: of all things)" in told
    assert json.loads((tmp_path / "other/report.json").read_text())["proposals"] is None


def test_the_page_of_a_model_on_tiles_has_the_figures_of_its_evaluation(tmp_path: Path) -> None:
    recipe = recipe_on_tiles(tmp_path)
    assert train(recipe, tmp_path / "run", "solver.steps=1", "model.roi.max_detections=101") == 0
    figures, page = (json.loads((tmp_path / "run" / f"{n}.json").read_text()) for n in ("figures", "report"))
    assert {k: v["value"] for k, v in page["figures"]["segm"].items()} == figures["figures"]["segm"]
    assert "AP@606" in figures["figures"]["segm"]  # six windows an image
    assert page["proposals"]["AR@1000"] > 0


def test_an_image_that_cannot_be_read_counts_for_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "images"
    shutil.copytree(run.parent / "images", data)
    (data / "102.png").write_bytes(b"nothing")
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text((run.parent / "tiny.yaml").read_text().replace(str(run.parent / "images"), str(data)))
    assert train(recipe, tmp_path / "run", "data.on_error=skip", "solver.steps=1") == 0
    figures, report = (
        json.loads((tmp_path / "run" / f"{n}.json").read_text()) for n in ("figures", "report")
    )
    assert figures["left_out"] == [102] and figures["images"] == report["images"] == 2
    assert {k: v["value"] for k, v in report["figures"]["segm"].items()} == figures["figures"]["segm"]
    capsys.readouterr()


@pytest.mark.parametrize(("name", "told"), [("page.txt", "ends in .html"), ("folder.html", "is a folder")])
def test_what_is_no_page_is_refused(
    run: Path, tmp_path: Path, name: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.html").mkdir()
    for command in (["eval", "--checkpoint", str(run), "--report"], ["report", str(run), "--out"]):
        assert main([*command, str(tmp_path / name)]) == 2
        assert told in capsys.readouterr().err


def test_a_run_that_was_never_evaluated_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(run.parent / "tiny.yaml", tmp_path / "blind", "data.val=null", "solver.steps=1") == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "blind")]) == 2
    assert "data.val is not set" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "data.val is not set" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    own = tmp_path / "young"
    shutil.copytree(run, own)
    for name in ("results", "figures", "best_results", "best_figures"):
        (own / f"{name}.json").unlink()
    assert main(["report", str(own)]) == 2
    assert "no evaluation is on file" in capsys.readouterr().err


def test_a_run_of_a_plugin_is_reported_as_the_refusal_says(run: Path, tmp_path: Path) -> None:
    """In a process of its own, which has not imported the plugin."""
    command = [sys.executable, "-m", "maskrcnn", "report", str(run), "--out", str(tmp_path / "page.html")]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "import the plugin" in refused.stderr
    *_, advice = refused.stderr.strip().partition("add ")[2].split()
    done = subprocess.run([*command, "--set", advice], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").is_file()


def test_scores_chosen_with_augmentation_are_told_where_there_is_none(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, page = tmp_path / "run", tmp_path / "page.html"
    shutil.copytree(run, own)
    checkpoint = own / "checkpoints/best.pt"
    chosen_plain = read_thresholds(checkpoint)
    tta = TTAConfig(flips=("v",), scales=(1.0,))
    evaluate = ["eval", "--checkpoint", str(own), "--report", str(page), "--set"]
    assert main([*evaluate, f"eval.tta={views_of(tta)}"]) == 0
    chosen = read_thresholds(checkpoint)
    assert chosen == Thresholds(
        json.loads(page.with_suffix(".json").read_text())["thresholds"], views_of(tta)
    )
    assert chosen_plain is not None and chosen is not None and chosen.scores != chosen_plain.scores

    def predicted(*options: str) -> tuple[str, list[Any]]:
        image = str(next((run.parent / "images").iterdir()))
        capsys.readouterr()
        out = tmp_path / "out"
        command = ["predict", "--checkpoint", str(own), image, "--out", str(out), "--write", "coco", *options]
        assert main(command) == 0
        return capsys.readouterr().err, json.loads((out / "predictions.json").read_text())

    told, found = predicted("--tta", views_of(tta))
    assert str(thresholds_file(checkpoint)) in told and "are others" not in told
    every = predicted("--tta", views_of(tta), "--score", "0")[1]
    assert [r["score"] for r in found] == [
        r["score"] for r in every if r["score"] >= chosen.scores[r["category"]]
    ]
    told, _ = predicted()
    (way,) = re.findall(r"scores without test-time augmentation are others: predict with (--tta '.*?')", told)
    assert "are others" not in predicted(*shlex.split(way))[0]
    (command,) = re.findall(r"\(maskrcnn (eval .*)\)", told)
    words = [str(page) if word == "page.html" else word for word in shlex.split(command)]
    assert main([*words, "--checkpoint", str(own)]) == 0
    assert read_thresholds(checkpoint) == chosen_plain and "are others" not in predicted()[0]
    assert "chosen without test-time augmentation" in predicted("--tta")[0]
