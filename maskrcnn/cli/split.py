"""``maskrcnn split``: a validation set taken from a data set."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = (
    "Divide a data set into one for training and one for validation, each class shared out as the images are."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    from maskrcnn.cli.parser import add_data_arguments

    add_data_arguments(parser)
    parser.add_argument("--val", type=float, default=0.2, metavar="SHARE", help="of the images (default 0.2)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--by",
        default="image",
        metavar="WHAT",
        help="keep images together that are of one folder, or equal in key:NAME (of their records; a.b for a"
        " key in another) or in regex:PATTERN (its group in the file name); default image, each by itself",
    )
    parser.add_argument("--seed", type=int, default=0, help="another one, another division (default 0)")
    parser.add_argument("--plain", action="store_true", help="by chance alone, without regard to classes")
    parser.add_argument("--overwrite", action="store_true", help="write although the folder holds something")


def run(args: argparse.Namespace) -> int:
    """Write ``OUT/data.yaml``, ``train.json`` and ``val.json``, and say what falls where."""
    from maskrcnn.errors import UserError
    from maskrcnn.run.data_argument import read_data_argument
    from maskrcnn.run.split import split_data
    from maskrcnn.viz.shares import shares

    if args.seed < 0:
        raise UserError("--seed must be at least 0")
    data = read_data_argument(args.data, args.images)
    options = {"by": args.by, "seed": args.seed, "stratify": not args.plain, "overwrite": args.overwrite}
    made = split_data(data, args.out, args.val, **options)
    for note in made.notes:
        print(note)
    print(shares(made.images, made.objects, None if args.by == "image" else made.groups).text())
    print(f"\n{args.out / 'data.yaml'}: written")
    return 0
