"""A model of one weight, and a trainer of it: steps that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.engine.checkpoint import Checkpoint, load_parts
from maskrcnn.engine.checkpoint_folder import CheckpointFolder
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.saving import Saving
from maskrcnn.engine.step import Step
from maskrcnn.engine.strategy import choose_strategy
from maskrcnn.engine.trainer import LoopPlan, Trainer
from maskrcnn.structures import Batch, ImageInfo

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, 0, CPU)


class Line(nn.Module):
    """loss_a = mean (w - image)^2 over images, loss_b = 0.1 * mean image; plus noise from the generator."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))
        self.noise = noise
        self.dtypes: list[torch.dtype] = []

    def forward(self, images: list[Tensor], targets: Any, generator: torch.Generator) -> dict[str, Tensor]:
        assert self.training
        values = torch.stack([image.float().mean() for image in images])
        values = values + self.noise * torch.rand(len(values), generator=generator)
        self.dtypes.append((self.w.view(1, 1) @ values.view(1, -1)).dtype)
        return {"loss_a": ((self.w - values) ** 2).mean(), "loss_b": 0.1 * values.mean()}


def batch(step: int, size: int = 2) -> Batch:
    values = [float(10 * step + i) / 100 for i in range(size)]
    infos = [ImageInfo(100 * step + i, f"{step}_{i}.png", 4, 4) for i in range(size)]
    return Batch([torch.full((3, 2, 2), v) for v in values], infos, [])


def batches(start: int = 0, stop: int = 100) -> Iterator[Batch]:
    return (batch(step) for step in range(start, stop))


class Lines(Console):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def make_step(model: nn.Module, ranks: Ranks = ALONE, **changes: Any) -> Step:
    """A step of ``model`` by SGD with momentum at a rate of 0.1, seed 0, float32."""
    optimizer = torch.optim.SGD(model.parameters(), lr=77.0, momentum=0.9)
    options: dict[str, Any] = {"rate": lambda step: 0.1, "seed": 0, "precision": "float32"}
    return Step(choose_strategy(ranks, model), optimizer, **options | changes)


def trainer(
    model: nn.Module,
    folder: Path | CheckpointFolder | None = None,
    *,
    ranks: Ranks = ALONE,
    console: Console | None = None,
    resume: Checkpoint | None = None,
    best_metric: str | None = None,
    guard: Callable[[], None] | None = None,
    background: bool = False,
    **changes: Any,
) -> Trainer:
    """A trainer of four steps; ``changes`` are those of the step, the plan and the trainer, by name."""

    def those(*names: str) -> dict[str, Any]:
        return {name: changes.pop(name) for name in names if name in changes}

    console = console or Console(quiet=True)
    step = make_step(model, ranks, **those("rate", "precision", "accumulate", "clip_grad_norm", "deferred"))
    plan = {"total_steps": 4} | those(
        "total_steps", "log_every", "checkpoint_every", "eval_every", "patience"
    )
    parts = step.parts()
    if resume is not None:
        load_parts(parts, resume, Path("last.pt"))
    folder = CheckpointFolder(folder, keep=9) if isinstance(folder, Path) else folder
    saving = Saving(
        *(ranks, parts, folder),
        console=console,
        weights=step.parameters,
        best_metric=best_metric,
        guard=guard,
        background=background,
    )
    begin = resume or Checkpoint(model={}, config="x: 1\n")
    return Trainer(step, saving, LoopPlan(**plan), console=console, state=begin, **changes)
