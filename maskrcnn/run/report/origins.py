"""What a report is made of: an evaluation that was just done, or what lies in the folder of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from maskrcnn.data import Dataset
from maskrcnn.data.file_names import shown
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.memory import memory_in_use
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import UserError
from maskrcnn.inference.records import load_results
from maskrcnn.recipe import Recipe
from maskrcnn.run import proposals
from maskrcnn.run.evaluation import Judgement
from maskrcnn.run.folder import RunFolder, read_figures
from maskrcnn.run.report.evaluated import Evaluated, about
from maskrcnn.run.report.page import write_report
from maskrcnn.run.setup import load_model
from maskrcnn.run.status import best_evaluation
from maskrcnn.run.training import REPORTS, TrainingRun
from maskrcnn.viz.report_runs import training_part

#: Images whose proposals are judged, at most: each is a forward pass more.
MOST_PROPOSED = 500
#: Longest that a reason is.
_SAID = 300


def report_judgement(done: Judgement, page: Path) -> None:
    """The page of ``maskrcnn eval --report``; on all ranks.

    Raises:
        OutputError: it cannot be written.
    """
    found, dataset = done.found, done.dataset
    memory = memory_in_use(done.ranks.device)
    recalls = None
    if done.model.rpn is not None:
        recalls = proposals.recall(done.model, dataset, done.recipe, done.ranks, done.console, MOST_PROPOSED)
    if found is None:
        return
    images = len(dataset) - len(found.left_out)
    speed = {
        "images_per_second": images / max(done.seconds, 1e-9),
        "seconds": done.seconds,
        "GiB_of_memory": memory / 2**30,
        "device": str(done.ranks.device),
    }
    seen = Evaluated(
        f"{done.path}, step {done.step}",
        done.recipe,
        dataset,
        found.records,
        found.result,
        found.left_out,
        done.path,
        {"checkpoint": str(done.path), "step": done.step} | about(done.recipe, dataset, done.model),
        speed,
        recalls,
    )
    write_report(page, seen, done.console.line, done.console.warn)


@REPORTS.register("page")
def report_training(run: TrainingRun) -> None:
    """``report.html`` in the folder of a run that came to its end; where that fails, a warning says so."""
    val = run.data.val
    if val is None:
        return
    try:
        recalls = _recalls(run, val)
        report_run(run.folder, run.recipe, val, run.console.line, run.console.warn, recalls=recalls)
    except Exception as error:  # whatever it is: the training is done
        said = " ".join(str(error).split())[:_SAID]
        run.console.warn(
            f"{run.folder.report}: the report was not written ({type(error).__name__}: {said}); the training"
            f" is whole without it; `maskrcnn report {run.folder.path}` tries again"
        )


def _recalls(run: TrainingRun, val: Dataset) -> dict[str, float] | None:
    """Recall of the proposals of the checkpoint that the page will be about, on this rank alone; None where
    there are none, or a warning has said why.
    """
    checkpoint = of_run(run.folder, run.recipe, val).checkpoint
    if checkpoint is None or run.recipe.model.rpn is None:
        return None
    alone = Ranks(0, 1, 0, run.ranks.device)
    try:
        model = load_model(run.recipe, load(checkpoint), checkpoint, alone.device)
        return proposals.recall(model, val, run.recipe, alone, run.console, MOST_PROPOSED)
    except Exception as error:  # the page does without
        said = " ".join(str(error).split())[:_SAID]
        run.console.warn(
            f"{run.folder.report}: the recall of the proposals is not on the page ({type(error).__name__}:"
            f" {said}); `maskrcnn eval --checkpoint {run.folder.path} --report page.html` tries again"
        )
        return None


def report_run(
    folder: RunFolder,
    recipe: Recipe,
    dataset: Dataset,
    tell: Callable[[str], object],
    warn: Callable[[str], object],
    page: Path | None = None,
    recalls: dict[str, float] | None = None,
) -> None:
    """The page about a run: its curves, and what its best evaluation found.

    Args:
        page: where; None: ``report.html`` in the folder.
        recalls: of the proposals; None: those that the folder's page of this evaluation has.

    Raises:
        UserError: the run was never evaluated, or the page cannot be written.
    """
    seen = of_run(folder, recipe, dataset)
    kept = read_figures(folder.report.with_suffix(".json"))
    if recalls is None and kept.get("about", {}).get("step") == seen.about["step"]:
        recalls = kept.get("proposals")  # as a training wrote it, which had the model
    seen = replace(seen, proposals=recalls)
    curves = training_part({shown(folder.path.name): read_metrics(folder.metrics)})
    write_report(page or folder.report, seen, tell, warn, [] if curves is None else [curves])


def of_run(folder: RunFolder, recipe: Recipe, dataset: Dataset) -> Evaluated:
    """What the best evaluation of a run found, or the last where only that is on file.

    Raises:
        UserError: the run was never evaluated.
    """
    records = read_metrics(folder.metrics)
    best = best_evaluation(records, recipe.eval.best_metric)
    results, figures = folder.best_results, read_figures(folder.best_figures)
    if not results.is_file() or figures.get("step") != best.get("step"):
        results, figures = folder.results, read_figures(folder.figures)
    if not results.is_file():
        raise UserError(
            f"{folder.path}: no evaluation is on file; evaluate it: maskrcnn eval --checkpoint {folder.path}"
            " --report report.html"
        )
    step = figures.get("step")
    checkpoint = folder.path / "checkpoints" / ("best.pt" if step == best.get("step") else "last.pt")
    seconds = next((r.get("seconds") for r in records if r.get("kind") == "eval" and r["step"] == step), None)
    left_out = frozenset(i for i in figures.get("left_out", ()) if isinstance(i, int))
    speed = None
    if isinstance(seconds, float | int) and seconds > 0:
        speed = {"images_per_second": (len(dataset) - len(left_out)) / seconds, "seconds": seconds}
    return Evaluated(
        f"{folder.path}, step {step}",
        recipe,
        dataset,
        load_results(results),
        left_out=left_out,
        checkpoint=checkpoint if checkpoint.is_file() else None,
        about={"run": str(folder.path), "step": step} | about(recipe, dataset, None),
        speed=speed,
    )
