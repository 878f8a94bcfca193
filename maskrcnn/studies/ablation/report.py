"""The report of a suite: tables in the terminal, Markdown, CSV, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2

from maskrcnn.data import Dataset
from maskrcnn.errors import OutputError, UserError, few
from maskrcnn.run.evaluate import write_picture
from maskrcnn.studies.ablation import charts, pictures, table
from maskrcnn.studies.ablation.bootstrap import COVERAGE, RESAMPLES
from maskrcnn.studies.ablation.plan import Run
from maskrcnn.studies.ablation.results import VariantRow, collect, plain
from maskrcnn.studies.ablation.suite import Suite
from maskrcnn.viz.labels import Image

_STYLE = """
body { font: 15px/1.45 sans-serif; color: #1b1b1b; max-width: 1500px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0 2em; font-size: 13px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: bold; padding: .3em 0; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #d9d9d9; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.charts { display: flex; flex-wrap: wrap; gap: 1em; }
.legend span { margin-right: 1.2em; } .legend i, .key i { display: inline-block; width: 11px; height: 11px; }
.legend i, .key i { margin-right: .4em; }
.scroll { overflow-x: auto; } figure { margin: 1em 0; } figure img { max-width: none; }
code { font-size: 12px; }
"""
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
    """
    finished = [run for run in runs if run.is_finished()]
    if not finished:
        raise UserError(f"{folder}: no run of this suite is finished yet, so there is nothing to report")
    refuse_mixed(finished)
    rows = collect(suite, runs, data)
    found = table.tables(rows, suite.metrics)
    notes = _notes(suite, runs, finished, overrides)
    text = "\n\n".join([suite.title, *map(table.terminal, found), *notes])
    markdown = "\n\n".join([f"# {suite.title}", *map(table.markdown, found), *(f"- {n}" for n in notes)])
    files = {"report.md": markdown + "\n", "report.csv": table.comma_separated(rows, suite.metrics)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
        # Figures first: they must not be lost over an image that cannot be drawn.
        shown = list(pictures.compare(rows, data, suite.pictures))
        files["report.html"] = _page(suite, rows, found, notes, shown)
        (folder / "report.html").write_text(files["report.html"], encoding="utf-8")
        for name, image in shown:
            write_picture(folder / "pictures" / f"{name}.png", image)
    except OutputError as error:
        raise UserError(f"the report cannot be written: {error}") from None
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: the report cannot be written ({error.strerror})"
        ) from None
    return AblationReport(rows, text, tuple(folder / name for name in files))


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
    found: Sequence[table.Table],
    notes: Sequence[str],
    shown: Sequence[tuple[str, Image]],
) -> str:
    chosen = [m for m in suite.metrics if plain(m).partition("/")[2] in _CHARTED]
    dots = [charts.dot_chart(f"{m} (× source)" if _published(rows, m) else m, rows, m) for m in chosen]
    changes = [
        f"<li><b>{escape(r.variant.label)}</b> <code>{escape(_changes(suite, r))}</code></li>" for r in rows
    ]
    runs = [
        f"<li><code>{escape(str(run.folder.path))}</code>, config {run.folder.history()[0]['config']}</li>"
        for row in rows
        for run in (outcome.run for outcome in row.outcomes)
    ]
    body = [
        f"<h1>{escape(suite.title)}</h1>",
        *(f'<div class="scroll">{table.as_html(t)}</div>' for t in found),
        "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>",
        f"<h2>Figures by seed</h2>{charts.legend(rows)}<div class='charts'>{''.join(dots)}</div>",
        f"<h2>Over the steps</h2>{charts.legend(rows)}",
        f"<div class='charts'>{''.join(charts.curves(rows, suite.metrics))}</div>",
        "<h2>The same images</h2>",
        _key(),
        *(_figure(name, image) for name, image in shown),
        f"<h2>What was changed</h2><p>On <code>{escape(suite.config.as_posix())}</code>:</p>",
        f"<ul>{''.join(changes)}</ul><h2>Runs</h2><ul>{''.join(runs)}</ul>",
    ]
    head = f'<meta charset="utf-8"><title>{escape(suite.title)}</title><style>{_STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _published(rows: Sequence[VariantRow], metric: str) -> bool:
    return any(metric in row.published for row in rows)


def _changes(suite: Suite, row: VariantRow) -> str:
    config = [] if row.variant.config is None else [row.variant.config.as_posix()]
    return " ".join([*config, *suite.set, *row.variant.set]) or "nothing"


def _key() -> str:
    items = (
        (pictures.MORE, "segmented here, and not (or as another class) by the reference"),
        (pictures.LESS, "segmented by the reference alone"),
    )
    marks = (f'<i style="background:rgb{colour}"></i>{text} ' for colour, text in items)
    return f'<p class="key">Instances of a score of at least {pictures.SCORE}. {" ".join(marks)}</p>'


def _figure(name: str, image: Image) -> str:
    _, png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    data = base64.b64encode(png.tobytes()).decode("ascii")
    return (
        f'<figure class="scroll"><img alt="{escape(name)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )
