"""ImageNet classifiers -> weights of a backbone in torchvision's names, reading R, G, B.

torchvision's ResNet, ResNeXt, Wide ResNet and VGG; the ResNets and ResNeXts that Detectron2 starts from:
MSRA's and FAIR's in Caffe2's names, torchvision's in Detectron2's; and for a backbone of timm's, in timm's
names, what is in those or in those of EfficientNet-PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskrcnn.convert.detectron2 import BGR_MEAN, BGR_STD, backbone_rules
from maskrcnn.convert.recognise import recognise_resnet
from maskrcnn.convert.source import COUNTER, RGB_MEAN, RGB_STD, Reading, Rule, residual_rules, translate
from maskrcnn.convert.timm_classifier import has_timm_names, pixels, timm_model
from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.backbones.timm_backbone import TimmConfig
from maskrcnn.modeling.backbones.vgg import VGG16Config
from maskrcnn.weights.efficientnet_names import is_efficientnet, to_timm
from maskrcnn.weights.state_dict import mismatch

_TORCHVISION: tuple[Rule, ...] = (
    *residual_rules("", ""),
    (r"(features\.\d+\.(?:weight|bias))", r"\1"),
    (r"(classifier\.[03]\.(?:weight|bias))", r"\1"),
)
#: Caffe2's suffixes, of batch and group normalisation.
_SUFFIX = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_PART = {"branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
_CAFFE2: tuple[Rule, ...] = (
    (r"conv1_w", "conv1.weight"),
    *((rf"(?:res_)?conv1_[bg]n_{k}", f"bn1.{v}") for k, v in _SUFFIX.items()),
    *((rf"res([2-5])_(\d+)_{b}_w", rf"layer<1-1>.\2.{c}.weight") for b, c in _PART.items()),
    *(
        (rf"res([2-5])_(\d+)_{b}_[bg]n_{k}", rf"layer<1-1>.\2.bn{c[-1]}.{v}")
        for b, c in _PART.items()
        for k, v in _SUFFIX.items()
    ),
    (r"res([2-5])_(\d+)_branch1_w", r"layer<1-1>.\2.downsample.0.weight"),
    *(
        (rf"res([2-5])_(\d+)_branch1_[bg]n_{k}", rf"layer<1-1>.\2.downsample.1.{v}")
        for k, v in _SUFFIX.items()
    ),
)
_LAST = "the classifier's last layer"
_LEFT_OUT = (
    (r"(stem\.)?fc\.(weight|bias)", _LAST),
    (r"(fc1000|pred|last_out_L1000)_[wb]", _LAST),
    (r"classifier\.6\.(weight|bias)", _LAST),
    (r"conv1_b", "a bias that Detectron2 does not use either"),
    (rf".*\.{COUNTER}", "a backbone's weights need no counters of batches"),
)


@dataclass(frozen=True)
class ClassifierWeights:
    """A converted classifier.

    state: in torchvision's names, or of a model of timm's in timm's; reading R, G, B.
    matched, dropped: as of a detector's conversion.
    config: the backbone that reads it (``model.backbone``, with ``weights`` its file).
    reading: its pixel statistics; ``mean`` and ``std`` of R, G, B.
    maker: whose names they were.
    """

    state: dict[str, Tensor]
    matched: list[tuple[str, str]]
    dropped: list[tuple[str, str]]
    config: ResNetConfig | VGG16Config | TimmConfig
    reading: Reading
    maker: str


def maker_of(state: Mapping[str, Tensor], file_name: str = "") -> str | None:
    """Whose classifier this is: torchvision, detectron2, caffe2, efficientnet-pytorch, timm, or None."""
    if {"conv1.weight", "layer1.0.conv1.weight"} <= set(state) or "features.0.weight" in state:
        return "torchvision"
    if {"stem.conv1.weight", "res2.0.conv1.weight"} <= set(state):
        return "detectron2"
    if {"conv1_w", "res2_0_branch2a_w"} <= set(state):
        return "caffe2"
    if is_efficientnet(state):
        return "efficientnet-pytorch"
    return "timm" if has_timm_names(state, file_name) else None


def convert_classifier(
    state: Mapping[str, Tensor], bgr: bool | None = None, file_name: str = ""
) -> ClassifierWeights:
    """Translate a classifier's state dict; all but its last layer.

    Args:
        bgr: whether it reads B, G, R; None: as its maker's do.
        file_name: of the file; timm calls its files after the models.

    Raises:
        CheckpointError: a tensor is missing, or has no place.
    """
    maker = maker_of(state, file_name)
    if maker in ("timm", "efficientnet-pytorch"):
        return _of_timm(state, maker, bool(bgr), file_name)
    known = "ResNet, ResNeXt, Wide ResNet and VGG-16"
    if maker is None:
        raise CheckpointError(f"these are no weights known here ({', '.join(list(state)[:3])}, ...)")
    rules = {"torchvision": _TORCHVISION, "detectron2": backbone_rules("", "[2-5]", ""), "caffe2": _CAFFE2}
    converted, matched, dropped = translate(state, rules[maker], _LEFT_OUT, known)
    converted = {name: value.clone() for name, value in converted.items()}
    if "features.0.weight" in converted:
        first = "features.0.weight"
        config: ResNetConfig | VGG16Config = VGG16Config()
        found = Reading(bool(bgr), RGB_MEAN, RGB_STD, False, "torchvision's own")
    else:
        first = "conv1.weight"
        if maker == "caffe2" and not any("_gn_" in name or "_rm" in name for name in state):
            _fill_statistics(converted)
        config, found = _resnet(converted, maker, bgr)
    if found.bgr:
        converted[first] = converted[first].flip(1)
        found = replace(found, mean=found.mean[::-1], std=found.std[::-1])
    return ClassifierWeights(converted, matched, dropped, config, found, maker)


def _of_timm(state: Mapping[str, Tensor], maker: str, bgr: bool, file_name: str) -> ClassifierWeights:
    """With its last layer, which timm's own loader wants, too."""
    efficientnet = maker == "efficientnet-pytorch"
    converted = to_timm(state) if efficientnet else dict(state)
    name = timm_model(converted, file_name, efficientnet)
    mean, std = pixels(name)
    reading = Reading(bgr, mean, std, False, f"as timm states it for {name}")  # type: ignore[arg-type]
    if bgr:
        first = next(n for n, value in converted.items() if value.dim() == 4 and value.shape[1] == 3)
        converted[first] = converted[first].flip(1)
    matched = list(zip(state, converted, strict=True))
    return ClassifierWeights(converted, matched, [], TimmConfig(name=name), reading, maker)


def _resnet(state: Mapping[str, Tensor], maker: str, bgr: bool | None) -> tuple[ResNetConfig, Reading]:
    config = recognise_resnet(state, "frozen_bn", prefix="")
    reading = Reading(bool(bgr), RGB_MEAN, RGB_STD, False, "torchvision's own")
    if maker == "caffe2":
        msra = config.groups == 1 and config.norm != "gn"
        std = (1.0, 1.0, 1.0) if config.groups == 1 else BGR_STD
        reading = Reading(bgr is not False, BGR_MEAN, std, msra, "MSRA's" if msra else "FAIR's")
    config = replace(config, stride_in_1x1=reading.stride_in_1x1 and config.depth >= 50)
    with torch.device("meta"):
        problem = mismatch(config.build().state_dict(), state)
    if problem:
        raise CheckpointError(f"taken for a ResNet-{config.depth}, but not all of it fits: {problem}")
    return config, reading


def _fill_statistics(state: dict[str, Tensor]) -> None:
    """MSRA's norms hold weight and bias alone, for a mean of 0 and ``var + 1e-5 = 1``."""
    for name in [n for n in state if re.search(r"(bn\d|downsample\.1)\.weight$", n)]:
        state[name.replace("weight", "running_mean")] = torch.zeros_like(state[name])
        state[name.replace("weight", "running_var")] = torch.full_like(state[name], 1 - 1e-5)
