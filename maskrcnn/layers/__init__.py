"""RoI operators: tensors in, tensors out; the only place that calls compiled code.

Nothing is looked for, built or loaded before the first call.

Every operator takes one map or a list of pyramid levels (one fused call), NCHW or channels_last, float16,
bfloat16, float32 or float64, and is differentiable.
"""

from maskrcnn.layers.legacy import RoIAlignAvg, RoIAlignLegacy, RoIAlignMax, roi_align_legacy
from maskrcnn.layers.nms import batched_nms
from maskrcnn.layers.operator import ROI_OPS, RoIOperator
from maskrcnn.layers.prroi_pool import PrRoIPool, prroi_pool
from maskrcnn.layers.roi_align import RoIAlign, roi_align
from maskrcnn.layers.roi_pool import RoIPool, roi_pool
from maskrcnn.layers.roi_warp import RoIWarp, roi_warp

__all__ = [
    "ROI_OPS",
    "PrRoIPool",
    "RoIAlign",
    "RoIAlignAvg",
    "RoIAlignLegacy",
    "RoIAlignMax",
    "RoIOperator",
    "RoIPool",
    "RoIWarp",
    "batched_nms",
    "prroi_pool",
    "roi_align",
    "roi_align_legacy",
    "roi_pool",
    "roi_warp",
]
