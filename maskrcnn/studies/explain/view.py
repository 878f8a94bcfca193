"""What a picture shows of a box under an operator, in pixels of the image, and in sentences."""

from __future__ import annotations

import numpy as np

from maskrcnn.layers.geometry import CellAxis, SampledAxis
from maskrcnn.studies.explain.placement import AxisBins, Floats, to_pixels
from maskrcnn.studies.explain.region import BoxOnMap, Region
from maskrcnn.viz.roi_picture import MOST_POINTS
from maskrcnn.viz.roi_view import AxisView, OperatorView


def view_of(region: Region) -> OperatorView:
    """One column of the picture."""
    where, bins = region.where, (region.x, region.y)
    x1, y1 = (_pixels(region, b.region_low)[0] for b in bins)
    x2, y2 = (_pixels(region, b.region_high)[0] for b in bins)
    rounds = region.reads.x.rounds and not np.allclose((x1, y1, x2, y2), region.effective_box)
    samples = region.points().reshape(-1, 2) if region.point_count <= MOST_POINTS else np.zeros((0, 2))
    # Bins that overlap in one direction give a cell 2 readers, in both 4; it shows for whole cells alone.
    readers = region.times_read()
    return OperatorView(
        name=region.op.label,
        facts=facts(region),
        box=where.box,
        image_size=where.image_size,
        y=_along(region, region.y, region.ideal(0), where.map_size[0]),
        x=_along(region, region.x, region.ideal(1), where.map_size[1]),
        readers=readers if isinstance(region.reads.x, CellAxis) else np.minimum(readers, 1),
        samples=_pixels(region, samples),
        rounded=(x1, y1, x2, y2) if rounds else None,
    )


def title_of(where: BoxOnMap) -> str:
    """The picture's heading."""
    x1, y1, x2, y2 = where.box
    h, w = where.image_size
    P, Q = where.output_size
    corner = ", cells at their corners" if where.cells == "corner" else ""
    return f"A box of {x2 - x1:g}×{y2 - y1:g} px in {w}×{h}, stride {where.stride}, {P}×{Q} bins{corner}"


def _along(region: Region, bins: AxisBins, ideal: tuple[Floats, Floats], cells: int) -> AxisView:
    edges = (
        *(bins.low[0], bins.high[0], np.append(ideal[0], ideal[1][-1])),
        np.arange(cells + 1, dtype=np.float64),
    )
    return AxisView(*(_pixels(region, edge) for edge in edges))


def _pixels(region: Region, cells: Floats) -> Floats:
    return to_pixels(cells, region.where.stride, region.where.cells)


def facts(region: Region) -> list[str]:
    """A few short lines, from the box's side to the mean offset; the height only where it differs."""
    lines = _axis_lines(region, 1, "")
    if lines != _axis_lines(region, 0, ""):
        lines = _axis_lines(region, 1, "width ") + _axis_lines(region, 0, "height ")
    # Where the operator's idea of a cell's place is another, its half-cell rule moves every box alike.
    centred = region.reads.x.centred
    if centred != (region.where.cells == "centre"):
        way = "left and up" if centred else "right and down"
        lines.append(f"half a cell, {region.where.stride / 2:g} px, {way}: a constant shift")
    lines.append(f"bins off by {region.mean_offset():.1f} px on average, IoU {region.iou():.2f}")
    return lines


def _axis_lines(region: Region, axis: int, name: str) -> list[str]:
    """Along y (0) or x (1); lengths are in cells where nothing else is said."""
    where = region.where
    bins, reads = (region.x, region.reads.x) if axis else (region.y, region.reads.y)
    stride, count = where.stride, where.output_size[axis]
    pixels = where.box[3 - axis] - where.box[1 - axis]
    # The side of the region that the operator takes for the box, and a bin's share of it.
    taken = float(bins.region_high[0] - bins.region_low[0])
    exact = taken / count
    head = f"{name}{pixels:g} / {stride} = {pixels / stride:.2f} cells"
    if isinstance(reads, CellAxis):
        first = float(bins.high[0, 0] - bins.low[0, 0])
        cut = f"{first:.0f} cells a bin" if reads.equal else f"first bin {first:.0f}"
        # How far the first bin's far edge lies from where equal bins of the region would put it.
        error = abs(float(bins.region_low[0] + exact - bins.high[0, 0]))
        lines = [
            f"{head} → {taken:.0f}",
            f"{taken:.0f} / {count} = {exact:.3f} → {cut}",
            f"first bin's edge off by {error:.3f} cells = {error * stride:.2f} px",
        ]
        never = min(float(bins.region_high[0]), where.map_size[axis]) - float(bins.high.max())
        if never > 0:
            lines.append(f"{never:.0f} of {taken:.0f} cells, {never * stride:.0f} px, never seen")
        return lines
    kept = "kept" if abs(taken - pixels / stride) < 1e-9 else f"→ {_short(taken)}"
    lines = [f"{head} {kept}", f"{_short(taken)} / {count} = {exact:.2f}, kept"]
    if isinstance(reads, SampledAxis):
        samples = reads.count(0)
        grid = str(samples) if name else f"{samples}×{samples}"
        random = "random " if region.reads.seed is not None else ""
        lines.append(f"{grid} {random}{'sample' if grid == '1' else 'samples'} a bin")
    elif reads.reads:
        lines.append(reads.reads)
    return lines


def _short(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.2f}"
