"""``maskrcnn export-data``: a data set of ours in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Write a data set in another format, images copied: coco, labelme, labels (label images) or yolo."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    from maskrcnn.cli.parser import add_data_arguments
    from maskrcnn.data.formats.exchange import EXPORTERS

    add_data_arguments(parser)
    parser.add_argument("--format", choices=EXPORTERS.names(), required=True, help="what to write")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--overwrite", action="store_true", help="write although the folder holds something")


def run(args: argparse.Namespace) -> int:
    """Write the folder, and say what the format cannot hold."""
    from maskrcnn.run.data_argument import read_data_argument
    from maskrcnn.run.export_data import export_data

    data = read_data_argument(args.data, args.images)
    for note in export_data(data, args.format, args.out, overwrite=args.overwrite):
        print(note)
    print(f"{args.out}: written ({args.format})")
    return 0
