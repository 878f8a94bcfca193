"""EfficientNets as the EfficientNet-PyTorch family of repositories names them -> timm's names.

lukemelas/EfficientNet-PyTorch, and what was trained with it (EfficientNet-Lite of RangiLyu and others):
blocks are numbered through, and layers called by what they do.  timm numbers stages, and blocks in them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
#: Of a block that widens its input first, and of one that does not.
_WIDE = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = re.compile(r"_blocks\.(\d+)\.(_\w+)\.(.+)")


def is_efficientnet(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names of that family."""
    return {"_conv_stem.weight", "_blocks.0._depthwise_conv.weight"} <= names.keys()


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under timm's names; a name that has none there keeps its own.

    A stage of timm's begins where the width of the blocks' output changes, which it does at every stage.
    """
    places: dict[int, str] = {}
    width, stage, first = 0, -1, 0
    blocks = sorted({int(found[1]) for name in state if (found := _BLOCK.fullmatch(name))})
    for block in blocks:
        project = state.get(f"_blocks.{block}._project_conv.weight")
        wide = width if project is None else project.shape[0]
        if wide != width:
            width, stage, first = wide, stage + 1, block
        places[block] = f"blocks.{stage}.{block - first}"
    return {_renamed(name, places, state): value for name, value in state.items()}


def _renamed(name: str, places: Mapping[int, str], state: Mapping[str, Tensor]) -> str:
    if found := _BLOCK.fullmatch(name):
        block, layer, rest = int(found[1]), found[2], found[3]
        names = _SQUEEZE | (_WIDE if f"_blocks.{block}._expand_conv.weight" in state else _PLAIN)
        return f"{places[block]}.{names[layer]}.{rest}" if layer in names else name
    layer, _, rest = name.partition(".")
    return f"{_OUTER[layer]}.{rest}" if layer in _OUTER else name
