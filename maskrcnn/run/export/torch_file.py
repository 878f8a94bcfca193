"""``--to torch``: the network as a ``.pt2`` of ``torch.export``, with our operators.

``torch.export.load`` reads it where ``maskrcnn`` is installed: its operators are what RoIs are pooled by.  It
takes normalised images, see :class:`maskrcnn.run.export.network.Network`; what stands before and behind is
the checkpoint's own.  :func:`load` reads one.
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
from maskrcnn.inference.paste import paste_masks
from maskrcnn.inference.records import in_image
from maskrcnn.layers.ops import compiled_devices
from maskrcnn.run.export.network import SAFE, trace
from maskrcnn.run.export.running import Array, Instances, Runner
from maskrcnn.run.export.writing import WRITERS, Order
from maskrcnn.run.predictor import Predictor
from maskrcnn.run.setup import build_transforms
from maskrcnn.structures import Detections, ImageInfo, RawSample, Targets, clip_boxes


@WRITERS.register("torch")
class TorchWriter:
    """One file, for any PyTorch from the version on that made it."""

    suffix = ".pt2"
    leavable: Mapping[str, str] = {}
    precisions: tuple[str, ...] = ("float32",)
    packages: Mapping[str, tuple[str, ...]] = {}

    def write(self, predictor: Predictor, file: Path, order: Order) -> None:
        """See :class:`Writer`."""
        program, _ = trace(predictor.model)
        with replacing(file) as stream:
            torch.export.save(program, stream, extra_files=dict(order.metadata))

    def runner(self, predictor: Predictor, file: Path) -> Runner:
        """PyTorch."""
        return TorchRunner(predictor, load(file))

    def rename(self, file: Path, output: Path) -> None:
        """See :class:`Writer`."""
        take_place(file, output)


def with_room(images: Tensor, divisor: int) -> Tensor:
    """``images`` [N, C, H, W] padded with 0 on the right and below to the least sides that a file takes."""
    least = -(-SAFE // divisor) * divisor
    height, width = images.shape[2:]
    return F.pad(images, (0, max(least - width, 0), 0, max(least - height, 0)))


def load(file: Path | str) -> torch.nn.Module:
    """The network of a ``.pt2``, see :class:`maskrcnn.run.export.network.Network`.

    ``torch.export.load`` does it, too, where our operators, which it runs, were loaded before.
    """
    compiled_devices()
    import maskrcnn.modeling.roi.keypoint_decode  # noqa: F401 - registers its operator

    return torch.export.load(file).module()


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
            given = self._network(images, batch.extents)
        rows = given.pop("real")[0]
        told = {name: values[0][rows] for name, values in given.items()}
        boxes, scores, labels = (told.pop(name) for name in ("boxes", "scores", "classes"))
        masks, points = told.pop("mask_probs", None), told.pop("keypoints", None)
        size, settings = (height, width), self._predictor.recipe.eval
        found = in_image(Detections(boxes, scores, labels, masks, points, told), batch.sizes[0], size)
        drawn = None
        if found.mask_probs is not None:
            drawn = paste_masks(found.mask_probs, found.boxes, *size, settings.paste, settings.clean)
        return Instances(
            clip_boxes(found.boxes, *size).double().numpy(),
            found.scores.double().numpy(),
            found.labels.numpy(),
            drawn,
            None if found.keypoints is None else found.keypoints.double().numpy(),
            {name: values.numpy() for name, values in found.extras.items()},
        )
