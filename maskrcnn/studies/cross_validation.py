"""Cross-validation: a recipe trained k times, each time without one of k parts of its data, which judges
it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn.data import CocoConfig
from maskrcnn.data.splitting import deal
from maskrcnn.engine.distributed import Ranks
from maskrcnn.errors import UserError
from maskrcnn.files import write_json, write_text
from maskrcnn.recipe import Recipe
from maskrcnn.run.folder import RunFolder
from maskrcnn.run.setup import images_per_pass
from maskrcnn.run.split import Groups
from maskrcnn.studies.ablation.plan import Run
from maskrcnn.studies.ablation.suite import Variant
from maskrcnn.viz.tables import Table

#: Coverage of the intervals, in percent.
COVERAGE = 95
#: Figures of the table, of each kind of evaluation.
_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


@dataclass(frozen=True)
class Folds:
    """The runs, one a fold; and how many images each was judged on."""

    runs: tuple[Run, ...]
    images: tuple[int, ...]


def plan_folds(
    recipe: Recipe, folder: Path, folds: int, *, by: str = "image", seed: int = 0, processes: int = 1
) -> Folds:
    """Divide ``data.train``, write ``folder/data/fold1_train.json`` and so on, and plan a run for each fold.

    Every image is judged once, by the one model that has not seen it.  A call with the same arguments finds
    its files and runs again.

    Args:
        folds: how many, at least 2.
        by, seed: see :func:`maskrcnn.run.split.split_data`.
        processes: of each run.

    Raises:
        UserError: the data cannot be divided so, or are not those that ``folder`` was begun with.
        DataError: they cannot be read.
        OutputError: something cannot be written.
    """
    config = recipe.data.train
    if not isinstance(config, CocoConfig):
        raise UserError(
            f"data.train is of type {type(config).__name__}, and only a COCO json can be divided; export the"
            " data as one first (maskrcnn export-data)"
        )
    if folds < 2:
        raise UserError(f"--folds {folds}: there must be at least 2, as 5")
    images_per_pass(recipe, Ranks(0, processes, 0, torch.device("cpu")))
    groups = Groups.read(recipe.data, by)
    if len(groups.sizes) < folds:
        what = "images" if by == "image" else f"groups by {by}"
        raise UserError(
            f"--folds {folds}: {groups.file} has {len(groups.sizes)} {what}; take at most as many folds"
        )
    part = deal(groups.counts, groups.sizes, [1 / folds] * folds, seed)
    runs = []
    for fold in range(folds):
        files = {name: folder / "data" / f"fold{fold + 1}_{name}.json" for name in ("train", "val")}
        _keep(files["train"], groups.content(part != fold))
        _keep(files["val"], groups.content(part == fold))
        train, val = (
            replace(config, images=groups.images, annotations=file.absolute(), max_images=None)
            for file in files.values()
        )
        own = replace(recipe, data=replace(recipe.data, train=train, val=val))
        variant = Variant(label=f"fold {fold + 1}")
        runs.append(Run(variant, recipe.seed, own, RunFolder(folder / f"fold{fold + 1}")))
    return Folds(tuple(runs), tuple(int(groups.sizes[part == fold].sum()) for fold in range(folds)))


def _keep(file: Path, content: Mapping[str, Any]) -> None:
    """Write a fold's annotations, where they are not there.

    Raises:
        UserError: others are.
        OutputError: it cannot be written.
    """
    if not file.is_file():
        write_json(file, content)
    elif json.loads(file.read_text(encoding="utf-8")) != content:
        raise UserError(
            f"{file}: was made of other annotations, or divided otherwise (--folds, --by, --split-seed);"
            " runs of both are not to be compared: restore what it was begun with, or choose another --output"
        )


@dataclass(frozen=True)
class FoldFigure:
    """One figure over the folds.

    values: by fold; folds where it is not defined (no object of that size) are left out.
    low, high: see :func:`interval`; None for one fold.
    """

    name: str
    values: tuple[float, ...]
    low: float | None
    high: float | None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)


def collect_folds(folds: Folds) -> list[FoldFigure]:
    """The figures of the finished runs; of the average of the weights where the recipe is judged by that."""
    found: dict[str, list[float]] = {}
    for run in folds.runs:
        if run.is_finished():
            content = json.loads(run.folder.figures.read_text(encoding="utf-8"))
            if run.recipe.eval.takes_average:
                content = content.get("ema", content)
            for kind, named in content["figures"].items():
                for name in _FIGURES:
                    if named.get(name) is not None:
                        found.setdefault(f"{kind}/{name}", []).append(float(named[name]))
    return [FoldFigure(name, tuple(values), *interval(values)) for name, values in found.items()]


def interval(values: Sequence[float], coverage: float = COVERAGE) -> tuple[float | None, float | None]:
    """Of the mean over k folds: ``mean +- t * s * sqrt(1/k + 1/(k - 1))``, with k - 1 degrees of freedom.

    The plain interval, ``t * s / sqrt(k)``, is too narrow, since any two models share most of their training
    images (Nadeau & Bengio 2003, "Inference for the Generalization Error", section 3: the variance is
    multiplied with 1/k + test / training images).
    """
    count = len(values)
    if count < 2:
        return None, None
    half = student(count - 1, coverage) * statistics.stdev(values) * math.sqrt(1 / count + 1 / (count - 1))
    centre = statistics.fmean(values)
    return centre - half, centre + half


@cache
def student(freedom: int, coverage: float = COVERAGE) -> float:
    """The t that a variable of Student's distribution lies within, both sides, at ``coverage`` percent."""
    # With x = sqrt(n) tan(a) the density becomes cos(a)^(n - 1), which is integrated from -a to a.
    angles = np.linspace(0.0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(math.sqrt(freedom) * math.tan(np.interp(coverage / 100, below / below[-1], angles)))


def write_folds(folds: Folds, folder: Path) -> Table:
    """The table of what is finished, written as ``folds.json`` and ``folds.md``, too.

    Raises:
        UserError: no run is finished.
        OutputError: a file cannot be written.
    """
    figures = collect_folds(folds)
    if not figures:
        raise UserError(f"{folder}: no fold is finished, so there is nothing to report")
    done = [run.variant.label for run in folds.runs if run.is_finished()]
    head = ["figure", "mean", f"{COVERAGE} % interval", "deviation", *done]
    rows = []
    for figure in figures:
        known = figure.low is not None and figure.high is not None
        span = f"{max(figure.low, 0):.3f} to {min(figure.high, 1):.3f}" if known else "n/a"  # type: ignore[type-var]
        spread = f"{statistics.stdev(figure.values):.3f}" if known else "n/a"
        cells = [f"{v:.3f}" for v in figure.values] if len(figure.values) == len(done) else ["" for _ in done]
        rows.append([figure.name, f"{figure.mean:.3f}", span, spread, *cells])
    images = ", ".join(map(str, folds.images))
    title = f"{len(done)} of {len(folds.runs)} folds, judged on {images} images"
    table = Table(head, rows, title=title)
    content = {
        "folds": len(folds.runs),
        "finished": done,
        "images": list(folds.images),
        "coverage": COVERAGE,
        "figures": {
            f.name: {"mean": f.mean, "low": f.low, "high": f.high, "values": list(f.values)} for f in figures
        },
    }
    write_json(folder / "folds.json", content, indent=1)
    write_text(folder / "folds.md", table.markdown() + "\n")
    return table
