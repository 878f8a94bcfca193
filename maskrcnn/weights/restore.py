"""A checkpoint's tensors into a model and an optimizer: everything fits, or a sentence says what does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from maskrcnn.errors import CheckpointError, few
from maskrcnn.weights.safe_load import first_line


def class_tensors(model: nn.Module) -> set[str]:
    """Names of the tensors that another set of classes starts afresh: those of the layers that parts of
    ``model`` name in their ``class_layers()``.
    """
    layers = tuple(
        f"{name}.{layer}.".removeprefix(".")
        for name, module in model.named_modules()
        if hasattr(module, "class_layers")
        for layer in module.class_layers()
    )
    return {name for name in model.state_dict() if name.startswith(layers)}


def restore_model(model: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Load ``state`` into ``model``; every name and shape must agree.

    Raises:
        CheckpointError: names the first few that do not, and what they say (wrong number of classes, or
            another architecture).  The model is then unchanged.
    """
    problems = differences(model, state)
    if problems:
        raise CheckpointError(
            f"{source}: does not fit this model: {few(problems, 3, '; ')}. {_advice(problems, model)}"
        )
    model.load_state_dict(dict(state))


def restore_optimizer(optimizer: Optimizer, state: Mapping[str, Any], source: Path | str) -> None:
    """Load ``state``, an optimizer's, into ``optimizer``: its momenta, but not its hyper-parameters.

    Weight decay and the like stay those that ``optimizer`` was built with, so that a changed recipe holds.

    Raises:
        CheckpointError: it is the state of another kind of optimizer, or of other parameters.
    """
    ours = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    try:
        for own, saved in zip(ours, state["param_groups"], strict=True):
            # A release of torch may add a setting; another optimizer has some and lacks others.
            if not own.keys() <= saved.keys() and not saved.keys() - {"params"} <= own.keys():
                raise ValueError("it is of another optimizer")
            if "name" in own and own["name"] != saved.get("name", own["name"]):
                raise ValueError(f"it has {saved['name']} where there are {own['name']} here")
        optimizer.load_state_dict(dict(state))
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{source}: its optimizer's state does not fit ({first_line(error)}); keep solver.optimizer,"
            " solver.rates and what is trained as they were, or begin a new run with weights: that file"
        ) from None
    for group, values in zip(optimizer.param_groups, ours, strict=True):
        group.update(values)


def drop_head(state: Mapping[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """``state`` without its output layers of classes, boxes, masks and the like, and their names.

    :func:`initialize_model` then starts them afresh: how to fine-tune for another set of classes.

    model: of the same parts, for any number of classes; see :func:`class_tensors`.
    """
    layers = class_tensors(model)
    head = [name for name in state if name in layers]
    return {name: tensor for name, tensor in state.items() if name not in head}, head


def initialize_model(model: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> list[str]:
    """Start ``model`` from ``state``; output layers that ``state`` lacks (see :func:`drop_head`) stay fresh.

    Returns:
        The names that kept fresh values.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape differs, as that of the output layers where
            the number of classes does.  The model is then unchanged.
    """
    own, layers = model.state_dict(), class_tensors(model)
    fresh = [name for name in own if name in layers and name not in state]
    whole = {**state, **{name: own[name] for name in fresh}}
    problems = differences(model, whole)
    others = [n for n in layers if n in state and state[n].shape != own[n].shape]
    if problems and len(others) == len(problems):
        raise CheckpointError(
            f"{source}: its output layers are for another number of classes ({few(problems, 3, '; ')});"
            " to fine-tune, start them afresh with --drop-head (drop_head: true in the recipe)"
        )
    restore_model(model, whole, source)
    return fresh


def differences(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """What keeps ``state`` from fitting ``model``, a phrase each: missing, unknown, other shape."""
    own = model.state_dict()
    found = [
        f"{k} is {list(state[k].shape)}, here {list(own[k].shape)}"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    found += [f"{k} is missing in the file" for k in own if k not in state]
    return found + [f"{k} is unknown here" for k in state if k not in own]


def _advice(problems: list[str], model: nn.Module) -> str:
    sizes = all(" here [" in text for text in problems)
    if sizes and class_tensors(model).issuperset(text.partition(" ")[0] for text in problems):
        return (
            "The number of classes differs; use the checkpoint's own data, or start a training from it with"
            " the key 'weights' and --drop-head"
        )
    if sizes:
        return (
            "The layers agree but for their sizes, so a width or the number of classes differs; use the"
            " config stored beside it (config.yaml of its run)"
        )
    return (
        "It was trained with another architecture; use the config stored beside it (config.yaml of its run)"
    )
