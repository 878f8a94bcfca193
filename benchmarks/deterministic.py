"""What ``solver.deterministic: true`` costs: steps with and without it, in turn.

    python benchmarks/deterministic.py [CONFIG] [--set KEY=VALUE] [--steps 2] [--pairs 5]

``maskrcnn benchmark`` is started for the one and the other, so that each process has its own settings (they
are the process's, and cannot be taken back).  Printed are the seconds of a step of each, and the median of
the ratios of neighbouring starts, which a machine that is busy with other things sways the least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def seconds(config: str, changes: list[str], steps: int) -> float:
    """Of a step, without its wait for images."""
    settings = [word for change in changes for word in ("--set", change)]
    command = [
        sys.executable,
        "-m",
        "maskrcnn",
        "benchmark",
        config,
        "--steps",
        str(steps),
        "--json",
        *settings,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout)
    return float(found["seconds"]) - float(found["parts"]["data"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", default="zoo/demo")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    ratios = []
    for pair in range(args.pairs):
        order = (False, True) if pair % 2 == 0 else (True, False)
        times = {
            way: seconds(args.config, [*args.changes, f"solver.deterministic={str(way).lower()}"], args.steps)
            for way in order
        }
        ratios.append(times[True] / times[False])
        print(f"{times[False]:.3f} s a step without, {times[True]:.3f} s with: {ratios[-1]:.3f}", flush=True)
    low, high, middle = min(ratios), max(ratios), statistics.median(ratios)
    print(f"a step with solver.deterministic takes {middle:.3f} times as long ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
