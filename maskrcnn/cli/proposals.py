"""``maskrcnn proposals``: a trained RPN's proposals as a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.parser import add_set_argument, add_trained_arguments
from maskrcnn.errors import UserError

HELP = "write the proposals of a trained RPN to a file, and their average recall"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_trained_arguments(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the file, as train.npz")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="default val")
    parser.add_argument("--limit", type=int, metavar="N", help="only N images, to try it out")
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Propose, write and print the average recall."""
    from maskrcnn.recipe import load_recipe
    from maskrcnn.run import propose

    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit must be at least 1, got {args.limit}")
    recipe = None if args.config is None else load_recipe(args.config, args.overrides)
    propose(
        args.checkpoint,
        args.output,
        recipe,
        split=args.split,
        limit=args.limit,
        overrides=args.overrides,
    )
    return 0
