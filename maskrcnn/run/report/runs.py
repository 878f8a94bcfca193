"""The page of ``maskrcnn report``: about one run, or about several beside each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskrcnn.config import flatten
from maskrcnn.data import Dataset
from maskrcnn.data.file_names import shown
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import UserError, few, plural
from maskrcnn.evaluation.report.comparison import compare_runs
from maskrcnn.files import write_json, write_text
from maskrcnn.recipe import Recipe, parse_recipe
from maskrcnn.run.folder import RunFolder, read_figures
from maskrcnn.run.report.evaluated import judge
from maskrcnn.run.report.origins import of_run, report_run
from maskrcnn.run.report.two_runs import gallery_of_two
from maskrcnn.run.status import find_runs
from maskrcnn.viz.report_page import Gallery, report_page
from maskrcnn.viz.report_runs import differences_part, runs_part, training_part

#: Keys of a config that say where it lies and what it is called: no difference.
_PLACES = ("output", "expect")


def report_runs(paths: Sequence[Path], page: Path | None, overrides: Sequence[str] = ()) -> None:
    """Write the page about all runs that are named, or lie in folders that are named.

    page: where; None: ``report.html`` in the folder of the only run, or ``compared.html`` here.
    overrides: ``key.path=value`` on the runs' configs, as where their data lie now.

    Raises:
        UserError: a folder is no run, its config cannot be read, there is nothing to report, or the page
            cannot be written.
    """
    folders = [RunFolder(path) for path in dict.fromkeys(find_runs(paths))]
    recipes = [_recipe(folder, overrides) for folder in folders]
    if len(folders) == 1:
        report_run(folders[0], recipes[0], _val(folders[0], recipes[0]), print, print, page)
        return
    compare_folders(folders, recipes, page or Path("compared.html"))


def _recipe(folder: RunFolder, overrides: Sequence[str]) -> Recipe:
    try:
        text = folder.config.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder.config}: cannot be read: {error.strerror}; is it a run's folder?") from None
    return parse_recipe(text, str(folder.config), overrides)


def _val(folder: RunFolder, recipe: Recipe) -> Dataset:
    """
    Raises:
        UserError: the run has no evaluation data.
        DataError: they cannot be read.
    """
    if recipe.data.val is None:
        raise UserError(
            f"{folder.path}: data.val is not set, so there is nothing that its model was judged by"
        )
    return recipe.data.build(recipe.data.val, False)


def _names(folders: Sequence[RunFolder]) -> list[str]:
    """Their paths without what all have in common."""
    parents = {folder.path.resolve().parent for folder in folders}
    shared = os.path.commonpath(list(parents))
    return [shown(os.path.relpath(folder.path.resolve(), shared)) for folder in folders]


def _differences(recipes: Sequence[Recipe]) -> list[tuple[str, tuple[str, ...]]]:
    """Keys that are not the same in all configs, with each one's value."""
    every = [flatten(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for flat in every for key in flat)
    values = {key: tuple(flat.get(key, "-") for flat in every) for key in keys if key not in _PLACES}
    return [(key, found) for key, found in values.items() if len(set(found)) > 1]


def compare_folders(folders: Sequence[RunFolder], recipes: Sequence[Recipe], page: Path) -> None:
    """The page about several runs: each of them against the first, and the first two in pictures.

    Raises:
        UserError: the data cannot be read, or the page cannot be written.
    """
    names = _names(folders)
    curves = training_part(dict(zip(names, (read_metrics(f.metrics) for f in folders), strict=True)))
    figures = dict(zip(names, (read_figures(f.figures) for f in folders), strict=True))
    parts = [runs_part(figures, _differences(recipes)), *([curves] if curves else [])]
    compared = [i for i, recipe in enumerate(recipes) if recipe.data.val == recipes[0].data.val]
    others = [names[i] for i in range(len(names)) if i not in compared]
    told = f"Judged by other data than {names[0]}, so compared by their figures alone: {few(others)}."
    notes = [told] if others else []
    shots: Gallery | None = None
    json: dict[str, Any] = {}
    if len(compared) > 1:
        dataset = _val(folders[0], recipes[0])
        seen = [of_run(folders[i], recipes[i], dataset) for i in compared]
        results = [judge(one) for one in seen]
        for number, (i, one, result) in enumerate(zip(compared[1:], seen[1:], results[1:], strict=True), 1):
            found = compare_runs(
                dataset.ground_truth(),
                [seen[0].records, one.records],
                [results[0], result],
                image_ids=set(seen[0].image_ids) & set(one.image_ids),
            ).to_json()
            json[names[i]] = found
            parts.append(differences_part(number, (names[0], names[i]), found))
        shots = gallery_of_two((names[0], names[compared[1]]), (seen[0], seen[1]))
    html = report_page(f"{plural(len(names), 'run')} compared", parts, notes=notes, gallery=shots)
    write_json(page.with_suffix(".json"), {"first": names[0], "against": json}, indent=1)
    write_text(page, html)
    size = len(html.encode("utf-8")) / 2**20
    print(
        f"{page}: {plural(len(names), 'run')} on {size:.1f} MiB; figures in {page.with_suffix('.json').name}"
    )
