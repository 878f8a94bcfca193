"""The chart of a data set's misalignment: distributions by operator, stride and object size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maskrcnn.studies.explain.measured import stride_name
from maskrcnn.studies.explain.scaled_boxes import Boxes
from maskrcnn.studies.explain.statistics import SIZES, OperatorRow
from maskrcnn.viz.palette import BLUE, GREEN, INK, ORANGE, PURPLE, QUIET, SKY, VERMILLION
from maskrcnn.viz.spreads import Measure, draw_spreads

#: The operators that round come first by default, in the warm colours.
_COLOURS = (VERMILLION, ORANGE, BLUE, PURPLE, GREEN, SKY, QUIET, INK)
_SIZE_LABELS = {
    "small": "small objects (< 32² px)",
    "medium": "medium (32² to 96² px)",
    "large": "large (≥ 96² px)",
}
_MEASURES = (
    Measure("bins off by (px)"),
    Measure("of it, differing from\nbox to box (rms, px)", 0.62),
    Measure("IoU with the box", limits=(-0.03, 1.04)),
)


def draw_chart(rows: Sequence[OperatorRow], boxes: Boxes) -> Any:
    """A column an object size, a cluster a stride, a colour an operator: offsets, noise, and the IoU."""
    strides = list(dict.fromkeys(row.stride for row in rows))
    ops = list(dict.fromkeys(row.op for row in rows))
    table = {(row.stride, row.op, row.size): row for row in rows}
    columns = []
    for size in SIZES:
        if not any(row.size == size for row in rows):
            continue
        cells = [[table[stride, op, size] for op in ops] for stride in strides]
        spreads = (
            [[row.quantiles[0] for row in cluster] for cluster in cells],
            [[(row.noise,) * 5 for row in cluster] for cluster in cells],
            [[row.quantiles[1] for row in cluster] for cluster in cells],
        )
        columns.append((f"{_SIZE_LABELS[size]}, n = {cells[0][0].boxes:,}", spreads))
    return draw_spreads(
        f"Misalignment on {boxes.name}: {len(boxes):,} boxes of {boxes.images:,} images (network scale)",
        _MEASURES,
        columns,
        [stride_name(stride) for stride in strides],
        [op.label for op in ops],
        axis="stride (px)",
        note="thin: 10 to 90 % of the boxes; thick: 25 to 75 %; ○ median; ● all alike.  "
        "FPN: each box at its level's stride.",
        colours=_COLOURS,
    )
