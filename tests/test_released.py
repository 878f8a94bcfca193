"""What version 0.1.0 wrote gives what it gave; what it took is taken; its files keep their keys."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn import Model
from maskrcnn.cli import main
from maskrcnn.config import load
from maskrcnn.data.proposal_file import ProposalFile
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.evaluation import evaluate_coco, load_results
from maskrcnn.recipe import Recipe
from maskrcnn.run import Predictor
from tests.engine.tiny import write_data
from tests.fixtures.release_0_1 import record

KEPT = record.HERE
TRUSTED = [record.TRUST[1]]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of then beside its images, in the current folder."""
    write_data(tmp_path / "images")
    shutil.copytree(record.RUN, tmp_path / "run")
    for name in ("best.pt", "step_00000003.pt"):
        shutil.copy(record.RUN / "checkpoints/last.pt", tmp_path / "run/checkpoints" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same files, written now."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("today")
    try:
        record.write(folder)
        yield folder
    finally:
        os.chdir(before)


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Detections, in the order of their scores."""
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert one["category_id"] == other["category_id"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-4)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-2)


@pytest.mark.parametrize("name", ["run", "package"])
def test_models_find_what_they_found(name: str, place: Path) -> None:
    source = place / "run" if name == "run" else record.PACKED
    found = Predictor(source, score=0.0, overrides=TRUSTED)(place / "images/101.png")
    same(found.records, read(record.FOUND / "predictions.json"))
    assert Model(source, plugins=["tests.engine.tiny_backbone"]).classes == ("box", "disc")


def test_a_run_is_known_reported_evaluated_and_goes_on(
    place: Path, today: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.chdir(place)
    assert main(["status", "run", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["step"] == 3
    assert main(["report", "run", "--out", "page.html", *record.TRUST]) == 0
    assert main(["eval", "--checkpoint", "run", *record.TRUST]) == 0
    assert main(["train", "--resume", "run", "--set", "solver.steps=4"]) == 0
    steps = [line["step"] for line in read_metrics(place / "run/metrics.jsonl") if line["kind"] == "train"]
    assert steps == [1, 2, 3, 4]


def test_results_give_their_figures(place: Path) -> None:
    """As detections, and as proposals."""
    results = load_results(place / "run/results.json")
    found = evaluate_coco("images/val.json", results)
    assert len(results) == 30
    for kind, figures in read(place / "run/figures.json")["figures"].items():
        assert {name: found.figures[kind][name] for name in figures} == figures
    assert ProposalFile(place / "run/results.json").image_ids.tolist() == [101, 102, 103]


def test_proposals_are_read(today: Path) -> None:
    kept, made = ProposalFile(record.PROPOSALS), ProposalFile(today / "val.npz")
    assert kept.image_ids.tolist() == made.image_ids.tolist() == [101, 102, 103]
    assert np.allclose(kept.rows, made.rows, rtol=1e-3, atol=1e-2)


def test_the_config_of_a_run_is_read_as_its_checkpoint_has_it() -> None:
    kept = load(Recipe, record.RUN / "config.yaml")
    assert (kept.solver.steps, kept.solver.batch_size) == (3, 4)
    assert kept.model == Predictor(record.RUN / "checkpoints/last.pt", overrides=TRUSTED).recipe.model


def shape(value: Any) -> Any:
    """Which keys there are: of all items of a list, what they have in common."""
    match value:
        case dict():
            return {key: shape(inner) for key, inner in value.items()}
        case [dict() as first, *rest]:
            return [shape({key: first[key] for key in first if all(key in other for other in rest)})]
        case _:
            return None


def missing(kept: Any, now: Any, where: str) -> list[str]:
    """Keys of ``kept`` that ``now`` has no more."""
    if isinstance(kept, list) and isinstance(now, list):
        return missing(kept[0], now[0], where)
    if not isinstance(kept, dict):
        return []
    if not isinstance(now, dict):
        return [where]
    return [
        place
        for key, inner in kept.items()
        for place in (missing(inner, now[key], f"{where}/{key}") if key in now else [f"{where}/{key}"])
    ]


JSON = [
    path.relative_to(KEPT)
    for folder in ("run", "found", "package")
    for path in (KEPT / folder).rglob("*.json")
]


@pytest.mark.parametrize("path", JSON, ids=str)
def test_files_keep_their_keys(path: Path, today: Path) -> None:
    assert missing(shape(read(KEPT / path)), shape(read(today / path)), str(path)) == []


def test_logs_tables_and_checkpoints_keep_theirs(today: Path) -> None:
    for kept, now in zip(*(read_metrics(at / "run/metrics.jsonl") for at in (KEPT, today)), strict=True):
        assert missing(kept, now, f"metrics.jsonl, {kept['kind']} of step {kept['step']}") == []
        assert [now[key] for key in kept if key.startswith("loss")] == pytest.approx(
            [value for key, value in kept.items() if key.startswith("loss")], rel=1e-4
        )
    tables = [list(csv.reader((at / "found/predictions.csv").open())) for at in (KEPT, today)]
    assert set(tables[0][0]) <= set(tables[1][0])
    for name in ("run/checkpoints/last.pt", "package/model.pt"):
        kept, now = (torch.load(at / name, weights_only=True) for at in (KEPT, today))
        assert missing(shape(kept), shape(now), name) == []


def test_commands_keep_their_options() -> None:
    now = record.options()
    for command, options in read(record.OPTIONS).items():
        assert set(options) <= set(now.get(command, ())), command


def test_public_names_stay_and_take_what_they_took() -> None:
    now = record.python()
    for module, names in read(record.NAMES).items():
        for name, takes in names.items():
            assert set(takes) <= set(now.get(module, {}).get(name, ())), f"{module}.{name}"
            assert name in now[module], f"{module}.{name}"


def test_configs_that_came_with_the_package_still_do() -> None:
    assert set(read(record.CONFIGS)) <= set(record.configs())
