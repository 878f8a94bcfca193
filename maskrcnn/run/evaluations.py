"""The evaluations of a training: told, and kept in the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import cast

from maskrcnn.config.registry import Named
from maskrcnn.data import Dataset
from maskrcnn.engine.events import Events, describe_losses
from maskrcnn.errors import UserError, plural
from maskrcnn.evaluation.eval_result import EvalResult
from maskrcnn.files import write_json
from maskrcnn.inference.records import save_results
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.picture_files import write_image
from maskrcnn.run.evaluation import BrokenOff, Evaluation, run_evaluation
from maskrcnn.run.evaluation_pictures import draw_pictures
from maskrcnn.run.training import EVALUATIONS, REPORTS, TrainingRun
from maskrcnn.run.validation_losses import validation_losses
from maskrcnn.viz.labels import Image
from maskrcnn.viz.precision_recall import draw_precision_recall

#: What draws the pictures of ``train.pictures_of``.
SAMPLED: Named[Callable[..., Sequence[tuple[str, Image]]]] = Named(
    "picture", "maskrcnn.run", proposals="sampled_pictures", rois="sampled_pictures"
)


@EVALUATIONS.register("coco")
def evaluate_run(
    run: TrainingRun, val: Dataset, step: int, stopping: Callable[[], bool]
) -> dict[str, float] | None:
    """Evaluate the model of ``run`` after ``step`` on ``val``, and the average of its weights where it has
    one; see ``engine.trainer.Evaluate``.
    """
    console, average = run.console, run.step.average
    console.line(f"evaluating after step {step} on {plural(len(val), 'image')}")
    smooth: Evaluation | None = None
    try:
        found, metrics = _judge(run, val, stopping, partial(_draw_sampled, run, val, step))
        if average is not None:
            console.line("evaluating the average of the weights (solver.ema)")
            with average.applied():
                smooth, more = _judge(run, val, stopping)
            metrics |= {f"ema/{name}": value for name, value in more.items()}
    except BrokenOff:
        return None
    if found is None:
        return {}
    with suppress(UserError):  # a folder that is ours no more is the trainer's to tell
        run.lock.check()
        _write(run, val, step, found, smooth)
        if run.recipe.eval.report:
            judged = smooth if smooth is not None and run.recipe.eval.takes_average else None
            REPORTS.get("best")(run, step, metrics, None if judged is None else judged.records)
    for line in found.compared:
        console.line(line)
    return metrics


def _draw_sampled(run: TrainingRun, val: Dataset, step: int, model: MaskRCNN) -> None:
    """Give trackers ``train.pictures_of``; on rank 0, where there are any that may take them."""
    wanted, events = run.recipe.train.pictures_of, run.events
    if wanted and events is not None and events.tracked:
        for name, image in SAMPLED.get(wanted[0])(model, val, run.recipe, run.ranks.device):
            events.picture(step, name, image)


def _judge(
    run: TrainingRun,
    val: Dataset,
    stopping: Callable[[], bool],
    also: Callable[[MaskRCNN], None] = lambda _: None,
) -> tuple[Evaluation | None, dict[str, float]]:
    """The evaluation of the model as it is, told, and its figures and losses; on rank 0.

    Args:
        also: what is done with the model besides, in evaluation mode.

    Raises:
        BrokenOff: ``stopping`` said so on some rank; on every rank.
    """
    with run.step.strategy.whole() as model:
        found = run_evaluation(model, val, run.recipe, run.ranks, run.console, stopping)
        metrics = {} if found is None else found.result.scalars()
        if found is not None:
            run.console.line(found.result.table())
        also(cast(MaskRCNN, model))
        if run.recipe.eval.losses:
            losses = validation_losses(cast(MaskRCNN, model), val, run.recipe, run.ranks, stopping)
            metrics |= losses
            of_parts = {name.removeprefix("val/"): v for name, v in losses.items() if name != "val/loss"}
            total, told = losses.get("val/loss", 0.0), describe_losses(of_parts)
            run.console.line(f"losses on evaluation images (eval.losses): {total:.3f} ({told})")
    return found, metrics


def _write(run: TrainingRun, val: Dataset, step: int, found: Evaluation, smooth: Evaluation | None) -> None:
    """Results, figures and pictures; what cannot be written is told, and the run goes on.

    smooth: of the average of the weights, whose figures stand beside.
    """
    folder, attempt = run.folder, run.console.unwritten.attempt
    figures = {"step": step, **found.result.as_json()}
    figures |= {} if smooth is None else {"ema": smooth.result.as_json()}
    figures |= {"left_out": sorted(found.left_out)} if found.left_out else {}
    attempt(folder.results, lambda: save_results(folder.results, found.records))
    attempt(folder.figures, lambda: write_json(folder.figures, figures, indent=1))
    for name, image in draw_pictures(val, found.records, run.recipe):
        attempt(folder.pictures, partial(write_image, folder.pictures / f"{name}.png", image))
        if run.events is not None:
            run.events.picture(step, f"eval/{name}", image)
    if run.events is not None and run.events.tracked:
        _track(run.events, step, found.result, None if smooth is None else smooth.result)


def _track(events: Events, step: int, result: EvalResult, smooth: EvalResult | None) -> None:
    """What trackers get besides: AP by class, and curves of precision against recall."""
    figures = result.class_scalars()
    if smooth is not None:
        figures |= {f"ema/{name}": value for name, value in smooth.class_scalars().items()}
    events.classes(step, figures)
    entries = next(iter(result.per_class.values()), [])
    if result.precision and entries:
        names, counts = [e.name for e in entries], [e.ground_truth for e in entries]
        curves = draw_precision_recall(result.precision, names, counts)
        events.picture(step, "eval/precision_recall", curves)
