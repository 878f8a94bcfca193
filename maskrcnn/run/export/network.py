"""The part of a model that every format has: normalised images to detections, as one traced graph.

Legend: N = images, D = ``max_detections``, M = side of the mask head's output.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.modeling.preprocess import ImageBatch

#: Names of what goes in and comes out, in order; without masks the last is not there.
INPUTS = ("network_images", "network_sizes")
OUTPUTS = ("network_boxes", "network_scores", "network_classes", "network_real", "network_masks")


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
        found = self.model.predict_batch(ImageBatch(images, (), sizes))
        rois, count = found.rois, images.shape[0]
        assert rois.real is not None
        rows = (rois.boxes, rois.scores, rois.labels, rois.real, *found.values.values())
        return tuple(values.unflatten(0, (count, -1)) for values in rows)


class Traced(NamedTuple):
    """The graph, and what its sides are multiples of, pixels."""

    program: torch.export.ExportedProgram
    divisor: int


def trace(model: MaskRCNN) -> Traced:
    """The graph of ``model``, float32 on the CPU and in evaluation mode, for any number and size of images.

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
    model.static_shapes = True
    # The smallest step in which all levels have whole cells: sizes of features are then plain products.
    divisor = model.preprocess.size_divisor
    step = math.lcm(divisor, 1)
    channels = model.preprocess.mean.shape[0]
    example = torch.zeros(2, channels, 4 * step, 5 * step), torch.tensor([[4.0 * step, 5.0 * step]] * 2)
    count, rows, columns = (torch.export.Dim(name, max=1024) for name in ("n", "rows", "columns"))
    sides = (
        {2: step * rows, 3: step * columns}
        if step > 1
        else {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    )
    shapes = ({0: count, **sides}, {0: count})
    with torch.no_grad():
        program = torch.export.export(Network(model), example, dynamic_shapes=shapes, strict=False)
    return Traced(program, divisor)


def _key(head: str) -> str:
    return head if head == "keypoint_head" else f"heads.{head}"
