"""Whether an evaluation transform can be undone: detections are mapped back by the two sizes alone.

A transform says so itself by an attribute ``resizes_only: bool``; one that does not is tried on probes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from maskrcnn.data.interfaces import TRANSFORMS, Transform, as_transform
from maskrcnn.structures import ImageInfo, InstanceMasks, RawSample, Targets

# Small and large, wide and tall: what crops does so to one of them.
_PROBES = ((37, 53), (700, 1100), (1100, 700))
#: Draws of each probe; one that changes a sample with a probability of 0.5 is missed by one run in 4096.
_DRAWS = 4
# xyxy as parts of the frame: none is its own mirror or turn.
_BOXES = ((0.1, 0.2, 0.4, 0.3), (0.5, 0.1, 0.9, 0.8), (0.0, 0.6, 0.3, 0.95))
#: How far a box may lie from where the sizes put it, pixels: more than rounding, less than a shift.
_TOLERANCE = 1.0


def not_undoable(transforms: Sequence[Transform]) -> list[tuple[int, str]]:
    """Places in ``data.eval_transforms`` of transforms that cannot be undone, with a sentence each."""
    found = []
    for index, registered in enumerate(transforms):
        if not resizes_only(as_transform(registered)):
            what = (
                f"{TRANSFORMS.name_of(type(registered))} moves or cuts the picture, and detections are mapped"
                " back by its size alone, so they would come out in wrong places; remove it here"
                " (data.train_transforms may have it)"
            )
            found.append((index, what))
    return found


def resizes_only(transform: Transform) -> bool:
    """Whether ``transform`` leaves boxes where the ratio of the sizes puts them, so that it can be undone.

    A transform that raises on the probes is believed, since only its own data say more.
    """
    said = getattr(transform, "resizes_only", None)
    if said is not None:
        return bool(said)
    try:
        return all(_as_expected(transform, *probe, seed) for probe in _PROBES for seed in range(_DRAWS))
    except Exception:  # code of someone's own, on data that are not theirs
        return True


def _as_expected(transform: Transform, height: int, width: int, seed: int) -> bool:
    rng = np.random.default_rng(seed)
    boxes = torch.tensor(_BOXES) * torch.tensor([width, height, width, height])
    polygons = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
    count = len(boxes)
    targets = Targets(
        boxes,
        torch.zeros(count, dtype=torch.int64),
        InstanceMasks.from_coco(polygons, height, width),
        torch.arange(count),
    )
    image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    moved = transform(RawSample(image, ImageInfo(0, "", height, width), targets), rng)
    new_height, new_width = moved.size
    scale = torch.tensor([new_width / width, new_height / height]).repeat(2)
    expected = (boxes * scale)[moved.targets.annotation_ids]
    return len(moved.targets) > 0 and bool((moved.targets.boxes - expected).abs().max() <= _TOLERANCE)
