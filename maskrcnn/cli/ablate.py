"""``maskrcnn ablate``: train the variants of a suite, and compare them."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from maskrcnn.cli.parser import add_set_argument
from maskrcnn.errors import UserError, few, plural

HELP = "train the variants of a suite over some seeds, and compare them with error bars"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    where = "the YAML file, or the name of one in configs/suites"
    parser.add_argument("suite", metavar="SUITE", type=Path, help=where)
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("runs/ablations"),
        help="runs go to DIR/<suite>/<variant>/seed<k>, the report to DIR/<suite>; default runs/ablations",
    )
    parser.add_argument(
        "--seeds", metavar="N", type=int, nargs="+", default=[], help="instead of the suite's"
    )
    parser.add_argument("--only", metavar="LABEL", nargs="+", default=[], help="these variants alone")
    parser.add_argument("--full", action="store_true", help="every variant, not the core ones alone")
    parser.add_argument("--report", action="store_true", help="train nothing, report what is finished")
    parser.add_argument(
        "--nproc-per-run",
        metavar="N",
        type=int,
        default=1,
        help="train each run under torchrun with N processes",
    )
    parser.add_argument(
        "--rerun-stale",
        action="store_true",
        help="set runs of other code or another config aside (as seed0.stale) and train them again",
    )
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Validate, train what is missing, report; 130 or 143 after Ctrl-C or SIGTERM, 2 if a run failed."""
    from maskrcnn.engine.interrupt import Interrupted
    from maskrcnn.studies.ablation.plan import check_runs, plan_runs
    from maskrcnn.studies.ablation.report import write_report
    from maskrcnn.studies.ablation.suite import find_suite, load_suite

    if args.nproc_per_run < 1:
        raise UserError(f"--nproc-per-run must be >= 1, got {args.nproc_per_run}")
    path = find_suite(args.suite)
    suite = load_suite(path)
    folder = args.output / path.stem
    variants = suite.chosen(full=args.full, only=args.only)
    runs = plan_runs(suite, folder, variants, args.seeds, args.overrides)
    data = check_runs(suite, runs, args.nproc_per_run)
    failures: dict[str, str] = {}
    if not args.report:
        from maskrcnn.studies.ablation.processes import train_missing

        try:
            failures = train_missing(runs, folder, args.nproc_per_run, args.rerun_stale, _again(args))
        except Interrupted as stop:
            print(f"maskrcnn: {stop}", flush=True)
            return stop.exit_status
    if failures and not any(r.is_finished() for r in runs):
        raise UserError(f"every run failed; {next(iter(failures.values()))}")
    report = write_report(suite, runs, data, folder, args.overrides)
    print("\n" + report.text + "\n\n" + "\n".join(str(f) for f in report.files), flush=True)
    if failures:
        raise UserError(f"{len(failures)} of {plural(len(runs), 'run')} failed: {few(failures, 10, '; ')}")
    return 0


def _again(args: argparse.Namespace) -> str:
    """The command that goes on."""
    words = ["maskrcnn", "ablate", str(args.suite), "--output", str(args.output)]
    words += ["--full"] if args.full else []
    words += ["--seeds", *map(str, args.seeds)] if args.seeds else []
    words += ["--only", *args.only] if args.only else []
    words += ["--nproc-per-run", str(args.nproc_per_run)] if args.nproc_per_run != 1 else []
    return shlex.join([*words, *(part for item in args.overrides for part in ("--set", item))])
