"""How long a checkpoint holds a training: written at once, and in the background.

    python benchmarks/checkpoints.py [--repeats 7] [--config CONFIG] [--device cpu]

The state is a model's with SGD's momenta, both as a training gives them to ``engine.saving.Saving``. Told are
medians of interleaved repeats: a bare copy of the state's tensors to the host, the write at once (with its
sync), what the call takes in the background, and how the write then holds a loop of small operations beside
it, which is what a training's host does. Held is the time in which the loop's thread neither computes nor
waits for a core (by Linux's count of both): it waits for Python's lock, say. Slowed is what its rounds take
of a core more than without a write. What it waits for a core, beside the write and without, is told besides:
that is other processes' doing, and the writer's where no core is free.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from maskrcnn.engine.background import tensors_in
from maskrcnn.engine.checkpoint import Checkpoint, Part
from maskrcnn.engine.checkpoint_folder import CheckpointFolder
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.saving import Saving
from maskrcnn.modeling.mask_rcnn import without_weights
from maskrcnn.recipe import load_recipe

CLASSES = 80


class Loop(NamedTuple):
    """Seconds of a loop: by the clock, on a core, and waiting for one; and how many rounds it made."""

    wall: float
    cpu: float
    waited: float
    rounds: int

    @property
    def held(self) -> float:
        return max(self.wall - self.cpu - self.waited, 0.0)


def thread_seconds() -> tuple[float, float]:
    """On a core, and waiting for one, of this thread; the second is 0 where the system does not count it."""
    try:
        cpu, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    except OSError:
        return time.thread_time(), 0.0
    return int(cpu) / 1e9, int(waited) / 1e9


def small_operations(seconds: float | None, saving: Saving) -> Loop:
    """A loop of small operations for ``seconds``; None: until nothing is written."""
    x, rounds, began, before = torch.randn(64, 64), 0, time.perf_counter(), thread_seconds()
    while saving._pending is not None if seconds is None else time.perf_counter() - began < seconds:
        for _ in range(20):
            x = torch.tanh(x @ x)
        rounds += 1
        saving.settle(wait=False)
    wall, after = time.perf_counter() - began, thread_seconds()
    return Loop(wall, after[0] - before[0], after[1] - before[1], rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--config", default="configs/coco/mask_rcnn_r50_fpn_1x.yaml")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    recipe = load_recipe(options.config)
    model = without_weights(recipe.model).build(CLASSES).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    owners = {"model": model, "optimizer": optimizer}
    parts = {name: Part(owner.state_dict, print) for name, owner in owners.items()}  # type: ignore[attr-defined]
    tensors = tensors_in([model.state_dict(), optimizer.state_dict()])
    megabytes = sum(t.nbytes for t in tensors) / 1e6
    print(f"{options.config}: {megabytes:.0f} MB in {len(tensors)} tensors on {device}", flush=True)
    ranks = Ranks(0, 1, 0, device)
    names = ("copy", "at once", "call in the background", "loop held", "loop slowed", "call, held and slowed")
    names += ("waited for a core", "the same without", "write in the background")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as place:
        savings = [
            Saving(
                ranks,
                parts,
                CheckpointFolder(Path(place) / str(background)),
                console=Console(),
                background=background,
            )
            for background in (False, True)
        ]
        for step in range(1, options.repeats + 2):
            state, now = Checkpoint(model={}, step=step), time.perf_counter
            began = now()
            copies = [t.detach().to("cpu", copy=True) for t in tensors]
            times = [now() - began]
            del copies
            began = now()
            savings[0].save(state)
            times.append(now() - began)
            began = now()
            savings[1].save(state)
            times.append(now() - began)
            beside = small_operations(None, savings[1])
            alone = small_operations(beside.wall, savings[1])
            slowed = beside.cpu - beside.rounds * alone.cpu / max(alone.rounds, 1)
            times += [beside.held, slowed, times[2] + beside.held + slowed]
            times += [beside.waited, alone.waited, beside.wall]
            if step > 1:  # the first one finds its memory
                for name, value in zip(names, times, strict=True):
                    seconds[name].append(value)
    copy = statistics.median(seconds["copy"])
    for name in names:
        middle = statistics.median(seconds[name])
        print(f"{name:24} {middle * 1e3:8.1f} ms {middle / copy:6.2f} x the copy")


if __name__ == "__main__":
    main()
