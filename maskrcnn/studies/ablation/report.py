"""The report of a suite: tables in the terminal, Markdown, CSV, and one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskrcnn.data import Dataset
from maskrcnn.errors import UserError, few
from maskrcnn.files import write_text
from maskrcnn.picture_files import write_image
from maskrcnn.studies.ablation import pictures, tabulate
from maskrcnn.studies.ablation.bootstrap import COVERAGE, RESAMPLES
from maskrcnn.studies.ablation.plan import Run
from maskrcnn.studies.ablation.results import VariantRow, collect, plain
from maskrcnn.studies.ablation.suite import Suite
from maskrcnn.viz.labels import Image
from maskrcnn.viz.pages import data_uri, render
from maskrcnn.viz.palette import series_colour
from maskrcnn.viz.tables import Table, in_markdown

#: Metrics with a chart of their own.
_CHARTED = ("AP", "AP75")


@dataclass(frozen=True)
class AblationReport:
    """What was made: the rows, the text for the terminal, and the files."""

    rows: list[VariantRow]
    text: str
    files: tuple[Path, ...]


def write_report(
    suite: Suite, runs: Sequence[Run], data: Dataset, folder: Path, overrides: Sequence[str] = ()
) -> AblationReport:
    """Compare what is finished and write ``report.md``, ``report.csv``, ``report.html``, ``pictures/``.

    Figures are the same whenever the runs are; only the costs were measured.

    Args:
        overrides: ``key.path=value`` that the runs were planned with, to be told.

    Raises:
        UserError: nothing is finished, or the finished runs are of several codes.
        OutputError: a file cannot be written.
    """
    finished = [run for run in runs if run.is_finished()]
    if not finished:
        raise UserError(f"{folder}: no run of this suite is finished yet, so there is nothing to report")
    refuse_mixed(finished)
    rows = collect(suite, runs, data)
    found = tabulate.tables(rows, suite.metrics)
    notes = _notes(suite, runs, finished, overrides)
    text = "\n\n".join([suite.title, *(t.text() for t in found), *notes])
    markdown = [f"# {in_markdown(suite.title)}", *(t.markdown() for t in found)]
    markdown += [f"- {in_markdown(note)}" for note in notes]
    files = [folder / name for name in ("report.md", "report.csv", "report.html")]
    write_text(files[0], "\n\n".join(markdown) + "\n")
    write_text(files[1], tabulate.numbers(rows, suite.metrics).comma_separated())
    # Figures first: they must not be lost over an image that cannot be drawn.
    shown = list(pictures.compare(rows, data, suite.pictures))
    write_text(files[2], _page(suite, rows, found, notes, shown))
    for name, image in shown:
        write_image(folder / "pictures" / f"{name}.png", image)
    return AblationReport(rows, text, tuple(files))


def refuse_mixed(finished: Sequence[Run]) -> None:
    """
    Raises:
        UserError: the runs were not all made by one code from the configs that the suite now describes.
    """
    codes = {code: run.name for run in finished for code in run.codes()[:1]}
    faults = [f"{run.name}: {why}" for run in finished if (why := run.why_stale(None))]
    if len(codes) > 1:
        faults += [f"{name}: code {code}" for code, name in codes.items()]
    if faults:
        raise UserError(
            "these runs cannot be compared; train the suite again with --rerun-stale, or into another"
            " --output:\n  " + few(faults, 10, "\n  ")
        )


def _notes(suite: Suite, runs: Sequence[Run], finished: Sequence[Run], overrides: Sequence[str]) -> list[str]:
    notes = list(suite.notes)
    if overrides:
        notes.append(f"Set for every row: {', '.join(overrides)}.")
    if suite.source:
        notes.append(f"Source: {suite.source}.")
    notes.append(
        f"Intervals: percentiles of {RESAMPLES} paired bootstrap resamples of the validation images and of"
        f" the seeds ({COVERAGE:.0f} %); of one seed, of the images alone."
    )
    missing = [run.name for run in runs if run not in finished]
    if missing:
        notes.append(f"Not finished: {'; '.join(missing)}.")
    notes += _machines(finished)
    return notes


def _machines(finished: Sequence[Run]) -> list[str]:
    """What else decides the bits, and whether it was the same for all."""
    entries = [entry for run in finished for entry in run.folder.history()]
    out = [f"Code {finished[0].codes()[0]}."]
    for title, found in (
        ("torch", {str(e.get("versions", {}).get("torch")) for e in entries}),
        ("device", {str(e.get("device_name")) for e in entries}),
        ("processes", {str(e.get("world_size")) for e in entries}),
        ("threads", {str(e.get("threads")) for e in entries}),
    ):
        differ = "" if len(found) == 1 else " (the runs differ, so seeds do not repeat to the bit)"
        out[0] += f" {title.capitalize()}: {', '.join(sorted(found))}{differ}."
    return out


def _page(
    suite: Suite,
    rows: Sequence[VariantRow],
    found: Sequence[Table],
    notes: Sequence[str],
    shown: Sequence[tuple[str, Image]],
) -> str:
    chosen = [m for m in suite.metrics if plain(m).partition("/")[2] in _CHARTED]
    runs = [outcome.run for row in rows for outcome in row.outcomes]
    return render(
        "ablation.html.j2",
        title=suite.title,
        tables=found,
        notes=notes,
        variants=[(row.variant.label, series_colour(i)) for i, row in enumerate(rows)],
        dots=[tabulate.by_seed(rows, m) for m in chosen],
        curves=tabulate.over_steps(rows, suite.metrics),
        score=pictures.SCORE,
        key=[(text, f"rgb{colour}") for text, colour in pictures.KEY.items()],
        pictures=[(name, data_uri(image)) for name, image in shown],
        config=suite.config.as_posix(),
        changed=[(row.variant.label, _changes(suite, row)) for row in rows],
        runs=[(str(run.folder.path), run.folder.history()[0]["config"]) for run in runs],
    )


def _changes(suite: Suite, row: VariantRow) -> str:
    config = [] if row.variant.config is None else [row.variant.config.as_posix()]
    return " ".join([*config, *suite.set, *row.variant.set]) or "nothing"
