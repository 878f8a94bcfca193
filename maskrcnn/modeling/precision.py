"""At which precision a model runs, and what stays float32 whatever that is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "float16"]

#: What is float32 under bfloat16 and float16, too, and why; all else is at autocast's choice, which gives
#: convolutions, matrix products and what follows them (features, logits, deltas, heat maps) half precision.
STAYS_FLOAT32: Mapping[str, str] = MappingProxyType(
    {
        "weights": "an update is often below half precision's spacing; autocast casts copies",
        "gradients": "they are summed over passes and ranks, and clipped by their norm",
        "optimizer": "momenta and squares, for the same reason as the weights",
        "average": "of the weights (solver.ema): a step moves it by 1 - decay, as 0.0002",
        "statistics": "running means and variances of normalisation, which a batch moves little",
        "images": "normalised pixels; the first convolution casts them",
        "anchors": "at x = 900 float16 knows every half pixel alone, bfloat16 every fourth",
        "proposals": "boxes, decoded in float32 from deltas of half precision, and scores",
        "rois": "coordinates that RoI operators read, as the anchors",
        "box_targets": "deltas from anchors and proposals to the truth, as the anchors",
        "mask_targets": "what masks are learnt from, drawn in coordinates of the RoIs",
        "losses": "logits and deltas are widened before exponentials and sums over thousands of terms",
        "detections": "boxes and scores, as the proposals; NMS compares them",
        "mask_probabilities": "pasted into the image and cut at 0.5",
        "keypoints": "coordinates, as the anchors; heat maps are enlarged outside of autocast",
    }
)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for it; others compute bfloat16 slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a model runs at ``precision``; see :data:`STAYS_FLOAT32`."""
    dtype = getattr(torch, precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
