"""``maskrcnn status``: how far runs are, and whether a process works on them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from maskrcnn.errors import UserError

HELP = (
    "how far runs are: step, epoch, loss, best figure, rate, time left, and who trains them or why none does"
)
#: To the first place of the terminal, and forget what is on it.
_CLEAR = "\x1b[H\x1b[2J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folder, or a folder of them")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=float,
        const=5.0,
        help="show it anew every so many seconds (default 5) for as long as one of them is running",
    )
    parser.add_argument("--json", action="store_true", help="as a JSON list")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from maskrcnn.run.status import find_runs, status_of, table

    if args.watch is not None and not 0.1 <= args.watch <= 86400:
        raise UserError(f"--watch must be at least 0.1 seconds and at most a day, got {args.watch:g}")
    try:
        while True:
            found = [status_of(path) for path in find_runs(args.runs)]
            if args.watch is not None and sys.stdout.isatty():
                print(end=_CLEAR)
            print(
                json.dumps([asdict(s) for s in found], indent=1, default=str) if args.json else table(found)
            )
            if args.watch is None or not any(s.running for s in found):
                return 0
            sys.stdout.flush()
            time.sleep(args.watch)
    except KeyboardInterrupt:
        if args.watch is None:
            raise
        return 0
