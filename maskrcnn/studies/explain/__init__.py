"""What RoI operators read, and how far that is from the box: ``maskrcnn explain-roi``."""

from maskrcnn.studies.explain.geometry import AxisBins, Cells, axis_bins
from maskrcnn.studies.explain.ops import parse_op
from maskrcnn.studies.explain.region import BoxOnMap, Region

__all__ = ["AxisBins", "BoxOnMap", "Cells", "Region", "axis_bins", "parse_op"]
