"""What a framework's checkpoint means: its names, its order of classes, and what its weights do not say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from maskrcnn.errors import CheckpointError, plural
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.modeling.rpn.anchors import AnchorConfig

#: (pattern of their whole name, our name).  ``\1`` is a group; ``<1+2>`` the number in group 1, plus 2.
Rule = tuple[str, str]
Triple = tuple[float, float, float]
#: What a backbone whose file counts batches is normalised by.
Counted = Literal["bn", "frozen_bn"]


@dataclass(frozen=True)
class Reading:
    """What a file is taken to mean beyond its weights; it is printed and can be overruled.

    bgr: the first convolution reads B, G, R.
    mean, std: of pixels in 0..255, in the order that the first convolution reads.
    stride_in_1x1: see :class:`maskrcnn.modeling.backbones.resnet.ResNetConfig`.
    anchors: the file's own, where they are not the framework's usual ones.
    why: what it was concluded from.
    """

    bgr: bool
    mean: Triple
    std: Triple
    stride_in_1x1: bool
    why: str
    anchors: AnchorConfig | None = None


#: ImageNet's statistics as torchvision has them, R, G, B.
RGB_MEAN: Triple = (123.675, 116.28, 103.53)
RGB_STD: Triple = (58.395, 57.12, 57.375)
#: The shorter sides that Detectron2 trains at, pixels; others do for keypoints.
MULTI_SCALE = (640, 672, 704, 736, 768, 800)


@dataclass(frozen=True)
class File:
    """A checkpoint as it lies in the file.

    state: their names -> tensors.
    meta: what else the file says, where it says it in plain containers.
    """

    state: Mapping[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """What a framework's own config of a kind of model sets beyond the parts that the weights show.

    model: the recognised model with the family's losses, proposals and thresholds.
    theirs: the framework's config that they were taken from.
    recipe: the recipe of ours that has the same, by the name that ``maskrcnn zoo`` lists; None: there is
        none.
    unsaid: what of it is not expressed here, a sentence each.
    """

    model: MaskRCNNConfig
    theirs: str
    recipe: str | None = None
    unsaid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A framework whose detectors can be converted.

    name: as ``--from`` spells it.
    marks: patterns; a file is this framework's where each of them is the whole of some name.
    rules: their names -> ours, of all tensors that have a place here.
    left_out: (pattern, why) of tensors without one, which is right.
    background: where the logits' row of background stands.
    read: (file, its tensors by our names, whether the user says that it reads B, G, R) -> what it means.
    pyramid, single: what its detectors compute with and without a pyramid; the parts that the weights show
        are put in their place.
    family: the recognised model -> what its config for such a model sets otherwise than for others.
    counted: the norm that ``num_batches_tracked`` in the backbone stands for.
    bn_eps: epsilon of its frozen batch normalisation.
    rounding, resample: how it resizes images (``resize_shortest_edge``).
    train_sizes, keypoint_train_sizes: to which shorter sides in training, boxes and masks, and keypoints.
    paste, keypoint_offset: how it pastes masks and counts keypoints (``eval``).
    min_keypoints: see the data set's key.
    """

    name: str
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]
    left_out: tuple[tuple[str, str], ...]
    background: Literal["first", "last"]
    read: Callable[[File, Mapping[str, Tensor], bool | None], Reading]
    pyramid: MaskRCNNConfig
    single: MaskRCNNConfig
    family: Callable[[MaskRCNNConfig], Family]
    counted: Counted
    bn_eps: float = 1e-5
    rounding: Literal["nearest", "floor"] = "nearest"
    resample: Literal["linear", "antialias"] = "linear"
    train_sizes: tuple[int, ...] = (800,)
    keypoint_train_sizes: tuple[int, ...] = MULTI_SCALE
    paste: Literal["aligned", "torchvision"] = "aligned"
    keypoint_offset: float = 0.5
    min_keypoints: int = 1

    def matches(self, names: Iterable[str]) -> bool:
        """Whether these are this framework's names."""
        names = list(names)
        return all(any(re.fullmatch(mark, name) for name in names) for mark in self.marks)


def with_rpn(model: MaskRCNNConfig, **changes: Any) -> MaskRCNNConfig:
    """The model with other values of its RPN, where it has one."""
    return model if model.rpn is None else replace(model, rpn=replace(model.rpn, **changes))


def task_of(model: MaskRCNNConfig) -> Literal["keypoint", "mask", "faster"]:
    """Which of the R-CNNs it is, as frameworks call their configs."""
    if model.keypoint_head is not None:
        return "keypoint"
    return "faster" if model.mask_head is None else "mask"


#: The last part of the name of batch normalisation's counter.
COUNTER = "num_batches_tracked"
#: A pattern for the last part of the names of a normalisation layer.
NORM = rf"(weight|bias|running_mean|running_var|{COUNTER})"


def rename(name: str, rules: Sequence[Rule]) -> str | None:
    """Our name for theirs, or None."""
    for pattern, template in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(_count(template, match))
    return None


def _count(template: str, match: re.Match[str]) -> str:
    return re.sub(r"<(\d)([+-]\d+)>", lambda m: str(int(match[int(m[1])]) + int(m[2])), template)


def translate(
    state: Mapping[str, Tensor], rules: Sequence[Rule], left_out: Sequence[tuple[str, str]], known: str
) -> tuple[dict[str, Tensor], list[tuple[str, str]], list[tuple[str, str]]]:
    """Every tensor under our name.

    Args:
        known: what the rules are for, in words.

    Returns:
        the new state dict (tensors shared), (their name, our name), and (their name, why it was left out).

    Raises:
        CheckpointError: a name has no place, or two have the same and differ.
    """
    converted: dict[str, Tensor] = {}
    matched: list[tuple[str, str]] = []
    dropped, unknown = [], []
    for name, value in state.items():
        why = next((reason for pattern, reason in left_out if re.fullmatch(pattern, name)), None)
        target = None if why is not None else rename(name, rules)
        if why is not None:
            dropped.append((name, why))
        elif target is None:
            unknown.append(name)
        elif target in converted:
            if not converted[target].equal(value):
                raise CheckpointError(f"{name} differs from another tensor that belongs in {target}")
            twin = next(theirs for theirs, ours in matched if ours == target)
            dropped.append((name, f"the same tensor as {twin}"))
        else:
            converted[target] = value
            matched.append((name, target))
    names = set(converted)
    converted = {_two_fc(name, names): value for name, value in converted.items()}
    matched = [(theirs, _two_fc(ours, names)) for theirs, ours in matched]
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} of {plural(len(state), 'tensor')} have no place here ({', '.join(unknown[:3])}"
            f"{', ...' if len(unknown) > 3 else ''}); known are {known}"
        )
    return converted, matched, dropped


def _two_fc(name: str, names: Iterable[str]) -> str:
    """Two fully connected layers after no convolution are ``fc1`` and ``fc2`` here, else ``fcs.i``."""
    match = re.fullmatch(r"(roi\.box_heads?\.(?:\d\.)?)fcs\.([01])\.(\w+)", name)
    if match is None:
        return name
    head = match[1]
    several = any(n.startswith((f"{head}convs.", f"{head}fcs.2.")) for n in names)
    if several or f"{head}fcs.1.weight" not in names:
        return name
    return f"{head}fc{int(match[2]) + 1}.{match[3]}"


def residual_rules(theirs: str, ours: str = "backbone.") -> tuple[Rule, ...]:
    """Rules for a ResNet in torchvision's names, below ``theirs`` (a pattern), to below ``ours``."""
    return (
        (rf"{theirs}((?:conv|bn)1\.\w+)", rf"{ours}\1"),
        (rf"{theirs}(layer[1-4]\.\d+\.(?:conv\d|bn\d|downsample\.[01])\.{NORM})", rf"{ours}\1"),
    )
