"""A data set's misalignment as a table (short for the terminal, whole for a file), a sentence, a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskrcnn.errors import plural
from maskrcnn.files import write_text
from maskrcnn.studies.explain.scaled_boxes import Boxes
from maskrcnn.studies.explain.statistics import SIZES, OperatorRow, Stride
from maskrcnn.viz.palette import BLUE, GREEN, INK, ORANGE, PURPLE, QUIET, SKY, VERMILLION
from maskrcnn.viz.spreads import Measure, draw_spreads
from maskrcnn.viz.tables import Table

TABLE_SUFFIXES = (".md", ".csv")
_SIZES = ("all", *SIZES)
_HEADS = (
    *("op", "stride", "size", "boxes", "offset px", "p90 px", "% of side", "bias px", "noise px", "IoU"),
    "empty bins %",
)


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


def stride_name(stride: Stride) -> str:
    """``16``, or ``FPN``."""
    return "FPN" if stride == "fpn" else str(stride)


def summary(rows: Sequence[OperatorRow]) -> Table:
    """A line an operator and stride; for each object size the mean offset in pixels and the mean IoU."""
    sizes = [name for name in _SIZES if any(row.size == name for row in rows)]
    table = {(row.stride, row.op, row.size): row for row in rows}
    counts = {row.size: row.boxes for row in rows}
    lines: list[list[str]] = []
    before: Stride | None = None
    for stride, op in dict.fromkeys((row.stride, row.op) for row in rows):
        if before not in (None, stride):
            lines.append([])
        lines.append([stride_name(stride) if stride != before else "", op.label])
        for row in (table[stride, op, name] for name in sizes):
            lines[-1] += [f"{row.offset:.2f}", f"{row.noise:.1f}", f"{row.iou:.2f}"]
        before = stride
    groups = [("", 2), *((f"{name} ({counts[name]})", 3) for name in sizes)]
    return Table(
        ["stride", "operator", *["px", "noise", "IoU"] * len(sizes)], lines, left=(1,), groups=groups
    )


def full(rows: Sequence[OperatorRow]) -> Table:
    """All columns."""
    return Table(_HEADS, [_values(row) for row in rows])


def _values(row: OperatorRow) -> list[str]:
    return [
        row.op.label,
        stride_name(row.stride),
        row.size,
        str(row.boxes),
        f"{row.offset:.2f}",
        f"{row.offset_p90:.2f}",
        f"{100 * row.share:.1f}",
        # No minus before a zero.
        f"{row.bias + 0.0:.2f}".replace("-0.00", "0.00"),
        f"{row.noise:.2f}",
        f"{row.iou:.3f}",
        f"{100 * row.empty:.1f}",
    ]


def write_table(rows: Sequence[OperatorRow], path: Path) -> None:
    """Markdown or CSV, as the name's ending says.

    Raises:
        OutputError: the file cannot be written.
    """
    table = full(rows)
    write_text(path, table.markdown() + "\n" if path.suffix.lower() == ".md" else table.comma_separated())


def sentence(rows: Sequence[OperatorRow]) -> str:
    """The point of it: how far the operators move the average object of the smallest size there is."""
    size = next(name for name in (*SIZES, "all") if any(row.size == name for row in rows))
    strides = list(dict.fromkeys(row.stride for row in rows))
    stride = 16 if 16 in strides else strides[0]
    found = [row for row in rows if row.size == size and row.stride == stride]
    first, *rest = found
    at = "on its FPN level" if stride == "fpn" else f"at stride {stride}"
    text = (
        f"On your data {first.op.label} {at} moves the average {size + ' ' if size != 'all' else ''}object by"
        f" {first.offset:.1f} px, {100 * first.share:.0f} % of its side"
    )
    if rest:
        text += "; " + ", ".join(f"{row.op.label} by {row.offset:.1f} px" for row in rest)
    return text + "."


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
        f"Misalignment on {boxes.name}: {plural(len(boxes), 'box', spec=',')} of"
        f" {plural(boxes.images, 'image', spec=',')} (network scale)",
        _MEASURES,
        columns,
        [stride_name(stride) for stride in strides],
        [op.label for op in ops],
        axis="stride (px)",
        note="thin: 10 to 90 % of the boxes; thick: 25 to 75 %; ○ median; ● all alike.  "
        "FPN: each box at its level's stride.",
        colours=_COLOURS,
    )
