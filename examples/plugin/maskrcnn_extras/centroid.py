"""A head: where in its box an object's centre of mass lies, as a gripper would want to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.config import Config, Range
from maskrcnn.modeling.interfaces import ROI_HEADS, RoIFeatures, RoIHead
from maskrcnn.modeling.roi.rois import DetectedRoIs, SampledRoIs
from maskrcnn.modeling.roi.targets import mask_targets

#: Side of the masks that centres are taken of.
SIDE = 28


class CentroidHead(RoIHead):
    """Pooled features -> (x, y) in [0, 1], shares of the box's width and height."""

    def __init__(self, channels: int, hidden: int, pool_size: int) -> None:
        super().__init__()
        self.pool_size = pool_size  # the pooler that is made for it gives [R, C, s, s]
        self.layers = nn.Sequential(
            nn.Linear(channels * pool_size**2, hidden), nn.ReLU(), nn.Linear(hidden, 2)
        )

    def forward(self, pooled: Tensor) -> Tensor:
        """[R, C, s, s] -> [R, 2]."""
        return self.layers(pooled.flatten(1)).sigmoid()

    def losses(self, features: RoIFeatures, rois: SampledRoIs) -> dict[str, Tensor]:
        """Smooth L1, of the RoIs that have an object."""
        rois = rois.positive
        masks = mask_targets(rois, SIDE, "polygon")
        place = (torch.arange(SIDE, device=masks.device, dtype=masks.dtype) + 0.5) / SIDE
        area = masks.sum(dim=(1, 2)).clamp(min=1e-6)
        centres = (
            torch.stack(((masks.sum(1) * place).sum(1), (masks.sum(2) * place).sum(1)), dim=1) / area[:, None]
        )
        found = self(features.pool(self.pooler, rois))
        return {f"loss_{self.name}": rois.mean(F.smooth_l1_loss(found, centres, reduction="none", beta=0.1))}

    def predict(self, features: RoIFeatures, rois: DetectedRoIs) -> Tensor:
        """[D, 2]: in ``Prediction.extras`` by the head's name."""
        return self(features.pool(self.pooler, rois))

    def in_graph(self, rois: DetectedRoIs, values: Tensor) -> dict[str, Tensor]:
        """[D, 2], by the same name, as the output of an exported file."""
        return self.finish(rois, values)


@ROI_HEADS.register("centroid")
@dataclass(frozen=True, kw_only=True)
class CentroidHeadConfig(Config):
    """A hidden layer; see :class:`CentroidHead`."""

    #: Its width.
    hidden: Annotated[int, Range(1, 65_536)] = 128
    #: Side of the pooled features.
    pool_size: Annotated[int, Range(1, 64)] = 7

    def build(self, channels: int, num_classes: int) -> CentroidHead:
        """It does not depend on the classes."""
        return CentroidHead(channels, self.hidden, self.pool_size)
