"""Arguments that several commands share."""

from __future__ import annotations

import argparse

SET_HELP = "change one value, as in --set solver.lr=0.01 or --set model.roi_op=roi_pool; may be repeated"


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``CONFIG`` (``args.config``) and ``--set`` (``args.overrides``, a list)."""
    parser.add_argument("config", metavar="CONFIG", help="the YAML file")
    add_set_argument(parser)


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--set KEY=VALUE``, collected in ``args.overrides``."""
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help=SET_HELP
    )
