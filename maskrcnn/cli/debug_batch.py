"""``maskrcnn debug-batch``: what made a step of a training not finite."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = (
    "pass the batch of a training step whose losses or gradient were not finite once more, and say what of"
    " its images, targets, weights, losses and layers is not; draws the images with their targets"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="nonfinite/step_... in a run's folder, as the training named it",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where pictures go; default: pictures in FOLDER"
    )
    parser.add_argument("--no-pictures", action="store_true", help="draw nothing")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")


def run(args: argparse.Namespace) -> int:
    """Tell; exit status 1 where something is not finite this time too.

    Raises:
        UserError: it is no such folder, or something in it cannot be read.
    """
    from maskrcnn.run.debug_batch import debug_batch

    pictures = None if args.no_pictures else args.out or args.folder / "pictures"
    bad = debug_batch(args.folder, pictures, args.device, print)
    if pictures is not None:
        print(f"images with their targets: {pictures}")
    return int(bad)
