"""``maskrcnn strip``: a checkpoint without what only a training needs."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.parser import add_set_argument

HELP = (
    "write a checkpoint for inference alone: the weights that are evaluated, without the optimizer's state;"
    " a training can start from it, and none goes on from it"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        help="a checkpoint file, a run folder (its best), or published weights (maskrcnn weights list)",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the file to write; must be a new one"
    )
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write it, and say what both files take.

    Raises:
        CheckpointError: the checkpoint cannot be read, or holds no recipe.
        UserError: there is such a file already.
    """
    from maskrcnn.run.strip import strip

    print("\n".join(strip(args.checkpoint, args.output, tuple(args.overrides))))
    return 0
