"""The part of a model that every format has: normalised images to detections, as one traced graph.

Legend: N = images, D = ``max_detections``, M = side of the mask head's output, J = keypoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten

from maskrcnn.errors import UserError
from maskrcnn.modeling.interfaces import RoIHead
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.modeling.preprocess import ImageBatch
from maskrcnn.run.export.running import KNOWN

#: Names of what goes in, and of what every network gives, in order; what the heads tell comes behind.
INPUTS = ("network_images", "network_sizes")
OUTPUTS = ("network_boxes", "network_scores", "network_classes", "network_real")

#: What a head cannot be called, since something else of a file is.
_TAKEN = frozenset((*KNOWN, *INPUTS, *OUTPUTS, "image", "frames", "real", "mask_probs"))
#: A side of the images that are traced, pixels; larger by as little as the divisor allows.
_LEAST = 128
#: Of a side from which on no level (of stride 64 at most) has a single row or column.
SAFE = 96


class Told(NamedTuple):
    """What a head tells of each detection: its shape, behind [N, D], and its type."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Network(nn.Module):
    """``images`` float [N, C, H, W], normalised and padded, and ``sizes`` float [N, 2] (height, width before
    padding) to, by name, ``boxes`` [N, D, 4] xyxy in the network frame, ``scores`` [N, D], ``classes`` int64
    [N, D], which are ``real`` bool [N, D], and what the heads tell of them (:meth:`RoIHead.in_graph`), [N, D,
    ...]: ``mask_probs`` [N, D, M, M], ``keypoints`` [N, D, J, 3] in the network frame, and what further heads
    have by their names.
    """

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """See the class."""
        # All of it, said in a way from which a tracer has all levels' sizes as products of one number.
        divisor, (height, width) = self.model.preprocess.size_divisor, images.shape[2:]
        if divisor > 1:
            images = images[:, :, : height // divisor * divisor, : width // divisor * divisor]
        found = self.model.predict_batch(ImageBatch(images, (), sizes))
        rois, count = found.rois, images.shape[0]
        assert rois.real is not None
        rows = {"boxes": rois.boxes, "scores": rois.scores, "classes": rois.labels, "real": rois.real}
        for name, head in self.model.roi.heads.items():
            rows |= head.in_graph(rois, found.values[name])
        return {name: values.unflatten(0, (count, -1)) for name, values in rows.items()}


def trace(model: MaskRCNN) -> tuple[torch.export.ExportedProgram, Mapping[str, Told]]:
    """The graph of ``model``, float32 on the CPU and in evaluation mode, for any number and size of images;
    and what its heads tell, by name.

    As a program of PyTorch's its sides are :data:`SAFE` at least; what is made of it is not tied to that.

    Raises:
        UserError: the model has parts that cannot be traced.
    """
    if model.rpn is None:
        raise UserError("this model has no RPN: its proposals come with the images, so it is not exported")
    for name, head in model.roi.heads.items():
        if name in _TAKEN:
            raise UserError(
                f"model.heads.{name}: an exported file has something else of this name; train the head under"
                " another name"
            )
        if type(head).in_graph is RoIHead.in_graph:
            ours = name in ("mask_head", "keypoint_head")
            key = name if ours else f"heads.{name}"
            raise UserError(
                f"model.{key}: {type(head).__name__} has no method in_graph(rois, values), which would say"
                " what an exported file tells of it; write one (CONTRIBUTING.md, A new head)"
                + (f", or leave the head out with --set model.{name}=null" if ours else "")
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
            program = torch.export.export(Network(model), example, dynamic_shapes=shapes, strict=False)
    finally:
        model.static_shapes = before
    results: Any = program.graph.output_node().args[0]
    found = tree_unflatten([node.meta["val"] for node in results], program.call_spec.out_spec)
    told = {name: Told(tuple(v.shape[2:]), v.dtype) for name, v in found.items()}
    return program, {name: told[name] for name in list(told)[len(OUTPUTS) :]}
