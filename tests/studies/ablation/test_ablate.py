"""The command from end to end, with two variants of two steps."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from maskrcnn.cli import main
from maskrcnn.engine.checkpoint import load
from tests.studies.ablation.tiny import SUITE, write_suite

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite's folder after one seed of both variants; the output is in ``said.txt``."""
    folder = tmp_path_factory.mktemp("ablate")
    suite = write_suite(folder, SUITE.replace("seeds: [0, 1]", "seeds: [0]"))
    assert main(["ablate", str(suite), "--output", str(folder / "out")]) == 0
    return folder / "out" / "pair"


def test_runs_are_those_of_the_variants(finished: Path) -> None:
    kept = {p.name for p in finished.iterdir()}
    assert kept == {"RoIPool", "RoIAlign-avg", "report.md", "report.csv", "report.html", "pictures", ".lock"}
    for name, op in (("RoIPool", "roi_pool"), ("RoIAlign-avg", "roi_align")):
        run = finished / name / "seed0"
        assert load(run / "checkpoints" / "last.pt").step == 2
        text = (run / "config.yaml").read_text()
        assert f"type: {op}\n" in text and "seed: 0\n" in text and "lr: 0.02\n" in text
    first, second = (
        json.loads((finished / n / "seed0" / "run.json").read_text()) for n in ("RoIPool", "RoIAlign-avg")
    )
    assert first[0]["code"] == second[0]["code"] and first[0]["config"] != second[0]["config"]


def test_the_report_says_what_the_runs_found(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "report.csv").open()))
    for name, label in (("RoIPool", "RoIPool"), ("RoIAlign-avg", "RoIAlign, avg")):
        figures = json.loads((finished / name / "seed0" / "figures.json").read_text())["figures"]
        mine = {r["metric"]: r for r in rows if r["variant"] == label}
        assert float(mine["bbox/AP50"]["mean"]) == figures["bbox"]["AP50"]
        assert float(mine["segm/AP"]["mean"]) == figures["segm"]["AP"]
        assert float(mine["step_seconds"]["mean"]) > 0 and int(mine["memory_bytes"]["mean"]) > 2**20
    align = {r["metric"]: r for r in rows if r["variant"] == "RoIAlign, avg"}
    pool = {r["metric"]: r for r in rows if r["variant"] == "RoIPool"}
    for metric in ("bbox/AP", "segm/AP"):
        wanted = float(align[metric]["mean"]) - float(pool[metric]["mean"])
        assert float(align[metric]["difference"]) == pytest.approx(wanted)
        assert float(align[metric]["low"]) <= float(align[metric]["high"])
        assert pool[metric]["difference"] == ""
    assert float(align["segm/AP"]["published_difference"]) == pytest.approx(0.034)
    markdown = (finished / "report.md").read_text()
    assert markdown.startswith("# RoIPool or RoIAlign\n")
    assert re.search(r"\| RoIAlign, avg \| RoIPool \| [+-]0\.\d{3} \[[+-]0\.\d{3}, [+-]0\.\d{3}\]", markdown)
    assert "Source: He et al. 2017, table 2c." in markdown


def test_the_page_needs_nothing_else_and_shows_the_images(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert not re.search(r"(?:src|href)\s*=\s*(?![\"']data:)|url\(|@import|<script", page)
    assert page.count("data:image/png;base64,") == 1
    assert [p.name for p in (finished / "pictures").iterdir()] == ["101.png"]
    titles = re.findall(r'font-weight="bold">([^<]+)<', page)
    assert {"loss_mask", "loss", "bbox/AP", "segm/AP (× source)"} <= set(titles)
    assert not re.search(r"20\d\d-\d\d-\d\d", page)


def test_again_nothing_is_trained_and_the_report_is_the_same(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (finished / name).read_bytes() for name in ("report.md", "report.csv", "report.html")}
    suite = finished.parents[1] / "pair.yaml"
    assert main(["ablate", str(suite), "--output", str(finished.parent)]) == 0
    out = capsys.readouterr().out
    assert "2 runs in " in out and "2 finished, 0 begun, 0 to begin" in out
    assert "Masks: mean and standard deviation over the seeds" in out
    assert before == {name: (finished / name).read_bytes() for name in before}


def test_report_alone_names_what_is_missing(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = finished.parents[1] / "pair.yaml"
    common = ["ablate", str(suite), "--output", str(finished.parent), "--report"]
    assert main([*common, "--full"]) == 0
    assert "Not finished: RoIWarp, seed 0." in capsys.readouterr().out
    assert main([*common, "--set", "solver.steps=5"]) == 2
    assert "no run of this suite is finished yet" in capsys.readouterr().err
    assert main([*common, "--set", "solver.optimizer.lr=0.5"]) == 2
    assert "RoIPool, seed 0: config changed: solver.optimizer.lr: 0.02 -> 0.5" in capsys.readouterr().err
    assert main([*common, "--only", "RoIPool"]) == 0


def test_the_same_seed_gives_the_same_bits(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = finished.parents[1] / "pair.yaml"
    assert main(["ablate", str(suite), "--output", str(tmp_path), "--only", "RoIAlign, avg"]) == 0
    a, b = finished / "RoIAlign-avg" / "seed0", tmp_path / "pair" / "RoIAlign-avg" / "seed0"
    assert (a / "results.json").read_bytes() == (b / "results.json").read_bytes()
    weights = [load(run / "checkpoints" / "last.pt").model for run in (a, b)]
    assert all(weights[0][k].equal(weights[1][k]) for k in weights[0])
