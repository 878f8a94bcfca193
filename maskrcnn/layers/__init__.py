"""RoI operators: tensors in, tensors out; the only place that calls compiled code.

Nothing is looked for, built or loaded before the first call.

Every operator takes one map or a list of pyramid levels (one fused call), NCHW or channels_last, float16,
bfloat16, float32 or float64, and is differentiable.
"""

from maskrcnn.config.registry import on_demand
from maskrcnn.layers.operator import ROI_OPS, RoIOperator
from maskrcnn.layers.ops import batched_nms, match, nms, nms_of_lists
from maskrcnn.layers.roi_align import RoIAlign, roi_align

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
    "match",
    "nms",
    "nms_of_lists",
    "prroi_pool",
    "roi_align",
    "roi_align_legacy",
    "roi_pool",
    "roi_warp",
]

__getattr__ = on_demand(
    __name__,
    PrRoIPool="other_operators",
    RoIAlignAvg="other_operators",
    RoIAlignLegacy="other_operators",
    RoIAlignMax="other_operators",
    RoIPool="other_operators",
    RoIWarp="other_operators",
    prroi_pool="other_operators",
    roi_align_legacy="other_operators",
    roi_pool="other_operators",
    roi_warp="other_operators",
)
