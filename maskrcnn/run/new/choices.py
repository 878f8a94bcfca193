"""What fits a data set: sizes, anchors, caps, steps, rare classes, augmentation; each with its figure.

Rules of thumb are constants here, with their sources.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from maskrcnn.errors import few, plural
from maskrcnn.modeling.rpn.anchor_fit import REACHED, anchor_recall, fit_anchors
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from maskrcnn.run.examine import STRIDES
from maskrcnn.run.fit_doubts import SMALL, SMALL_RECALL
from maskrcnn.run.new.choice import KeyChoice, flow
from maskrcnn.run.new.facts import DataFacts

#: Side of a small object (the 10th percentile) that the image size is to give it, pixels: four cells of P2.
GOAL = 16.0
_SMALL_AT = 0.1
#: Enlarging more shows nothing that the pixels hold.
_LARGEST_SCALE = 2.0
#: Side of a tile at least, pixels.
_LEAST_TILE = 64
#: Factors of the training sizes; and an image this much larger than the window is trained in windows.
_SCALES = (0.85, 1.0, 1.15)
_SLACK = 1.3
#: A window holds objects of up to this share of its side, all but 5 in 100.
_IN_WINDOW = 0.5
#: Images of more than so many windows are trained on and evaluated in tiles.
_TILED = 8.0
#: Epochs (fine-tuning: the issue of most frameworks' schedules; from scratch as much again: He et al. 2019),
#: least steps, evaluations on the way.
EPOCHS = {True: 30, False: 60}
LEAST_STEPS = 1000
_EVALUATIONS = 10
#: Share of a training's time that evaluations may take.
_JUDGING = 0.1
_WARM_UP, _WARM_UP_SHARE = 500, 0.1
#: Classes in fewer images are rare; a factor is at most its square root of 16.
_RARE, _MOST_REPEAT = 0.1, 16.0
#: Fitted anchors are written where they reach so many more; after weights that know others, more.
_GAIN = {False: 0.01, True: 0.1}
#: Ratios that differ by less than this factor are spread by the other.
_ALIKE, _SPREAD = 1.25, 1.4


@dataclass(frozen=True)
class Machine:
    """What is usual on a kind of device.

    floor: shorter side below which images are not shrunk.  window: side of the area that a training image
        may have.  batch: most images a step.  samples: most RoIs a step and image.
    """

    name: str
    floor: int
    window: int
    batch: int
    samples: int


CPU = Machine("CPU", floor=256, window=288, batch=4, samples=128)
GPU = Machine("GPU", floor=640, window=1024, batch=16, samples=512)


@dataclass(frozen=True)
class Sizes:
    """short: the shorter side of an image in an evaluation.  window: of training; None: whole images.

    largest: the longer side that is never cut.  tile, overlap: of ``data.tiles``; 0: none.
    """

    short: int
    window: int | None
    largest: int
    choices: tuple[KeyChoice, ...]
    tile: int = 0
    overlap: float = 0.0


def choose_sizes(facts: DataFacts, machine: Machine) -> Sizes:
    """Such that small objects are seen, and a training image is no larger than the machine bears."""
    native = float(np.median(facts.sizes.min(1)))
    aspects = facts.sizes.max(1) / facts.sizes.min(1)
    small = float(np.quantile(facts.sides(1.0), _SMALL_AT))  # in shorter sides
    wanted = GOAL / small
    short = _multiple(min(max(wanted, min(machine.floor, native)), _LARGEST_SCALE * native))
    area = median_area(facts, short)
    window = None
    limit = ""
    if area > _SLACK * machine.window**2:
        window = max(machine.window, _multiple(_long_sides(facts, short) / _IN_WINDOW))
        if area > _TILED * window**2 and window <= 1.5 * machine.window:
            return _tiles(facts, machine, short, window, native)
        if window > 1.5 * machine.window:
            window = None
            fits = _multiple(machine.window * 1.5 / math.sqrt(float(np.median(aspects))), down=True)
            limit = (
                f"{short} px would take too much memory and time on a {machine.name}, and objects are too"
                f" large for windows of {machine.window} px. "
                if fits < short
                else ""
            )
            short = min(short, fits)
    largest = _multiple(short * _SCALES[-1] * float(aspects.max()))
    seen = small * short
    told = (
        f"{limit}At a shorter side of {short} px the small objects (10th percentile of the square root of the"
        f" area) have {seen:.1f} px; images have {native:.0f} px (median)."
    )
    if seen < GOAL:
        why = "the machine bears no more" if limit else f"more than {_LARGEST_SCALE:g} x shows nothing new"
        told += f" {GOAL:g} px would take {wanted:.0f} px, but {why}."
    told += f" {_small_told(facts, short)}"
    sizes = [_round8(short * f) for f in _SCALES]
    resize = {"type": "resize_shortest_edge", "max_size": largest}
    smooth = {"resample": "antialias"} if short < 0.75 * native else {}
    train = [resize | {"min_sizes": sizes} | smooth]
    how = "whole images, at three sizes, so that objects of other sizes are found too"
    if window is not None:
        train.append({"type": "random_crop", "height": window, "width": window})
        how = (
            f"windows of {window} px, for whole images would take {area / window**2:.1f} times the memory and"
            f" time of a step on this {machine.name}; 95 in 100 objects are at most"
            f" {_long_sides(facts, short):.0f} px long"
        )
    listed = [_listed(train), _listed([resize | {"min_sizes": [short]} | smooth])]
    return Sizes(
        short,
        window,
        largest,
        (
            KeyChoice("data.train_transforms", listed[0], f"{told}\nTraining sees {how}."),
            KeyChoice("data.eval_transforms", listed[1], "Whole images, at the middle training size."),
        ),
    )


def _tiles(facts: DataFacts, machine: Machine, short: int, window: int, native: float) -> Sizes:
    """Tiles of the images that the network sees as ``window`` pixels."""
    tile = max(_LEAST_TILE, _round8(window * native / short))
    longest = _long_sides(facts, short)
    overlap = min(max(math.ceil(20 * longest / window) / 20, 0.2), 0.5)
    count = median_area(facts, short) / window**2
    small = float(np.quantile(facts.sides(1.0), _SMALL_AT))
    why = (
        f"Images are large and objects small: shorter sides of {native:.0f} px, small objects (10th"
        f" percentile of the square root of the area) of {small * native:.1f} px (medians). Images in which"
        f" the network sees those with {small * short:.1f} px are {count:.0f} windows of {window} px, too"
        f" much for this {machine.name}; so tiles are trained on, evaluated and predicted, their objects put"
        f" together. 95 in 100 objects are at most {longest * tile / window:.0f} px long, and whole in some"
        " tile by that overlap."
    )
    resize = {"type": "resize_shortest_edge", "max_size": _multiple(2 * window)}
    smooth = {"resample": "antialias"} if window < 0.75 * tile else {}
    train = resize | {"min_sizes": [_round8(window * f) for f in _SCALES]} | smooth
    listed = [_listed([train]), _listed([resize | {"min_sizes": [window]} | smooth])]
    seen = "Tiles, at three sizes, so that objects of other sizes are found too."
    choices = (
        KeyChoice("data.tiles", flow({"size": tile, "overlap": overlap}), why),
        KeyChoice("data.train_transforms", listed[0], f"{seen} {_small_told(facts, short)}"),
        KeyChoice("data.eval_transforms", listed[1], "Tiles, at the middle training size."),
    )
    return Sizes(short, window, _multiple(2 * window), choices, tile, overlap)


def _small_told(facts: DataFacts, short: int) -> str:
    share = float((facts.sides(short) < SMALL).mean())
    if not share:
        return f"No object is under {SMALL:g} px then."
    return (
        f"{share:.1%} of the objects are under {SMALL:g} px then, of which about {SMALL_RECALL:.0%} are"
        f" found: expect a recall of at most {1 - (1 - SMALL_RECALL) * share:.1%}."
    )


def _long_sides(facts: DataFacts, short: int) -> float:
    boxes = facts.scaled(short)
    return float(np.quantile((boxes[:, 2:] - boxes[:, :2]).max(1), 0.95))


def choose_anchors(facts: DataFacts, short: int, *, trained: bool) -> Iterator[KeyChoice]:
    """trained: whether weights know the usual anchors."""
    boxes, usual = facts.scaled(short), AnchorConfig()
    base = [level.numpy() for level in usual.build(STRIDES).base]
    own, fit = anchor_recall(boxes, base, STRIDES), fit_anchors(boxes, STRIDES)
    sizes, ratios, reached = fit.sizes, fit.ratios, fit.recall
    if max(ratios) < _ALIKE * min(ratios):  # all objects have one shape, which augmentation does not leave so
        ratios = tuple(float(f"{ratios[1] * factor:.2g}") for factor in (1 / _SPREAD, 1, _SPREAD))
        spread = [level.numpy() for level in AnchorConfig(sizes=sizes, ratios=ratios).build(STRIDES).base]
        reached = anchor_recall(boxes, spread, STRIDES)
    reach = f"overlap {own:.1%} of the objects by an IoU of {REACHED:g}, {{}} {reached:.1%}"
    told = f"Fitted to the boxes by k-means in IoU. The usual anchors {reach.format('these')}."
    if reached < own + _GAIN[trained]:
        sizes, ratios = usual.sizes, usual.ratios
        known = ", and the weights know the usual ones" if trained else ""
        told = f"The usual anchors {reach.format('fitted ones')}{known}: the usual."
    yield KeyChoice("model.rpn.anchors.sizes", flow(sizes), told)
    yield KeyChoice("model.rpn.anchors.ratios", flow(ratios))


def choose_caps(facts: DataFacts, sizes: Sizes, machine: Machine) -> Iterator[KeyChoice]:
    """Detections, proposals and samples from the objects an image."""
    most, kept = facts.most, most_detections(facts)
    yield KeyChoice(
        "model.roi.max_detections",
        str(kept),
        f"An image has {np.mean(facts.counts):.1f} objects on average, and up to {most}"
        + (": a quarter more than that." if kept > 100 else "; 100 is COCO's."),
    )
    proposals = max(1000, round_up(4 * kept))
    yield KeyChoice("model.rpn.post_nms_test", str(proposals), f"At least four a detection ({kept}).")
    share = 1.0
    if sizes.window is not None:
        area = sizes.short**2 * facts.sizes.max(1) / facts.sizes.min(1)
        share = float(np.median(np.minimum(1.0, sizes.window**2 / area)))
    crowded = float(np.quantile(facts.counts, 0.95)) * share
    samples = int(min(max(64, 32 * math.ceil(4 * crowded / 32)), machine.samples))
    where = "an image" if share == 1 else "a window"
    yield KeyChoice(
        "model.roi.samples",
        str(samples),
        f"A quarter are objects, and {where} has up to {crowded:.0f} (95 of 100 have no more)"
        + ("." if samples >= 4 * crowded else f"; more than {samples} take too long on this {machine.name}."),
    )


def choose_rare(facts: DataFacts) -> KeyChoice | None:
    """Whether images of rare classes come more often."""
    if len(facts.classes) < 2:
        return None
    shares = {
        n: c / facts.images for n, c in zip(facts.classes, facts.class_images.tolist(), strict=True) if c
    }
    rare = {name: share for name, share in shares.items() if share < _RARE}
    if not rare:
        return None
    threshold = min(_RARE, _MOST_REPEAT * min(rare.values()))
    ranked = sorted(rare.items(), key=lambda item: item[1])
    told = few((f"{n} in {s:.1%} x {max(1.0, math.sqrt(threshold / s)):.1f}" for n, s in ranked), 5)
    return KeyChoice(
        "data.repeat_threshold",
        f"{float(f'{threshold:.3g}'):g}",
        f"{len(rare)} of {plural(len(facts.classes), 'class')} are in under {_RARE:.0%} of the images,"
        f" which come more often: {told}.",
    )


def choose_augment(facts: DataFacts) -> KeyChoice:
    """The preset by the kind of pictures."""
    side = float(np.median(facts.sides(1.0)))
    count = float(np.median(facts.counts))
    dense = count >= 5 and side < 0.2
    seen = (
        f"{facts.gray:.0%} of the images are gray, with {count:.0f} objects of {side:.1%} of the side"
        " (medians)"
    )
    if facts.joints:
        return KeyChoice(
            "data.augment", "photos", f"Keypoints have an up and down: pictures are not turned. ({seen})"
        )
    if facts.gray >= 0.5 and dense:
        return KeyChoice("data.augment", "microscopy", f"Like micrographs: {seen}; no direction is up.")
    if dense and count >= 10 and side < 0.08:
        return KeyChoice("data.augment", "aerial", f"Like pictures from above: {seen}; no direction is up.")
    return KeyChoice(
        "data.augment", "photos", f"{seen}: up is taken to be up; write aerial or microscopy where it is not."
    )


def choose_steps(facts: DataFacts, batch: int, *, tuned: bool) -> Iterator[KeyChoice]:
    """Steps, schedule and what happens between them."""
    epochs = EPOCHS[tuned]
    steps = max(LEAST_STEPS, math.ceil(epochs * facts.images / batch))
    kind = "fine-tuning" if tuned else "training from scratch"
    yield KeyChoice(
        "solver.steps",
        str(steps),
        f"{steps * batch / facts.images:.0f} epochs of {plural(facts.images, 'image')}, {batch} a step"
        f" ({kind}: about {epochs}, and at least {LEAST_STEPS} steps).",
    )
    yield KeyChoice("solver.schedule.type", "cosine", "Falls to 0 at whatever solver.steps is.")
    yield KeyChoice(
        "solver.schedule.warmup_steps",
        str(_WARM_UP),
        f"Of linear warm-up; of a short training at most {_WARM_UP_SHARE:.0%} of the steps.",
    )
    yield KeyChoice("solver.schedule.warmup_share", flow(_WARM_UP_SHARE))
    yield KeyChoice("solver.schedule.warmup_factor", "0.01")


def most_detections(facts: DataFacts) -> int:
    """A quarter more than an image has, at least COCO's."""
    return max(100, round_up(1.25 * facts.most))


def median_area(facts: DataFacts, short: int) -> float:
    """Of an image whose shorter side is ``short``, pixels."""
    return short**2 * float(np.median(facts.sizes.max(1) / facts.sizes.min(1)))


def eval_every(steps: int, cost: float) -> int:
    """Steps between evaluations, each of which takes as long as ``cost`` steps."""
    count = min(_EVALUATIONS, max(1, int(_JUDGING * steps / max(cost, 1e-9))))
    return max(1, math.ceil(steps / count))


def round_up(count: float) -> int:
    """To two digits, the second 0 or 5 from 100 on, so that it reads as a choice."""
    digits = len(str(math.ceil(count)))
    step = 10 if digits < 3 else 5 * 10 ** (digits - 2)
    return math.ceil(count / step) * step


def _multiple(length: float, *, down: bool = False) -> int:
    """Of 32, FPN's coarsest stride but one; at least 64."""
    return max(64, 32 * (math.floor if down else math.ceil)(length / 32))


def _round8(length: float) -> int:
    return 8 * round(length / 8)


def _listed(items: list[dict[str, object]]) -> str:
    return "".join(f"\n  - {flow({'type': item['type']} | item)}" for item in items)
