"""A checkpoint's tensors into a model: everything fits, or a sentence says what does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from maskrcnn.errors import CheckpointError


def restore_model(model: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Load ``state`` into ``model``; every name and shape must agree.

    Raises:
        CheckpointError: names the first few that do not, and what they say (wrong number of classes, or
            another architecture).  The model is then unchanged.
    """
    problems = differences(model, state)
    if problems:
        raise CheckpointError(f"{source}: does not fit this model: {_some(problems)}. {_advice(problems)}")
    model.load_state_dict(dict(state))


def initialize_model(model: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> list[str]:
    """Start ``model`` from ``state``: every name must agree; class-dependent shapes may differ.

    Output layers whose first dimension alone differs belong to another set of classes; they keep their
    fresh values.

    Returns:
        The names that kept fresh values.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape differs otherwise.
    """
    own = model.state_dict()
    fresh = [
        name
        for name, tensor in state.items()
        if name in own and tensor.shape != own[name].shape and tensor.shape[1:] == own[name].shape[1:]
    ]
    usable = {name: tensor for name, tensor in state.items() if name not in fresh}
    problems = differences(model, {**usable, **{name: own[name] for name in fresh}})
    if problems:
        raise CheckpointError(f"{source}: does not fit this model: {_some(problems)}. {_advice(problems)}")
    model.load_state_dict(usable, strict=False)
    return fresh


def differences(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """What keeps ``state`` from fitting ``model``, a phrase each: missing, unknown, other shape."""
    own = model.state_dict()
    found = [
        f"{k} is {_shape(state[k])}, here {_shape(own[k])}"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    found += [f"{k} is missing in the file" for k in own if k not in state]
    return found + [f"{k} is unknown here" for k in state if k not in own]


def _advice(problems: list[str]) -> str:
    if all(" here [" in text for text in problems):
        return (
            "The layers agree but for their sizes: the number of classes differs, or a width; use the"
            " checkpoint's own data and model, or start from it with the key 'weights'"
        )
    return (
        "It was trained with another architecture; use the config stored beside it (config.yaml of its run)"
    )


def _some(items: list[str], limit: int = 3) -> str:
    more = f", and {len(items) - limit} more" if len(items) > limit else ""
    return "; ".join(items[:limit]) + more


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
