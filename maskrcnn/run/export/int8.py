"""An OpenVINO model in 8 bits, by NNCF, whose ranges are those that images of the user's give."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from maskrcnn.run.export.dense import dense_part, in_bfloat16, last_layers, leads_to_depthwise
from maskrcnn.run.export.needed import needed
from maskrcnn.run.export.running import Array

#: How many images the ranges are taken from; NNCF's own default is 300, which takes minutes more.
CALIBRATION = 64


def in_int8(model: Any, images: Sequence[Array]) -> Any:
    """The model with its dense part in int8, but for the last layers, which are small and whose numbers are
    scores, deltas and masks; what leads to depthwise convolutions is in bfloat16.

    NNCF by itself would round the arithmetic of boxes, too.

    Args:
        images: uint8 [H, W, C].
    """
    nncf = needed("nncf")
    needed("nncf.common.logging.logger").set_log_level(logging.WARNING)
    wide = leads_to_depthwise(model)
    part = dense_part(model) - set(last_layers(model)) - wide
    others = [name for op in model.get_ordered_ops() if (name := op.get_friendly_name()) not in part]
    quantised = nncf.quantize(
        model,
        nncf.Dataset(images, lambda image: {"image": image[None]}),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=others, validate=False),
    )
    return in_bfloat16(quantised, wide)
