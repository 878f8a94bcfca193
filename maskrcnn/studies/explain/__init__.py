"""What RoI operators read, and how far that is from the box: ``maskrcnn explain-roi``."""

from maskrcnn.studies.explain.placement import AxisBins, Cells, axis_bins
from maskrcnn.studies.explain.region import BoxOnMap, Region
from maskrcnn.studies.explain.written_ops import parse_op

__all__ = ["AxisBins", "BoxOnMap", "Cells", "Region", "axis_bins", "parse_op"]
