"""The evaluations of a training: told, and kept in the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from maskrcnn.data import Dataset
from maskrcnn.errors import UserError, plural
from maskrcnn.files import write_image, write_json
from maskrcnn.inference.records import save_results
from maskrcnn.run.evaluation import BrokenOff, Evaluation, draw_pictures, run_evaluation
from maskrcnn.run.training import EVALUATIONS, TrainingRun


@EVALUATIONS.register("coco")
def evaluate_run(
    run: TrainingRun, val: Dataset, step: int, stopping: Callable[[], bool]
) -> Mapping[str, float] | None:
    """Evaluate the model of ``run`` after ``step`` on ``val``; see ``engine.trainer.Evaluate``."""
    console = run.console
    console.line(f"evaluating after step {step} on {plural(len(val), 'image')}")
    try:
        with run.step.strategy.whole() as model:
            found = run_evaluation(model, val, run.recipe, run.ranks, console, stopping)
    except BrokenOff:
        return None
    if found is None:
        return {}
    console.line(found.result.table())
    with suppress(UserError):  # a folder that is ours no more is the trainer's to tell
        run.lock.check()
        _write(run, val, step, found)
    for line in found.compared:
        console.line(line)
    return found.result.scalars()


def _write(run: TrainingRun, val: Dataset, step: int, found: Evaluation) -> None:
    """Results, figures and pictures; what cannot be written is told, and the run goes on."""
    folder, attempt = run.folder, run.console.unwritten.attempt
    figures = {"step": step, **found.result.as_json()}
    attempt(folder.results, lambda: save_results(folder.results, found.records))
    attempt(folder.figures, lambda: write_json(folder.figures, figures, indent=1))
    for name, image in draw_pictures(val, found.records, run.recipe):
        attempt(folder.pictures, partial(write_image, folder.pictures / f"{name}.png", image))
        if run.events is not None:
            run.events.picture(step, f"eval/{name}", image)
