"""Whether the machine holds what the recipe asks for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import numpy as np
import torch

from maskrcnn.data import Dataset, Transform, apply_transforms
from maskrcnn.engine.distributed import Ranks, read_launch
from maskrcnn.errors import UserError, plural
from maskrcnn.run import setup
from maskrcnn.run.preflight import CHECKS, Start
from maskrcnn.run.room import in_words

#: Packages of trackers that are extras of ours.
_EXTRAS = ("wandb", "mlflow")
#: Loading processes a core, beyond which a machine only gets slower; and how many are always possible.
_WORKERS_PER_CORE, _ALWAYS_WORKERS = 4, 32


@CHECKS.register("trackers")
def check_trackers(start: Start) -> Iterator[UserError]:
    """What ``train.trackers`` need is installed; rank 0 has them."""
    for place, config in enumerate(start.recipe.train.trackers if start.ranks.is_main else ()):
        package = config.package
        if package and find_spec(package) is None:
            extra = package if package in _EXTRAS else ""
            yield UserError(
                f"train.trackers.{place} needs the Python package {package!r}, which is not installed: pip"
                f" install {f'maskrcnn[{extra}]' if extra else package}, or drop it from train.trackers"
            )


@CHECKS.register("workers")
def check_workers(start: Start) -> None:
    """All loading processes of this machine's ranks together are not more than it can bear.

    Raises:
        UserError: they are.
    """
    wanted = start.recipe.data.workers
    if wanted is None:
        return
    cores = os.cpu_count() or 1
    here = _ranks_here(start.ranks)
    most = max(_ALWAYS_WORKERS, _WORKERS_PER_CORE * cores)
    if wanted * here > most:
        raise UserError(
            f"data.workers is {wanted}, which with {plural(here, 'training process')} makes {wanted * here}"
            f" that load images, and this machine has {plural(cores, 'core')}; set it to at most"
            f" {most // here}, or null"
        )


@CHECKS.register("batch")
def check_batch(start: Start) -> None:
    """The images of one forward pass fit into the memory, even before the network makes anything of them.

    Judged by the first image that can be read, at its size after the transforms.

    Raises:
        UserError: they do not.
    """
    recipe, dataset, ranks, training = start.recipe, start.dataset, start.ranks, start.training
    size = _network_size(setup.trained_on(recipe, dataset), setup.build_transforms(recipe, training=training))
    if size is None:
        return
    key = "solver" if training else "eval"
    asked = recipe.solver.batch_size if training else recipe.eval.batch_size
    count = setup.images_per_pass(recipe, ranks) if training else min(asked, len(dataset))
    cuda = ranks.device.type == "cuda"
    memory = torch.cuda.get_device_properties(ranks.device).total_memory if cuda else _memory(ranks)
    need = count * recipe.model.num_channels * size[0] * size[1] * 4  # float32, as the network takes them
    if memory and need > memory:
        more = " or raise solver.accumulate" if training else ""
        raise UserError(
            f"{key}.batch_size is {asked}, and the {plural(count, 'image')} of a pass at {size[1]} x"
            f" {size[0]} pixels take {in_words(need)} by themselves, of the {in_words(memory)} of memory;"
            f" lower it{more}"
        )


def _network_size(dataset: Dataset, transforms: Sequence[Transform]) -> tuple[int, int] | None:
    """(height, width) after the transforms; None where no image can be read."""
    for index in range(min(len(dataset), 5)):
        try:
            return apply_transforms(transforms, dataset.load(index), np.random.default_rng(0)).size
        except UserError:
            continue
    return None


def _memory(ranks: Ranks) -> int:
    """Bytes of this machine for each of its ranks; 0 where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _ranks_here(ranks)
    except (ValueError, OSError, AttributeError):
        return 0


def _ranks_here(ranks: Ranks) -> int:
    return read_launch().local_size if ranks.size > 1 else 1
