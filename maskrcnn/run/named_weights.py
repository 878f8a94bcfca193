"""What a key of weights names: a file, a run's folder, or published weights by name, which become a file.

``weights`` and ``model.backbone.weights`` take all three, and so does ``--checkpoint``.  A name is
``PUBLISHER/NAME`` where no file of that name is; ``maskrcnn weights list`` shows them.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from maskrcnn.config.nodes import join
from maskrcnn.config.registry import Named
from maskrcnn.engine.checkpoint_folder import find_checkpoint
from maskrcnn.engine.console import logs_shown
from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.mask_rcnn import with_weights, without_weights
from maskrcnn.recipe import Recipe

logger = logging.getLogger(__name__)

#: Endings of files of weights: what has one is no name.
_FILES = (".pt", ".pth", ".pkl", ".bin", ".safetensors", ".onnx", ".npz")


@dataclass(frozen=True)
class WeightsFacts:
    """What is known of weights besides their tensors.

    name: in full.
    mean, std: of the pixels that they were trained on, R, G, B in 0..255; None: not stated.
    stride_in_1x1: as the key of the backbone; None: it makes no difference there.
    rate: of SGD for a step of 16 images, at which they are fine-tuned; None: not stated.
    recipe: of ours, for this model.
    licence: None: not stated.
    """

    name: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    stride_in_1x1: bool | None = None
    rate: float | None = None
    recipe: str | None = None
    licence: str | None = None


@dataclass
class FirstWeights:
    """What is said of a model's first weights.

    lines: of what was taken over, to be printed.
    fresh: names of the tensors that the weights gave nothing to.
    doubts: what is likely a mistake, a sentence each.
    """

    lines: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)


class Publisher(Protocol):
    """How weights that are named become a file."""

    def facts(self, name: str) -> WeightsFacts:
        """
        Raises:
            CheckpointError: no weights have that name.
        """

    def outlook(self, name: str) -> str:
        """What :meth:`local` would have to fetch, as a sentence; empty where the file is here."""

    def local(self, name: str) -> Path:
        """The file, in our names, fetched and converted where it is not here yet.

        Raises:
            CheckpointError: it cannot be had.
            OutputError: it cannot be kept.
        """


#: By the first word of a name; ``own`` are those that ``maskrcnn weights add`` added.
PUBLISHERS: Named[type[Publisher]] = Named(
    "publisher of weights",
    "maskrcnn.run",
    torchvision="published_weights",
    detectron2="published_weights",
    own="published_weights",
    timm="timm_weights",
)


def is_name(path: Path) -> bool:
    """Whether a value is a name of published weights: no file or folder is there, nor is meant."""
    return (
        len(path.parts) > 1
        and _first(path) in PUBLISHERS.names()
        and path.suffix.lower() not in _FILES
        and not path.exists()
    )


def _first(path: Path) -> str:
    return path.parts[0] if path.parts else ""


def publisher_of(path: Path) -> Publisher:
    """Who has the weights of this name."""
    return PUBLISHERS.get(path.parts[0])()


def local_file(path: Path) -> Path:
    """The file of weights that a file, a run's folder or a name stands for; what is fetched is logged.

    Raises:
        CheckpointError: there is none; it cannot be fetched, or is not what its publisher states.
        OutputError: it cannot be kept.
    """
    if is_name(path):
        with logs_shown():
            return publisher_of(path).local(path.as_posix())
    if not path.exists():
        near = difflib.get_close_matches(_first(path), PUBLISHERS.names(), n=1, cutoff=0.75)
        if near and len(path.parts) > 1:
            raise CheckpointError(
                f"{path}: no such file or folder; weights by name begin with {near[0]}/, and"
                " 'maskrcnn weights list' shows them"
            )
    elif _first(path) in PUBLISHERS.names():
        logger.warning("weights %s are read from the file or folder of that name that is here", path)
    return find_checkpoint(path)


def with_local_weights(recipe: Recipe) -> Recipe:
    """The recipe with files in place of names and folders; for building, while the recipe itself is kept.

    Where ``weights`` is set it gives every tensor, and the parts' own files are not asked for.

    Raises:
        CheckpointError, OutputError: as :func:`local_file`.
    """
    if recipe.weights is not None:
        return replace(recipe, weights=local_file(recipe.weights), model=without_weights(recipe.model))
    return replace(recipe, model=with_weights(recipe.model, local_file))


def weight_keys(recipe: Recipe) -> list[tuple[str, Path]]:
    """What a training reads weights from, by key path: the whole model's, else its parts' own."""
    if recipe.weights is not None:
        return [("weights", recipe.weights)]
    return list(_weight_keys(recipe.model, "model"))


def _weight_keys(part: Any, path: str) -> Iterator[tuple[str, Path]]:
    for item in fields(part):
        key, value = join(path, item.name), getattr(part, item.name)
        for name, inner in value.items() if isinstance(value, dict) else [("", value)]:
            at = join(key, name) if name else key
            if is_dataclass(inner):
                yield from _weight_keys(inner, at)
            elif item.name == "weights" and isinstance(inner, Path):
                yield at, inner
