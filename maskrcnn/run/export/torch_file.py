"""``--to torch``: the network as a ``.pt2`` of ``torch.export``, with our operators.

``torch.export.load`` reads it where ``maskrcnn`` is installed: its operators are what RoIs are pooled by.  It
takes normalised images, see :class:`maskrcnn.run.export.network.Network`; what stands before and behind is
the checkpoint's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.data import apply_transforms
from maskrcnn.files import replacing, take_place
from maskrcnn.inference.records import coco_results
from maskrcnn.run.export.network import SAFE, trace
from maskrcnn.run.export.running import Array, Instances, Runner
from maskrcnn.run.export.writing import WRITERS, Order
from maskrcnn.run.predictor import Predictor
from maskrcnn.run.setup import build_transforms
from maskrcnn.structures import Detections, ImageInfo, RawSample, Targets
from maskrcnn.structures.rle import decode


@WRITERS.register("torch")
class TorchWriter:
    """One file, for any PyTorch from the version on that made it."""

    suffix = ".pt2"
    leavable: Mapping[str, str] = {}
    precisions: tuple[str, ...] = ("float32",)
    packages: Mapping[str, tuple[str, ...]] = {}

    def write(self, predictor: Predictor, file: Path, order: Order) -> None:
        """See :class:`Writer`."""
        program = trace(predictor.model)
        with replacing(file) as stream:
            torch.export.save(program, stream, extra_files=dict(order.metadata))

    def runner(self, predictor: Predictor, file: Path) -> Runner:
        """PyTorch."""
        return TorchRunner(predictor, torch.export.load(file).module())

    def rename(self, file: Path, output: Path) -> None:
        """See :class:`Writer`."""
        take_place(file, output)


def with_room(images: Tensor, divisor: int) -> Tensor:
    """``images`` [N, C, H, W] padded with 0 on the right and below to the least sides that a file takes."""
    least = -(-SAFE // divisor) * divisor
    height, width = images.shape[2:]
    return F.pad(images, (0, max(least - width, 0), 0, max(least - height, 0)))


class TorchRunner:
    """The network of a file between the checkpoint's own first and last steps."""

    def __init__(self, predictor: Predictor, network: torch.nn.Module) -> None:
        self._predictor, self._network = predictor, network
        self._transforms = build_transforms(predictor.recipe, training=False)

    def __call__(self, image: Array) -> Instances:
        """See :class:`Runner`."""
        height, width = image.shape[:2]
        info = ImageInfo(0, "", height, width)
        none = torch.zeros(0, dtype=torch.int64)
        sample = RawSample(image, info, Targets(torch.zeros(0, 4), none, None, none))
        tensor = apply_transforms(self._transforms, sample, np.random.default_rng(0)).to_sample().image
        batch = self._predictor.model.preprocess([tensor])
        with torch.no_grad():
            images = with_room(batch.tensor, self._predictor.model.preprocess.size_divisor)
            boxes, scores, labels, real, *masks = self._network(images, batch.extents)
        rows = real[0]
        found = Detections(
            boxes[0][rows], scores[0][rows], labels[0][rows], masks[0][0][rows] if masks else None
        )
        recipe, categories = self._predictor.recipe, self._predictor.categories
        records = coco_results(info, found, batch.sizes[0], categories, recipe.eval.paste)
        corners = np.array([r["bbox"] for r in records], dtype=np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        drawn = [decode(r["segmentation"]).astype(np.bool_) for r in records] if masks else None
        return Instances(
            corners,
            np.array([r["score"] for r in records]),
            np.array([categories.index_of(r["category_id"]) for r in records], dtype=np.int64),
            np.zeros((0, height, width), dtype=np.bool_)
            if drawn == []
            else None
            if drawn is None
            else np.stack(drawn),
        )
