"""``maskrcnn new``: a config that fits a data set and this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = (
    "Write a config that fits the data and this machine, with the reason at each key: sizes, anchors, caps,"
    " steps, batch size, weights.  A step is measured; training begins with: maskrcnn train OUT."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    from maskrcnn.cli.parser import add_data_arguments, add_set_argument

    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the config to write (.yaml)")
    parser.add_argument(
        "--weights",
        default="auto",
        metavar="W",
        help="what to start from: a name (maskrcnn weights list), a file of a backbone, a run's folder, none,"
        " or auto: weights of COCO where they can be had (default)",
    )
    parser.add_argument(
        "--val",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="of the images, to a validation set where there is none, written beside OUT; 0: none"
        " (default 0.2)",
    )
    parser.add_argument(
        "--group",
        default="image",
        metavar="WHAT",
        help="images that stay together in that: folder, key:NAME or regex:PATTERN, as of maskrcnn split",
    )
    parser.add_argument("--seed", type=int, default=0, help="another one, another division (default 0)")
    parser.add_argument(
        "--fit-memory",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="of the memory that is free now, for a training (default 0.8)",
    )
    parser.add_argument(
        "--no-measure", action="store_true", help="make no step; nothing depends on the machine's speed"
    )
    parser.add_argument("--overwrite", action="store_true", help="write although the file is there")
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write the config, and print what it holds."""
    from maskrcnn.errors import UserError
    from maskrcnn.run.new.make import Wishes, make_config
    from maskrcnn.viz.shares import shares

    if args.out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out {args.out}: a config is called FILE.yaml")
    if not 0 < args.fit_memory <= 1:
        raise UserError(
            f"--fit-memory {args.fit_memory:g}: is no share of the memory; write one above 0, up to 1"
        )
    if not 0 <= args.val < 1:
        raise UserError(f"--val {args.val:g}: is no share of the images; write 0, or one between 0 and 1")
    if args.seed < 0:
        raise UserError("--seed must be at least 0")
    wishes = Wishes(
        weights=args.weights,
        val=args.val,
        by=args.group,
        seed=args.seed,
        fit_memory=None if args.no_measure else args.fit_memory,
        overwrite=args.overwrite,
        settings=args.overrides,
    )
    made = make_config(
        args.data, args.out, wishes, args.images, lambda line: print(line, file=sys.stderr, flush=True)
    )
    if made.divided is not None:
        print(shares(made.divided.images, made.divided.objects).text(), end="\n\n")
    print(made.table().text(), end="\n\n")
    for note in made.notes:
        print(note)
    print(f"{args.out}: written; train with: maskrcnn train {args.out}")
    return 0
