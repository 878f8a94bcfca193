"""``paste: smooth``: curves in place of the bevelled steps that a mask of 28 x 28 cells has in large objects.

Logits are blended and not probabilities, which are nearly 0 or 1 in most cells, so that lines between them
say little of where the border is; by the cubic B-spline (Unser 1999, "Splines: a perfect fit", equation 5),
which has no corners and no overshoot.  It passes by the cells' values, not through them: a border of radius r
cells moves in by 1 / (6 r) of a cell.  A pixel belongs to the mask where the blend at its centre is >= 0.

Legend: D = masks, M = their side, h x w = the pixels of a box within the image.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from maskrcnn.inference.paste import PASTES, FloatArray
from maskrcnn.structures.rle import Runs, window_changes

#: Logits are cut to it (probabilities of 0.12 and 0.88): how sure a head is deep inside moves no border.
LIMIT = 2.0


@PASTES.register("smooth")
def smooth(probs: Tensor, boxes: Tensor, height: int, width: int) -> list[Runs]:
    """Toggle positions of each mask.

    Args:
        probs: float [D, M, M] in [0, 1].
        boxes: float [D, 4] xyxy in pixels, with an area.
    """
    least = 1 / (1 + np.exp(LIMIT))
    clipped = np.clip(probs.double().numpy(), least, 1 - least)
    logits = np.log(clipped / (1 - clipped))
    # Beyond the box is no object: the border of one that surely fills its box is the box's.
    padded = np.pad(logits, ((0, 0), (2, 2), (2, 2)), constant_values=-LIMIT)
    out = []
    for grid, (x1, y1, x2, y2) in zip(padded, boxes.double().tolist(), strict=True):
        left, across = _weights(x1, x2, width, grid.shape[1])
        top, down = _weights(y1, y2, height, grid.shape[0])
        out.append(window_changes(down @ grid @ across.T >= 0, left, top, height))
    return out


def _weights(low: float, high: float, length: int, cells: int) -> tuple[int, FloatArray]:
    """Along one axis: the first pixel whose centre lies in the box, and the weights [n, cells] of all such.

    ``cells``: of a row, with the two on either side that lie beyond the box.
    """
    first = int(np.clip(np.ceil(low - 0.5), 0, length))
    after = int(np.clip(np.floor(high - 0.5) + 1, first, length))
    size = (high - low) / (cells - 4)
    at = (np.arange(first, after) + 0.5 - low) / size + 1.5  # in cells, 0 at the centre of the first
    whole = np.clip(np.floor(at), 1, cells - 3).astype(np.int64)
    part = at - whole
    weights = np.zeros((len(at), cells))
    for tap, values in enumerate(_blend(part)):
        weights[np.arange(len(at)), whole + tap - 1] = values
    return first, weights


def _blend(part: FloatArray) -> npt.NDArray[np.float64]:
    """Weights [4, n] of the cells at -1, 0, 1, 2 for places ``part`` [n] in [0, 1] between 0 and 1."""
    squared, cubed = part**2, part**3
    return np.stack(
        (
            (1 - part) ** 3 / 6,
            (4 - 6 * squared + 3 * cubed) / 6,
            (1 + 3 * part + 3 * squared - 3 * cubed) / 6,
            cubed / 6,
        )
    )
