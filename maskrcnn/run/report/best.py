"""What the best evaluation of a run found, kept beside what the last one did: by second names, no copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.engine.saving import improved
from maskrcnn.files import name_also
from maskrcnn.inference.records import Result, save_results
from maskrcnn.run.status import best_evaluation
from maskrcnn.run.training import REPORTS, TrainingRun


@REPORTS.register("best")
def keep_best(
    run: TrainingRun, step: int, metrics: Mapping[str, float], records: Sequence[Result] | None
) -> None:
    """Keep the results and figures that were just written where the evaluation is the best so far.

    Args:
        metrics: of the evaluation after ``step``, which ``metrics.jsonl`` has not yet.
        records: its results where they are not those on file: of the average of the weights.
    """
    wanted, folder = run.recipe.eval.best_metric, run.folder
    if wanted is not None and wanted not in metrics:
        return
    before = [r for r in read_metrics(folder.metrics) if r["step"] < step]
    if improved(metrics, wanted, best_evaluation(before, wanted), step) is None:
        return
    attempt = run.console.unwritten.attempt
    if records is None:
        attempt(folder.best_results, partial(name_also, folder.results, folder.best_results.name))
    else:
        attempt(folder.best_results, partial(save_results, folder.best_results, records))
    attempt(folder.best_figures, partial(name_also, folder.figures, folder.best_figures.name))
