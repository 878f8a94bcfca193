"""What a picture shows of a box under an operator, in pixels of the image."""

from __future__ import annotations

import numpy as np

from maskrcnn.layers.geometry import CellAxis
from maskrcnn.studies.explain.facts import facts
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
        y=_along(region, region.y, region.ideal_y, where.map_size[0]),
        x=_along(region, region.x, region.ideal_x, where.map_size[1]),
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
