"""``maskrcnn benchmark``: images a second of a config on this machine, and what holds it up."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from maskrcnn.cli.parser import add_config_arguments
from maskrcnn.errors import UserError

HELP = (
    "make some steps of a config without learning or writing anything, and say images/s, where the time goes,"
    " memory, the share of the machine's measured peak, and what to change"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_config_arguments(parser)
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="steps that are timed; default 10")
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="also write a trace of one step, FILE.json or .json.gz, for ui.perfetto.dev",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print.

    Raises:
        UserError: the config, its data or the arguments are wrong.
    """
    from maskrcnn.engine.distributed import connect
    from maskrcnn.run.benchmark.measuring import benchmark
    from maskrcnn.run.recipe_checks import load_checked_recipe
    from maskrcnn.run.room import check_file

    if args.steps < 1:
        raise UserError(f"--steps must be at least 1, got {args.steps}")
    if args.profile is not None:
        if not args.profile.name.endswith((".json", ".json.gz")):
            raise UserError(f"--profile {args.profile}: name a file that ends in .json or .json.gz")
        check_file(args.profile, "--profile")
    recipe = load_checked_recipe(args.config, args.overrides)
    ranks = connect(recipe.device)

    def tell(line: str) -> None:
        if ranks.is_main:
            print(line, file=sys.stderr, flush=True)

    found = benchmark(recipe, ranks, steps=args.steps, profile=args.profile, tell=tell)
    if ranks.is_main:
        print(json.dumps(found.as_json()) if args.json else "\n".join(found.lines()))
    return 0
