"""The page about one evaluation: of ``maskrcnn eval --report``, and of a run's best checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maskrcnn.engine.events import format_seconds
from maskrcnn.errors import UserError, plural
from maskrcnn.evaluation.report.figures import ReportFigures
from maskrcnn.files import write_json, write_text
from maskrcnn.run.report.choice_of_images import JudgedRun, gallery, rankings
from maskrcnn.run.report.evaluated import Evaluated, figures_of
from maskrcnn.run.thresholds import Thresholds, views_of, write_thresholds
from maskrcnn.viz.report_errors import about_part, error_parts, what_costs_most
from maskrcnn.viz.report_figures import figure_parts, leads
from maskrcnn.viz.report_page import Gallery, report_page
from maskrcnn.viz.report_parts import ReportPart

#: Seconds between two lines of progress.
_EVERY = 15.0


def check_page(option: str, path: Path) -> None:
    """
    Raises:
        UserError: the path is none for a page.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{option} {path}: the page is a file of HTML; give it a name that ends in .html")
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; name a file in it, as {path / 'report.html'}")


def write_report(
    page: Path,
    seen: Evaluated,
    tell: Callable[[str], object],
    warn: Callable[[str], object],
    first: Sequence[ReportPart] = (),
) -> None:
    """The page, its figures as json beside it, and the scores of the best F1 beside the checkpoint.

    Args:
        tell: takes lines; warn: takes warnings.
        first: parts before all others.

    Raises:
        OutputError: page or json cannot be written.
    """
    began = time.monotonic()
    last = began

    def progress(what: str, share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            tell(f"report: {what} {share:.0%}")

    figures = figures_of(seen, progress)
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
        found = Thresholds(figures.thresholds, views_of(seen.recipe.eval.tta))
        return f", scores of the best F1 in {write_thresholds(seen.checkpoint, found)}"
    except UserError as error:
        warn(f"{error} (the scores of the best F1 stand in the report)")
        return ""


def _gallery(seen: Evaluated, figures: ReportFigures) -> tuple[Gallery, dict[int, str]]:
    assert figures.outcomes is not None
    truth = seen.dataset.ground_truth()
    judged = JudgedRun(seen.dataset, truth, seen.records, figures.outcomes, figures.thresholds)
    told = {e["image_id"]: _of_image(e) for e in figures.images_ranked}
    groups = rankings(figures)
    shots, sentence, names = gallery(judged, groups, told)
    return Gallery(shots, sentence, list(groups), truth.category_names), names


def _of_image(entry: dict[str, Any]) -> str:
    return (
        f"{plural(entry['objects'], 'object')}: {entry['right']} found, {entry['missed']} missed,"
        f" {plural(entry['wrong'], 'wrong prediction')}; F1 {entry['f1'] or 0:.2f}"
    )
