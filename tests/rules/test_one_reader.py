"""COCO files are read in one place, and evaluation during training reads none again."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.data import CocoDataset
from maskrcnn.data.formats import coco_json
from maskrcnn.evaluation import evaluate_coco, ground_truth_results
from tests.data.files import coco, write_coco
from tests.rules.test_imports import MODULES, module_name

#: Who parses json text, and what.
READERS = {
    "maskrcnn.data.formats.coco_json": "annotations, results and proposals",
    "maskrcnn.data.transforms.pipelines": "what albumentations saves, and its arguments that are mappings",
    "maskrcnn.weights.fetch": "digests of a file that was checked",
    "maskrcnn.run.convert": "class names, which are a COCO file's or a list",
    "maskrcnn.run.folder": "run.json and figures.json",
    "maskrcnn.run.lock": "run.lock",
    "maskrcnn.engine.checkpoint_folder": "the list of files of a package",
    "maskrcnn.run.package_card": "the figures beside a report's page",
    "maskrcnn.run.thresholds": "the scores beside a checkpoint",
    "maskrcnn.run.prediction_journal": "its own lines",
    "maskrcnn.engine.distributed": "what processes tell each other",
    "maskrcnn.engine.heartbeat": "the same, of their signs of life",
    "maskrcnn.engine.lookout": "the same, in a process that looks out for them",
    "maskrcnn.studies.ablation.results": "figures.json",
    "maskrcnn.studies.cross_validation": "figures.json, and the folds that it wrote",
    "maskrcnn.engine.metrics_file": "metrics.jsonl",
    "maskrcnn.native.build": "the stamp beside the compiled operators",
}


def parses_json(path: Path) -> bool:
    return any(
        isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.loads", "json.load", "msgspec.json")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_json_is_parsed_where_it_is_said_to_be() -> None:
    assert {module_name(p) for p in MODULES if parses_json(p)} <= set(READERS)


def test_evaluation_of_a_data_set_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = CocoDataset(*write_coco(tmp_path))
    dataset.annotation_file.unlink()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a json was parsed")

    monkeypatch.setattr(coco_json, "_read", refuse)
    monkeypatch.setattr(coco_json.json, "loads", refuse)
    for _ in range(2):
        found = evaluate_coco(dataset.ground_truth(), ground_truth_results(coco()))
        assert found.get("segm/AP") == found.get("bbox/AP") == pytest.approx(1.0)
