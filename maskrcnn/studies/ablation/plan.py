"""The runs of a suite, where each lives, and whether what is there may be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from maskrcnn.config import dump, fingerprint
from maskrcnn.config.plugins import plugins_fingerprint
from maskrcnn.data import Dataset
from maskrcnn.engine.distributed import Ranks
from maskrcnn.errors import CheckpointError, ConfigError, UserError, few
from maskrcnn.evaluation.eval_result import AT_CAP, TEN, TWELVE
from maskrcnn.files import write_text
from maskrcnn.recipe import NEUTRAL_KEYS, Recipe
from maskrcnn.run.changes import changed_keys
from maskrcnn.run.folder import RunFolder
from maskrcnn.run.setup import build_data, images_per_pass
from maskrcnn.studies.ablation.suite import Suite, Variant, recipe_of

#: new: nothing there; partial: to be resumed; done: finished; stale: made by other code or another config.
State = Literal["new", "partial", "done", "stale"]


@dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    variant: Variant
    seed: int
    recipe: Recipe
    folder: RunFolder

    @property
    def name(self) -> str:
        """``RoIAlign, seed 0``."""
        return f"{self.variant.label}, seed {self.seed}"

    @property
    def log_file(self) -> Path:
        """What its process prints."""
        return self.folder.path / "output.txt"

    def is_finished(self) -> bool:
        """Whether the figures of its last step are there."""
        return self.folder.evaluated_to_the_end(self.recipe.solver.steps)

    def codes(self) -> tuple[str, ...]:
        """Fingerprints of the code that worked on it, each once."""
        return tuple(dict.fromkeys(str(entry.get("code", "?")) for entry in self.folder.history()))

    def why_stale(self, code: str | None) -> str | None:
        """Why the folder's content is not this run's; None where it is, or where there is none.

        Args:
            code: fingerprint of the code that must have made it; None: any, but one alone.
        """
        codes = self.codes()
        if not codes:
            return f"{self.folder.facts} is missing or damaged" if self.folder.holds_work() else None
        history = self.folder.history()
        if any(entry.get("config") != fingerprint(self.recipe, NEUTRAL_KEYS) for entry in history):
            try:
                text = self.folder.config.read_text(encoding="utf-8")
                changes = changed_keys(self.recipe, text, str(self.folder.config))
            except (OSError, ValueError, CheckpointError):
                return f"config changed, and {self.folder.config} cannot be read any more"
            return f"config changed: {few(changes, 3, '; ') or 'by an earlier resumption'}"
        plugins = plugins_fingerprint(self.recipe.plugins)
        if any(entry.get("plugins", plugins) != plugins for entry in history):
            return "the sources of its plugins changed"
        if len(codes) > 1:
            return f"begun with code {codes[0]}, resumed with code {codes[-1]}"
        if code is not None and codes[0] != code:
            return f"made with code {codes[0]}, now {code}"
        return None

    def state(self, code: str) -> State:
        """What is there, for code of this fingerprint."""
        if self.why_stale(code):
            return "stale"
        if self.is_finished():
            return "done"
        return "partial" if self.codes() else "new"

    def prepare(self) -> None:
        """Make the folder and write the resolved recipe, from which ``train --resume`` starts.

        Raises:
            OutputError: it cannot be written.
        """
        write_text(self.folder.config, dump(self.recipe))

    def set_aside(self) -> Path:
        """Rename the folder to ``seed0.stale``, ``seed0.stale-2`` ...; nothing is ever deleted."""
        number, target = 2, self.folder.path.with_name(f"{self.folder.path.name}.stale")
        while target.exists():
            target = target.with_name(f"{self.folder.path.name}.stale-{number}")
            number += 1
        self.folder.path.rename(target)
        return target


def plan_runs(
    suite: Suite,
    folder: Path,
    variants: Sequence[Variant],
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
) -> list[Run]:
    """The runs, by seed and then in the order of the variants, so that every seed gives a whole table.

    Args:
        folder: the suite's own; runs lie in ``folder/<variant>/seed<k>``.
        seeds: instead of the suite's.
        overrides: ``key.path=value`` on every recipe.

    Raises:
        UserError: a seed is below 0, named twice, or given by ``overrides``.
        ConfigError: a variant's recipe is wrong; names the variant.
    """
    if min(seeds, default=0) < 0:
        raise UserError(f"--seeds {' '.join(map(str, seeds))}: a seed must be >= 0")
    if any(o.partition("=")[0].strip() == "seed" for o in overrides):
        raise UserError("--set seed=...: a suite trains with each of its seeds; name them with --seeds")
    if len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds {' '.join(map(str, seeds))}: one of them is named twice")
    return [
        Run(v, seed, recipe_of(suite, v, seed, overrides), RunFolder(folder / v.slug / f"seed{seed}"))
        for seed in seeds or suite.seeds
        for v in variants
    ]


def check_runs(suite: Suite, runs: Sequence[Run], processes: int = 1) -> Dataset:
    """Build every variant once, on no device, and read its data, before anything is trained.

    Args:
        processes: a run's, which share its batch.

    Returns:
        The validation data, which all variants have in common.

    Raises:
        UserError: and its kinds: whatever would stop a run at its start; the message begins with the variant.
    """
    if not runs:
        raise ConfigError("every variant is core: false; choose with --only, or take all with --full")
    known: list[tuple[object, Dataset, int]] = []
    first = runs[0].recipe.data.val
    for run in (r for i, r in enumerate(runs) if r.variant not in [other.variant for other in runs[:i]]):
        recipe = run.recipe
        try:
            if recipe.data.val is None:
                raise ConfigError("data.val is not set, so there is nothing to compare on")
            if recipe.data.val != first:
                raise ConfigError(f"data.val differs from that of variant {runs[0].variant.label!r}")
            images_per_pass(recipe, Ranks(0, processes, 0, torch.device("cpu")))
            source = (recipe.data.train, recipe.data.val, recipe.data.on_error)
            found = [(val, classes) for other, val, classes in known if other == source]
            if not found:
                data = build_data(recipe, Ranks(0, 1, 0, torch.device("cpu")))
                assert data.val is not None
                found = [(data.val, len(data.train.categories))]
                known.append((source, *found[0]))
            with torch.device("meta"):
                recipe.model.build(found[0][1])
            check_metrics(suite, recipe)
        except UserError as error:
            raise type(error)(f"variant {run.variant.label!r}: {error}") from None
    return known[0][1]


def check_metrics(suite: Suite, recipe: Recipe) -> None:
    """
    Raises:
        ConfigError: the recipe gives no such figures as the suite compares.
    """
    cap = recipe.model.roi.max_detections
    heads = {"segm": recipe.model.mask_head, "keypoints": recipe.model.keypoint_head}
    for metric in suite.metrics:
        kind, _, name = metric.partition("/")
        _, _, at = name.partition("@")
        if heads.get(kind, True) is None or kind not in recipe.eval.iou_types:
            raise ConfigError(
                f"the suite's metric {metric} needs a head for {kind}, and {kind} in eval.iou_types"
            )
        known = AT_CAP if at else TEN if kind == "keypoints" else TWELVE
        if name.partition("@")[0] not in known:
            raise ConfigError(f"the suite's metric {metric} is not one of {', '.join(known)}")
        if at and int(at) != cap:
            raise ConfigError(
                f"the suite's metric {metric} needs model.roi.max_detections {at}, which is {cap}"
            )
