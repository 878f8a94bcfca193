"""A model's first weights: taken into it, what of other classes' is taken over by name, and what is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn.engine.checkpoint import Checkpoint, load_weights
from maskrcnn.engine.optim import REFERENCE_BATCH_SIZE, SGDConfig
from maskrcnn.errors import CheckpointError, UserError, few, plural
from maskrcnn.modeling.interfaces import CHANNEL_FITTINGS
from maskrcnn.modeling.mask_rcnn import MaskRCNN, MaskRCNNConfig, without_weights
from maskrcnn.recipe import Recipe, SolverConfig, parse_recipe
from maskrcnn.run.named_weights import FirstWeights, WeightsFacts, is_name, publisher_of
from maskrcnn.run.training import BEGINNINGS
from maskrcnn.structures.categories import Categories
from maskrcnn.viz.tables import Table
from maskrcnn.weights.restore import TakenOver, drop_head, initialize_model, take_by_class

#: Classes that the table lists.
_LISTED = 20
#: Keys of the model that no tensor shows, and that spoil weights which were trained with another value.
_UNSEEN = ("preprocess.mean", "preprocess.std", "backbone.stride_in_1x1", "roi.box_weights")
#: So many times the rate that weights are fine-tuned at, or the inverse of it, is told.
_RATE = 2.0


@BEGINNINGS.register("weights")
def start_model(model: MaskRCNN, recipe: Recipe, file: Path | None, categories: Categories) -> FirstWeights:
    """Take over ``weights``, and compare what is known of them and of the backbone's with the recipe.

    Args:
        recipe: with the names that its user wrote.
        file: that of ``recipe.weights``.
        categories: of the training data.

    Raises:
        CheckpointError: the file cannot be read or does not fit; the model is then unchanged.
    """
    start = FirstWeights(doubts=_rate_doubts(recipe))
    if recipe.weights is None or file is None:
        start.doubts += _backbone_doubts(model, recipe.model)
        return start
    name = recipe.weights.as_posix()
    checkpoint = load_weights(file)
    state = _with_heads(model, checkpoint.model, start)
    if recipe.model.num_channels != 3:
        state = CHANNEL_FITTINGS.get(recipe.model.channels_from)().fit_state(state, model)
    theirs = checkpoint.category_names
    if recipe.drop_head:
        state, _ = drop_head(state, model)
    elif theirs and theirs != categories.names and not _are_numbers(theirs):
        taken = take_by_class(model, _wider(recipe.model, model.num_classes), state, categories.names, theirs)
        start.lines += _lines(taken, name)
        state = taken.state
    try:
        fresh = initialize_model(model, state, name)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_recipe_hint(recipe.weights)}") from None
    start.fresh += [name for name in fresh if name not in start.fresh]
    start.lines.insert(0, f"weights from {name}" + (f"; fresh: {few(fresh)}" if fresh else ""))
    start.doubts += _unseen_doubts(name, checkpoint, recipe.model)
    return start


def _are_numbers(names: tuple[str, ...]) -> bool:
    """Whether `maskrcnn convert` made them up for a file that does not name its classes."""
    return all(re.fullmatch(r"class_\d+", name) for name in names)


def _wider(config: MaskRCNNConfig, classes: int) -> MaskRCNN:
    """The same model for a class more, without memory where its parts can be built so."""
    try:
        with torch.device("meta"):
            return without_weights(config).build(classes + 1)
    except (RuntimeError, NotImplementedError):  # of a plugin's part, which needs real tensors
        with torch.random.fork_rng(devices=[]):
            return without_weights(config).build(classes + 1)


def _with_heads(model: MaskRCNN, state: Mapping[str, Tensor], start: FirstWeights) -> dict[str, Tensor]:
    """``state`` with the model's own tensors for further heads (masks, keypoints) that it lacks, without
    those that the model lacks, and with fresh outputs for keypoints of another number.
    """
    own, result = model.state_dict(), dict(state)
    theirs = {_head(name) for name in state} - {""}
    ours = {_head(name) for name in own} - {""}
    if not any(name.startswith("roi.box_head") for name in state):  # of no detector, which is told later
        return result
    start.fresh += [name for name in own if _head(name) in ours - theirs]
    for head in sorted(theirs - ours):
        result = {name: value for name, value in result.items() if _head(name) != head}
    for what, heads in (
        ("begin afresh, which the weights lack", ours - theirs),
        ("are left out", theirs - ours),
    ):
        start.lines += [f"  heads that {what}: {few(sorted(heads))}"] if heads else []
    points = [n for n in own if _head(n) == "keypoint_head" and n in state and state[n].shape != own[n].shape]
    if points and all("deconv" in name for name in points):
        start.fresh += points
        start.lines.append(f"  outputs of another number of keypoints begin afresh: {few(points)}")
    return result | {name: own[name] for name in start.fresh}


def _head(name: str) -> str:
    """The head that a tensor belongs to, where a detector may also have none of its kind; else empty."""
    found = re.match(r"roi\.(?!box_heads?\.|trunk\.)(\w+)\.", name)
    return found[1] if found else ""


def _lines(taken: TakenOver, name: str) -> list[str]:
    """The table of what was taken over."""
    known = sum(theirs is not None for _, theirs in taken.classes)
    rows = [(ours, theirs or "(afresh)") for ours, theirs in taken.classes]
    if len(rows) > _LISTED:
        rows = [*rows[:_LISTED], (f"and {len(rows) - _LISTED} more", "")]
    title = (
        f"{known} of {plural(len(taken.classes), 'class')} have a namesake in the weights; the others"
        " begin afresh"
    )
    table = Table(("class", name), rows, title, left=(0, 1)).text()
    kinds = {"rows by class": taken.by_class, "whole": taken.whole, "afresh": taken.fresh}
    layers = {kind: sorted({name.rpartition(".")[0] for name in names}) for kind, names in kinds.items()}
    return [table, *(f"  output layers, {kind}: {few(names)}" for kind, names in layers.items() if names)]


def _recipe_hint(weights: Path) -> str:
    """Which recipe of ours the weights belong to."""
    facts = publisher_of(weights).facts(weights.as_posix()) if is_name(weights) else None
    if facts is None or facts.recipe is None:
        return ""
    return f" They belong to the model of base: configs/{facts.recipe}.yaml"


def _unseen_doubts(name: str, checkpoint: Checkpoint, model: MaskRCNNConfig) -> list[str]:
    """Where the recipe that the weights were trained with, as far as they hold it, has other values."""
    if not checkpoint.config:
        return []
    try:
        theirs = parse_recipe(checkpoint.config, name).model
    except UserError:  # of a plugin that is not here, or of an older version
        return []
    values = {key: (_value(theirs, key), _value(model, key)) for key in _UNSEEN}
    return _differing(name, {key: pair for key, pair in values.items() if None not in pair})


def _backbone_doubts(model: MaskRCNN, config: MaskRCNNConfig) -> list[str]:
    """The same for the backbone's weights alone."""
    facts = _backbone_facts(model, config)
    if facts is None:
        return []
    stated = {
        "preprocess.mean": facts.mean,
        "preprocess.std": facts.std,
        "backbone.stride_in_1x1": facts.stride_in_1x1,
    }
    values = {key: (value, _value(config, key)) for key, value in stated.items()}
    return _differing(facts.name, {key: pair for key, pair in values.items() if None not in pair})


def _backbone_facts(model: MaskRCNN, config: MaskRCNNConfig) -> WeightsFacts | None:
    """Of the backbone's weights; of a file, what the backbone knows of published weights of its kind."""
    weights: Path | None = getattr(config.backbone, "weights", None)
    if weights is None:
        return None
    if is_name(weights):
        return publisher_of(weights).facts(weights.as_posix())
    pixels = getattr(model.backbone, "pixels", None)
    return None if pixels is None else WeightsFacts(str(weights), *pixels)


def _differing(name: str, values: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """A sentence on the keys of which weights and recipe have different values; those of images of another
    number of channels cannot be compared.
    """
    found = {key: pair for key, pair in values.items() if not _equal(*pair) and _comparable(*pair)}
    if not found:
        return []
    what = "; ".join(
        f"model.{key} is {_show(here)}, theirs {_show(theirs)}" for key, (theirs, here) in found.items()
    )
    keys = ", ".join(f"model.{key}: {_show(theirs)}" for key, (theirs, _) in found.items())
    doubt = f"{name}: the weights were trained with other values, and these spoil them: {what}; set {keys}"
    return [doubt]


def _comparable(a: Any, b: Any) -> bool:
    return not (isinstance(a, tuple) and isinstance(b, tuple)) or len(a) == len(b)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(abs(a - b) < 1e-2) if isinstance(a, float) else bool(a == b)


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_show, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}"


def _value(model: Any, key: str) -> Any:
    for part in key.split("."):
        model = getattr(model, part, None)
    return model


def _rate_doubts(recipe: Recipe) -> list[str]:
    """Whether the learning rate is far from the one that named weights are fine-tuned at."""
    weights = recipe.weights or getattr(recipe.model.backbone, "weights", None)
    solver: SolverConfig = recipe.solver
    if weights is None or not is_name(weights) or not isinstance(solver.optimizer, SGDConfig):
        return []
    facts = publisher_of(weights).facts(weights.as_posix())
    if facts.rate is None or not solver.learning_rate:
        return []
    usual = facts.rate / REFERENCE_BATCH_SIZE * solver.batch_size
    if 1 / _RATE <= solver.learning_rate / usual <= _RATE:
        return []
    doubt = (
        f"{facts.name}: is fine-tuned at a rate of {usual:.3g} for solver.batch_size {solver.batch_size}, and"
        f" this run's is {solver.learning_rate:.3g}; set solver.optimizer.lr: {facts.rate:g} and"
        f" solver.reference_batch_size: {REFERENCE_BATCH_SIZE}"
    )
    return [doubt]
