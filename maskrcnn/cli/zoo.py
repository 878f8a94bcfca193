"""``maskrcnn zoo``: the recipes that come with the package."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

HELP = "list the recipes that come with the package: expected AP and its source, parameters, FLOPs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("words", metavar="WORD", nargs="*", help="only recipes whose name holds every WORD")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a JSON list")
    form.add_argument("--markdown", action="store_true", help="as the page docs/zoo.md")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from maskrcnn.config.shipped import shipped_configs
    from maskrcnn.errors import UserError
    from maskrcnn.run import zoo

    rows = zoo.entries(args.words)
    if not rows:
        raise UserError(f"no recipe's name holds {' and '.join(args.words)}; see maskrcnn zoo")
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    elif args.markdown:
        print(zoo.markdown(rows))
    else:
        print(f"{zoo.text(rows)}\nThe names work wherever a config is asked for.")
        print(f"The configs lie in {shipped_configs()}")
    return 0
