"""What a recipe alone tells: parts of the model that do not fit, and evaluations that it cannot have.

Nothing is computed, no weights are read and no operators built: the model lives on the meta device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from maskrcnn.config import Loaded
from maskrcnn.config.nodes import Problems, join
from maskrcnn.engine.best import check_metric, metric_names
from maskrcnn.errors import UserError
from maskrcnn.evaluation.keypoints import choose_sigmas
from maskrcnn.modeling.mask_rcnn import MaskRCNN, without_weights
from maskrcnn.recipe import Recipe, load_traced_recipe
from maskrcnn.run import setup

#: Classes of the model that is tried; how many there are is known from the data alone.
_CLASSES = 2


def load_checked_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """:func:`maskrcnn.recipe.load_recipe`, for a training: also what does not fit is told by its place.

    Raises:
        ConfigError: as there, and as :func:`check_recipe`.
    """
    loaded = load_traced_recipe(path, overrides)
    check_recipe(loaded)
    return loaded.value


def check_recipe(loaded: Loaded[Recipe]) -> list[str]:
    """Whether the model can be built and its evaluation be had, before anything is read or made.

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
        for key, path in _weights(recipe.model, "model") + _own(recipe, "")
        if not path.exists()
    ]

    def told(check: Callable[[], object]) -> None:
        try:
            check()
        except UserError as error:
            problems.add(loaded.blame(str(error)), "", str(error))
        except Exception as error:
            doubts.append(
                f"whether the parts of the model fit shows at the start of training: built without memory, it"
                f" ends in {type(error).__name__}: {error}"
            )

    told(lambda: _check_keypoints(recipe, build_without_memory(recipe)))
    if recipe.data.val is not None:
        told(lambda: _check_metrics(recipe))
    problems.raise_if_any()
    return doubts


def build_without_memory(recipe: Recipe) -> MaskRCNN:
    """The recipe's model on the meta device; torch's random generator stays as it is.

    Raises:
        ConfigError: the parts do not fit.
    """
    with torch.device("meta"):
        return without_weights(recipe.model).build(_CLASSES)


def _check_keypoints(recipe: Recipe, model: MaskRCNN) -> None:
    head = model.roi.keypoint_head
    if head is not None and recipe.data.val is not None and "keypoints" in recipe.eval.iou_types:
        choose_sigmas(recipe.eval.sigmas, head.num_keypoints)


def _check_metrics(recipe: Recipe) -> None:
    kinds = setup.iou_types(recipe)
    check_metric(recipe.eval.best_metric, metric_names(kinds, recipe.model.roi.max_detections))


def _weights(part: Any, path: str) -> list[tuple[str, Path]]:
    """The files of weights that a part and those in it name, by key path."""
    found = _own(part, path)
    for item in fields(part):
        value = getattr(part, item.name)
        inside = value if isinstance(value, dict) else {"": value}
        for name, inner in inside.items():
            if is_dataclass(inner):
                key = join(path, item.name)
                found += _weights(inner, join(key, name) if name else key)
    return found


def _own(part: Any, path: str) -> list[tuple[str, Path]]:
    file = getattr(part, "weights", None)
    return [(join(path, "weights"), file)] if isinstance(file, Path) else []
