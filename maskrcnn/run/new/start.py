"""What a training starts from: published weights where they can be had, a file, or chance."""

from __future__ import annotations

import difflib
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from maskrcnn.config.encode import escape_path
from maskrcnn.config.text import format_plain
from maskrcnn.data.pixel_statistics import PixelStatistics
from maskrcnn.errors import CheckpointError, ConfigError, UserError, plural
from maskrcnn.modeling.backbones.timm_backbone import TimmConfig
from maskrcnn.run.named_weights import WeightsFacts, is_name, publisher_of
from maskrcnn.run.new.choice import KeyChoice, flow
from maskrcnn.run.new.facts import DataFacts
from maskrcnn.weights.efficientnet_names import is_efficientnet
from maskrcnn.weights.published import find
from maskrcnn.weights.state_dict import read_backbone

#: Of COCO, the best of a size that fine-tunes on any machine first; by what the data have.
_COCO = {
    "masks": (
        "detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x",
        "torchvision/mask_rcnn_r50_fpn",
    ),
    "boxes": ("detectron2/COCO-Detection/faster_rcnn_R_50_FPN_3x", "torchvision/faster_rcnn_r50_fpn"),
    "keypoints": ("detectron2/COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x", "torchvision/keypoint_rcnn_r50_fpn"),
}
#: Seconds that an address is tried.
_PATIENCE = 3.0
#: Rates of SGD: of fine-tuning where none is stated, and from scratch with group normalisation, which bears
#: four times as much (configs/nuclei).
_TUNING, _SCRATCH = (0.02, 16), (0.02, 4)
_BASE = "zoo/base/mask_rcnn_fpn"
#: Blocks of the four stages -> depth of the ResNet; of 34 and 50 they are the same, and the blocks differ.
_DEPTHS: dict[tuple[int, ...], int] = {
    (2, 2, 2, 2): 18,
    (3, 4, 6, 3): 50,
    (3, 4, 23, 3): 101,
    (3, 8, 36, 3): 152,
}
#: timm's models that a file of this family's names is tried as.
_TRIED = 6
#: More images than these are worth a deeper network where there is a GPU.
_MANY = 2000


@dataclass(frozen=True)
class Beginning:
    """What to start from.

    base: the config of the network.  told: a sentence for the summary.
    rate: (learning rate of SGD, for so many images a step).
    tuned: whether parts were trained before.  anchored: whether those know the usual anchors.
    """

    base: str
    told: str
    choices: tuple[KeyChoice, ...]
    rate: tuple[float, int]
    tuned: bool
    anchored: bool


def choose_start(facts: DataFacts, asked: str, *, cuda: bool) -> Beginning:
    """
    Args:
        asked: ``auto``, ``none``, or a name or file of weights.

    Raises:
        CheckpointError, ConfigError: the weights that were asked for are unknown, or of no known kind.
    """
    if asked == "none":
        return _scratch(facts, cuda, "As --weights none asks: from scratch.")
    if asked != "auto":
        path = Path(asked)
        if is_name(path):
            return _named(path, facts, cuda, "as --weights asks")
        return _file(path, facts, cuda)
    kind = "keypoints" if facts.joints else "boxes" if facts.masks == "none" else "masks"
    if facts.joints not in (0, 17):
        return _scratch(
            facts, cuda, f"No weights are known for {plural(facts.joints, 'keypoint')}: from scratch."
        )
    for name in _COCO[kind]:
        how = _at_hand(name)
        if how:
            return _named(Path(name), facts, cuda, how)
    return _scratch(
        facts,
        cuda,
        f"COCO weights ({_COCO[kind][0]}) are not on this machine, and there is no network to fetch them:"
        " from scratch. Weights are worth more than all else; with a network, or --weights FILE, make this"
        " file anew.",
    )


def _at_hand(name: str) -> str:
    """How the weights can be had; empty where they cannot."""
    if not publisher_of(Path(name)).outlook(name):
        return "on this machine"
    address = urlsplit(find(name)[1].url)
    if not proxy_bypass(address.hostname or "") and (proxy := getproxies().get(address.scheme)):
        address = urlsplit(proxy if "//" in proxy else f"//{proxy}")  # it is what fetch will talk to
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        with socket.create_connection((address.hostname or "", port), timeout=_PATIENCE):
            return "fetched by the training"
    except OSError:
        return ""


def _named(path: Path, facts: DataFacts, cuda: bool, how: str) -> Beginning:
    name = path.as_posix()
    known = publisher_of(path).facts(name)
    rate = (known.rate, 16) if known.rate else _TUNING
    licence = f"; licence: {known.licence}" if known.licence else ""
    if path.parts[0] == "timm":
        model = path.parts[-1].partition(".")[0]
        backbone: dict[str, Any] = {"type": "timm", "name": model, "weights": name}
        return _on_backbone(facts, cuda, backbone, name, known, rate, f"{how}{licence}")
    name, entry = find(name)
    if entry.kind == "backbone":
        found = re.search(r"(?:resnet|R-)(\d+)", name)
        if found is None:
            raise ConfigError(
                f"{name}: what config these weights need is not known here; make the file with --weights"
                " none, and write model.backbone yourself"
            )
        backbone = {"depth": int(found[1]), "weights": name, "stride_in_1x1": bool(known.stride_in_1x1)}
        return _on_backbone(facts, cuda, backbone, name, known, rate, f"{how}{licence}")
    if known.recipe is None:
        raise ConfigError(f"{name}: no recipe of ours is known for these weights; write a config yourself")
    figures = ", ".join(f"{key} {value:.3f}" for key, value in entry.figures.items())
    choices = [
        KeyChoice(
            "weights",
            format_plain(name),
            f"{how.capitalize()}; on COCO {figures or 'no figures stated'}{licence}. Rows of classes with the"
            " same name are taken over, others begin afresh.",
        ),
        KeyChoice("model.backbone.weights", "null", "The whole model's are named above."),
        *_heads(facts),
        *_pixels(known, "The pixels that the weights were trained on, as their publisher states."),
        KeyChoice("expect", "[]", "The recipe's figures are COCO's."),
    ]
    told = f"fine-tuned from {name} ({how})"
    return Beginning(f"zoo/{known.recipe}", told, tuple(choices), rate, tuned=True, anchored=True)


def _file(path: Path, facts: DataFacts, cuda: bool) -> Beginning:
    """A run's folder, or a file of a backbone."""
    config = path / "config.yaml"
    if path.is_dir():
        if not config.is_file():
            raise CheckpointError(f"{path}: is no folder of a run: there is no config.yaml in it")
        return Beginning(
            str(config.absolute()),
            f"fine-tuned from the run {path}",
            (
                KeyChoice("weights", _path(path), "The run's best, with its config."),
                *_heads(facts),
            ),
            _TUNING,
            tuned=True,
            anchored=False,
        )
    state = read_backbone(path)
    depth = _resnet_depth(state)
    if depth is not None:
        backbone: dict[str, Any] = {"depth": depth, "weights": str(path.absolute())}
        what, known = f"ResNet-{depth}", None
    else:
        model = _timm_model(path, state)
        mean, std = TimmConfig(name=model).build().pixels
        backbone = {"type": "timm", "name": model, "weights": str(path.absolute())}
        what, known = f"timm's {model}", WeightsFacts(str(path), _rounded(mean), _rounded(std))
    return _on_backbone(facts, cuda, backbone, what, known, _TUNING, f"from {path.name}")


def _on_backbone(
    facts: DataFacts,
    cuda: bool,
    backbone: dict[str, Any],
    what: str,
    known: WeightsFacts | None,
    rate: tuple[float, int],
    how: str,
) -> Beginning:
    """Weights of the backbone alone; all behind it begins afresh."""
    if "type" in backbone:
        frozen = KeyChoice("model.backbone.frozen_bn", "true", "A step has too few images for batch norm.")
    else:
        frozen = KeyChoice("model.backbone.norm", "frozen_bn", "A step has too few images for batch norm.")
    keys = [KeyChoice(f"model.backbone.{key}", _value(key, value)) for key, value in backbone.items()]
    keys[0] = KeyChoice(keys[0].key, keys[0].value, f"{what}, {how}; the rest begins afresh.")
    choices = [*keys, frozen]
    if "type" not in backbone:
        choices.append(KeyChoice("model.backbone.freeze_at", "2", "The first layers fit all images."))
    choices += [*_small_parts(facts, cuda), *_heads(facts)]
    if known is not None:
        choices += _pixels(known, "The pixels that the weights were trained on.")
    return Beginning(_BASE, f"backbone {what}, {how}", tuple(choices), rate, tuned=True, anchored=False)


def _scratch(facts: DataFacts, cuda: bool, why: str) -> Beginning:
    deep = cuda and facts.images >= _MANY
    depth = 50 if deep else 18
    size = plural(facts.images, "image") + ("" if cuda else " and a CPU")
    choices = [
        KeyChoice("model.backbone.depth", str(depth), f"From scratch: a ResNet-{depth} suits {size}."),
        KeyChoice(
            "model.backbone.norm", "gn", "Groups in each image: a step has too few images for batch norm."
        ),
        KeyChoice("model.backbone.freeze_at", "0", "Nothing is frozen, for all is random."),
        *(() if deep else _small_parts(facts, cuda)),
        *_heads(facts),
        *_pixels(facts.pixels, f"Of {facts.pixels.images} of the images."),
    ]
    return Beginning(_BASE, why, tuple(choices), _SCRATCH, tuned=False, anchored=False)


def _small_parts(facts: DataFacts, cuda: bool) -> list[KeyChoice]:
    """Half the widths behind the backbone, which train as well on few images, in half the time."""
    if cuda and facts.images >= _MANY:
        return []
    why = (
        f"Half of the usual widths for {plural(facts.images, 'image')}" + ("" if cuda else " and a CPU") + "."
    )
    masks = [] if facts.masks == "none" else [KeyChoice("model.mask_head.width", "128")]
    return [
        KeyChoice("model.neck.out_channels", "128", why),
        KeyChoice("model.box_head.hidden", "512"),
        *masks,
    ]


def _heads(facts: DataFacts) -> list[KeyChoice]:
    if facts.masks == "none":
        found = [KeyChoice("model.mask_head", "null", "The data are boxes alone.")]
    else:
        hard = facts.masks == "run lengths"
        target = "bitmask_hard" if hard else "polygon"
        found = [KeyChoice("model.mask_target", target, f"The masks are {facts.masks}.")]
    if facts.joints:
        head = {"type": "conv", "num_keypoints": facts.joints}
        found.append(
            KeyChoice("model.keypoint_head", flow(head), f"Objects have {plural(facts.joints, 'keypoint')}.")
        )
        if facts.joints != 17:
            found.append(
                KeyChoice(
                    "eval.sigmas",
                    flow([0.05] * facts.joints),
                    "The spread of annotations of each keypoint, in the middle of COCO's (0.025 to 0.107);"
                    " measure yours.",
                )
            )
    return found


def _pixels(known: WeightsFacts | PixelStatistics, why: str) -> list[KeyChoice]:
    if known.mean is None or known.std is None:
        return []
    mean, std = list(map(float, known.mean)), list(map(float, known.std))
    return [
        KeyChoice("model.preprocess.mean", flow(mean), why),
        KeyChoice("model.preprocess.std", flow(std)),
    ]


def _resnet_depth(state: Any) -> int | None:
    """Of a plain ResNet in torchvision's names; None: it is another network."""
    if "layer1.0.conv1.weight" not in state:
        return None
    blocks: tuple[int, ...] = tuple(
        1 + max((int(m[1]) for n in state if (m := re.match(rf"layer{k}\.(\d+)\.", n))), default=-1)
        for k in (1, 2, 3, 4)
    )
    depth = _DEPTHS.get(blocks)
    return 34 if depth == 50 and "layer1.0.conv3.weight" not in state else depth


def _timm_model(path: Path, state: Any) -> str:
    """timm's name for the network of these weights.

    Raises:
        ConfigError: timm is missing, or none of its models that are called like the file fits.
    """
    try:
        import timm  # optional, and slow to import
    except ImportError:
        raise ConfigError(f"{path}: to find out what network this is takes timm: pip install timm") from None
    # EfficientNet-PyTorch's weights are those of TensorFlow's models.
    known = timm.list_models("tf_efficientnet*" if is_efficientnet(state) else "*")
    plain = {name.removeprefix("tf_").replace("_", "-"): name for name in known}
    stem = path.stem.replace("_", "-").rpartition("-")[0] or path.stem
    for near in difflib.get_close_matches(stem, plain, n=_TRIED, cutoff=0.5):
        try:
            TimmConfig(name=plain[near], weights=path).build()
        except UserError:
            continue
        return plain[near]
    raise ConfigError(
        f"{path}: is no ResNet of torchvision's, and fits none of timm's models that are called like it; make"
        " the file with --weights none, and write model.backbone yourself"
    )


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 3) for value in values)


def _value(key: str, value: Any) -> str:
    return _path(Path(value)) if key == "weights" else flow(value)


def _path(path: Path) -> str:
    return format_plain(escape_path(path.as_posix()))
