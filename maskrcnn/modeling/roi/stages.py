"""The parts of a cascade that need no network: its config, and what a stage is trained on.

Cai & Vasconcelos 2018, "Cascade R-CNN: Delving into High Quality Object Detection", section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from maskrcnn.config import Config, Range
from maskrcnn.errors import ConfigError
from maskrcnn.layers import match
from maskrcnn.modeling.box_coder import Weights
from maskrcnn.modeling.roi.rois import SampledRoIs
from maskrcnn.structures import clip_boxes, large_enough
from maskrcnn.structures.boxes import unit_box


@dataclass(frozen=True, kw_only=True)
class CascadeConfig(Config):
    """Box heads in a row, each trained on the last one's boxes at a higher IoU (Cai & Vasconcelos 2018).

    The box heads need class-agnostic deltas (``model.box_head.class_agnostic: true``).
    """

    #: A RoI of a stage is foreground from this IoU on, else background (Cai & Vasconcelos 2018, section
    #: 4.2); the first is that of the sampling, model.roi.positive_iou.
    ious: tuple[Annotated[float, Range(above=0, most=1)], ...] = (0.5, 0.6, 0.7)
    #: In place of model.roi.box_weights, a stage each: later stages correct smaller errors (ibid., section
    #: 4.1; the values of the authors' release and of Detectron2).
    box_weights: tuple[Weights, ...] = (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )

    def check(self, positive_iou: float, has_trunk: bool) -> None:
        """
        Raises:
            ConfigError: a value does not fit the others.
        """
        key = "model.roi.cascade"
        if not self.ious or len(self.ious) != len(self.box_weights):
            raise ConfigError(f"{key}.ious and {key}.box_weights need one entry a stage, and at least one")
        if self.ious[0] != positive_iou:
            raise ConfigError(
                f"{key}.ious starts with {self.ious[0]}, but the RoIs are sampled at model.roi.positive_iou"
                f" {positive_iou}; make them equal"
            )
        if has_trunk:
            raise ConfigError(f"{key} and model.roi_trunk exclude each other; leave one out")


@torch.no_grad()
def relabel(rois: SampledRoIs, boxes: Tensor, image_sizes: Tensor, *, iou: float) -> SampledRoIs:
    """The RoIs of a later stage, all of them: the last stage's boxes, labelled anew.

    They are cut to the image; those of which nothing is left are dropped.  Nothing is sampled and no ground
    truth joins them, as in Detectron2 (the ground truth joined the first stage's).

    Args:
        rois: of the last stage.
        boxes: [R, 4] xyxy, network frame, which that stage makes of them.
        image_sizes: [N, 2], height and width of every image before padding.
        iou: foreground from it on, else background.
    """
    boxes = clip_boxes(boxes, *image_sizes[rois.images].unbind(1))
    rois = rois.moved(boxes).where(large_enough(boxes, 0))
    boxes, targets = rois.boxes, rois.targets
    padded = unit_box(boxes).repeat(len(targets) * rois.room, 1).index_copy(0, rois.slots, boxes)
    truth = targets.boxes.to(boxes.dtype)
    padded = padded.view(len(targets), rois.room, 4)
    found = match(truth, targets.real, padded, iou, iou, False)
    index, matched = (values.flatten()[rois.slots] for values in found)
    labels = torch.where(matched > 0, targets.labels[rois.images, index], rois.num_classes)
    return replace(rois, labels=labels, truth=index, most_positive=rois.room)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` [...] -> [...], itself; its gradient is multiplied by ``factor`` on its way back."""
    result: Tensor = _ScaledGradient.apply(x, factor)
    return result


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
