"""The table of a data set's misalignment: for the terminal, as Markdown, as CSV, and in a sentence."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from maskrcnn.errors import UserError
from maskrcnn.studies.explain.statistics import SIZES, OperatorRow, Stride

TABLE_SUFFIXES = (".md", ".csv")
_SIZES = ("all", *SIZES)
_HEADS = (
    "op",
    "stride",
    "size",
    "boxes",
    "offset px",
    "p90 px",
    "% of side",
    "bias px",
    "noise px",
    "IoU",
    "empty bins %",
)


def stride_name(stride: Stride) -> str:
    """``16``, or ``FPN``."""
    return "FPN" if stride == "fpn" else str(stride)


def terminal(rows: Sequence[OperatorRow]) -> str:
    """A line an operator and stride; for each object size the mean offset in pixels and the mean IoU."""
    sizes = [name for name in _SIZES if any(row.size == name for row in rows)]
    table = {(row.stride, row.op, row.size): row for row in rows}
    pairs = list(dict.fromkeys((row.stride, row.op) for row in rows))
    width = max(len("operator"), *(len(op.label) for _, op in pairs))
    counts = {row.size: row.boxes for row in rows}
    lines = [
        f"{'':>6}  {'':<{width}}" + "".join(f"  {f'{name} ({counts[name]})':>18}" for name in sizes),
        f"{'stride':>6}  {'operator':<{width}}" + f"  {'px':>7} {'noise':>5} {'IoU':>4}" * len(sizes),
    ]
    before: Stride | None = None
    for stride, op in pairs:
        if before is not None and stride != before:
            lines.append("")
        shown = stride_name(stride) if stride != before else ""
        cells = (table[stride, op, name] for name in sizes)
        figures = "".join(f"  {row.offset:>7.2f} {row.noise:>5.1f} {row.iou:>4.2f}" for row in cells)
        lines.append(f"{shown:>6}  {op.label:<{width}}{figures}")
        before = stride
    return "\n".join(lines)


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


def markdown(rows: Sequence[OperatorRow]) -> str:
    """All columns, as a Markdown table."""
    lines = ["| " + " | ".join(_HEADS) + " |", "|---|" + "---:|" * (len(_HEADS) - 1)]
    lines += ["| " + " | ".join(_values(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def comma_separated(rows: Sequence[OperatorRow]) -> str:
    """All columns, as CSV with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADS)
    writer.writerows(_values(row) for row in rows)
    return text.getvalue()


def check_table(path: Path) -> None:
    """Find out that a table cannot be written before the work is done.

    Raises:
        UserError: an ending other than .md and .csv, or a folder that does not exist.
    """
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise UserError(f"--table {path}: the name must end in {' or '.join(TABLE_SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"--table {path}: there is no folder {path.parent}")


def write_table(rows: Sequence[OperatorRow], path: Path) -> None:
    """Markdown or CSV, as the name's ending says.

    Raises:
        UserError: the file cannot be written.
    """
    text = markdown(rows) if path.suffix.lower() == ".md" else comma_separated(rows)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise UserError(f"--table {path}: cannot be written: {e.strerror or e}") from None


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
