"""Which of timm's models a classifier's tensors are, in timm's names or those of EfficientNet-PyTorch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from maskrcnn.errors import CheckpointError, few
from maskrcnn.weights.state_dict import mismatch

State = Mapping[str, Tensor]


def has_timm_names(state: State, file_name: str) -> bool:
    """Whether timm made it: an EfficientNet's names, or a file that is called after a model of timm's."""
    return {"conv_stem.weight", "bn1.weight"} <= state.keys() or bool(_called(file_name))


def timm_model(state: State, file_name: str, efficientnet: bool) -> str:
    """The name of the model of timm's that has these tensors, of any number of classes.

    Args:
        file_name: of the file, which may begin with the model's.
        efficientnet: they were in the names of EfficientNet-PyTorch, whose convolutions pad as TensorFlow's:
            timm calls those models tf_efficientnet_...

    Raises:
        CheckpointError: none, or several.
    """
    timm = _timm()
    groups = [] if efficientnet else [[name] for name in _called(file_name)]
    if not groups:
        kind = "b" if any(".se." in name for name in state) else "lite"
        prefixes = ("tf_",) if efficientnet else ("", "tf_")
        groups = [[f"{prefix}efficientnet_{kind}{i}" for prefix in prefixes] for i in range(9)]
    found = (list(_fitting(timm, filter(timm.is_model, group), state)) for group in groups)
    fitting = next(filter(None, found), [])
    if len(fitting) == 1:
        return str(fitting[0])
    first = f"{few(fitting)} of timm fit" if fitting else f"no model of timm {timm.__version__} tried fits"
    raise CheckpointError(
        f"{first} these tensors; call the file after its model, as tf_efficientnet_b0.pth, or leave it as it"
        " is: a recipe takes it by model.backbone: {type: timm, name: MODEL, weights: FILE}"
    )


def pixels(model: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation, in 0..255, of R, G, B, that timm states for a model's usual weights."""
    config = _timm().get_pretrained_cfg(model)
    return tuple(255 * value for value in config.mean), tuple(255 * value for value in config.std)


def _fitting(timm: Any, names: Iterable[str], state: State) -> Iterable[str]:
    for name in names:
        with torch.device("meta"):
            model = timm.create_model(name)
        last = f"{model.default_cfg['classifier']}."
        own = {n: v for n, v in model.state_dict().items() if not n.startswith(last)}
        if not mismatch(own, {n: v for n, v in state.items() if not n.startswith(last)}):
            yield name


def _called(file_name: str) -> list[str]:
    """The model of timm's that a file is called after, as tf_efficientnet_b0_ns-c0e6a31c.pth: the longest."""
    try:
        import timm  # optional
    except ImportError:
        return []
    stem = file_name.partition(".")[0]
    words = [stem[: m.start()] for m in re.finditer(r"[-_]|$", stem)]
    return [word for word in words if timm.is_model(word)][-1:]


def _timm() -> Any:
    try:
        import timm  # optional, and slow to import
    except ImportError:
        raise CheckpointError("a model of timm's needs the timm library: pip install timm") from None
    return timm
