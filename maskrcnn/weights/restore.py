"""A checkpoint's tensors into a model and an optimizer: everything fits, or a sentence says what does not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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
    # Fused optimizers go through the memory of a weight and of its momenta side by side, whatever their
    # strides, and those of dealt out weights are contiguous.
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            same = isinstance(value, Tensor) and value.shape == parameter.shape
            if same and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def drop_head(state: Mapping[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """``state`` without its output layers of classes, boxes, masks and the like, and their names.

    :func:`initialize_model` then starts them afresh: how to fine-tune for another set of classes.

    model: of the same parts, for any number of classes; see :func:`class_tensors`.
    """
    layers = class_tensors(model)
    head = [name for name in state if name in layers]
    return {name: tensor for name, tensor in state.items() if name not in head}, head


@dataclass(frozen=True)
class TakenOver:
    """Weights of other classes, fitted to a model's.

    state: for :func:`initialize_model`; the rows of classes without a namesake are the model's own.
    classes: (the model's class, the file's of that name or None), in the model's order.
    by_class, whole, fresh: the output layers' tensors of which rows by class, all, or nothing was taken.
    """

    state: dict[str, Tensor]
    classes: list[tuple[str, str | None]]
    by_class: list[str]
    whole: list[str]
    fresh: list[str]


def take_by_class(
    model: nn.Module,
    wider: nn.Module,
    state: Mapping[str, Tensor],
    ours: Sequence[str],
    theirs: Sequence[str],
) -> TakenOver:
    """``state``, of the classes ``theirs``, for ``model``, of the classes ``ours``: rows go by their names.

    How rows of an output layer belong to classes shows where the model has one class more: so many rows a
    class, one class after the other, and what is left (background) behind them.

    Args:
        wider: the same model for one class more, on any device.
        theirs: in the order of the file's rows.

    Raises:
        CheckpointError: as :func:`initialize_model`, where it comes to the layers below.
    """
    pairs = list(zip(ours, namesakes(ours, theirs), strict=True))
    rows = [(i, theirs.index(name)) for i, (_, name) in enumerate(pairs) if name is not None]
    own, more = model.state_dict(), wider.state_dict()
    result = dict(state)
    found: dict[str, list[str]] = {"by_class": [], "whole": [], "fresh": []}
    for name in sorted(class_tensors(model)):
        value, here = state.get(name), own[name]
        axis = next(
            (d for d, (a, b) in enumerate(zip(here.shape, more[name].shape, strict=True)) if a != b), None
        )
        if value is None or value.dim() != here.dim():
            kind = "fresh"
        elif axis is None:  # of no class: class-agnostic boxes and masks, keypoints
            kind = "whole" if value.shape == here.shape else "fresh"
        else:
            block = more[name].shape[axis] - here.shape[axis]
            rest = here.shape[axis] - block * len(ours)
            taken = _rows(value, here, axis, block, rest, rows, len(theirs))
            kind = "fresh" if taken is None else "by_class"
            result = result if taken is None else {**result, name: taken}
        if kind == "fresh":
            result.pop(name, None)
        found[kind].append(name)
    return TakenOver(result, pairs, **found)


def namesakes(ours: Sequence[str], theirs: Sequence[str]) -> list[str | None]:
    """Of each class of ours the one of theirs with its name; capitals, ``_`` and ``-`` make no difference."""

    def plain(name: str) -> str:
        return " ".join(re.sub(r"[_\W]+", " ", name).casefold().split()) or name

    known: dict[str, str] = {}
    for name in reversed(theirs):
        known[plain(name)] = name
    return [name if name in theirs else known.get(plain(name)) for name in ours]


def _rows(
    value: Tensor,
    here: Tensor,
    axis: int,
    block: int,
    rest: int,
    rows: Sequence[tuple[int, int]],
    classes: int,
) -> Tensor | None:
    """``here`` with the rows of classes that ``value`` has, too; None where the two are no such layers.

    rows: (class of ours, class of theirs).  classes: how many ``value`` has.
    """
    value, taken = value.movedim(axis, 0), here.detach().to("cpu", copy=True).movedim(axis, 0)
    if value.shape[0] != block * classes + rest or value.shape[1:] != taken.shape[1:]:
        return None
    for mine, other in rows:
        taken[mine * block : (mine + 1) * block] = value[other * block : (other + 1) * block]
    if rest:
        taken[-rest:] = value[-rest:]
    return taken.movedim(0, axis).contiguous()


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
