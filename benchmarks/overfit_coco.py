"""Learn eight real COCO images by heart: segm AP50 must reach 0.8 on them within 30 minutes.

    COCO_ROOT=... python benchmarks/overfit_coco.py [--output DIR] [--set KEY=VALUE]

Trains ``configs/coco/overfit_r18_gn.yaml`` (going on with an interrupted run) and exits with status 1 where
the figure or the time is missed.  Outside the test suite because it takes many minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from maskrcnn.recipe import load_recipe
from maskrcnn.run import train

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "overfit_coco")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    recipe = load_recipe(ROOT / "configs" / "coco" / "overfit_r18_gn.yaml", args.overrides)
    start = time.monotonic()
    result = train(recipe, args.output, resume=True)
    minutes, cpu_minutes = (time.monotonic() - start) / 60, time.process_time() / 60
    figures = {key: result.metrics.get(key, 0.0) for key in ("segm/AP", "segm/AP50", "bbox/AP", "bbox/AP50")}
    times = {"minutes": round(minutes, 1), "cpu_minutes": round(cpu_minutes, 1)}
    print(json.dumps({**times, **{k: round(v, 3) for k, v in figures.items()}}))
    return 0 if figures["segm/AP50"] >= 0.8 and minutes <= 30 else 1


if __name__ == "__main__":
    sys.exit(main())
