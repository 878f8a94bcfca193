"""``maskrcnn report``: a page about a run, or one that compares several."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.parser import add_set_argument

HELP = (
    "write one HTML file about a run (curves, figures, errors and pictures of its best evaluation), or about"
    " several: curves, what differs between their configs, figures with the intervals of their differences,"
    " and the images on which they differ most"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folder, or a folder of them")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PAGE.html",
        help="default: report.html in the run's folder; of several runs ./compared.html",
    )
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write the page, and say where.

    Raises:
        UserError: a folder is no run, there is nothing to report, or the page cannot be written.
    """
    from maskrcnn.run.report.page import check_page
    from maskrcnn.run.report.runs import report_runs

    if args.out is not None:
        check_page("--out", args.out)
    report_runs(args.runs, args.out, args.overrides)
    return 0
