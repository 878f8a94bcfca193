"""An evaluation that a page is about, and all its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn import __version__
from maskrcnn.data import Dataset
from maskrcnn.data.transforms.network_size import network_sizes, resize_of
from maskrcnn.errors import DataError, plural
from maskrcnn.evaluation import EvalResult, evaluate_coco
from maskrcnn.evaluation.report.figures import ReportFigures
from maskrcnn.evaluation.report.make import report_figures
from maskrcnn.inference.records import Result
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.recipe import Recipe
from maskrcnn.run import setup
from maskrcnn.run.tiled_evaluation import most_detections

#: Draws of the images, for intervals.
RESAMPLES = 500


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that a page is about.

    title: of the page.  dataset: data.val.  records: its results.
    result: COCO's figures of them; None: they are computed again.
    left_out: ids of images that could not be read.
    checkpoint: which is judged, beside which its scores of the best F1 are kept; None: nowhere.
    about, speed, proposals: see :class:`ReportFigures`.
    """

    title: str
    recipe: Recipe
    dataset: Dataset
    records: Sequence[Result]
    result: EvalResult | None = None
    left_out: frozenset[int] = frozenset()
    checkpoint: Path | None = None
    about: dict[str, Any] = field(default_factory=dict)
    speed: dict[str, Any] | None = None
    proposals: dict[str, Any] | None = None

    @property
    def image_ids(self) -> list[int]:
        """Of the images that were judged."""
        return [i for i in np.asarray(self.dataset.image_ids).tolist() if i not in self.left_out]


def figures_of(
    seen: Evaluated, progress: Callable[[str, float], None], resamples: int = RESAMPLES
) -> ReportFigures:
    """All figures of an evaluation.

    Args:
        progress: told what is computed, and which share of it is done.
        resamples: for intervals; 0: none.
    """
    return report_figures(
        seen.dataset.ground_truth(),
        seen.records,
        seen.result or judge(seen),
        image_ids=seen.image_ids,
        network_sizes=_network_sizes(seen),
        proposals=seen.proposals,
        speed=seen.speed,
        about=seen.about,
        resamples=resamples,
        progress=progress,
    )


def judge(seen: Evaluated) -> EvalResult:
    """COCO's figures, as the evaluations of a training compute them."""
    recipe = seen.recipe
    return evaluate_coco(
        seen.dataset.ground_truth(),
        seen.records,
        iou_types=setup.iou_types(recipe),
        max_detections=most_detections(seen.dataset, recipe),
        image_ids=seen.image_ids,
        backend=recipe.eval.backend,
        sigmas=recipe.eval.sigmas,
    )


def _network_sizes(seen: Evaluated) -> dict[int, tuple[int, int]] | None:
    """(height, width) of each image as the network sees it; None where more is done than resizing."""
    resize = resize_of(setup.build_transforms(seen.recipe, training=False), "data.eval_transforms")
    try:
        sizes = network_sizes(np.asarray(seen.dataset.sizes), resize)
    except DataError:
        return None
    ids = np.asarray(seen.dataset.image_ids).tolist()
    return {i: (h, w) for i, (h, w) in zip(ids, sizes.tolist(), strict=True)}


def about(recipe: Recipe, dataset: Dataset, model: MaskRCNN | None) -> dict[str, Any]:
    """Model and data, as names and numbers."""
    backbone = recipe.model.backbone
    named = {k: v for k in ("type", "name", "depth") if (v := getattr(backbone, k, None)) is not None}
    out: dict[str, Any] = {
        "backbone": " ".join(map(str, (type(backbone).__name__.removesuffix("Config"), *named.values()))),
        "classes": len(dataset.categories),
        "evaluation data": f"{dataset.annotation_file}, {plural(len(dataset), 'image', spec=',')}",
        "images are made of them by": ", ".join(map(repr, recipe.data.eval_transforms)) or "nothing",
        "steps of training": recipe.solver.steps,
        "images a step": recipe.solver.batch_size,
        "seed": recipe.seed,
        "versions": f"maskrcnn {__version__}, torch {torch.__version__}",
    }
    if model is not None:
        out["parameters"] = f"{sum(p.numel() for p in model.parameters()):,}"
    return out
