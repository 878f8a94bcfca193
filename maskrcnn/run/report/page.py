"""The page about one evaluation: of ``maskrcnn eval --report``, and of a run's best checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from maskrcnn import __version__
from maskrcnn.data import Dataset
from maskrcnn.data.file_names import shown
from maskrcnn.engine.events import format_seconds
from maskrcnn.engine.memory import memory_in_use
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import DataError, UserError, plural
from maskrcnn.evaluation.report.figures import ReportFigures
from maskrcnn.files import write_json, write_text
from maskrcnn.inference.records import Result, load_results
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.recipe import Recipe
from maskrcnn.run import proposals
from maskrcnn.run.evaluation import Judgement
from maskrcnn.run.folder import RunFolder, read_figures
from maskrcnn.run.report.pictures import Judged, gallery, rankings
from maskrcnn.run.status import best_evaluation
from maskrcnn.run.thresholds import write_thresholds
from maskrcnn.run.training import REPORTS, TrainingRun
from maskrcnn.viz.report_errors import about_part, error_parts, what_costs_most
from maskrcnn.viz.report_figures import figure_parts, leads
from maskrcnn.viz.report_page import Gallery, report_page
from maskrcnn.viz.report_parts import Part
from maskrcnn.viz.report_runs import training_part

#: Images whose proposals are judged, at most: each is a forward pass more.
MOST_PROPOSED = 500
#: Longest that a reason is.
_SAID = 300


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that a page is about.

    title: of the page.  dataset: data.val.  records: its results.
    left_out: ids of images that could not be read.
    checkpoint: which is judged, beside which its scores of the best F1 are kept; None: nowhere.
    about, speed, proposals: see :class:`ReportFigures`.
    """

    title: str
    recipe: Recipe
    dataset: Dataset
    records: Sequence[Result]
    left_out: frozenset[int] = frozenset()
    checkpoint: Path | None = None
    about: dict[str, Any] = field(default_factory=dict)
    speed: dict[str, Any] | None = None
    proposals: dict[str, Any] | None = None


def check_page(option: str, path: Path) -> None:
    """
    Raises:
        UserError: the path is none for a page.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{option} {path}: the page is a file of HTML; give it a name that ends in .html")
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; name a file in it, as {path / 'report.html'}")


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
        "bytes_of_memory": memory,
        "device": str(done.ranks.device),
    }
    seen = Evaluated(
        f"{done.path}, step {done.step}",
        done.recipe,
        dataset,
        found.records,
        found.left_out,
        done.path,
        {"checkpoint": str(done.path), "step": done.step} | _about(done.recipe, dataset, done.model),
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
        report_run(run.folder, run.recipe, val, run.console.line, run.console.warn)
    except Exception as error:  # whatever it is: the training is done
        said = " ".join(str(error).split())[:_SAID]
        run.console.warn(
            f"{run.folder.report}: the report was not written ({type(error).__name__}: {said}); the training"
            f" is whole without it; `maskrcnn report {run.folder.path}` tries again"
        )


def report_run(
    folder: RunFolder,
    recipe: Recipe,
    dataset: Dataset,
    tell: Callable[[str], object],
    warn: Callable[[str], object],
    page: Path | None = None,
) -> None:
    """The page about a run: its curves, and what its best evaluation found.

    Args:
        page: where; None: ``report.html`` in the folder.

    Raises:
        UserError: the run was never evaluated, or the page cannot be written.
    """
    records = read_metrics(folder.metrics)
    best = best_evaluation(records, recipe.eval.best_metric)
    results, figures = folder.best_results, read_figures(folder.best_figures)
    if not results.is_file() or figures.get("step") != best.get("step"):
        results, figures = folder.results, read_figures(folder.figures)
    if not results.is_file():
        raise UserError(f"{folder.path}: no evaluation is on file; evaluate it: maskrcnn eval --checkpoint"
                        f" {folder.path} --report report.html")  # fmt: skip
    step = figures.get("step")
    checkpoint = folder.path / "checkpoints" / ("best.pt" if step == best.get("step") else "last.pt")
    seconds = next((r.get("seconds") for r in records if r.get("kind") == "eval" and r["step"] == step), None)
    left_out = frozenset(i for i in figures.get("left_out", ()) if isinstance(i, int))
    speed = None
    if isinstance(seconds, float | int) and seconds > 0:
        speed = {"images_per_second": (len(dataset) - len(left_out)) / seconds, "seconds": seconds}
    seen = Evaluated(
        f"{folder.path}, step {step}",
        recipe,
        dataset,
        load_results(results),
        left_out,
        checkpoint if checkpoint.is_file() else None,
        {"run": str(folder.path), "step": step} | _about(recipe, dataset, None),
        speed,
    )
    curves = training_part({shown(folder.path.name): records})
    write_report(page or folder.report, seen, tell, warn, [] if curves is None else [curves])


def write_report(
    page: Path,
    seen: Evaluated,
    tell: Callable[[str], object],
    warn: Callable[[str], object],
    first: Sequence[Part] = (),
) -> None:
    """The page, its figures as json beside it, and the scores of the best F1 beside the checkpoint.

    Args:
        tell: takes lines; warn: takes warnings.
        first: parts before all others.

    Raises:
        OutputError: page or json cannot be written.
    """
    began = time.monotonic()
    figures = figures_of(seen)
    json = figures.to_json()
    write_json(page.with_suffix(".json"), json, indent=1)
    kept = _keep_scores(seen, figures, warn)
    shots: Gallery | None = None
    names: dict[int, str] = {}
    if figures.outcomes is not None:
        shots, names = _gallery(seen, figures)
    parts = [*first, *figure_parts(json), *error_parts(json, names), about_part(json)]
    html = report_page(seen.title, parts, leads=leads(json), advice=what_costs_most(json), gallery=shots)
    write_text(page, html)
    took = format_seconds(time.monotonic() - began)
    size = len(html.encode("utf-8")) / 2**20
    tell(f"{page}: report of {size:.1f} MiB, its figures in {page.with_suffix('.json').name}{kept} ({took})")


def _keep_scores(seen: Evaluated, figures: ReportFigures, warn: Callable[[str], object]) -> str:
    """Write the scores of the best F1; what to say of that."""
    if seen.checkpoint is None or not figures.thresholds:
        return ""
    try:
        return f", scores of the best F1 in {write_thresholds(seen.checkpoint, figures.thresholds)}"
    except UserError as error:
        warn(f"{error} (the scores of the best F1 stand in the report)")
        return ""


def _gallery(seen: Evaluated, figures: ReportFigures) -> tuple[Gallery, dict[int, str]]:
    assert figures.outcomes is not None
    truth = seen.dataset.ground_truth()
    judged = Judged(seen.dataset, truth, seen.records, figures.outcomes, figures.thresholds)
    told = {e["image_id"]: _of_image(e) for e in figures.images_ranked}
    groups = rankings(figures)
    shots, sentence, names = gallery(judged, groups, told)
    return Gallery(shots, sentence, list(groups), truth.category_names), names


def _of_image(entry: dict[str, Any]) -> str:
    return (
        f"{plural(entry['objects'], 'object')}: {entry['right']} found, {entry['missed']} missed,"
        f" {plural(entry['wrong'], 'wrong prediction')}; F1 {entry['f1'] or 0:.2f}"
    )


def _about(recipe: Recipe, dataset: Dataset, model: MaskRCNN | None) -> dict[str, Any]:
    """Model and data, as names and numbers."""
    backbone = recipe.model.backbone
    named = {k: v for k in ("type", "name", "depth") if (v := getattr(backbone, k, None)) is not None}
    out: dict[str, Any] = {
        "backbone": " ".join(map(str, (type(backbone).__name__.removesuffix("Config"), *named.values()))),
        "classes": len(dataset.categories),
        "evaluation data": f"{dataset.annotation_file}, {plural(len(dataset), 'image', spec=',')}",
        "images are made of them by": ", ".join(map(repr, recipe.data.eval_transforms)) or "nothing",
        "steps of training": recipe.solver.steps,
        "images a step": recipe.solver.batch_size,
        "seed": recipe.seed,
        "versions": f"maskrcnn {__version__}, torch {torch.__version__}",
    }
    if model is not None:
        out["parameters"] = f"{sum(p.numel() for p in model.parameters()):,}"
    return out


def figures_of(seen: Evaluated) -> ReportFigures:
    raise DataError("not yet")
