"""The model: backbones, neck, RPN, RoI heads."""

from maskrcnn.modeling.interfaces import BACKBONES, BOX_HEADS, MASK_HEADS, NECKS, ROI_OPS
from maskrcnn.modeling.mask_rcnn import MaskRCNN, MaskRCNNConfig

__all__ = ["BACKBONES", "BOX_HEADS", "MASK_HEADS", "NECKS", "ROI_OPS", "MaskRCNN", "MaskRCNNConfig"]
