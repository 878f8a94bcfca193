"""What a recipe alone tells: parts of the model that do not fit, and evaluations that it cannot have.

Nothing is computed, no weights are read and no operators built: the model lives on the meta device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

import torch

from maskrcnn.config import Loaded
from maskrcnn.config.nodes import Problems
from maskrcnn.engine.optim import check_patterns, freeze
from maskrcnn.errors import CheckpointError, UserError
from maskrcnn.modeling.mask_rcnn import MaskRCNN, without_weights
from maskrcnn.recipe import Recipe, load_traced_recipe
from maskrcnn.run.named_weights import is_name, publisher_of, weight_keys
from maskrcnn.run.setup import build_transforms, check_channels

#: Classes of the model that is tried; how many there are is known from the data alone.
_CLASSES = 2


def load_checked_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """:func:`maskrcnn.recipe.load_recipe`, for a training: also what does not fit is told by its place.

    Raises:
        ConfigError: as there, and as :func:`check_recipe`.
    """
    loaded = load_traced_recipe(path, overrides)
    check_recipe(loaded)  # its evaluation waits for all else that is told before the first step
    return loaded.value


def check_recipe(
    loaded: Loaded[Recipe], further: Iterable[Callable[[Recipe, MaskRCNN | None], None]] = ()
) -> list[str]:
    """Whether the model can be built; nothing is read.

    Args:
        further: checks of the recipe and its model, None where it cannot be built; each raises a UserError.

    Returns:
        Doubts, a sentence each: files of weights that are not there (now, on this machine), and a part of
        one's own that cannot be built on the meta device.

    Raises:
        ConfigError: what does not fit, a line each, by file:line:column of the first key that it names.
    """
    recipe = loaded.value
    problems = Problems()
    doubts = [
        f"{loaded.origin(key)}: {key}: there is no file {path}"
        for key, path in weight_keys(recipe)
        if not path.exists() and not is_name(path)
    ]

    try:
        build_transforms(recipe, training=True)
    except UserError as error:
        problems.add(loaded.blame(str(error)), "", str(error))
    for key, path in weight_keys(recipe):
        if is_name(path):
            try:
                publisher_of(path).facts(path.as_posix())
            except CheckpointError as error:
                problems.add(loaded.origin(key), key, str(error))
    model: MaskRCNN | None = None
    try:
        model = build_without_memory(recipe)
        check_channels(recipe)
        freeze(model, recipe.solver.freeze)
        check_patterns(model, "solver.rates", recipe.solver.rates)
    except UserError as error:
        problems.add(loaded.blame(str(error)), "", str(error))
    except Exception as error:  # of a plugin's part, which may need real tensors
        doubts.append(
            "whether the parts of the model fit shows at the start of training: built without memory, it ends"
            f" in {type(error).__name__}: {error}"
        )
    for check in further:
        try:
            check(recipe, model)
        except UserError as error:
            problems.add(loaded.blame(str(error)), "", str(error))
    problems.raise_if_any()
    return doubts


def build_without_memory(recipe: Recipe) -> MaskRCNN:
    """The recipe's model on the meta device; torch's random generator stays as it is.

    Raises:
        ConfigError: the parts do not fit.
    """
    with torch.device("meta"):
        return without_weights(recipe.model).build(_CLASSES)


def to_fetch(recipe: Recipe) -> list[str]:
    """What a training would fetch first, a sentence each with its key; nothing is fetched."""
    named = {key: path for key, path in weight_keys(recipe) if is_name(path)}
    outlooks = {key: publisher_of(path).outlook(path.as_posix()) for key, path in named.items()}
    return [f"{key}: {sentence}" for key, sentence in outlooks.items() if sentence]
