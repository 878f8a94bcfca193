"""What can be known before the first step is told before the first step, all of it together.

Each check gives sentences; :func:`before_training` and its like collect them over the ranks, and raise one
error that lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from maskrcnn.data import Dataset
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.errors import DataError, UserError, few
from maskrcnn.evaluation.backends import choose_backend
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.recipe import Recipe
from maskrcnn.run import data_checks, machine_checks, setup
from maskrcnn.run.image_checks import Findings, check_images
from maskrcnn.run.room import check_file, check_folder, check_room, checkpoint_bytes, in_words

#: Problems that are written out; the others are counted.
_LISTED = 20


def before_training(
    recipe: Recipe,
    output: Path,
    data: setup.Data,
    model: MaskRCNN,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
    console: Console,
) -> None:
    """Everything that a training will need: images, masks, metrics, folders, room, processes.

    Args:
        output: the run folder; nothing is written into it.

    Raises:
        UserError: (ConfigError, DataError) what is wrong, on every rank; several problems are listed.
    """
    train, val = data.train, data.val

    def checks() -> Iterator[Callable[[], object]]:
        yield lambda: setup.check_keypoints(recipe, model, train)
        yield lambda: data_checks.check_any_usable(recipe, "data.train", train)
        yield lambda: data_checks.check_masks_to_train_on(recipe, train)
        yield lambda: machine_checks.check_workers(recipe, ranks)
        yield lambda: machine_checks.check_batch(recipe, train, ranks, training=True)
        yield lambda: check_folder(output)
        yield lambda: _tell_room(output, model, optimizer, best=val is not None, console=console)
        if val is not None:
            yield from _evaluation_checks(recipe, val, ranks)
            yield lambda: _check_best(recipe, val, console)

    datasets = {"data.train": train} | ({} if val is None else {"data.val": val})
    _all(checks(), datasets, ranks, console, "before the first step", training=True)
    if ranks.is_main and recipe.train.check_data != "none":
        strides = [] if model.rpn is None else model.rpn.anchors.strides
        for name in setup.RECIPE_DOUBTS.names():
            for doubt in setup.RECIPE_DOUBTS.get(name)(recipe, strides, train, val):
                console.warn(str(doubt))


def before_evaluation(
    recipe: Recipe,
    val: Dataset,
    ranks: Ranks,
    console: Console,
    *,
    results: Path | None = None,
    pictures: Path | None = None,
) -> None:
    """Everything that an evaluation will need, and that its files can be written.

    Args:
        results: of ``--results``, a file.  pictures: of ``--pictures``, a folder.

    Raises:
        UserError: as :func:`before_training`.
    """

    def checks() -> Iterator[Callable[[], object]]:
        yield from _evaluation_checks(recipe, val, ranks)
        yield lambda: machine_checks.check_workers(recipe, ranks)
        if results is not None:
            yield lambda: check_file(results, "--results")
        if pictures is not None:
            yield lambda: check_folder(pictures, "--pictures")

    _all(checks(), {"data.val": val}, ranks, console, "before the evaluation")


def before_proposals(
    recipe: Recipe, key: str, dataset: Dataset, output: Path, ranks: Ranks, console: Console
) -> None:
    """Everything that proposals of ``dataset``, the config's ``key``, need.

    Raises:
        UserError: as :func:`before_training`.
    """
    checks: list[Callable[[], object]] = [
        lambda: setup.build_transforms(recipe, training=False),
        lambda: machine_checks.check_workers(recipe, ranks),
        lambda: check_file(output, "--output"),
    ]
    _all(checks, {key: dataset}, ranks, console, "before the proposals")


def _all(
    checks: Iterable[Callable[[], object]],
    datasets: dict[str, Dataset],
    ranks: Ranks,
    console: Console,
    when: str,
    *,
    training: bool = False,
) -> None:
    """Run the checks on the first process of each machine, and raise on all what was found."""
    found: list[UserError] = []
    warnings: list[str] = []
    if ranks.local_rank == 0:
        for check in checks:
            try:
                check()
            except UserError as error:
                found.append(error)
        for key, dataset in datasets.items():
            findings: Findings = check_images(key, dataset, replace=training and key == "data.train")
            found += map(DataError, findings.problems)
            warnings += findings.warnings
    for warning in dict.fromkeys(w for part in ranks.gather(warnings) for w in part):
        console.warn(warning)
    told = {str(e): type(e) for part in ranks.gather(found) for e in part}
    told = ranks.share(told)
    if len(told) == 1:
        ((sentence, kind),) = told.items()
        raise kind(sentence)
    if told:
        listed = few(told, _LISTED, "\n  ")
        raise UserError(f"{len(told)} problems, found {when}\n  {listed}")


def _evaluation_checks(recipe: Recipe, val: Dataset, ranks: Ranks) -> Iterator[Callable[[], object]]:
    yield lambda: setup.build_transforms(recipe, training=False)
    yield lambda: choose_backend(recipe.eval.backend)
    yield lambda: machine_checks.check_batch(recipe, val, ranks, training=False)
    yield lambda: data_checks.check_any_usable(recipe, "data.val", val)
    yield lambda: data_checks.check_masks_to_evaluate(recipe, val)
    yield lambda: data_checks.check_keypoints_to_evaluate(recipe, val)


def _check_best(recipe: Recipe, val: Dataset, console: Console) -> None:
    setup.check_best_metric(recipe)
    if doubt := data_checks.best_metric_doubt(recipe, val):
        console.warn(doubt)


def _tell_room(
    output: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, best: bool, console: Console
) -> None:
    size = checkpoint_bytes(model, optimizer)
    free = check_room(output, size, best=best)
    console.line(
        f"a checkpoint takes about {in_words(size)}, and {in_words(free)} are free for the run folder"
    )
