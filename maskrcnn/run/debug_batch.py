"""Passes the batch of a step whose figures were not finite once more, and looks at every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.engine.distributed import choose_device
from maskrcnn.errors import few, plural
from maskrcnn.modeling.precision import autocast
from maskrcnn.picture_files import write_image
from maskrcnn.recipe import Recipe
from maskrcnn.run.kept_batch import STATE, Kept, read_kept
from maskrcnn.run.setup import checkpoint_categories, load_model
from maskrcnn.structures import Batch, Targets
from maskrcnn.structures.seeds import seed_step
from maskrcnn.viz.instances import draw_detections
from maskrcnn.viz.picture_names import PictureNames
from maskrcnn.viz.tables import Table

#: Names of tensors in one sentence.
_NAMED = 5


@dataclass
class _Trace:
    """Looks at what each layer gives, in the order in which they run.

    first: the first layer whose output is not finite while its inputs are, and of how many numbers; None:
        there is none.  infected: the first whose inputs are not finite either.
    slopes: name of each parameter in the order of the way back, and whether its gradient is finite.
    """

    first: str | None = None
    infected: str | None = None
    slopes: list[tuple[str, bool]] = field(default_factory=list)

    def watch(self, model: nn.Module) -> Iterator[Any]:
        """Hooks on all layers and parameters; to be removed."""
        for name, module in model.named_modules():
            if name:  # what is inside runs, and is heard, before what holds it
                yield module.register_forward_hook(self._hook(name))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                yield parameter.register_post_accumulate_grad_hook(self._slope(name))

    def _hook(self, name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            bad = [t for t in _tensors(output) if not _finite(t)]
            if not bad or self.first is not None:
                return
            numbers = sum(int((~t.isfinite()).sum()) for t in bad)
            whole = plural(sum(t.numel() for t in bad), "number")
            told = f"{name} ({type(module).__name__}): {numbers} of {whole}"
            if all(map(_finite, _tensors(inputs))):
                self.first = told
            else:
                self.infected = self.infected or told

        return look

    def _slope(self, name: str) -> Callable[[Tensor], None]:
        def look(parameter: Tensor) -> None:
            self.slopes.append((name, parameter.grad is None or _finite(parameter.grad)))

        return look


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [t for item in value for t in _tensors(item)]


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def debug_batch(folder: Path, pictures: Path | None, device: str, tell: Callable[[str], None]) -> bool:
    """Make the step's passes once more, and tell of images, targets, weights, losses, and layers.

    Args:
        pictures: where images with their targets are drawn; None: nowhere.
        device: auto, cpu or cuda.
        tell: takes a line.

    Returns:
        whether something was not finite this time.

    Raises:
        UserError: it is no such folder, or something in it cannot be read.
    """
    recipe, state, ranks = read_kept(folder)
    names = checkpoint_categories(state).names
    place = choose_device(device)
    drawn, bad = PictureNames(), False
    for kept in ranks:
        tell(f"step {kept.step + 1}, rank {kept.rank}: {'; '.join(kept.what)}")
        if kept.later:
            tell("the weights may be some steps younger than the batch: steps are read later on a GPU")
        model = load_model(recipe, state, folder / STATE, place)
        model.roi.class_weights = None if kept.class_weights is None else kept.class_weights.to(place)
        model.train()
        spoilt = [name for name, tensor in state.model.items() if not _finite(tensor)]
        if spoilt:
            tell(f"weights that are not finite before the step: {few(spoilt, _NAMED)}")
        for number, batch in enumerate(kept.batches):
            tell(_describe(batch, names))
            for doubt in _doubts(batch, len(names)):
                tell(doubt)
            if pictures is not None:
                for image, info, targets in zip(batch.images, batch.infos, batch.targets or [], strict=True):
                    path = pictures / f"{drawn.take(info.file_name)}.png"
                    write_image(path, draw_detections(image, targets, names, show_boxes=True))
            bad |= _repeat(model, batch, recipe, kept, number, tell) or bool(spoilt)
    if not bad:
        tell(
            "nothing is other than finite this time: on another device, or with weights of another step, sums"
            f" differ; it was computed on {place} in {recipe.solver.precision}"
        )
    return bad


def _repeat(
    model: nn.Module, batch: Batch, recipe: Recipe, kept: Kept, number: int, tell: Callable[[str], None]
) -> bool:
    """One pass with what is told of it; whether something is not finite."""
    place, trace = next(model.parameters()).device, _Trace()
    hooks = list(trace.watch(model))
    moved = batch.to(place)
    given = {} if moved.proposals is None else {"proposals": moved.proposals}
    seed_step(recipe.seed, kept.step, kept.rank, number)
    try:
        with autocast(place, recipe.solver.precision):
            losses: dict[str, Tensor] = model(moved.images, moved.targets, moved.seeds, **given)
        table = ", ".join(f"{name} {float(value.detach()):.6g}" for name, value in losses.items())
        tell(f"pass {number + 1} of {len(kept.batches)}: {table}")
        bad = not all(map(_finite, losses.values()))
        if not bad:
            torch.stack([value.float() for value in losses.values()]).sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
    if trace.first or trace.infected:
        tell(f"the first layer whose output is not finite: {trace.first or trace.infected}")
    elif bad:
        tell("the output of every layer is finite, so the losses' own sums are not: look at the targets")
    wrong = [name for name, finite in trace.slopes if not finite]
    if wrong:
        tell(f"the first gradient that is not finite, on the way back: {wrong[0]} ({len(wrong)} in all)")
    overflown = bool(trace.slopes) and not wrong and _overflown(model)
    if overflown:
        tell(overflown)
    model.zero_grad(set_to_none=True)
    return bad or bool(wrong or overflown) or trace.first is not None


def _overflown(model: nn.Module) -> str:
    """What is told where every gradient is finite, and the norm of all in float32 is not; else nothing."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norms = {name: torch.linalg.vector_norm(slope.float()) for name, slope in found.items()}
    if _finite(torch.linalg.vector_norm(torch.stack(list(norms.values())))):
        return ""
    name, slope = max(found.items(), key=lambda item: float(item[1].abs().max()))
    return (
        "every loss and gradient is finite, and the sum of the gradients' squares is not: up to"
        f" {float(slope.abs().max()):.3g} in {name}; the steps before have thrown the weights far off"
    )


def _describe(batch: Batch, names: Sequence[str]) -> str:
    rows = []
    targets: Sequence[Targets | None] = batch.targets or [None] * len(batch)
    for image, info, target in zip(batch.images, batch.infos, targets, strict=True):
        values = image.float()
        sides = "" if target is None or not len(target) else _sides(target)
        labels = [] if target is None else sorted(set(target.labels.tolist()))
        rows.append(
            (
                *(str(info.image_id), info.file_name, f"{image.shape[2]} x {image.shape[1]}"),
                f"{values.min():.4g} to {values.max():.4g}, mean {values.mean():.4g}",
                *("" if target is None else str(len(target)), sides),
                few((names[label] if 0 <= label < len(names) else str(label) for label in labels), _NAMED),
            )
        )
    head = ("image", "file", "pixels", "values", "objects", "sides, px", "classes")
    return Table(head, rows, left=(1, 3, 5, 6)).text()


def _sides(target: Targets) -> str:
    sides = target.boxes[:, 2:] - target.boxes[:, :2]
    return f"{sides.min():.3g} to {sides.max():.4g}"


def _doubts(batch: Batch, classes: int) -> Iterator[str]:
    """What of images and targets is not as it should be."""
    for image, info, target in zip(batch.images, batch.infos, batch.targets or [], strict=False):
        where = f"image {info.image_id}"
        if not _finite(image.float()):
            yield f"{where}: pixels that are not finite"
        if target is None or not len(target):
            continue
        ids = target.annotation_ids
        for what, wrong in (
            ("boxes that are not finite", ~target.boxes.isfinite().all(1)),
            ("boxes with a side of 0 or less", (target.boxes[:, 2:] <= target.boxes[:, :2]).any(1)),
            ("labels that are no class", (target.labels < 0) | (target.labels >= classes)),
        ):
            if wrong.any():
                yield f"{where}: {what}: annotation {few(map(str, ids[wrong].tolist()), _NAMED)}"
