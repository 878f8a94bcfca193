"""Kills single ranks of a training under torchrun, again and again: it goes on by itself to the same bits.

    python benchmarks/faults/ranks.py [--kills 10] [--ranks 2] [--seed 0] [--set KEY=VALUE ...]

One torchrun with as many restarts as kills trains a small detector on generated images. Whenever it trains,
a rank that is drawn gets SIGKILL at a moment that is drawn; torchrun starts all ranks again, and they go on
from the last checkpoint. Told are each kill and how long it took until steps were made again. At the end
the last checkpoint is compared with that of the same training without a kill: exit status 0 where all its
numbers are equal to the bit, 1 where they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.faults.kills import SMALL
from maskrcnn.engine.checkpoint import load

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"""\
{SMALL}
solver: {{batch_size: 4, reference_batch_size: null, accumulate: 2, optimizer: {{type: sgd, lr: 0.005}}}}
train: {{log_every: 1, checkpoint_every: 3, eval_every: 50, tensorboard: false, pictures: 0}}
device: cpu
"""


def ranks_of(launcher: int) -> list[int]:
    """The processes that torchrun started."""
    return [int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]


def equal(a: Any, b: Any) -> bool:
    """Whether two states are the same to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a.equal(b)) if hasattr(a, "equal") else a == b


def start(config: Path, run: Path, options: argparse.Namespace, restarts: int) -> subprocess.Popen[str]:
    """A training by torchrun; one line of its output says each step."""
    changes = [word for change in options.set for word in ("--set", change)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.ranks)]
    command = [*launcher, "--max-restarts", str(restarts), "-m", "maskrcnn", "train", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command, "--resume", "--output", str(run), *changes],
        stdout=subprocess.PIPE,
        stderr=(run.parent / f"{run.name}.err").open("w"),
        text=True,
        env=environment,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    options.set = [f"solver.steps={30 * (options.kills + 1)}", *options.set]
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        config = Path(place) / "config.yaml"
        config.write_text(CONFIG)
        states = []
        for name, kills in (("straight", 0), ("killed", options.kills)):
            run, left, killed, again = Path(place) / name, kills, 0.0, False
            began = time.monotonic()
            process = start(config, run, options, kills)
            assert process.stdout is not None
            wait = draw.randint(1, 25)
            for line in process.stdout:
                made = re.match(r"step (\d+)/", line)
                again = again or line.startswith("going on after step")
                if made and killed and again:
                    print(f"  going on after {time.monotonic() - killed:.0f} s", flush=True)
                    killed = 0.0
                wait -= bool(made)
                if made and left and wait <= 0 and not killed:
                    time.sleep(draw.uniform(0.0, 0.3))  # anywhere in a step, or in a checkpoint's writing
                    first = json.loads((run / "run.lock").read_text())["pid"]
                    victim = draw.choice(sorted(ranks_of(process.pid)))
                    os.kill(victim, signal.SIGKILL)
                    left, wait, killed = left - 1, draw.randint(1, 25), time.monotonic()
                    again = False
                    who = "rank 0" if victim == first else "another rank"
                    print(f"{who} killed after step {made[1]}, {left} kills to come", flush=True)
            if process.wait() != 0 or left:
                error = (Path(place) / f"{name}.err").read_text()
                print(f"{error}\nthe training ended early, with status {process.returncode}")
                return 1
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
            states.append(load(run / "checkpoints" / "last.pt"))
    names = [n for n in states[0].states if not equal(states[0].states[n], states[1].states.get(n))]
    print(f"different: {', '.join(names)}" if names else f"equal to the bit after {options.kills} kills")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
