"""Test-time augmentation: an image is seen scaled and mirrored, and what was found is one answer.

Boxes of all views, in the frame of the image as it was given, are grouped by NMS over all of them; of each
group every view has one say: the box is the mean weighed by the scores, the score the mean over the views, 0
where a view did not find it (Solovyev et al. 2021, "Weighted boxes fusion").  Masks are then those of the
merged boxes in every view, averaged as probabilities (as Detectron2's ``GeneralizedRCNNWithTTA``).  What
further heads say, as keypoints, is that of the plain view.

Legend: V = views, B = boxes of all views, D = detections, M = side of the masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.layers import batched_nms
from maskrcnn.modeling import MaskRCNN
from maskrcnn.modeling.interfaces import RoIFeatures
from maskrcnn.modeling.roi.rois import DetectedRoIs, FoundRoIs
from maskrcnn.structures import Detections, box_iou
from maskrcnn.structures.padded import pad_proposals

#: By the letters of a flip, the axes of an image [C, H, W] and of a mask [D, M, M] that it turns round.
_AXES = {"h": -1, "v": -2}


@dataclass(frozen=True)
class View:
    """An image scaled by ``scale``, then mirrored: left and right (``h``), top and bottom (``v``), both."""

    scale: float
    flips: str = ""

    def of_image(self, image: Tensor) -> Tensor:
        """[C, H, W] -> [C, h, w]; of the same values where it is not scaled, else float."""
        height, width = (max(1, round(side * self.scale)) for side in image.shape[-2:])
        if (height, width) != image.shape[-2:]:
            options = {"mode": "bilinear", "align_corners": False, "antialias": self.scale < 1}
            image = F.interpolate(image[None].float(), (height, width), **options)[0]  # type: ignore[arg-type]
        return self.of_masks(image)

    def of_masks(self, masks: Tensor) -> Tensor:
        """[..., h, w] mirrored, which twice is nothing."""
        return masks.flip([_AXES[flip] for flip in self.flips]) if self.flips else masks

    def of_boxes(self, boxes: Tensor, size: Sequence[int], seen: Sequence[int]) -> Tensor:
        """Boxes [..., 4] xyxy of an image of ``size`` (H, W), in its view of the size ``seen``."""
        return self._mirrored(boxes * _ratio(boxes, seen, size), seen)

    def back(self, boxes: Tensor, size: Sequence[int], seen: Sequence[int]) -> Tensor:
        """The inverse of :meth:`of_boxes`."""
        return self._mirrored(boxes, seen) * _ratio(boxes, size, seen)

    def _mirrored(self, boxes: Tensor, seen: Sequence[int]) -> Tensor:
        x1, y1, x2, y2 = boxes.unbind(-1)
        if "h" in self.flips:
            x1, x2 = seen[1] - x2, seen[1] - x1
        if "v" in self.flips:
            y1, y2 = seen[0] - y2, seen[0] - y1
        return torch.stack((x1, y1, x2, y2), dim=-1)


@dataclass(frozen=True)
class _Seen:
    """A view's size (h, w), feature maps, and what was found in it alone, in its own frame."""

    view: View
    size: tuple[int, int]
    maps: RoIFeatures
    found: DetectedRoIs


class Views(Protocol):
    """How an image is seen besides; ``eval.tta`` says what the values mean."""

    @property
    def flips(self) -> Sequence[str]: ...
    @property
    def scales(self) -> Sequence[float]: ...


class AugmentedModel:
    """``model.predict`` out of several views of each image; V times the work and the maps of V views.

    Images come at the network's scale, so a view that is larger shows nothing that a smaller image had lost.
    """

    def __init__(self, model: MaskRCNN, views: Views) -> None:
        self.model = model
        every = [View(scale, flips) for scale in views.scales for flips in ("", *views.flips)]
        #: The plain one first.
        self.views = sorted(dict.fromkeys(every), key=lambda view: view != View(1.0))

    def predict(
        self, images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None
    ) -> list[Detections]:
        """See :meth:`MaskRCNN.predict`."""
        given = [None] * len(images) if proposals is None else proposals
        return [self._of_image(image, own) for image, own in zip(images, given, strict=True)]

    @torch.no_grad()
    def _of_image(self, image: Tensor, proposals: Tensor | None) -> Detections:
        size = (image.shape[-2], image.shape[-1])
        seen = [self._look(image, view, proposals) for view in self.views]
        found = self._merged(seen, size)
        heads = self.model.roi.heads
        values = {}
        for name, head in heads.items():
            said = []
            # A mask can be mirrored back; of what others say that is not known, and the first view is plain.
            for look in seen if name == "mask_head" else seen[:1]:
                rois = found.moved(look.view.of_boxes(found.boxes, size, look.size))
                said.append(look.view.of_masks(head.predict(look.maps, rois)))
            values[name] = said[0] if len(said) == 1 else torch.stack(said).mean(dim=0)
        whole = FoundRoIs(1, found, values, heads)
        return self.model.roi.without_duplicates(whole)[0]

    def _look(self, image: Tensor, view: View, proposals: Tensor | None) -> _Seen:
        model = self.model
        batch = model.preprocess([view.of_image(image)])
        features = model.features(batch.tensor)
        size = batch.sizes[0]
        if model.rpn is not None:
            boxes, _ = model.rpn(batch, features)
        elif proposals is not None:
            boxes = [view.of_boxes(proposals, image.shape[-2:], size)]
        else:
            raise ValueError("a model without RPN (model.rpn: null) needs proposals with the images")
        maps = RoIFeatures(features, model.roi.trunk)
        found = model.roi.detect(maps, pad_proposals(boxes), batch.extents, static=False)
        return _Seen(view, size, maps, found)

    def _merged(self, seen: Sequence[_Seen], size: tuple[int, int]) -> DetectedRoIs:
        """The detections of all views as one list in the frame of the image of ``size``, by falling score."""
        roi = self.model.roi
        boxes = torch.cat([look.view.back(look.found.boxes, size, look.size) for look in seen])
        scores = torch.cat([look.found.scores for look in seen])
        labels = torch.cat([look.found.labels for look in seen])
        of_view = torch.cat([torch.full_like(look.found.labels, i) for i, look in enumerate(seen)])
        groups = torch.zeros_like(labels) if roi.nms_across_classes else labels
        kept = batched_nms(boxes, scores, groups, roi.nms_threshold)
        boxes, scores = fused(boxes, scores, groups, of_view, kept, len(seen), roi.nms_threshold)
        order = scores.argsort(descending=True, stable=True)[: roi.max_detections]
        order = order[scores[order] > roi.score_threshold]
        rois = torch.cat((boxes.new_zeros(len(order), 1), boxes[order]), dim=1)
        return DetectedRoIs(rois, labels[kept][order], None, scores[order])


def fused(
    boxes: Tensor, scores: Tensor, groups: Tensor, of_view: Tensor, kept: Tensor, views: int, iou: float
) -> tuple[Tensor, Tensor]:
    """One box and score of each group of boxes: those that NMS has ``kept``, and what each suppressed.

    Args:
        boxes: [B, 4] xyxy.  scores: [B] in [0, 1].  groups, of_view: int64 [B], the class and the view.
        kept: int64 [D], rows.
        views: V.
        iou: from which on, exclusively, a box was suppressed.

    Returns:
        boxes [D, 4], scores [D].
    """
    overlap = box_iou(boxes, boxes[kept])
    overlap = overlap * (groups[:, None] == groups[kept]) * (overlap > iou)
    overlap[kept, torch.arange(len(kept), device=kept.device)] = 2.0  # its own, first of all
    most, owner = overlap.max(dim=1) if len(kept) else (scores.new_zeros(0), kept.new_zeros(0))
    say = owner * views + of_view
    best = scores.new_zeros(len(kept) * views)
    best = best.scatter_reduce(0, say, torch.where(most > 0, scores, 0), "amax")
    weight = torch.where((most > 0) & (scores == best[say]), scores, 0)  # of a view the best of a group alone
    total = scores.new_zeros(len(kept)).index_add(0, owner, weight)
    summed = boxes.new_zeros(len(kept), 4).index_add(0, owner, boxes * weight[:, None])
    return summed / total[:, None], best.view(-1, views).mean(dim=1)


def _ratio(like: Tensor, size: Sequence[int], other: Sequence[int]) -> Tensor:
    """[4], by what boxes grow from images of the ``other`` (height, width) to ``size``."""
    return like.new_tensor([size[1] / other[1], size[0] / other[0]] * 2)
