"""The model: backbones, neck, RPN, RoI heads.  Importing it registers every built-in part."""

import maskrcnn.modeling.roi.keypoint_head  # noqa: F401 - registers itself
import maskrcnn.modeling.roi.mask_mlp  # noqa: F401 - registers itself
from maskrcnn.modeling.mask_rcnn import MaskRCNN, MaskRCNNConfig
from maskrcnn.modeling.registries import BACKBONES, BOX_HEADS, MASK_HEADS, NECKS, ROI_OPS

__all__ = ["BACKBONES", "BOX_HEADS", "MASK_HEADS", "NECKS", "ROI_OPS", "MaskRCNN", "MaskRCNNConfig"]
