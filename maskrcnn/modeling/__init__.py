"""The model: backbones, neck, RPN, RoI heads.  Importing it registers every built-in part."""

import maskrcnn.modeling.backbones.reduce
import maskrcnn.modeling.backbones.timm_backbone
import maskrcnn.modeling.backbones.vgg
import maskrcnn.modeling.roi.keypoint_head
import maskrcnn.modeling.roi.mask_mlp
import maskrcnn.modeling.roi.trunk  # noqa: F401 - registers itself
from maskrcnn.modeling.interfaces import BACKBONES, BOX_HEADS, MASK_HEADS, NECKS, ROI_OPS
from maskrcnn.modeling.mask_rcnn import MaskRCNN, MaskRCNNConfig

__all__ = ["BACKBONES", "BOX_HEADS", "MASK_HEADS", "NECKS", "ROI_OPS", "MaskRCNN", "MaskRCNNConfig"]
