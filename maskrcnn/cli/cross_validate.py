"""``maskrcnn cross-validate``: a config's figures over k folds of its data, with intervals."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from maskrcnn.cli.parser import add_set_argument
from maskrcnn.errors import UserError, few

HELP = "train a config once for each of k folds of data.train; its figures, with intervals over the folds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the YAML file; its data.val is not used")
    parser.add_argument("--folds", metavar="K", type=int, default=5, help="how many; default 5")
    parser.add_argument(
        "--by",
        default="image",
        metavar="WHAT",
        help="keep images together, as maskrcnn split does: folder, key:NAME or regex:PATTERN; default image",
    )
    parser.add_argument(
        "--split-seed", metavar="N", type=int, default=0, help="another one, another division (default 0)"
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="default runs/<config name>-folds; runs go to DIR/fold<k>"
    )
    parser.add_argument("--report", action="store_true", help="train nothing, report what is finished")
    parser.add_argument(
        "--nproc-per-run", metavar="N", type=int, default=1, help="train each under torchrun with N processes"
    )
    parser.add_argument(
        "--rerun-stale",
        action="store_true",
        help="set runs of other code or another config aside and train them again",
    )
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Divide, train what is missing, report; 130 or 143 after Ctrl-C or SIGTERM, 2 if a fold failed."""
    from maskrcnn.engine.interrupt import Interrupted
    from maskrcnn.run.recipe_checks import load_checked_recipe
    from maskrcnn.studies.ablation.processes import train_missing
    from maskrcnn.studies.cross_validation import plan_folds, write_folds

    if args.nproc_per_run < 1:
        raise UserError(f"--nproc-per-run must be >= 1, got {args.nproc_per_run}")
    if args.split_seed < 0:
        raise UserError("--split-seed must be at least 0")
    recipe = load_checked_recipe(args.config, args.overrides)
    folder = args.output or Path("runs") / f"{args.config.stem}-folds"
    options = {"by": args.by, "seed": args.split_seed, "processes": args.nproc_per_run}
    folds = plan_folds(recipe, folder, args.folds, **options)
    if recipe.data.val is not None:
        print("data.val is left out: each fold of data.train is judged by itself", flush=True)
    failures: dict[str, str] = {}
    if not args.report:
        try:
            failures = train_missing(
                folds.runs, folder, args.nproc_per_run, args.rerun_stale, _again(args, folder)
            )
        except Interrupted as stop:
            print(f"maskrcnn: {stop}", flush=True)
            return stop.exit_status
    if failures and not any(r.is_finished() for r in folds.runs):
        raise UserError(f"every fold failed; {next(iter(failures.values()))}")
    table = write_folds(folds, folder)
    print(f"\n{table.text()}\n\n{folder / 'folds.json'}\n{folder / 'folds.md'}", flush=True)
    if failures:
        raise UserError(f"{len(failures)} of {len(folds.runs)} folds failed: {few(failures, 10, '; ')}")
    return 0


def _again(args: argparse.Namespace, folder: Path) -> str:
    """The command that goes on."""
    words = [
        "maskrcnn",
        "cross-validate",
        str(args.config),
        "--folds",
        str(args.folds),
        "--output",
        str(folder),
    ]
    words += ["--by", args.by] if args.by != "image" else []
    words += ["--split-seed", str(args.split_seed)] if args.split_seed else []
    words += ["--nproc-per-run", str(args.nproc_per_run)] if args.nproc_per_run != 1 else []
    return shlex.join([*words, *(part for item in args.overrides for part in ("--set", item))])
