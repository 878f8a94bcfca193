"""Weights from another framework's file to a checkpoint of ours, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from maskrcnn import __version__
from maskrcnn.config import dump
from maskrcnn.convert.classifier import ClassifierWeights, convert_classifier, maker_of
from maskrcnn.convert.detector import (
    SOURCES,
    Conversion,
    convert,
    describe,
    find_source,
    num_foreground,
)
from maskrcnn.convert.mmdetection import class_names
from maskrcnn.convert.source import File, Source
from maskrcnn.convert.to_torchvision import to_torchvision
from maskrcnn.convert.torchvision import COCO_CLASSES
from maskrcnn.data import Categories
from maskrcnn.data.coco_classes import COCO
from maskrcnn.engine.checkpoint import Checkpoint, load, save, with_average, write_tensors
from maskrcnn.errors import CheckpointError, ConfigError, DataError, UserError, plural
from maskrcnn.modeling.interfaces import BACKBONES
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig, without_weights
from maskrcnn.recipe import parse_recipe
from maskrcnn.run.converted_recipe import assumed_lines, recipe_text
from maskrcnn.weights.restore import drop_head, restore_model
from maskrcnn.weights.state_dict import read_checkpoint

# Published version-1 detectors of torchvision, by the first digits of the file's SHA-256 (which their names
# carry too): Mask, Faster and Keypoint R-CNN R50-FPN.  torchvision runs these with a batch-norm epsilon of 0.
_EPSILON_ZERO = ("bf2d0c1e", "258fb6c6", "fc266e95", "9f466800")
#: Keys of a backbone that a classifier's file says nothing of.
_LEFT_TO_THE_RECIPE = ("weights", "outputs", "freeze_at", "freeze", "frozen_bn", "options")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user says about a file.

    source: its maker, or auto.
    coco80: keep COCO's 80 of torchvision's 90 classes; None: where there are 90.
    names: the classes, or a text file with one a line, or a COCO json; None: COCO's where there are 80.
    bgr: whether its first convolution reads B, G, R; None concludes it.
    bn_eps: epsilon of its frozen batch normalisation; None: as its maker's.
    drop_head: leave out the output layers, to fine-tune for other classes.
    overrides: ``key.path=value`` on the recipe.
    """

    source: str = "auto"
    coco80: bool | None = None
    names: Path | Categories | None = None
    bgr: bool | None = None
    bn_eps: float | None = None
    drop_head: bool = False
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class ConversionReport:
    """What was done: lines to print, and every (their name, our name)."""

    lines: list[str]
    matched: list[tuple[str, str]]


def convert_file(path: Path, output: Path, options: Options) -> ConversionReport:
    """Recognise a file, translate it, and write it: a detector as a checkpoint, a classifier as weights.

    Raises:
        CheckpointError: the file is unreadable, of no kind known here or another than ``options.source``,
            or does not match whole; the output cannot be written.
        ConfigError: an override or the classes asked for do not fit.
        DataError: the file of names does not fit.
    """
    state, meta = read_checkpoint(path)
    try:
        source = find_source(state)
        maker = source.name if source is not None else maker_of(state, path.name)
        _check_maker(state, maker, options.source)
        if source is None:
            return _classifier(convert_classifier(state, options.bgr, path.name), output, options)
        return _detector(File(state, meta), source, path, output, options)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _check_maker(state: dict[str, torch.Tensor], maker: str | None, wanted: str) -> None:
    found = f"names found: {', '.join(list(state)[:3])}, ..."
    if maker is None:
        known = ", ".join(source.name for source in SOURCES)
        raise CheckpointError(f"recognised as none of {known}, nor as an ImageNet classifier ({found})")
    if wanted not in ("auto", maker) and not (wanted == "detectron2" and maker == "caffe2"):
        raise CheckpointError(f"--from {wanted}, but these are the names of {maker} ({found})")


def _detector(file: File, source: Source, path: Path, output: Path, options: Options) -> ConversionReport:
    total = num_foreground(file.state, source)
    coco80 = options.coco80
    if coco80 is None:
        coco80 = source.name == "torchvision" and total == 90
    if coco80 and total != 90:
        raise ConfigError(f"{path}: COCO's 80 are chosen out of torchvision's 90 classes, and it has {total}")
    eps = options.bn_eps
    if eps is None and source.name == "torchvision":
        eps = 0.0 if hashlib.sha256(path.read_bytes()).hexdigest()[:8] in _EPSILON_ZERO else None

    def adjust(model: MaskRCNNConfig) -> MaskRCNNConfig:
        return parse_recipe(recipe_text(model, source), "the recipe", options.overrides).model

    result = convert(
        file, source, keep=COCO_CLASSES if coco80 else None, bgr=options.bgr, bn_eps=eps, adjust=adjust
    )
    text = recipe_text(result.model, source)
    if any(not item.startswith("model") for item in options.overrides):
        text = dump(parse_recipe(text, "the recipe", options.overrides))
    names = _categories(result, class_names(file.meta), options)
    weights = result.state
    dropped = list(result.dropped)
    if options.drop_head:
        with torch.device("meta"):
            empty = without_weights(result.model).build(result.num_classes)
        weights, head = drop_head(weights, empty)
        dropped += [(name, "an output layer (--drop-head)") for name in head]
    save(
        Checkpoint(
            model=weights,
            config=text,
            category_ids=() if options.drop_head else names.ids,
            category_names=() if options.drop_head else names.names,
            versions={
                "maskrcnn": __version__,
                "torch": str(torch.__version__),
                "converted_from": source.name,
            },
        ),
        output,
    )
    return ConversionReport(
        _lines(result, dropped, names, len(file.state), output, options, eps), result.matched
    )


def _categories(result: Conversion, stored: Sequence[str], options: Options) -> Categories:
    count = result.num_classes
    if options.names is not None:
        given = isinstance(options.names, Categories)
        found = options.names if isinstance(options.names, Categories) else read_names(options.names)
        if len(found) != count:
            raise DataError(
                f"{'the registry' if given else options.names}: {plural(len(found), 'name')}, but the file"
                f" has {plural(count, 'class')}; give the names of its own classes, in its order (another"
                " set of classes is a matter of training: maskrcnn train with the key 'weights')"
            )
        return found
    if count == 80 and (not stored or tuple(stored) == COCO.names):
        return COCO
    if len(stored) == count:
        return Categories(tuple(range(1, count + 1)), tuple(stored))
    if count == 1 and result.model.keypoint_head is not None:
        return Categories((1,), ("person",))
    return Categories(tuple(range(1, count + 1)), tuple(f"class_{i}" for i in range(count)))


def read_names(path: Path) -> Categories:
    """Classes from a text file, one a line, with ids from 1; or from a COCO json's ``categories``.

    Raises:
        DataError: it cannot be read, or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            names = tuple(line.strip() for line in text.splitlines() if line.strip())
            return Categories(tuple(range(1, len(names) + 1)), names)
        rows = sorted((int(row["id"]), str(row["name"])) for row in json.loads(text)["categories"])
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{path}: a .json file of names needs COCO's 'categories', with 'id' and 'name'"
        ) from None
    return Categories(tuple(i for i, _ in rows), tuple(name for _, name in rows))


def _lines(
    result: Conversion,
    dropped: list[tuple[str, str]],
    names: Categories,
    tensors: int,
    output: Path,
    options: Options,
    eps: float | None,
) -> list[str]:
    reading, model = result.reading, result.model
    what = f"{describe(model)}, {plural(result.num_classes, 'class')}, background {result.source.background}"
    lines = [
        f"recognised: {result.source.name}, {what}",
        f"matched: {len(result.matched)} of {plural(tensors, 'tensor')}, every one of the model's",
    ]
    for why in dict.fromkeys(why for _, why in dropped):
        those = [name for name, reason in dropped if reason == why]
        more = ", ..." if len(those) > 3 else ""
        lines.append(f"left out: {len(those)} ({', '.join(those[:3])}{more}): {why}")
    order = "B, G, R, its channels turned to R, G, B" if reading.bgr else "R, G, B"
    statistics = f"mean {_list(model.preprocess.mean)}, std {_list(model.preprocess.std)} of R, G, B"
    keys = "--channels, --set model.preprocess.mean=[..]"
    stride = ""
    if getattr(model.backbone, "depth", 0) >= 50:  # others have no bottlenecks
        stride = f"; stride in the {'1x1' if reading.stride_in_1x1 else '3x3'}"
        keys += ", model.backbone.stride_in_1x1=.."
    lines.append(f"read as: {order}; {statistics}{stride} ({reading.why})")
    lines.append(f"  overrule by {keys}")
    lines += assumed_lines(model, result.family)
    used = result.source.bn_eps if eps is None else eps
    if used != 1e-5:
        lines.append(f"batch-norm epsilon of the source: {used:g}, worked into the weights")
    shown = ", ".join(names.names[:3]) + (", ..." if len(names) > 3 else "")
    if names == COCO:
        shown = "COCO's 80"
        if result.source.name == "torchvision":
            shown += " of the file's 90; the other ten occur in no data and were left out"
    lines.append(f"classes: {shown}" + ("; left out with the output layers" if options.drop_head else ""))
    use = f"start from it with the key 'weights': {output}" if options.drop_head else "it holds its recipe"
    lines.append(f"wrote {output}; {use}")
    return lines


def _list(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{v:g}" for v in values) + "]"


def _classifier(result: ClassifierWeights, output: Path, options: Options) -> ConversionReport:
    if options.overrides or options.names or options.drop_head or options.bn_eps is not None:
        raise UserError("an ImageNet classifier takes no --set, --names, --drop-head and --bn-eps")
    write_tensors(result.state, output)
    reading = result.reading
    config = dump(result.config).strip().splitlines()
    shown = [line for line in config if line.split(":")[0] not in _LEFT_TO_THE_RECIPE]
    left = ", ".join(name for name, _ in result.dropped[:3]) or "none"
    lines = [
        f"recognised: an ImageNet classifier in the names of {result.maker} ({reading.why})",
        f"matched: {plural(len(result.matched), 'tensor')}; left out: {len(result.dropped)} ({left})",
        "in a recipe it is",
        "  model:",
        "    backbone:",
        f"      type: {BACKBONES.name_of(type(result.config))}",
        *(f"      {line}" for line in shown),
        f"      weights: {output}",
        f"    preprocess: {{mean: {_list(reading.mean)}, std: {_list(reading.std)}}}",
        f"wrote {output}",
    ]
    return ConversionReport(lines, result.matched)


def export_torchvision(checkpoint: Path, output: Path, overrides: Sequence[str] = ()) -> list[str]:
    """A checkpoint of ours as a state dict that torchvision's model loads.

    Args:
        overrides: ``key.path=value`` on its recipe, as ``eval.ema=true``, which takes the average of the
        weights.

    Raises:
        CheckpointError: the checkpoint is unreadable, or torchvision has no such model.
    """
    state = load(checkpoint)
    if not state.config or not state.category_ids:
        raise CheckpointError(f"{checkpoint}: holds no recipe, so its model is not known")
    recipe = parse_recipe(state.config, f"the config in {checkpoint}", overrides)
    model = recipe.model
    if recipe.eval.takes_average:
        state = with_average(state, checkpoint)
    with torch.device("meta"):
        empty = model.build(len(state.category_ids))
    restore_model(empty, {n: v.to("meta") for n, v in state.model.items()}, checkpoint)
    try:
        result = to_torchvision(state.model, model)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None
    write_tensors(result.state, output)
    return [
        f"torchvision's {result.call}",
        *(f"  differs: {text}" for text in result.differences),
        f"wrote {output}, {plural(len(result.state), 'tensor')}",
    ]
