"""``maskrcnn eval``: COCO's figures of a checkpoint, and whether they are the expected ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.parser import add_set_argument, add_trained_arguments

#: A figure under ``expect:`` was not met.  (2 is a user's error, as everywhere.)
EXIT_NOT_MET = 1

HELP = "evaluate a checkpoint: COCO's figures for boxes and masks, per class"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_trained_arguments(parser)
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="also write the detections, a COCO results file"
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="also write images with true and predicted masks"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="PAGE.html",
        help="also write one file of HTML with figures, errors and pictures, its figures as PAGE.json, and"
        " the scores of the best F1 beside the checkpoint",
    )
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the tables; 1 where a figure that the recipe expects is not met, else 0."""
    from maskrcnn.recipe import load_recipe
    from maskrcnn.run.evaluation import evaluate

    options = {}
    if args.report is not None:
        from maskrcnn.run.report.origins import report_judgement
        from maskrcnn.run.report.page import check_page

        check_page("--report", args.report)
        options = {"report": args.report, "write_report": report_judgement}
    recipe = None if args.config is None else load_recipe(args.config, args.overrides)
    found = evaluate(
        args.checkpoint,
        recipe,
        overrides=args.overrides,
        results=args.results,
        pictures=args.pictures,
        **options,
    )
    return EXIT_NOT_MET if found is not None and not found.met else 0
