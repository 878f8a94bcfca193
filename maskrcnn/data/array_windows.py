"""Windows of an array, in memory or mapped from an npy file, and the channels that a window is read to."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.data.images import wrong_channels
from maskrcnn.data.interfaces import ImageReading
from maskrcnn.data.windows import Window
from maskrcnn.errors import DataError

Array = npt.NDArray[Any]


def with_channels(part: Array, reading: ImageReading) -> Array:
    """[h, w, S] of any byte order -> [h, w, C], as whole files are read: gray repeated, alpha dropped, and of
    one channel the gray of colours.

    Raises:
        DataError: it has other channels.
    """
    part = part.astype(part.dtype.newbyteorder("="), copy=False)
    wanted, found = reading.channels, part.shape[2]
    if wanted == 3 and found in (1, 4):
        part = np.repeat(part, 3, axis=2) if found == 1 else part[..., :3]
    elif wanted == 1 and found in (3, 4) and part.dtype in (np.uint8, np.uint16, np.float32):
        part = cv2.cvtColor(np.ascontiguousarray(part[..., :3]), cv2.COLOR_RGB2GRAY)[..., None]
    if part.shape[2] != wanted:
        raise DataError(wrong_channels(part.shape[2], reading))
    return part


class ArrayWindows:
    """An array in memory, or mapped: a :class:`maskrcnn.data.regions.WindowSource`."""

    exact = True

    def __init__(self, array: Array, reading: ImageReading, ready: bool = False) -> None:
        if array.ndim not in (2, 3) or not array.size or array.dtype.kind not in "buif":
            raise DataError(
                f"an image is an array [H, W], [H, W, C] or [C, H, W], got {array.dtype} {list(array.shape)}"
            )
        channels = reading.channels
        first = not ready and array.ndim == 3 and array.shape[2] != channels and array.shape[0] == channels
        self._array = np.moveaxis(array, 0, -1) if first else array
        self._reading, self.ready = reading, ready
        self.size = self._array.shape[0], self._array.shape[1]
        self.read(Window(0, 0, 1, 1))  # of other channels

    def read(self, window: Window) -> Array:
        x1, y1, x2, y2 = window.box
        part = self._array[y1:y2, x1:x2]
        return (
            part if self.ready else with_channels(part if part.ndim == 3 else part[..., None], self._reading)
        )

    def close(self) -> None:
        """Nothing: a mapping ends with its last array."""
