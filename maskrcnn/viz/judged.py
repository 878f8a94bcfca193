"""Pictures of an evaluation: what is right, what is too much, and what was missed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.inference.records import Result
from maskrcnn.viz.instances import Mask, draw_instances
from maskrcnn.viz.labels import FONT, Image, font_scale, printable, text_box, weight
from maskrcnn.viz.palette import Colour
from maskrcnn.viz.panels import GROUND

#: Sky blue, vermillion and yellow of Okabe and Ito's palette, apart for every colour vision; what was missed
#: is dashed and not filled besides.
RIGHT: Colour = (86, 180, 233)
WRONG: Colour = (213, 94, 0)
MISSED: Colour = (240, 228, 66)


def draw_judged(
    image: npt.NDArray[Any],
    records: Sequence[Result],
    labels: Sequence[int],
    names: Sequence[str],
    right: Sequence[bool],
    missed: Sequence[Mask] | npt.NDArray[Any],
    missed_labels: Sequence[int],
    **style: Any,
) -> Image:
    """Records and missed objects over their image, by colours that a legend explains.

    Args:
        image: uint8 [H, W, 3] RGB (or [H, W] gray).
        records, labels, right: D records, their contiguous class indices, and whether each is right.
        names: name of each class.
        missed: M masks, or boxes [M, 4] xyxy where not all records have masks.
        missed_labels: of these.
        style: further arguments of :func:`maskrcnn.viz.instances.draw_instances`.
    """
    boxes, masks = None, None
    if isinstance(missed, np.ndarray):
        found = np.array([r["bbox"] for r in records], dtype=np.float64).reshape(-1, 4)
        found[:, 2:] += found[:, :2]
        boxes = np.concatenate((found, missed.reshape(-1, 4)))
    else:
        masks = [*(r["segmentation"] for r in records), *missed]
    colours = [*(RIGHT if good else WRONG for good in right), *[MISSED] * len(missed)]
    picture = draw_instances(
        image,
        boxes,
        masks,
        [*labels, *missed_labels],
        names,
        [*(r["score"] for r in records), *[-1.0] * len(missed)],
        colours=colours,
        dashed=[*[False] * len(records), *[True] * len(missed)],
        **style,
    )
    counts = (
        (RIGHT, "right", sum(right)),
        (WRONG, "wrong", len(right) - sum(right)),
        (MISSED, "missed", len(missed)),
    )
    return legend(picture, [(colour, f"{word} {count}") for colour, word, count in counts])


def legend(picture: Image, entries: Sequence[tuple[Colour, str]]) -> Image:
    """The picture over a dark bar that says what its colours mean; uint8 [H + h, W, 3]."""
    width = picture.shape[1]
    texts = [printable(text) for _, text in entries]
    scale = font_scale(*picture.shape[:2])
    widest = max(text_box(text, scale)[0] for text in texts) + text_box("Ag", scale)[1]
    scale *= min(1.0, width / widest)
    square = text_box("Ag", scale)[1]
    rows: list[list[tuple[int, Colour, str]]] = [[]]
    x = 0
    for (colour, _), text in zip(entries, texts, strict=True):
        needed = square + text_box(text, scale)[0]
        if rows[-1] and x + needed > width:
            rows, x = [*rows, []], 0
        rows[-1].append((x, colour, text))
        x += needed + square // 2
    bar = np.full((square * len(rows), width, 3), GROUND, dtype=np.uint8)
    for row, inside in enumerate(rows):
        top = row * square
        for x, colour, text in inside:
            gap = square // 5
            cv2.rectangle(
                bar, (x + gap, top + gap), (x + square - gap, top + square - gap), colour, cv2.FILLED
            )
            place = (x + square, top + text_box(text, scale)[2])
            cv2.putText(bar, text, place, FONT, scale, (235, 235, 235), weight(scale), cv2.LINE_AA)
    return np.concatenate([picture, bar])
