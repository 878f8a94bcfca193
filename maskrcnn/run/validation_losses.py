"""What a model's losses are on images that it does not train on: always the same ones, sampled in the same
way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from maskrcnn.data import Dataset
from maskrcnn.data.loader import eval_loader
from maskrcnn.data.workers import StalledError
from maskrcnn.engine.distributed import Ranks
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.modeling.precision import autocast
from maskrcnn.recipe import Recipe
from maskrcnn.run.evaluation import BrokenOff
from maskrcnn.run.setup import build_transforms, drawn_masks, trained_on, worker_count
from maskrcnn.structures.seeds import derive_seed


def chosen_places(images: int, wanted: int) -> list[int]:
    """Which of so many images: a random draw, the same in every run, rising; all where there are no more."""
    generator = torch.Generator().manual_seed(derive_seed("validation losses"))
    return sorted(torch.randperm(images, generator=generator)[:wanted].tolist())


@torch.no_grad()
def validation_losses(
    model: MaskRCNN, val: Dataset, recipe: Recipe, ranks: Ranks, stopping: Callable[[], bool]
) -> dict[str, float]:
    """The mean losses over ``eval.losses`` images of ``val`` (with ``data.tiles`` of their windows that hold
    objects): ``val/loss`` of all, ``val/loss_mask`` and so on.

    Anchors and RoIs are sampled as in training, by seeds of the images; nothing is augmented or dropped out,
    and normalisation takes the statistics that it has.  The model is left in evaluation mode, and all else as
    it was, torch's generators too.  Of one image a pass (``eval.batch_size``) the figures are the same over
    any number of ranks.

    Returns:
        on rank 0; empty on the others, and where no image can be read.

    Raises:
        BrokenOff: ``stopping`` said so on some rank; on every rank.
    """
    val = trained_on(recipe, val)
    loader = eval_loader(
        val,
        build_transforms(recipe, training=False),
        batch_size=recipe.eval.batch_size,
        rank=ranks.rank,
        world_size=ranks.size,
        workers=worker_count(recipe, ranks),
        places=chosen_places(len(val), recipe.eval.losses),
        drawn_masks=drawn_masks(recipe),
    )
    loader.stopping = stopping
    model.eval()
    made: list[tuple[int, Mapping[str, Tensor]]] = []  # images of a pass, and their losses
    whole = False
    devices = [ranks.device] if ranks.device.type == "cuda" else []
    with suppress(StalledError), torch.random.fork_rng(devices):
        for batch in loader:
            if stopping():
                break
            torch.manual_seed(derive_seed("validation", batch.infos[0].image_id))  # for heads that draw
            batch = batch.to(ranks.device)
            given = {} if batch.proposals is None else {"proposals": batch.proposals}
            with autocast(ranks.device, recipe.solver.precision):
                losses = model(batch.images, batch.targets, batch.seeds, **given)
            assert isinstance(losses, Mapping)
            made.append((len(batch), losses))
        else:
            whole = True
    mine = [(count, {name: float(value) for name, value in losses.items()}) for count, losses in made]
    parts = ranks.gather((whole, mine))
    if ranks.share(not all(whole for whole, _ in parts)):
        raise BrokenOff
    every = [one for _, own in parts for one in own]
    images = sum(count for count, _ in every)
    names = dict.fromkeys(name for _, losses in every for name in losses)
    means = {name: math.fsum(count * losses[name] for count, losses in every) / images for name in names}
    if not means:
        return {}
    return {"val/loss": math.fsum(means.values()), **{f"val/{name}": mean for name, mean in means.items()}}
