"""A training that an earlier commit began goes on with this code, and ends as it would have ended there.

    python benchmarks/faults/before.py [--commit HEAD~1] [--out DIR] [--set KEY=VALUE]

Checks that commit out into a folder of its own, trains with it to the end, and once more until a signal stops
it half way; this checkout goes on from there.  The losses of all steps are compared, and every number of the
last checkpoint.  Exit status 0: equal to the bit.  1: losses within 1e-5 of each other.  2: not even that.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.faults.kills import CONFIG, ROOT, Start, differences
from maskrcnn.engine.checkpoint import Checkpoint, load

#: Options that any commit knows.
KNOWN = ("solver.accumulate=2", "data.copy_paste={max_instances: 5}", "solver.steps=24", "data.workers=2")


def of_before(earlier: Checkpoint, later: Checkpoint) -> tuple[Checkpoint, list[str]]:
    """``later`` without what ``earlier`` has no word for, and the names of that."""
    plain = [field.name for field in dataclasses.fields(Checkpoint) if field.name != "more"]
    added = [name for name in plain if not getattr(earlier, name) and getattr(later, name)]
    further = [name for name in later.more if name not in earlier.more]
    more = {name: part for name, part in later.more.items() if name not in further}
    same = {name: getattr(earlier, name) for name in added}
    return dataclasses.replace(later, more=more, **same), [*added, *further]


def losses(run: Path) -> dict[int, float]:
    """Step -> loss."""
    records = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", default="HEAD~1")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="default: a folder that goes afterwards")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out, earlier = args.out or Path(folder), Path(folder) / "earlier"
        config = Path(folder) / "harmed.yaml"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(earlier), args.commit], check=True)
        try:
            config.write_text(CONFIG.replace(str(ROOT), str(earlier)))
            changes = [*KNOWN, *args.changes]
            Start(config, out / "there", changes, 1, earlier).wait()
            half = Start(config, out / "goes_on", changes, 1, earlier)
            while half.steps < load(out / "there" / "checkpoints" / "last.pt").step // 2:
                if half.process.poll() is not None:
                    raise RuntimeError("".join(half.complaints[-20:]))
                time.sleep(0.01)
            half.process.send_signal(signal.SIGINT)
            half.process.wait()
            Start(config, out / "goes_on", changes, 1).wait()
        finally:
            subprocess.run([*git, "remove", "--force", str(earlier)], check=True)
        there, here = losses(out / "there"), losses(out / "goes_on")
        worst = max(abs(here[step] - loss) / max(abs(loss), 1.0) for step, loss in there.items())
        last = [load(out / name / "checkpoints" / "last.pt") for name in ("there", "goes_on")]
        common, added = of_before(*last)
        found = differences(last[0], common)
    same = "equal to the bit" if not found else f"{len(found)} differ: {', '.join(found[:5])}"
    since = f" (it also holds {', '.join(added)})" if added else ""
    print(f"{len(there)} steps, losses differ by at most {worst:.1e}; last checkpoint: {same}{since}")
    return 0 if not found else 1 if worst <= 1e-5 else 2


if __name__ == "__main__":
    sys.exit(main())
