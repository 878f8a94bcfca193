"""Mixed precision by a word: autocast for the forward pass, and the loss scaler that float16 needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

#: What ``solver.precision`` may say.
PrecisionName = Literal["float32", "bfloat16", "float16"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision:
    """Autocast and scaler for one device.

    bfloat16 has float32's range and needs no scaling; float16's gradients underflow without
    (Micikevicius et al. 2018, section 3.2).
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        self.name = name
        self._device = device
        #: Does nothing unless the precision is float16.
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")

    @property
    def dtype(self) -> torch.dtype | None:
        """What autocast computes in; None without autocast."""
        return _DTYPES.get(self.name)

    def autocast(self) -> AbstractContextManager[object]:
        """Context for a forward pass."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.dtype)
