"""A run's folder: who may write into it, and what stands beside the checkpoints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from maskrcnn.config import dump, fingerprint
from maskrcnn.engine.checkpoint_folder import CheckpointFolder, is_package
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import UserError
from maskrcnn.files import write_json, write_text
from maskrcnn.recipe import NEUTRAL_KEYS, Recipe
from maskrcnn.run import lock


class RunFolder:
    """What lies in the folder of a run, ``path``; and TensorBoard's files in ``tensorboard/``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: The resolved recipe.
        self.config = path / "config.yaml"
        #: Versions, seed, command and fingerprints, as JSON.
        self.facts = path / "run.json"
        #: Every line that was printed, with the time.
        self.log = path / "log.txt"
        #: Every log step and evaluation, a JSON object each.
        self.metrics = path / "metrics.jsonl"
        #: The last evaluation's detections, a COCO results file.
        self.results = path / "results.json"
        #: The last evaluation's figures, as JSON.
        self.figures = path / "figures.json"
        #: The same of the best evaluation so far, and the page about it (``eval.report``).
        self.best_results = path / "best_results.json"
        self.best_figures = path / "best_figures.json"
        self.report = path / "report.html"
        #: Evaluation images with true and predicted masks.
        self.pictures = path / "pictures"

    def checkpoints(self, keep: int = 2) -> CheckpointFolder:
        """Its checkpoints."""
        return CheckpointFolder(self.path / "checkpoints", keep)

    def refuse_if_package(self) -> None:
        """
        Raises:
            UserError: the folder is no run's, but a package for inference.
        """
        if is_package(self.path):
            raise UserError(
                f"{self.path}: is a package for inference (maskrcnn package) and no run folder; begin a new"
                f" run from it: maskrcnn train {self.path / 'config.yaml'} --output ANOTHER_FOLDER"
            )

    def refuse_if_used(self) -> None:
        """A fresh run never mixes with another's files.

        Raises:
            UserError: the folder holds anything but the lock of a run that begins.
        """
        self.refuse_if_package()
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; choose another run folder with --output")
        if self.path.is_dir() and any(p.name != lock.NAME for p in self.path.iterdir()):
            raise UserError(
                f"{self.path}: already holds a run or other files; go on with it by --resume, or choose"
                " another folder by --output"
            )

    def begin(self, recipe: Recipe, facts: dict[str, Any]) -> None:
        """Make the folder and write config and facts; a resumed run keeps its first facts and adds its own.

        Raises:
            OutputError: it cannot be written; what was there is as it was.
        """
        entry = {"started": time.strftime("%Y-%m-%d %H:%M:%S%z"), "seed": recipe.seed, **facts}
        entry["config"] = fingerprint(recipe, NEUTRAL_KEYS)
        write_text(self.config, dump(recipe), sync=True)
        write_json(self.facts, [*self.history(), entry], indent=1, sync=True)

    def history(self) -> list[dict[str, Any]]:
        """What ``run.json`` says: one entry for the start and one for each resumption."""
        try:
            entries = json.loads(self.facts.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        whole = isinstance(entries, list) and all(isinstance(e, dict) for e in entries)
        return entries if whole else []

    def evaluated_to_the_end(self, steps: int) -> bool:
        """Whether the last evaluation is that of the last step: ``steps``, or where it ended otherwise."""
        step = read_figures(self.figures).get("step")
        if step is None:
            return False
        ends = (r["step"] for r in read_metrics(self.metrics) if r.get("kind") == "end")
        return bool(self.results.is_file() and (step == steps or step in ends))

    def holds_work(self) -> bool:
        """Whether there is anything that training made."""
        made = (self.figures, self.results, self.metrics)
        return any(f.exists() for f in made) or any((self.path / "checkpoints").glob("*"))


def read_figures(path: Path) -> dict[str, Any]:
    """What a ``figures.json`` says; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
