"""A run's folder: who may write into it, and what stands beside the checkpoints."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn.config import dump, fingerprint, flatten
from maskrcnn.config.plugins import plugins_fingerprint
from maskrcnn.engine.checkpoint_folder import CheckpointFolder
from maskrcnn.errors import CheckpointError, UserError
from maskrcnn.files import write_json, write_text
from maskrcnn.recipe import NEUTRAL_KEYS, Recipe, parse_recipe
from maskrcnn.run import lock


@dataclass(frozen=True)
class RunFolder:
    """``config.yaml``, ``run.json``, ``log.txt``, ``metrics.jsonl``, ``checkpoints/``, ``tensorboard/``,
    ``pictures/`` and ``results.json``, all in ``path``.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved recipe."""
        return self.path / "config.yaml"

    @property
    def facts(self) -> Path:
        """Versions, seed, command and fingerprints, as JSON."""
        return self.path / "run.json"

    @property
    def log(self) -> Path:
        """Every line that was printed, with the time."""
        return self.path / "log.txt"

    @property
    def results(self) -> Path:
        """The last evaluation's detections, a COCO results file."""
        return self.path / "results.json"

    @property
    def figures(self) -> Path:
        """The last evaluation's figures, as JSON."""
        return self.path / "figures.json"

    @property
    def pictures(self) -> Path:
        """Evaluation images with true and predicted masks."""
        return self.path / "pictures"

    def checkpoints(self, keep: int = 2) -> CheckpointFolder:
        """Its checkpoints."""
        return CheckpointFolder(self.path / "checkpoints", keep)

    def refuse_if_used(self) -> RunFolder:
        """Itself; a fresh run never mixes with another's files.

        Raises:
            UserError: the folder holds anything but the lock of a run that begins.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; choose another run folder with --output")
        if self.path.is_dir() and any(p.name != lock.NAME for p in self.path.iterdir()):
            raise UserError(
                f"{self.path}: already holds a run or other files; go on with it by --resume, or choose"
                " another folder by --output"
            )
        return self

    def begin(self, recipe: Recipe, facts: dict[str, Any]) -> None:
        """Make the folder and write config and facts; a resumed run keeps its first facts and adds its own.

        Raises:
            OutputError: it cannot be written; what was there is as it was.
        """
        entry = {"started": time.strftime("%Y-%m-%d %H:%M:%S%z"), "seed": recipe.seed, **facts}
        entry["config"] = fingerprint(recipe, NEUTRAL_KEYS)
        if recipe.plugins:
            entry["plugins"] = plugins_fingerprint(recipe.plugins)
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

    def holds_work(self) -> bool:
        """Whether there is anything that training made."""
        made = (self.figures, self.results, self.path / "metrics.jsonl")
        return any(f.exists() for f in made) or any((self.path / "checkpoints").glob("*"))


def changed_keys(recipe: Recipe, stored: str, name: str) -> list[str]:
    """``key: old -> new`` for each value that decides results and differs from the stored recipe's."""
    try:
        before = flatten(parse_recipe(stored, name))
    except UserError as error:
        raise CheckpointError(f"{name}: the recipe kept inside cannot be read any more: {error}") from None
    now = flatten(recipe)
    found = []
    for key in {**before, **now}:
        neutral = any(key == n or key.startswith(n + ".") for n in NEUTRAL_KEYS)
        if not neutral and before.get(key) != now.get(key):
            found.append(f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}")
    return found
