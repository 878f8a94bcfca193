"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

SET_HELP = (
    "change one value, as in --set solver.optimizer.lr=0.01 or --set model.roi_op=roi_pool; may be repeated"
)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``CONFIG`` (``args.config``) and ``--set`` (``args.overrides``, a list)."""
    parser.add_argument("config", metavar="CONFIG", help="the YAML file")
    add_set_argument(parser)


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint`` (``args.checkpoint``, a path), which must be given."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="C",
        help="a checkpoint file, a run folder (its best), or published weights (maskrcnn weights list)",
    )


def add_trained_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint``, and ``CONFIG`` (``args.config``, or None) in place of the config kept in it."""
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        help="the YAML file; default: the config kept in the checkpoint",
    )
    add_checkpoint_argument(parser)


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--set KEY=VALUE``, collected in ``args.overrides``."""
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help=SET_HELP
    )


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``DATA`` (``args.data``) and ``--images``; :mod:`maskrcnn.run.data_argument` reads them."""
    what = "a folder with a data.yaml, that file, a COCO json, or a config"
    parser.add_argument("data", type=Path, metavar="DATA", help=what)
    parser.add_argument("--images", type=Path, metavar="DIR", help="the images of a COCO json")
