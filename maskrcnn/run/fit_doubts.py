"""Doubts about a recipe and its data together: more objects than its caps, too small ones, no anchors near.

Boxes are seen as the network sees them in an evaluation (``data.eval_transforms``, which only resize).

Legend: N = images, G' = objects of the images that are looked at (crowd regions are not among them).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from maskrcnn.data.doctor import Doubt
from maskrcnn.data.fault_report import NAMED
from maskrcnn.data.interfaces import DENSEST, Dataset
from maskrcnn.data.transforms.basic import RandomCrop
from maskrcnn.data.transforms.network_size import network_sizes, resize_of
from maskrcnn.errors import DataError
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.modeling.rpn.anchor_fit import (
    REACHED,
    AnchorFit,
    Floats,
    anchor_ious,
    fit_anchors,
)
from maskrcnn.recipe import Recipe
from maskrcnn.run.preflight import CHECKS, Start
from maskrcnn.run.setup import SIDES, build_transforms

Integers = npt.NDArray[np.int64]

#: Objects below this many pixels (square root of the box's area) are hardly found.
SMALL = 8.0
#: How many of them are: on the large images of the nuclei data, 3 in 100 (ResNet-18-FPN at 256 px).
SMALL_RECALL = 0.03
#: They are told from this share on.
MANY_SMALL = 0.05
#: Anchors are told where they reach fewer objects, and others so many more.
LEAST_RECALL, LEAST_GAIN = 0.75, 0.1
#: Sampling is random, so that each object has its turn; told where more of them wait at a time.
MOST_WAITING = 0.25
#: Images whose boxes are scaled, spread over the data set: each size that occurs goes through the transforms.
_SCALED = 2000


@dataclass(frozen=True)
class Seen:
    """A data set's objects: how many each image has, and how large the network of ``recipe`` sees them.

    Without a recipe the network frame is the original one.
    """

    dataset: Dataset
    recipe: Recipe | None

    @cached_property
    def counts(self) -> Integers:
        """Objects of each image, with ``data.tiles`` of its densest window: int64 [N]."""
        truth = self.dataset.ground_truth()
        every = np.bincount(truth.images[~truth.crowds], minlength=len(truth.image_ids))
        found: Integers = every[[truth.image_places[int(i)] for i in self.dataset.image_ids]]
        tiles = None if self.recipe is None else self.recipe.data.tiles
        return found if tiles is None else DENSEST.get("grid")(self.dataset, tiles)

    @cached_property
    def _rows(self) -> Integers:
        truth = self.dataset.ground_truth()
        ids = np.asarray(self.dataset.image_ids)
        ids = ids[np.unique(np.linspace(0, len(ids) - 1, _SCALED).astype(np.int64))]
        return np.flatnonzero(~truth.crowds & np.isin(truth.image_ids, ids)[truth.images])

    @cached_property
    def _frames(self) -> tuple[Integers, Integers]:
        """(height, width) of the image of each object, in the original and in the network frame: [G', 2]."""
        truth = self.dataset.ground_truth()
        old = truth.sizes[truth.images[self._rows]]
        if self.recipe is None:
            return old, old
        resize = resize_of(build_transforms(self.recipe, training=False), "data.eval_transforms")
        tiles = self.recipe.data.tiles
        shown = old if tiles is None else np.minimum(old, tiles.size)
        return old, network_sizes(shown, resize) * old // shown

    @property
    def sizes(self) -> Integers:
        """(height, width) of the image of each object in the network frame: int64 [G', 2]."""
        return self._frames[1]

    @cached_property
    def boxes(self) -> Floats:
        """Boxes in the network frame, float64 [G', 4] xyxy, of ``_SCALED`` images at most.

        Raises:
            DataError: ``data.eval_transforms`` do more than resize.
        """
        old, new = self._frames
        boxes = self.dataset.ground_truth().boxes[self._rows]
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        found: Floats = np.clip(boxes, 0, np.tile(old[:, ::-1], 2)) * np.tile((new / old)[:, ::-1], 2)
        return found

    @cached_property
    def sides(self) -> Floats:
        """Square roots of the boxes' areas, pixels: float64 [G']."""
        found: Floats = np.sqrt((self.boxes[:, 2:] - self.boxes[:, :2]).prod(1))
        return found

    def doubt_of_objects(
        self, which: npt.NDArray[np.bool_], kind: str, what: str, cost: str, advice: str
    ) -> Doubt:
        """About the objects [G'] that are named."""
        truth, rows = self.dataset.ground_truth(), self._rows[which]
        ids = truth.annotation_ids[rows].tolist()
        images = truth.image_ids[truth.images[rows]].tolist()
        return Doubt(
            kind=kind,
            where=str(self.dataset.annotation_file),
            what=what,
            count=len(rows),
            total=len(which),
            of="objects" if len(which) == int(self.counts.sum()) else "objects looked at",
            ids=tuple(ids[:NAMED]),
            names=tuple(f"annotation {a} of image {i}" for a, i in zip(ids[:NAMED], images, strict=False)),
            cost=cost,
            advice=advice,
            every=tuple(ids),
            images=tuple(images),
        )

    def doubt_of_images(self, most: int, kind: str, what: str, cost: str, advice: str) -> Doubt:
        """About the images of more than ``most`` objects."""
        places = np.flatnonzero(self.counts > most)
        places = places[np.argsort(-self.counts[places], kind="stable")]
        ids: list[int] = np.asarray(self.dataset.image_ids)[places].tolist()
        return Doubt(
            kind=kind,
            where=str(self.dataset.annotation_file),
            what=what,
            count=len(places),
            total=len(self.counts),
            of="images",
            ids=tuple(ids[:NAMED]),
            names=tuple(f"image {i}: {self.counts[p]}" for i, p in zip(ids[:NAMED], places, strict=False)),
            cost=cost,
            advice=advice,
            every=tuple(ids),
        )


@SIDES.register("quartiles")
def object_sides(dataset: Dataset, recipe: Recipe) -> tuple[float, ...]:
    """Lower quartile, median and upper quartile of ``Seen.sides``; empty where there are no objects, or
    ``data.eval_transforms`` do more than resize.
    """
    try:
        sides = Seen(dataset, recipe).sides
    except DataError:
        return ()
    if not len(sides):
        return ()
    first, middle, last = np.quantile(sides, (0.25, 0.5, 0.75)).round(2).tolist()
    return first, middle, last


@CHECKS.register("fit")
def _before_a_training(start: Start) -> Iterator[str]:
    """All of this module, as warnings."""
    if start.model is None or start.recipe.train.check_data == "none":
        return
    strides = [] if start.model.rpn is None else start.model.rpn.anchors.strides
    for doubt in fit_doubts(start.recipe, strides, start.dataset, training=start.training):
        yield str(doubt)


def fit_doubts(
    recipe: Recipe, strides: Sequence[int], dataset: Dataset, *, training: bool
) -> Iterator[Doubt]:
    """What does not fit of a recipe and the data that it trains on, or judges by.

    strides: of the RPN's levels, pixels a cell.
    """
    seen = Seen(dataset, recipe)
    if training and seen.counts.any():
        yield from sample_doubts(seen)
        with contextlib.suppress(DataError):  # transforms of one's own have no one scale
            yield from filter(None, [small_doubt(seen), anchor_doubt(seen, strides)])
    yield from cap_doubts(seen, training=training)


def cap_doubts(seen: Seen, *, training: bool) -> list[Doubt]:
    """Images with more objects than proposals or detections may leave."""
    model = _model(seen)
    rpn = model.rpn
    caps = [] if training else [("model.roi.max_detections", model.roi.max_detections, "detections")]
    if rpn is not None:
        name = "post_nms_train" if training else "post_nms_test"
        caps.append((f"model.rpn.{name}", getattr(rpn, name), "proposals"))
    found = []
    for key, most, what in caps:
        lost, highest = _lost(seen.counts, most), int(seen.counts.max(initial=0))
        if lost:
            found.append(
                seen.doubt_of_images(
                    most,
                    f"more objects than {what}",
                    f"images with more objects than the {most} {what} that {key} leaves",
                    f"{_share(lost, seen.counts)} of the objects cannot be found",
                    f"set {key}: {_round_up(highest)}"
                    + ("" if training or rpn is None else _with_proposals(highest, rpn.post_nms_test, what)),
                )
            )
    return found


def _with_proposals(highest: int, most: int, what: str) -> str:
    more = what == "detections" and highest > most
    return f", and model.rpn.post_nms_test: {_round_up(4 * highest)}" if more else ""


def sample_doubts(seen: Seen) -> list[Doubt]:
    """Images with more objects than a step samples of them."""
    assert seen.recipe is not None
    if any(isinstance(transform, RandomCrop) for transform in seen.recipe.data.train_transforms):
        return []  # a step sees a part of an image, with fewer objects
    model = _model(seen)
    stages = [("model.roi", model.roi)] + ([] if model.rpn is None else [("model.rpn", model.rpn)])
    found = []
    for key, stage in stages:
        most = int(stage.samples * stage.positive_fraction)
        lost = _lost(seen.counts, most)
        if lost > MOST_WAITING * seen.counts.sum():
            wanted = math.ceil(float(np.quantile(seen.counts, 0.95)) / max(stage.positive_fraction, 1e-9))
            found.append(
                seen.doubt_of_images(
                    most,
                    f"more objects than {'RoIs' if key == 'model.roi' else 'anchors'}",
                    f"images with more objects than the {most} positives that a step samples ({key}.samples x"
                    f" {key}.positive_fraction)",
                    f"{_share(lost, seen.counts)} of the objects are not trained on when their image is",
                    f"set {key}.samples: {_round_up(wanted)}, or crop the training images",
                )
            )
    return found


def small_doubt(seen: Seen) -> Doubt | None:
    """Objects that are smaller than the network sees."""
    small = seen.sides < SMALL
    if small.mean() < MANY_SMALL:
        return None
    factor = SMALL / max(float(np.quantile(seen.sides, MANY_SMALL)), 1e-9)
    return seen.doubt_of_objects(
        small,
        "small objects",
        f"objects under {SMALL:g} px (square root of the box's area) after data.eval_transforms",
        f"about {SMALL_RECALL:.0%} of such are found, so the recall to expect is at most"
        f" {1 - (1 - SMALL_RECALL) * small.mean():.0%}",
        f"enlarge the images {factor:.2g} times in data.train_transforms and data.eval_transforms (larger"
        " min_sizes, max_size), or cut them into tiles, or train on crops (random_crop)",
    )


def anchor_doubt(seen: Seen, strides: Sequence[int]) -> Doubt | None:
    """Objects that no anchor lies near, where other anchors would."""
    rpn = _model(seen).rpn
    if rpn is None:
        return None
    near = reached(seen, strides)
    own = float(near.mean())
    if own >= LEAST_RECALL:
        return None
    fit = suggested(seen, strides)
    if fit.recall < own + LEAST_GAIN:
        return None
    return seen.doubt_of_objects(
        ~near,
        "no anchors near",
        f"objects that no anchor overlaps by an IoU of {REACHED:g}, after data.eval_transforms",
        f"anchors reach {own:.0%} of the objects, others would {fit.recall:.0%}; the RPN has to stretch them"
        " far, and proposes these objects late or never",
        f"set model.rpn.anchors: {fit.written()} (k-means in IoU; weights that were trained with other"
        " anchors fit less), or enlarge the images",
    )


def reached(seen: Seen, strides: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which objects [G'] the recipe's anchors reach."""
    rpn = _model(seen).rpn
    assert rpn is not None
    anchors = rpn.anchors.build(strides)
    base = [level.numpy() for level in anchors.base]
    found: npt.NDArray[np.bool_] = anchor_ious(seen.boxes, base, strides, anchors.offset).max(1) >= REACHED
    return found


def suggested(seen: Seen, strides: Sequence[int]) -> AnchorFit:
    """Anchors that lie better on the objects, as many as the recipe's."""
    rpn = _model(seen).rpn
    assert rpn is not None
    anchors = rpn.anchors
    sizes = 1 if anchors.boxes is not None else len(anchors.sizes[0])
    ratios = len(anchors.boxes[0]) if anchors.boxes is not None else len(anchors.ratios)
    return fit_anchors(seen.boxes, strides, ratios, sizes, anchors.offset)


def _model(seen: Seen) -> MaskRCNNConfig:
    assert seen.recipe is not None
    return seen.recipe.model


def _lost(counts: Integers, most: int) -> int:
    return int(np.clip(counts - most, 0, None).sum())


def _share(lost: int, counts: Integers) -> str:
    return f"{lost} ({lost / int(counts.sum()):.1%})"


def _round_up(count: float) -> int:
    """To two digits, so that it reads as a choice."""
    step = int(10 ** max(len(str(math.ceil(count))) - 2, 0))
    return math.ceil(count / step) * step
