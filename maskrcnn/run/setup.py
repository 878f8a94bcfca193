"""From a recipe to the objects that training and evaluation work on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from maskrcnn.config.registry import Named, did_you_mean
from maskrcnn.data.doctor import tell_doubts
from maskrcnn.data.file_names import shown
from maskrcnn.data.interfaces import TILINGS, Dataset, Transform, as_transform
from maskrcnn.data.loader import BatchLoader, eval_loader, train_loader
from maskrcnn.data.transforms.undoing import not_undoable
from maskrcnn.engine.checkpoint import Checkpoint, load, unknown, with_average
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks, read_launch
from maskrcnn.engine.faults import out_of_memory_is_told
from maskrcnn.errors import CheckpointError, ConfigError, DataError, UserError, plural
from maskrcnn.layers.ops import MOST_CUDA_LEVELS, compiled_devices, has_kernels
from maskrcnn.modeling.mask_rcnn import MaskRCNN, without_weights
from maskrcnn.modeling.roi.roi_heads import RoIHeadsConfig
from maskrcnn.recipe import Recipe, check_same_categories, parse_recipe
from maskrcnn.run.named_weights import local_file
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.ground_truth import IouType
from maskrcnn.weights.restore import restore_model

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: What the class of RoIs without an object is called.
BACKGROUND = "background"
#: How large the network sees the objects of a data set, which checkpoints tell of those trained on.
SIDES: Named[Callable[[Dataset, Recipe], tuple[float, ...]]] = Named(
    "measure of objects", "maskrcnn.run", quartiles="fit_doubts"
)
#: More loading processes than this help nobody; the image decoder itself is fast.
_MOST_WORKERS = 8


@dataclass(frozen=True)
class Data:
    """The data sets of a training, built, of the same categories."""

    train: Dataset
    val: Dataset | None


def build_data(recipe: Recipe, ranks: Ranks) -> Data:
    """Read the data sets; one process a machine goes first, since a synthetic one writes its files.

    Raises:
        DataError: a file is wrong, or ``val`` has other categories than ``train``.
    """
    config = recipe.data

    def read() -> Data:
        train = config.build(config.train, True)
        val = None if config.val is None else config.build(config.val, False)
        if val is not None:
            check_same_categories(train.categories, val.categories, f"data.val ({val.annotation_file})")
        return Data(train, val)

    data = one_first(ranks, read)
    main_alone(ranks, lambda: _tell_doubts(recipe, data.train, data.val))
    return data


def _tell_doubts(recipe: Recipe, train: Dataset | None, val: Dataset | None) -> None:
    if recipe.train.check_data != "none":
        tell_doubts(train, val, thorough=recipe.train.check_data == "full")


def build_val(recipe: Recipe, ranks: Ranks) -> Dataset:
    """Read ``data.val`` alone, whose classes are then its own; as :func:`build_data`.

    Raises:
        DataError: a file is wrong.
        UserError: it is not set.
    """
    config = recipe.data.val
    if config is None:
        raise UserError("data.val is not set, so there is nothing to evaluate on; set it in the config")
    val = one_first(ranks, lambda: recipe.data.build(config, False))
    main_alone(ranks, lambda: _tell_doubts(recipe, None, val))
    return val


def one_first(ranks: Ranks, work: Callable[[], T]) -> T:
    """``work`` on the first process of each machine, then on the others.

    Raises:
        UserError: what ``work`` raised, on every rank, so that none waits for ever.
    """
    first = _told(ranks, work if ranks.local_rank == 0 else None)
    return work() if first is None else first[0]


def main_alone(ranks: Ranks, work: Callable[[], object]) -> None:
    """``work`` on rank 0, while the others wait.

    Raises:
        UserError: what ``work`` raised, on every rank.
    """
    _told(ranks, work if ranks.is_main else None)


def _told(ranks: Ranks, work: Callable[[], T] | None) -> tuple[T] | None:
    """What ``work`` gives, None on ranks that have none; a UserError on any of them is raised on all."""
    value: tuple[T] | None = None
    problem: UserError | None = None
    try:
        value = None if work is None else (work(),)
    except UserError as error:
        if ranks.size == 1:
            raise
        problem = error
    problem = ranks.share(next(filter(None, ranks.gather(problem)), None))
    if problem is not None:
        raise problem
    return value


def build_transforms(recipe: Recipe, *, training: bool) -> list[Transform]:
    """The recipe's transforms, and behind those of training what ``data.augment`` and the like stand for.

    Raises:
        ConfigError: one of ``data.eval_transforms`` cannot be undone, so detections would be wrong; or one
            needs a library that is missing or does not take its options.
    """
    key = "data.train_transforms" if training else "data.eval_transforms"
    transforms = recipe.data.train_transforms if training else recipe.data.eval_transforms
    for index, what in [] if training else not_undoable(transforms):
        raise ConfigError(f"{key}.{index}: {what}")
    for index, transform in enumerate(transforms):
        try:
            getattr(transform, "prepare", lambda: None)()
        except ConfigError as error:
            raise ConfigError(f"{key}.{index}.{error}") from None
    return [*map(as_transform, transforms), *(recipe.data.augmentation() if training else ())]


def train_batches(
    dataset: Dataset,
    recipe: Recipe,
    ranks: Ranks,
    steps: range,
    repeats: npt.NDArray[np.float64] | None = None,
    *,
    shared: bool = True,
) -> BatchLoader:
    """This rank's batches of a training's ``steps``.

    Args:
        repeats, shared: as :func:`maskrcnn.data.loader.train_loader` takes them; the former of the images of
            ``dataset``.
    """
    tiled = trained_on(recipe, dataset)
    if tiled is not dataset and repeats is not None:
        repeats = repeats[tiled.images]
    return train_loader(
        tiled,
        build_transforms(recipe, training=True),
        images_per_rank=images_per_pass(recipe, ranks),
        accumulate=recipe.solver.accumulate,
        start_step=steps.start,
        total_steps=steps.stop,
        seed=recipe.seed,
        rank=ranks.rank,
        world_size=ranks.size,
        workers=worker_count(recipe, ranks),
        pin_memory=ranks.device.type == "cuda",
        copy_paste=recipe.data.copy_paste,
        drawn_masks=drawn_masks(recipe),
        repeats=repeats,
        shared=shared,
    )


def trained_on(recipe: Recipe, dataset: Dataset) -> Any:
    """What a training draws from ``dataset``: its images, or with ``data.tiles`` their windows, a
    :class:`maskrcnn.data.tiles.TiledDataset`.
    """
    tiles = recipe.data.tiles
    return dataset if tiles is None else TILINGS.get("grid")(dataset, tiles)


def median_size(dataset: Dataset) -> tuple[int, int]:
    """Median height and width of its images, pixels."""
    height, width = np.median(np.asarray(dataset.sizes), axis=0).round().astype(int).tolist()
    return height, width


def eval_batches(dataset: Dataset, recipe: Recipe, ranks: Ranks, limit: int | None = None) -> BatchLoader:
    """This rank's images of ``dataset``, of the first ``limit``, as ``recipe`` evaluates them."""
    return eval_loader(
        dataset,
        build_transforms(recipe, training=False),
        batch_size=recipe.eval.batch_size,
        rank=ranks.rank,
        world_size=ranks.size,
        workers=worker_count(recipe, ranks),
        limit=limit,
    )


def place_model(recipe: Recipe, num_classes: int, device: torch.device) -> MaskRCNN:
    """The recipe's model on ``device``, in its memory format, compiled where asked.

    Raises:
        ConfigError, CheckpointError: see ``MaskRCNNConfig.build``; or it has more levels than the operators
            take on a GPU.
        UserError: it does not fit into memory.
    """
    compiled_devices()  # what is said while they are built or missed comes first, and workers share them
    check_channels(recipe)
    doubt = cuda_levels_doubt(recipe)
    if doubt and device.type == "cuda" and has_kernels("cuda"):
        raise ConfigError(doubt)
    sentence = (
        f"the model does not fit into the memory of {device}; lower its widths (as model.box_head.hidden,"
        " model.neck.out_channels), or use another device"
    )
    with out_of_memory_is_told(sentence):
        model = recipe.model.build(num_classes).to(device)
    model.preprocess.pad_sizes = recipe.data.pad_sizes
    if recipe.solver.compile:
        compile_layers(model, device, sizes=2 * len(recipe.data.pad_sizes))
    return model


def compile_layers(model: MaskRCNN, device: torch.device, sizes: int = 0) -> None:
    """Let torch.compile fuse what lies between the model's convolutions.

    Each part is compiled for itself, so that what differs from batch to batch, as the number of objects,
    compiles none anew; the heads of RoIs only where their number is fixed.

    Args:
        sizes: of padded images, how many there may be; 0: any, for which code of open sizes is made.
    """
    # torch keeps at most eight versions of a part.
    dynamic = False if 0 < sizes <= 8 else None
    parts: list[nn.Module | None] = [model.backbone, model.neck, model.rpn and model.rpn.head]
    if model.in_static_form(device):
        parts += [head for head, _ in model.roi.box_stages]
        for head in model.roi.heads.values():
            head.compile_layers()
    for part in parts:
        if part is not None:
            part.compile(dynamic=dynamic)


def check_channels(recipe: Recipe) -> None:
    """The model takes images of as many channels as the data have.

    Raises:
        ConfigError: it does not.
    """
    channels, means = recipe.data.channels, recipe.model.num_channels
    if channels != means:
        raise ConfigError(
            f"model.preprocess.mean has {plural(means, 'value')}, and data.channels is {channels}; give mean"
            " and std of each channel: `maskrcnn data statistics CONFIG` prints those of the training"
            " images"
        )


def cuda_levels_doubt(recipe: Recipe) -> str:
    """Why RoIs of this recipe cannot be pooled on a GPU; empty where they can."""
    levels = len(recipe.model.roi.levels)
    if levels <= MOST_CUDA_LEVELS:
        return ""
    return (
        f"model.roi.levels names {plural(levels, 'level')}, and on a GPU the RoI operators take at most"
        f" {MOST_CUDA_LEVELS}; name fewer, or set device: cpu"
    )


def class_weights(config: RoIHeadsConfig, dataset: Dataset, device: torch.device) -> torch.Tensor | None:
    """Factors of the classification loss: float32 [K + 1] on ``device``, background last; None: all are 1.

    Of ``balance_classes``, that of a class of n instances is proportional to ``n ** -0.5``, and their mean
    over all instances is 1, so that objects and background weigh as much as without.  A class without an
    instance keeps 1.

    Args:
        dataset: the training set.

    Raises:
        DataError: a weight names no class of ``dataset``.
    """
    if not config.class_weights and not config.balance_classes:
        return None
    names = dataset.categories.names
    weights = torch.ones(len(names) + 1, dtype=torch.float64)
    if config.balance_classes:
        truth = dataset.ground_truth()
        counts = torch.from_numpy(np.bincount(truth.labels[~truth.crowds], minlength=len(names))).double()
        mean = counts.sqrt().sum() / counts.sum()
        weights[:-1] = torch.where(counts > 0, 1 / (mean * counts.sqrt()), 1.0)
    for name, weight in config.class_weights.items():
        places = [i for i, known in enumerate(names) if known == name]
        if not places and name != BACKGROUND:
            raise DataError(
                f"model.roi.class_weights names {name!r}, and {shown(dataset.annotation_file)} has no such"
                f" class.{did_you_mean(name, (*names, BACKGROUND))}"
            )
        weights[places or -1] = weight
    return weights.float().to(device)


def drawn_masks(recipe: Recipe) -> bool | None:
    """How the loader packs masks for the mask head: as polygons or as bitmaps; None: there is no head."""
    return None if recipe.model.mask_head is None else recipe.model.mask_target == "polygon"


def keypoint_scores(recipe: Recipe) -> str:
    """What the keypoint head's scores are: probability, or logit (also where a head of one's own is mute)."""
    is_probability = getattr(recipe.model.keypoint_head, "scores", None) == "probability"
    return "probability" if is_probability else "logit"


def iou_types(recipe: Recipe) -> tuple[IouType, ...]:
    """What is compared: ``eval.iou_types``, without masks or keypoints where the model has none.

    Raises:
        UserError: nothing is left.
    """
    missing = {}
    if recipe.model.mask_head is None:
        missing["segm"] = "no mask head"
    if recipe.model.keypoint_head is None:
        missing["keypoints"] = "no keypoint head"
    kinds = tuple(k for k in recipe.eval.iou_types if k not in missing)
    if not kinds:
        asked = " and ".join(recipe.eval.iou_types)
        why = " and ".join(missing[k] for k in recipe.eval.iou_types)
        raise UserError(f"eval.iou_types asks for {asked} alone, but the model has {why}; use [bbox]")
    return kinds


def load_state(
    checkpoint: Path, recipe: Recipe | None, overrides: Sequence[str]
) -> tuple[Path, Checkpoint, Recipe]:
    """The checkpoint's file and content, and ``recipe`` or its own with ``overrides``.

    Raises:
        CheckpointError: it cannot be read, or holds no recipe where none is given.
    """
    path = local_file(checkpoint)
    state = load(path)
    if recipe is None:
        if not state.config:
            raise CheckpointError(f"{path}: holds no recipe; name the config file")
        recipe = parse_recipe(state.config, f"the config in {path}", overrides)
    return path, state, recipe


def load_model(recipe: Recipe, checkpoint: Checkpoint, source: Path, device: torch.device) -> MaskRCNN:
    """The recipe's model with a checkpoint's weights, or their average where ``eval.ema`` says so; the files
    that training started from are not needed.

    Raises:
        CheckpointError: they do not fit, there is no average, or the checkpoint does not know its classes.
    """
    if not checkpoint.category_ids:
        raise CheckpointError(f"{source}: does not say which classes it was trained for")
    for sentence in unknown(checkpoint, source):
        logger.warning("%s", sentence)
    if recipe.eval.takes_average:
        checkpoint = with_average(checkpoint, source)
    recipe = replace(recipe, model=without_weights(recipe.model))
    model = place_model(recipe, len(checkpoint.category_ids), device)
    restore_model(model, checkpoint.model, source)
    return model


def checkpoint_categories(checkpoint: Checkpoint) -> Categories:
    """The classes a checkpoint was trained for."""
    return Categories(checkpoint.category_ids, checkpoint.category_names)


def worker_count(recipe: Recipe, ranks: Ranks) -> int:
    """``data.workers``, or a choice by the machine: see :class:`maskrcnn.recipe.DataConfig`."""
    if recipe.data.workers is not None:
        return recipe.data.workers
    if ranks.device.type == "cpu":
        return 0
    here = read_launch().local_size
    return min(_MOST_WORKERS, max(1, (os.cpu_count() or 1) // here - 1))


def images_per_pass(recipe: Recipe, ranks: Ranks) -> int:
    """Images a rank sees in one forward pass.

    Raises:
        UserError: the batch cannot be dealt out evenly.
    """
    solver = recipe.solver
    parts = ranks.size * solver.accumulate
    if solver.batch_size % parts:
        raise UserError(
            f"solver.batch_size {solver.batch_size} cannot be dealt evenly to"
            f" {plural(ranks.size, 'process')} x {solver.accumulate} passes (solver.accumulate); make it a"
            f" multiple of {parts}"
        )
    return solver.batch_size // parts


def new_console(ranks: Ranks) -> Console:
    """A console that prints on rank 0 and names the rank in the warnings of others."""
    return Console(quiet=not ranks.is_main, prefix="" if ranks.is_main else f"rank {ranks.rank}: ")
