"""What can be known before the first step is told before the first step, all of it together.

Each check gives sentences; :func:`before_training` and its like collect them over the ranks, and raise one
error that lists them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from maskrcnn.data import Dataset
from maskrcnn.data.coco_json import load_coco
from maskrcnn.engine.best import check_metric, metric_names
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.launch import read_launch
from maskrcnn.errors import DataError, UserError, few
from maskrcnn.evaluation.coco import choose_backend
from maskrcnn.evaluation.keypoints import choose_sigmas
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.recipe import Recipe
from maskrcnn.run import setup
from maskrcnn.run.image_checks import Findings, check_images
from maskrcnn.run.room import check_file, check_folder, check_room, checkpoint_bytes, in_words

#: Loading processes a core, beyond which a machine only gets slower; and how many are always possible.
_WORKERS_PER_CORE, _ALWAYS_WORKERS = 4, 32
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
    assert train is not None

    def checks() -> Iterator[Callable[[], object]]:
        yield lambda: setup.check_keypoints(recipe, model, train)
        yield lambda: _check_any_usable(recipe, "data.train", train)
        yield lambda: _check_masks_to_train_on(recipe, train)
        yield lambda: _check_copy_paste(recipe, train)
        yield lambda: _check_workers(recipe, ranks)
        yield lambda: check_folder(output)
        yield lambda: _tell_room(output, model, optimizer, best=val is not None, console=console)
        if val is not None:
            yield from _evaluation_checks(recipe, val)
            yield lambda: _check_best(recipe)

    datasets = {"data.train": train} | ({} if val is None else {"data.val": val})
    _all(checks(), datasets, ranks, console, "before the first step", training=True)


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
        yield from _evaluation_checks(recipe, val)
        yield lambda: _check_workers(recipe, ranks)
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
        lambda: _check_workers(recipe, ranks),
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


def _evaluation_checks(recipe: Recipe, val: Dataset) -> Iterator[Callable[[], object]]:
    yield lambda: setup.build_transforms(recipe, training=False)
    yield lambda: choose_backend(recipe.eval.backend)
    yield lambda: _check_any_usable(recipe, "data.val", val)
    yield lambda: _check_masks_to_evaluate(recipe, val)
    yield lambda: _check_keypoints_to_evaluate(recipe, val)


def _check_best(recipe: Recipe) -> None:
    check_metric(
        recipe.eval.best_metric, metric_names(setup.iou_types(recipe), recipe.model.roi.max_detections)
    )


def _check_masks_to_train_on(recipe: Recipe, train: Dataset) -> None:
    if recipe.model.mask_head is not None and has_masks(train) is False:
        raise DataError(
            "model.mask_head is set, but data.train brings no masks (data.train.masks is false): set"
            " data.train.masks to true, or for boxes alone model.mask_head to null"
        )


def _check_any_usable(recipe: Recipe, key: str, dataset: Dataset) -> None:
    """Annotations that are all faulty: nothing would train, and nothing could be evaluated."""
    rows = getattr(getattr(dataset, "index", None), "rows", None)  # of a CocoDataset
    faults = dataset.report.annotations
    if rows is None or len(rows) or not faults:
        return
    advice = "mend them, or name other data"
    if "no mask" in faults and recipe.model.mask_head is not None:
        then = "model.mask_head to null" if key == "data.train" else "eval.iou_types to [bbox]"
        advice = f"for boxes alone set {key}.masks to false, and {then}"
    kinds = few(f"{count} {kind}" for kind, count in faults.most_common())
    raise DataError(
        f"{key}: none of the {sum(faults.values())} annotations in {dataset.annotation_file} can be used"
        f" ({kinds}); {advice}"
    )


def _check_copy_paste(recipe: Recipe, train: Dataset) -> None:
    if recipe.data.copy_paste is not None and has_masks(train) is False:
        raise DataError(
            "data.copy_paste is set, but data.train brings no masks to cut objects out by: set"
            " data.train.masks to true, or data.copy_paste to null"
        )


def _check_masks_to_evaluate(recipe: Recipe, val: Dataset) -> None:
    if "segm" not in setup.iou_types(recipe) or has_masks(val) is not False:
        return
    raise DataError(
        "masks are to be evaluated (segm in eval.iou_types), but data.val brings none (data.val.masks is"
        " false): set data.val.masks to true, or eval.iou_types to [bbox]"
    )


def _check_keypoints_to_evaluate(recipe: Recipe, val: Dataset) -> None:
    head = recipe.model.keypoint_head
    if head is None or "keypoints" not in setup.iou_types(recipe):
        return
    expected = getattr(head, "num_keypoints", None)
    if val.keypoints is not None and expected not in (None, len(val.keypoints)):
        raise DataError(
            f"{val.annotation_file}: instances have {len(val.keypoints)} keypoints, the model {expected};"
            " name data of the same keypoints as data.val, or leave keypoints out of eval.iou_types"
        )
    if expected is not None:
        choose_sigmas(recipe.eval.sigmas, expected)
    records = load_coco(val.annotation_file)["annotations"]
    if not any(isinstance(record, dict) and record.get("keypoints") for record in records):
        raise DataError(
            f"{val.annotation_file}: no annotation has 'keypoints', which are to be evaluated; leave"
            " keypoints out of eval.iou_types, or name data that have them as data.val"
        )


def has_masks(dataset: Dataset) -> bool | None:
    """Whether the targets of ``dataset`` have masks; None where none of its first images can be read."""
    for index in range(min(len(dataset), 5)):
        try:
            return dataset.load(index).targets.masks is not None
        except UserError:
            continue
    return None


def _check_workers(recipe: Recipe, ranks: Ranks) -> None:
    wanted = recipe.data.workers
    if wanted is None:
        return
    cores = os.cpu_count() or 1
    here = read_launch().local_size if ranks.size > 1 else 1
    most = max(_ALWAYS_WORKERS, _WORKERS_PER_CORE * cores)
    if wanted * here > most:
        raise UserError(
            f"data.workers is {wanted}, which with {here} training processes makes {wanted * here} that load"
            f" images, and this machine has {cores} cores; set it to at most {most // here}, or null"
        )


def _tell_room(
    output: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, best: bool, console: Console
) -> None:
    size = checkpoint_bytes(model, optimizer)
    free = check_room(output, size, best=best)
    console.line(
        f"a checkpoint takes about {in_words(size)}, and {in_words(free)} are free for the run folder"
    )
