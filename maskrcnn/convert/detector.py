"""Another framework's detector -> our names, class order and model; all of it, or an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskrcnn.convert import detectron2, maskrcnn_benchmark, mmdetection, torchvision
from maskrcnn.convert.recognise import recognise
from maskrcnn.convert.source import COUNTER, Family, File, Reading, Source, rename, translate
from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.weights.state_dict import mismatch

SOURCES: tuple[Source, ...] = (
    torchvision.SOURCE,
    detectron2.SOURCE,
    maskrcnn_benchmark.SOURCE,
    mmdetection.SOURCE,
)


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    source: whose names they were.
    reading: what was assumed beyond the weights.
    state: our state dict.
    matched: (their name, our name), in the file's order.
    dropped: (their name, why).
    num_classes: K of the result.
    model: the model that the weights belong to.
    family: where what the weights do not say was taken from.
    """

    source: Source
    reading: Reading
    state: dict[str, Tensor]
    matched: list[tuple[str, str]]
    dropped: list[tuple[str, str]]
    num_classes: int
    model: MaskRCNNConfig
    family: Family


def find_source(state: Mapping[str, Tensor]) -> Source | None:
    """The framework whose detectors have such names, or None."""
    return next((source for source in SOURCES if source.matches(state)), None)


def num_foreground(state: Mapping[str, Tensor], source: Source) -> int:
    """How many classes a file has, without background.

    Raises:
        CheckpointError: it has no class layer.
    """
    for name, value in state.items():
        if (rename(name, source.rules) or "").endswith("predictor.logits.weight"):
            return value.shape[0] - 1
    raise CheckpointError("the file has no layer of class scores; it is not a whole detector")


def convert(
    file: File,
    source: Source,
    *,
    keep: Sequence[int] | None = None,
    bgr: bool | None = None,
    bn_eps: float | None = None,
    adjust: Callable[[MaskRCNNConfig], MaskRCNNConfig] | None = None,
) -> Conversion:
    """Translate a detector.  The file's tensors are not written to.

    Args:
        keep: the file's foreground classes (0 ..) to keep, in the order of ours; None keeps all.
        bgr: whether the first convolution reads B, G, R; None concludes it from the file.
        bn_eps: epsilon of the source's frozen batch normalisation; None = the framework's.  Another one than
            ours is worked into the weights.
        adjust: has the last word on the model.

    Raises:
        CheckpointError: a tensor is missing, or has no place.
        ConfigError: ``keep`` names a class that the file does not have.
    """
    total = num_foreground(file.state, source)
    kept = list(range(total)) if keep is None else list(keep)
    if not kept or min(kept) < 0 or max(kept) >= total:
        raise ConfigError(f"classes to keep must be 0 to {total - 1} (the file's), got {kept}")
    known = f"{source.name}'s Faster, Mask, Keypoint and Cascade R-CNN with ResNet and ResNeXt"
    state, matched, dropped = translate(file.state, source.rules, source.left_out, known)
    state = {n: _classes(n, v, kept, source.background == "first").clone() for n, v in state.items()}
    reading = source.read(file, state, bgr)
    model = recognise(
        state, len(kept), source.pyramid, source.single, source.counted, stride_in_1x1=reading.stride_in_1x1
    )
    family = source.family(model)
    model = family.model
    turn = -1 if reading.bgr else 1
    preprocess = replace(model.preprocess, mean=reading.mean[::turn], std=reading.std[::turn])
    model = replace(model, preprocess=preprocess)
    if reading.anchors is not None and model.rpn is not None:
        model = replace(model, rpn=replace(model.rpn, anchors=reading.anchors))
    if adjust is not None:
        model = adjust(model)
    if reading.bgr:
        state["backbone.conv1.weight"] = state["backbone.conv1.weight"].flip(1)
    absorb_epsilon(state, source.bn_eps if bn_eps is None else bn_eps)
    _fit(state, matched, dropped, model, len(kept))
    return Conversion(source, reading, state, matched, dropped, len(kept), model, family)


def _classes(name: str, value: Tensor, keep: list[int], background_first: bool) -> Tensor:
    """Rows by class: the kept ones, then background in the logits; no background in deltas and masks."""
    if not name.endswith((".weight", ".bias")):
        return value
    first = int(background_first)
    rows = [k + first for k in keep]
    if ".predictor.logits." in name:
        return value[[*rows, 0 if background_first else len(value) - 1]]
    if ".predictor.deltas." in name:
        if len(value) == 4 or (len(value) == 8 and background_first and len(keep) > 1):  # class-agnostic
            return value[-4:]
        return value.view(-1, 4, *value.shape[1:])[rows].flatten(0, 1)
    if name.startswith("roi.mask_head.logits.") and len(value) > 1 + first:
        return value[rows]
    return value[-1:] if name.startswith("roi.mask_head.logits.") else value


def absorb_epsilon(state: dict[str, Tensor], eps: float) -> None:
    """Scale the backbone's norms so that ``weight / sqrt(var + 1e-5)`` is what it was with ``eps``.

    Raises:
        CheckpointError: ``eps`` is 0, and so is a variance.
    """
    if eps == 1e-5:
        return
    for name in [n for n in state if n.endswith(".running_var")]:
        weight = name.replace("running_var", "weight")
        var = state[name].double()
        if bool((var + eps <= 0).any()):
            raise CheckpointError(f"{name} holds a variance of 0, which an epsilon of {eps} cannot divide by")
        factor = ((var + 1e-5) / (var + eps)).sqrt()
        state[weight] = (state[weight].double() * factor).to(state[weight].dtype)


def _fit(
    state: dict[str, Tensor],
    matched: list[tuple[str, str]],
    dropped: list[tuple[str, str]],
    model: MaskRCNNConfig,
    num_classes: int,
) -> None:
    """Leave out counters that the model does not have, add those that it has; all else must agree."""
    with torch.device("meta"):
        own = model.build(num_classes).state_dict()
    counters = [(theirs, ours) for theirs, ours in matched if ours.endswith(COUNTER) and ours not in own]
    for theirs, ours in counters:
        del state[ours]
        matched.remove((theirs, ours))
        dropped.append((theirs, "frozen batch normalisation does not count batches"))
    for name in own:
        if name.endswith(COUNTER):
            state.setdefault(name, torch.zeros((), dtype=torch.int64))
    problem = mismatch(own, state)
    if problem:
        raise CheckpointError(f"taken for a {describe(model)}, but not all of it fits: {problem}")


def describe(model: MaskRCNNConfig) -> str:
    """The architecture in a few words."""
    kind = "Faster R-CNN" if model.mask_head is None else "Mask R-CNN"
    if model.keypoint_head is not None:
        kind = "Keypoint R-CNN" + ("" if model.mask_head is None else " with masks")
    if model.roi.cascade is not None:
        kind = f"Cascade {kind}"
    backbone = model.backbone
    if not isinstance(backbone, ResNetConfig):
        return f"{kind}, {backbone}"
    name = f"ResNet-{backbone.depth}"
    if backbone.groups > 1:
        name = f"ResNeXt-{backbone.depth} {backbone.groups}x{backbone.width_per_group}d"
    elif backbone.width_per_group != 64:
        name = f"Wide-ResNet-{backbone.depth}-{backbone.width_per_group // 64}"
    form = "FPN" if model.neck is not None else "C4" if model.roi_trunk is not None else "DC5"
    return f"{kind}, {name}-{form}, {backbone.norm}"
