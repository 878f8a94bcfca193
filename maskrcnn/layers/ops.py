"""Where the RoI operators meet torch: the compiled kernels if they are loaded, else the reference twins."""

from __future__ import annotations

from torch import Tensor

from maskrcnn.layers import reference
from maskrcnn.layers.arguments import RoiArguments
from maskrcnn.layers.reference import check_values


def sampled(
    name: str, args: RoiArguments, geometry: int, ratio: int, aggregation: str, samples: str, seed: int
) -> Tensor:
    check_values(name, args.features, args.rois, args.levels)
    return reference.sampled(
        args.features,
        args.rois,
        args.levels,
        args.scales,
        (args.height, args.width),
        geometry,
        ratio,
        aggregation,
        samples,
        seed,
    )


def pooled(name: str, args: RoiArguments, rounding: str, bins: str) -> Tensor:
    check_values(name, args.features, args.rois, args.levels)
    return reference.roi_pool(
        args.features, args.rois, args.levels, args.scales, (args.height, args.width), rounding, bins
    )


def precise(name: str, args: RoiArguments) -> Tensor:
    check_values(name, args.features, args.rois, args.levels)
    return reference.precise(args.features, args.rois, args.levels, args.scales, (args.height, args.width))


def legacy(name: str, args: RoiArguments) -> Tensor:
    check_values(name, args.features, args.rois, args.levels)
    return reference.legacy(args.features, args.rois, args.levels, args.scales, (args.height, args.width))
