"""The part of a model that every format has: normalised images to detections, as one traced graph.

Legend: N = images, D = ``max_detections``, M = side of the mask head's output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.modeling.preprocess import ImageBatch

#: Names of what goes in and comes out, in order; without masks the last is not there.
INPUTS = ("network_images", "network_sizes")
OUTPUTS = ("network_boxes", "network_scores", "network_classes", "network_real", "network_masks")

#: A side of the images that are traced, pixels; larger by as little as the divisor allows.
_LEAST = 128
#: Of a side from which on no level (of stride 64 at most) has a single row or column.
SAFE = 96


class Network(nn.Module):
    """``images`` float [N, C, H, W], normalised and padded, and ``sizes`` float [N, 2] (height, width before
    padding) to boxes [N, D, 4] xyxy in the network frame, scores [N, D], classes int64 [N, D], which are real
    bool [N, D] and, where there is a mask head, probabilities [N, D, M, M].
    """

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        # All of it, said in a way from which a tracer has all levels' sizes as products of one number.
        divisor, (height, width) = self.model.preprocess.size_divisor, images.shape[2:]
        if divisor > 1:
            images = images[:, :, : height // divisor * divisor, : width // divisor * divisor]
        found = self.model.predict_batch(ImageBatch(images, (), sizes))
        rois, count = found.rois, images.shape[0]
        assert rois.real is not None
        rows = (rois.boxes, rois.scores, rois.labels, rois.real, *found.values.values())
        return tuple(values.unflatten(0, (count, -1)) for values in rows)


def trace(model: MaskRCNN) -> torch.export.ExportedProgram:
    """The graph of ``model``, float32 on the CPU and in evaluation mode, for any number and size of images.

    As a program of PyTorch's its sides are :data:`SAFE` at least; what is made of it is not tied to that.

    Raises:
        UserError: the model has parts whose results no format here has a place for.
    """
    if model.rpn is None:
        raise UserError("this model has no RPN: its proposals come with the images, so it is not exported")
    further = [name for name in model.roi.head_names if name != "mask_head"]
    if further:
        raise UserError(
            f"only boxes and masks are exported, and this model has the head {further[0]};"
            f" leave it out with --set model.{_key(further[0])}=null, or use the checkpoint"
        )
    auto = torch.export.Dim.AUTO
    divisor, channels = model.preprocess.size_divisor, model.preprocess.mean.shape[0]
    cells = -(-_LEAST // divisor)
    height, width = cells * divisor, (cells + 1) * divisor
    example = torch.zeros(2, channels, height, width), torch.tensor([[float(height), float(width)]] * 2)
    least = -(-SAFE // divisor)
    count, *cells_of = (
        torch.export.Dim(name, min=low, max=1024)
        for name, low in (("n", 1), ("rows", least), ("columns", least))
    )
    height_of, width_of = [auto, auto] if divisor == 1 else [divisor * cells for cells in cells_of]
    shapes = ({0: count, 2: height_of, 3: width_of}, {0: count})
    before, model.static_shapes = model.static_shapes, True
    try:
        with torch.no_grad():
            return torch.export.export(Network(model), example, dynamic_shapes=shapes, strict=False)
    finally:
        model.static_shapes = before


def _key(head: str) -> str:
    return head if head == "keypoint_head" else f"heads.{head}"
