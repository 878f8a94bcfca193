"""What a step was made of whose figures are not finite, kept by a training for ``maskrcnn debug-batch``.

A batch is a function of (seed, step, rank), so it is made once more to be kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from maskrcnn.engine.checkpoint import Checkpoint, load, save
from maskrcnn.errors import CheckpointError, UserError, few
from maskrcnn.files import save_tensors
from maskrcnn.recipe import Recipe, parse_recipe
from maskrcnn.run.setup import drawn_masks
from maskrcnn.run.training import EVIDENCE, TrainingRun
from maskrcnn.structures import Batch, ImageInfo, Targets
from maskrcnn.structures.masks import InstanceMasks
from maskrcnn.structures.samples import pack_masks
from maskrcnn.weights.safe_load import safe_load

_FORMAT = "maskrcnn-batch"
#: The checkpoint beside the batches.
STATE = "state.pt"


@EVIDENCE.register("batch")
def keep(run: TrainingRun, state: Checkpoint, what: list[str]) -> str:
    """Keep batch and weights of the step after ``state``; called on all ranks, each keeps its own batch.

    Returns:
        where they are, or why they are not, as a phrase.
    """
    folder = run.folder.path / "nonfinite" / f"step_{state.step + 1:08d}"
    weights = run.step.strategy.model_state()
    later = run.step.deferred and run.step.max_skipped > 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        batches = [_plain(batch) for batch in run.batches(state.step, 1)]
        content = {
            "format": _FORMAT,
            "what": what,
            "step": state.step,
            "rank": run.ranks.rank,
            "later": later,
            "batches": batches,
            "class_weights": run.model.roi.class_weights,
        }
        save_tensors(folder / f"batch_rank_{run.ranks.rank}.pt", content)
        if run.ranks.is_main:
            save(replace(state, more={}).with_states({"model": weights}), folder / STATE)
    except (OSError, UserError) as error:
        return f"what it was made of could not be kept ({error})"
    return f"what it was made of is kept: maskrcnn debug-batch {folder}"


def _plain(batch: Batch) -> dict[str, Any]:
    """A batch as tensors and plain containers."""
    targets = None
    if batch.targets is not None:
        targets = [
            {
                "boxes": t.boxes,
                "labels": t.labels,
                "annotation_ids": t.annotation_ids,
                "keypoints": t.keypoints,
                "masks": None if t.masks is None else t.masks.plain(),
            }
            for t in batch.targets
        ]
    return {
        "images": [image.contiguous() for image in batch.images],
        "infos": [{f.name: getattr(info, f.name) for f in fields(ImageInfo)} for info in batch.infos],
        "targets": targets,
        "proposals": batch.proposals,
        "seeds": batch.seeds,
    }


def _batch(plain: Mapping[str, Any], drawn: bool | None) -> Batch:
    """The batch of :func:`_plain`."""
    targets = None
    if plain["targets"] is not None:
        targets = [
            Targets(**{**t, "masks": None if t["masks"] is None else InstanceMasks.of_plain(t["masks"])})
            for t in plain["targets"]
        ]
        if drawn is not None and targets:
            targets = pack_masks(targets, drawn)
    infos = [ImageInfo(**info) for info in plain["infos"]]
    return Batch(plain["images"], infos, targets, plain["proposals"], plain["seeds"])


@dataclass(frozen=True)
class Kept:
    """What one rank kept: its batches (one a pass), in the step after ``step`` whole ones."""

    what: Sequence[str]
    step: int
    rank: int
    later: bool
    batches: Sequence[Batch]
    class_weights: Tensor | None


def read_kept(folder: Path) -> tuple[Recipe, Checkpoint, list[Kept]]:
    """What :func:`keep` wrote, of all ranks whose files are there.

    Raises:
        UserError: there is none, or it is damaged.
    """
    files = sorted(folder.glob("batch_rank_*.pt"))
    if not files or not (folder / STATE).exists():
        within = sorted(path.name for path in (folder / "nonfinite").glob("step_*"))
        advice = f"; name one of {few(folder / 'nonfinite' / name for name in within)}" if within else ""
        raise UserError(
            f"{folder}: holds no batch that a training kept (batch_rank_0.pt and {STATE}; they lie in"
            f" nonfinite/step_... of a run's folder){advice}"
        )
    state = load(folder / STATE)
    recipe = parse_recipe(state.config, f"the config in {folder / STATE}")
    found = []
    for file in files:
        content = _content(file)
        try:
            batches = [_batch(plain, drawn_masks(recipe)) for plain in content.pop("batches")]
            found.append(Kept(batches=batches, **content))
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{file}: damaged ({error!r}); there is no other copy of it") from None
    return recipe, state, found


def _content(file: Path) -> dict[str, Any]:
    """
    Raises:
        CheckpointError: not a batch's file.
    """
    content = safe_load(file)
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        raise CheckpointError(f"{file}: not a batch that a training kept")
    return content
