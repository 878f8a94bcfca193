"""The page of ``maskrcnn report``: about one run, or about several beside each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from maskrcnn.config import flatten
from maskrcnn.data import Dataset
from maskrcnn.data.file_names import shown
from maskrcnn.errors import UserError
from maskrcnn.recipe import Recipe, parse_recipe
from maskrcnn.run.folder import RunFolder
from maskrcnn.run.report.sources import report_run
from maskrcnn.run.status import find_runs

#: Keys of a config that say where it lies and what it is called: no difference.
_PLACES = ("output", "expect")


def report_runs(paths: Sequence[Path], page: Path | None) -> None:
    """Write the page about all runs that are named, or lie in folders that are named.

    page: where; None: ``report.html`` in the folder of the only run, or ``compared.html`` here.

    Raises:
        UserError: a folder is no run, its config cannot be read, there is nothing to report, or the page
            cannot be written.
    """
    folders = [RunFolder(path) for path in dict.fromkeys(find_runs(paths))]
    recipes = [_recipe(folder) for folder in folders]
    if len(folders) == 1:
        report_run(folders[0], recipes[0], _val(folders[0], recipes[0]), print, print, page)
        return
    compare_runs(folders, recipes, page or Path("compared.html"))


def _recipe(folder: RunFolder) -> Recipe:
    try:
        text = folder.config.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder.config}: cannot be read: {error.strerror}; is it a run's folder?") from None
    return parse_recipe(text, str(folder.config))


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


def compare_runs(folders: Sequence[RunFolder], recipes: Sequence[Recipe], page: Path) -> None:
    raise UserError("not yet")
