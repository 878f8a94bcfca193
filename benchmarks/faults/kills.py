"""Kills a training at random moments, again and again; its end is to be that of one never disturbed.

    python benchmarks/faults/kills.py [CONFIG] [--kills 20] [--ranks 2] [--workers 2 0 1] [--out DIR]

Each start is ended by SIGKILL to all its processes at once, as the system or a power cut does: anywhere
between its first import, a step, a checkpoint being written, and the end.  Each resumption may have another
number of loading processes.  What is compared is every number of the last checkpoint: weights, optimizer,
scaler, and what else is part of the state.  Exit status 0: they are equal to the bit.  1: they are not, and
which differ is printed.

Without CONFIG a small detector is trained on generated images with every option of ``OPTIONS`` at once;
whoever adds a part to the state adds its keys there.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from maskrcnn.engine.checkpoint import Checkpoint, load
from maskrcnn.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]

#: A small detector and its data, without a solver.
SMALL = f"""\
base: {ROOT}/configs/demo.yaml
model:
  backbone: {{width: 8}}
  neck: {{out_channels: 16}}
  rpn: {{samples: 32, pre_nms_train: 100, pre_nms_test: 50, post_nms_train: 50, post_nms_test: 20}}
  roi: {{samples: 16, max_detections: 10}}
  box_head: {{hidden: 16}}
  mask_head: {{width: 16, convs: 1}}
data:
  train: {{num_images: 60, size: 64}}
  val: {{num_images: 4, size: 64}}
"""
CONFIG = f"""\
{SMALL}solver: {{steps: 60, batch_size: 4, reference_batch_size: null, optimizer: {{type: sgd, lr: 0.005}}}}
train: {{log_every: 1, checkpoint_every: 3, eval_every: 25, tensorboard: false, pictures: 0}}
device: cpu
"""
#: What a run is to have of all that could go wrong in a resumption, by name.
OPTIONS = {
    "accumulation": ["solver.accumulate=2"],
    "copy-paste": ["data.copy_paste={max_instances: 5}"],
    "multi-scale": [
        "data.train_transforms=[{type: resize_shortest_edge, min_sizes: [48, 64, 80], max_size: 96}, hflip]"
    ],
    "scaler": ["solver.precision=float16"],
    "steps left out": ["train.on_nonfinite=skip"],
    "average": ["solver.ema={decay: 0.9}"],
    "checkpoints beside the training": ["train.save_in_background=true"],
}
#: States that say how a checkpoint came about, and not what the run goes on with.
_TELLING = ("config", "versions")


def differences(a: Checkpoint, b: Checkpoint) -> list[str]:
    """Names of what is not equal to the bit."""
    found: list[str] = []
    for field in dataclasses.fields(Checkpoint):
        if field.name not in _TELLING:
            found += _unequal(getattr(a, field.name), getattr(b, field.name), field.name)
    return found


def _unequal(a: Any, b: Any, name: str) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from _unequal(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for place, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _unequal(one, other, f"{name}.{place}")
    elif not (a.equal(b) if hasattr(a, "equal") else a == b):
        yield name


def everyone(pid: int) -> list[int]:
    """A process and all that it started, in whatever groups; where the system has no such list, itself."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(p for child in children for p in everyone(int(child)))]


class Start:
    """One start of a training, whose lines are counted while it runs."""

    def __init__(
        self, config: Path, run: Path, changes: Sequence[str], ranks: int, checkout: Path = ROOT
    ) -> None:
        several = ("torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone", "-m")
        program = [sys.executable, "-m", *(several if ranks > 1 else ()), "maskrcnn"]
        settings = [word for change in changes for word in ("--set", change)]
        run.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [*program, "train", str(config), "--resume", str(run), *settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.steps = 0
        self.complaints: list[str] = []
        self._readers = [threading.Thread(target=work, daemon=True) for work in (self._count, self._listen)]
        for reader in self._readers:
            reader.start()

    def _count(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.steps += line.startswith("step ")

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.complaints += self.process.stderr

    def kill_after(self, steps: int, seconds: float) -> bool:
        """SIGKILL to all, so long after so many steps; whether it did not end before."""
        while self.steps < steps and self.process.poll() is None:
            time.sleep(0.002)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        lived = self.process.poll() is None
        if lived:
            os.kill(self.process.pid, signal.SIGSTOP)  # torchrun starts no others meanwhile
            for _ in range(2):
                for pid in everyone(self.process.pid)[::-1]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        self.process.wait()
        return lived

    def wait(self) -> None:
        """Until it ends by itself.

        Raises:
            RuntimeError: not well.
        """
        self.process.wait()
        for reader in self._readers:
            reader.join()
        if self.process.returncode:
            raise RuntimeError(f"exit status {self.process.returncode}: {''.join(self.complaints[-20:])}")


def harm(
    config: Path,
    out: Path,
    *,
    changes: Sequence[str] = (),
    kills: int = 20,
    workers: Sequence[int] = (2,),
    ranks: int = 1,
    seed: int = 0,
    tell: Any = print,
) -> list[str]:
    """Train ``config`` in ``out``/straight, and with ``kills`` kills in ``out``/killed.

    Args:
        changes: keys of the config.
        workers: loading processes of the starts, in turn.
        seed: of the moments.

    Returns:
        what is not equal at the end.
    """
    began = time.monotonic()
    straight = Start(config, out / "straight", [*changes, f"data.workers={workers[0]}"], ranks)
    while straight.steps < 1 and straight.process.poll() is None:
        time.sleep(0.01)
    before = time.monotonic() - began
    straight.wait()
    whole = load(out / "straight" / "checkpoints" / "last.pt")
    pace = (time.monotonic() - began - before) / max(whole.step, 1)
    tell(f"undisturbed: {whole.step} steps, {pace:.2f} s each, {before:.1f} s before the first")
    rng, done = random.Random(seed), 0
    most = max(2 * whole.step // (kills + 1), 1)
    while done < kills:
        changed = [*changes, f"data.workers={workers[done % len(workers)]}"]
        start = Start(config, out / "killed", changed, ranks)
        # One in five before its first step; the others between 0 and twice their share of the steps.
        early = rng.random() < 0.2
        steps = 0 if early else rng.randint(1, most)
        lived = start.kill_after(steps, rng.random() * (before if early else 2 * pace))
        if not lived:
            if start.process.returncode:
                raise RuntimeError("".join(start.complaints[-20:]))
            tell("it came to its end before the kill")
            break
        done += 1
        try:
            step = load(out / "killed" / "checkpoints" / "last.pt").step
        except CheckpointError:
            step = 0
        tell(f"kill {done}: after {start.steps} steps of this start; the checkpoint is of step {step}")
    Start(config, out / "killed", [*changes, f"data.workers={workers[done % len(workers)]}"], ranks).wait()
    found = differences(whole, load(out / "killed" / "checkpoints" / "last.pt"))
    tell(
        f"{done} kills: "
        + ("equal to the bit" if not found else f"{len(found)} differ: {', '.join(found[:5])}")
    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, nargs="?", help="default: a small detector with all options")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=1, help="processes by torchrun on this machine")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="of the starts, in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="default: a folder that goes afterwards")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or Path(folder)
        config, changes = args.config, list(args.changes)
        if config is None:
            config = Path(folder) / "harmed.yaml"
            config.write_text(CONFIG)
            changes = [change for keys in OPTIONS.values() for change in keys] + changes
        wishes = {"changes": changes, "kills": args.kills, "workers": args.workers}
        return int(bool(harm(config, out, **wishes, ranks=args.ranks, seed=args.seed)))


if __name__ == "__main__":
    sys.exit(main())
