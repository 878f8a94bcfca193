"""Activations that are computed anew in the backward pass, block by block, in place of being kept.

Only what goes into a block is kept (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from maskrcnn.errors import ConfigError
from maskrcnn.modeling.mask_rcnn import RECOMPUTATIONS, MaskRCNN
from maskrcnn.modeling.norms import batch_norms


@RECOMPUTATIONS.register("backbone")
def recompute_backbone(model: MaskRCNN) -> int:
    """Let the blocks of the backbone compute their activations anew; returns how many blocks there are.

    Losses, gradients and statistics are the same to the bit: a block is run again with torch's generators,
    autocast and normalisation's statistics as they were.

    Raises:
        ConfigError: it has no blocks.
    """
    blocks = model.backbone.blocks()
    for block in blocks:
        _recompute(block)
    if not blocks:
        raise ConfigError(
            f"solver.checkpoint_activations is true, and {type(model.backbone).__name__} has no blocks that"
            " could be computed anew (model.backbone); set it to false, or choose another backbone"
        )
    return len(blocks)


def _recompute(block: nn.Module) -> None:
    inner = block.forward
    norms = batch_norms(block)

    def forward(*args: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return inner(*args, **named)
        again = False

        def run(*args: Any, **named: Any) -> Any:
            nonlocal again
            if again:
                with _statistics_kept(norms):
                    return inner(*args, **named)
            again = True
            return inner(*args, **named)

        return checkpoint(run, *args, use_reentrant=False, **named)

    block.__dict__["forward"] = forward  # hooks and names stay as they are


@contextmanager
def _statistics_kept(norms: list[nn.modules.batchnorm._NormBase]) -> Iterator[None]:
    """Context in which normalisation moves copies of its statistics: they were moved by the first run."""
    own = [(norm, name, value) for norm in norms if norm.training for name, value in norm._buffers.items()]
    try:
        for norm, name, value in own:
            norm._buffers[name] = None if value is None else value.clone()
        yield
    finally:
        for norm, name, value in own:
            norm._buffers[name] = value
