"""``maskrcnn package``: a folder with a model and all that is to be known of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.parser import add_set_argument
from maskrcnn.errors import UserError

HELP = (
    "write a folder with a model for inference, its config, classes, scores and a model card; it is taken"
    " wherever a checkpoint is (predict, eval, export, weights, Model), and needs neither run nor data"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "source",
        metavar="RUN|CHECKPOINT",
        type=Path,
        help="a run folder (its best), a checkpoint file, or published weights (maskrcnn weights list)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="must be new or empty")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="PAGE.json",
        help="figures for the card, beside a page of maskrcnn eval --report; default: the run's own",
    )
    parser.add_argument("--licence", default="", metavar="TEXT", help="under which the weights may be used")
    parser.add_argument("--use", default="", metavar="TEXT", help="what the model is meant for, and what not")
    parser.add_argument(
        "--pictures",
        type=int,
        default=2,
        metavar="N",
        help="images of data.val that the card shows, with what is found in them; default 2, 0: none",
    )
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write it, and say what it holds."""
    from maskrcnn.run.package import PackageOptions, package
    from maskrcnn.run.package_card import Stated

    if args.pictures < 0:
        raise UserError(f"--pictures must be at least 0, got {args.pictures}")
    wishes = PackageOptions(Stated(args.use, args.licence), args.report, args.pictures)
    package(args.source, args.out, wishes, tuple(args.overrides), lambda line: print(line, flush=True))
    return 0
