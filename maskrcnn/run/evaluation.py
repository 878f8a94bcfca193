"""Evaluate a model: predictions sharded over the ranks, figures and pictures on rank 0."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from maskrcnn.data import Dataset
from maskrcnn.data.file_names import shown
from maskrcnn.data.workers import StalledError
from maskrcnn.engine.console import Console, Unwritten
from maskrcnn.engine.distributed import Ranks, connect
from maskrcnn.engine.events import format_seconds
from maskrcnn.engine.faults import out_of_memory_is_told
from maskrcnn.engine.memory import keep_freed_memory
from maskrcnn.errors import DataError, few, plural
from maskrcnn.evaluation import (
    EvalResult,
    PredictionProgress,
    Result,
    evaluate_coco,
    merge_results,
    predict_dataset,
    save_results,
)
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.picture_files import write_image
from maskrcnn.recipe import Expectation, Recipe, check_same_categories
from maskrcnn.run.evaluation_pictures import draw_pictures
from maskrcnn.run.preflight import EVALUATION, Start, run_checks
from maskrcnn.run.setup import (
    build_val,
    checkpoint_categories,
    eval_batches,
    iou_types,
    load_model,
    load_state,
    new_console,
)
from maskrcnn.run.tiled_evaluation import tile_batches
from maskrcnn.structures import Batch
from maskrcnn.structures.ground_truth import GroundTruth

#: Seconds between two progress lines of an evaluation.
_PROGRESS_SECONDS = 15.0


class BrokenOff(Exception):  # noqa: N818 - it is no error
    """The evaluation was told to stop half-way."""


@dataclass(frozen=True)
class Evaluation:
    """The figures, the COCO records they come from, and how they stand to the recipe's ``expect``.

    met: whether every expected figure was met; compared: a line a figure.
    left_out: ids of images that could not be read, and count for nothing.
    """

    result: EvalResult
    records: list[Result]
    met: bool
    compared: list[str]
    left_out: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Judgement:
    """What ``evaluate`` did, on each rank; ``found`` on rank 0 alone.  seconds: of the evaluation."""

    path: Path
    step: int
    model: MaskRCNN
    dataset: Dataset
    recipe: Recipe
    ranks: Ranks
    console: Console
    found: Evaluation | None
    seconds: float


@out_of_memory_is_told(
    "out of memory in the evaluation; lower eval.batch_size, set eval.precision to bfloat16, or use smaller"
    " images (data.eval_transforms)"
)
def run_evaluation(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    ranks: Ranks,
    console: Console,
    stopping: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Predict every image once over all ranks and compute the figures.

    Images that the data set skips because they cannot be read count for nothing: neither are their objects
    missed.  A note of the result says how many.

    Args:
        stopping: asked before each batch.

    Returns:
        the evaluation on rank 0, None on the others.

    Raises:
        BrokenOff: ``stopping`` said so on some rank; on every rank.
        DataError: not one image can be read.
        UserError: out of memory.
    """
    loader, predict, most = (
        eval_batches(dataset, recipe, ranks),
        predict_dataset,
        recipe.model.roi.max_detections,
    )
    if recipe.data.tiles is not None:
        loader, predict, most = tile_batches(dataset, recipe, ranks)
    loader.stopping = stopping
    records: list[Result] | None = None  # where it is broken off
    with suppress(BrokenOff, StalledError):
        records = predict(
            model,
            _until(loader, stopping),
            ranks.device,
            dataset.categories,
            precision=recipe.eval.precision,
            paste=recipe.eval.paste,
            clean=recipe.eval.clean,
            tta=recipe.eval.tta,
            keypoint_offset=recipe.eval.keypoint_offset,
            progress=progress_lines(console, "evaluating"),
            total=-(-len(dataset) // ranks.size),
            graphs=recipe.eval.cuda_graphs,
        )
    found = ranks.gather(None if records is None else (records, dataset.report.unreadable))
    gathered = [part for part in found if part is not None]
    if ranks.share(len(gathered) < len(found)):
        raise BrokenOff
    if not ranks.is_main:
        return None
    merged = merge_results(part for part, _ in gathered)
    unreadable = frozenset().union(*(ids for _, ids in gathered))
    images = [i for i in map(int, dataset.image_ids) if i not in unreadable]
    if not images:
        raise DataError(
            f"{shown(dataset.annotation_file)}: not one of {plural(len(dataset), 'image')} can be read"
        )
    result = evaluate_coco(
        _truth(dataset, unreadable),
        merged,
        iou_types=iou_types(recipe),
        max_detections=most,
        image_ids=images,
        backend=recipe.eval.backend,
        sigmas=recipe.eval.sigmas,
    )
    return Evaluation(result, merged, *_compare(recipe.expect, result.scalars()), unreadable)


def _compare(expected: Sequence[Expectation], metrics: Mapping[str, float]) -> tuple[bool, list[str]]:
    """Whether every figure was met, from ``value - tolerance`` on, and a line a figure."""
    met, lines = True, []
    for item in expected:
        own = metrics.get(item.metric)
        reached = own is not None and own >= item.value - item.tolerance
        met &= reached
        word = "NOT COMPUTED" if own is None else f"{own:.3f}: {'met' if reached else 'NOT MET'}"
        source = f" ({item.source})" if item.source else ""
        lines.append(f"expected {item.metric} {item.value:.3f} - {item.tolerance:.3f}{source}, here {word}")
    return met, lines


def _truth(dataset: Dataset, unreadable: Set[int]) -> GroundTruth:
    """The data set's, with a note about images that could not be read and so are not judged."""
    truth = dataset.ground_truth()
    left_out = sorted(unreadable & set(map(int, dataset.image_ids)))
    if not left_out:
        return truth
    objects = int(np.isin(truth.images, [truth.image_places[i] for i in left_out]).sum())
    note = (
        f"left out of the evaluation (on_error: skip): {plural(len(left_out), 'image')} that cannot be read,"
        f" with {plural(objects, 'object')}: {few(left_out)}"
    )
    return replace(truth, notes=(*truth.notes, note))


def progress_lines(console: Console, what: str) -> Callable[[PredictionProgress], None]:
    """A function that prints ``what``, how far it is, the rate and the time left, now and then."""
    last_line = time.monotonic()

    def tell(progress: PredictionProgress) -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= _PROGRESS_SECONDS:
            last_line = time.monotonic()
            eta = "" if progress.eta is None else f"  eta {format_seconds(progress.eta)}"
            console.line(f"{what} {progress.done}/{progress.total}  {progress.rate:.2f} img/s{eta}")

    return tell


def _until(loader: Iterable[Batch], stopping: Callable[[], bool]) -> Iterator[Batch]:
    for batch in loader:
        if stopping():
            raise BrokenOff
        yield batch


def evaluate(
    checkpoint: Path,
    recipe: Recipe | None = None,
    *,
    overrides: Sequence[str] = (),
    results: Path | None = None,
    pictures: Path | None = None,
    report: Path | None = None,
    write_report: Callable[[Judgement, Path], object] | None = None,
) -> Evaluation | None:
    """Evaluate a checkpoint and print the tables.

    Args:
        checkpoint: a checkpoint file, or a run's folder (its best).
        recipe: how; None: as the checkpoint says.
        overrides: ``key.path=value`` on the checkpoint's recipe, where ``recipe`` is None.
        results: also write the detections there, as a COCO results file.
        pictures: also write ``train.pictures`` images with true and predicted masks into this folder.
        report: also write a page there, by ``write_report``, which is called on all ranks.

    Returns:
        the evaluation on rank 0, None on the others.

    Raises:
        CheckpointError: the checkpoint is unreadable or belongs to another model.
        DataError: the data are wrong, or of other categories than the checkpoint's.
        OutputError: results or pictures could not be written; the figures are then printed.
    """
    keep_freed_memory()
    path, state, recipe = load_state(checkpoint, recipe, overrides)
    ranks = connect(recipe.device)
    with closing(new_console(ranks)) as console:
        console.take_logs()
        val = build_val(recipe, ranks)
        given = {"--results": results, "--report": report}
        files = {option: file for option, file in given.items() if file is not None}
        folders = {} if pictures is None else {"--pictures": pictures}
        start = Start(recipe, ranks, console, "data.val", val, files=files, folders=folders)
        names = (*EVALUATION, "workers", "places", "images")
        run_checks([(name, start) for name in names], "before the evaluation")
        known = checkpoint_categories(state)
        check_same_categories(known, val.categories, f"data.val ({val.annotation_file})")
        model = load_model(recipe, state, path, ranks.device)
        console.line(f"{path}: step {state.step}, {plural(len(val), 'image')} of {val.annotation_file}")
        unwritten = Unwritten(console.warn)
        began = time.perf_counter()
        found = run_evaluation(model, val, recipe, ranks, console)
        took = time.perf_counter() - began
        if found is not None:
            for text in (found.result.table(), *found.compared):
                console.line(text)
            if results is not None and unwritten.attempt(
                results, partial(save_results, results, found.records)
            ):
                console.line(f"results written to {results}")
            if pictures is not None:
                for name, image in draw_pictures(val, found.records, recipe):
                    file = pictures / f"{name}.png"
                    unwritten.attempt(file, partial(write_image, file, image))
        if report is not None and write_report is not None:
            done = Judgement(path, state.step, model, val, recipe, ranks, console, found, took)
            unwritten.attempt(report, partial(write_report, done, report))
        unwritten.raise_if_any()
        return found
