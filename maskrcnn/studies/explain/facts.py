"""The arithmetic of one box under one operator, in sentences: every figure is computed from the geometry."""

from __future__ import annotations

from dataclasses import dataclass

from maskrcnn.layers.geometry import CellAxis, SampledAxis
from maskrcnn.studies.explain.region import Region


@dataclass(frozen=True)
class AxisFacts:
    """One axis of a region; lengths in cells.

    side: the box's side.  taken: the side of the region that the operator takes for it.
    bin_exact: taken / bins.  first_bin: the first bin as read.
    edge_error: how far the first bin's far edge lies from where equal bins of the region would put it.
    never: cells of the taken region that no bin covers.
    """

    side: float
    taken: float
    bin_exact: float
    first_bin: float
    edge_error: float
    never: float


def axis_facts(region: Region, axis: int) -> AxisFacts:
    """Along y (0) or x (1)."""
    bins, reads = (region.y, region.reads.y) if axis == 0 else (region.x, region.reads.x)
    where = region.where
    low, high = where.box[1 - axis], where.box[3 - axis]
    taken = float(bins.region_high[0] - bins.region_low[0])
    exact = taken / where.output_size[axis]
    first = float(bins.high[0, 0] - bins.low[0, 0])
    limit = where.map_size[axis] if isinstance(reads, CellAxis) else float("inf")
    end = min(float(bins.region_high[0]), limit)
    return AxisFacts(
        side=(high - low) / where.stride,
        taken=taken,
        bin_exact=exact,
        first_bin=first,
        edge_error=float(bins.region_low[0] + exact - bins.high[0, 0]),
        never=max(end - float(bins.high.max()), 0.0),
    )


def facts(region: Region) -> list[str]:
    """A few short lines, from the box's side to the mean offset; the height only where it differs."""
    x, y = axis_facts(region, 1), axis_facts(region, 0)
    if x == y:
        lines = _axis_lines(region, x, 1, "")
    else:
        lines = _axis_lines(region, x, 1, "width ") + _axis_lines(region, y, 0, "height ")
    shift = index_shift(region)
    if shift:
        where = "right and down" if shift > 0 else "left and up"
        lines.append(f"half a cell, {abs(shift):g} px, {where}: a constant shift")
    lines.append(f"bins off by {region.mean_offset():.1f} px on average, IoU {region.iou():.2f}")
    return lines


def index_shift(region: Region) -> float:
    """Pixels along each axis that an operator is off for every box alike: what its half-cell rule costs.

    0 where the operator's idea of a cell's place is that of ``region.where.cells``.
    """
    half, centred = region.where.stride / 2, region.reads.x.centred
    if region.where.cells == "centre":
        return 0.0 if centred else half
    return -half if centred else 0.0


def _axis_lines(region: Region, f: AxisFacts, axis: int, name: str) -> list[str]:
    where, reads = region.where, region.reads.x if axis else region.reads.y
    low, high = where.box[1 - axis], where.box[3 - axis]
    stride, bins = where.stride, where.output_size[axis]
    head = f"{name}{high - low:g} / {stride} = {f.side:.2f} cells"
    if isinstance(reads, CellAxis):
        lines = [f"{head} → {f.taken:.0f}"]
        cut = f"{f.first_bin:.0f} cells a bin" if reads.equal else f"first bin {f.first_bin:.0f}"
        lines.append(f"{f.taken:.0f} / {bins} = {f.bin_exact:.3f} → {cut}")
        error = abs(f.edge_error)
        lines.append(f"first bin's edge off by {error:.3f} cells = {error * stride:.2f} px")
        if f.never:
            lines.append(f"{f.never:.0f} of {f.taken:.0f} cells, {f.never * stride:.0f} px, never seen")
        return lines
    kept = "kept" if abs(f.taken - f.side) < 1e-9 else f"→ {_short(f.taken)}"
    lines = [f"{head} {kept}", f"{_short(f.taken)} / {bins} = {f.bin_exact:.2f}, kept"]
    if isinstance(reads, SampledAxis):
        count = reads.count(0)
        grid = str(count) if name else f"{count}×{count}"
        random = "random " if region.reads.seed is not None else ""
        lines.append(f"{grid} {random}{'sample' if grid == '1' else 'samples'} a bin")
    elif reads.reads:
        lines.append(reads.reads)
    return lines


def _short(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.2f}"
