"""Pictures of an evaluation: what was found, marked right, wrong or missed, beside the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.data import Dataset, RawSample
from maskrcnn.errors import DataError
from maskrcnn.evaluation import Result
from maskrcnn.evaluation.marks import Judged, judge
from maskrcnn.recipe import Recipe
from maskrcnn.run.setup import keypoint_scores
from maskrcnn.structures.ground_truth import GroundTruth
from maskrcnn.viz.instances import Mask, draw_detections
from maskrcnn.viz.judged import draw_judged
from maskrcnn.viz.labels import Image
from maskrcnn.viz.panels import GROUND, side_by_side
from maskrcnn.viz.picture_names import PictureNames
from maskrcnn.viz.skeletons import of_records, sure

#: Detections below this score are not drawn.
_DRAWN_SCORE = 0.5


def draw_pictures(dataset: Dataset, records: Sequence[Result], recipe: Recipe) -> Iterator[tuple[str, Image]]:
    """The first ``train.pictures`` images, prediction and truth side by side, each under a name of its own.

    Where the data set skips unreadable images, each is told, and the next image takes its place.

    Raises:
        DataError: an image cannot be read, and the data set does not skip it.
    """
    skeleton = None if dataset.keypoints is None else dataset.keypoints.skeleton
    truth = dataset.ground_truth()
    categories = dataset.categories  # those of the model: that was checked
    names = PictureNames()
    for sample in islice(_readable(dataset), recipe.train.pictures):
        found = [r for r in records if r["image_id"] == sample.info.image_id and r["score"] >= _DRAWN_SCORE]
        points = of_records(found, recipe.eval.keypoint_offset)
        judged = judge(found, truth, sample.info.image_id)
        predicted = draw_judged(
            sample.image,
            found,
            [categories.index_of(r["category_id"]) for r in found],
            categories.names,
            judged.right,
            _drawable(truth, judged.missed, found),
            truth.labels[judged.missed].tolist(),
            keypoints=None if points is None else _with_room(sure(points, keypoint_scores(recipe)), judged),
            skeleton=skeleton,
        )
        wanted = draw_detections(sample.image, sample.targets, categories.names, skeleton=skeleton)
        # As high as the prediction with its legend, so that both are shown at one size.
        beside = np.full((len(predicted), wanted.shape[1], 3), GROUND, dtype=np.uint8)
        beside[: len(wanted)] = wanted
        yield names.take(sample.info.file_name), side_by_side(predicted, beside)


def _drawable(
    truth: GroundTruth, rows: npt.NDArray[np.int64], beside: Sequence[Result]
) -> list[Mask] | npt.NDArray[Any]:
    """Masks of the truth, or where not all records ``beside`` have one boxes [M, 4] xyxy."""
    if truth.has_masks and all("segmentation" in record for record in beside):
        sizes = truth.sizes[truth.images[rows]].tolist()
        return [{"size": s, "counts": truth.mask(i)} for s, i in zip(sizes, rows.tolist(), strict=True)]
    boxes = truth.boxes[rows]
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)


def _with_room(keypoints: npt.NDArray[np.float64], judged: Judged) -> npt.NDArray[np.float64]:
    """Keypoints [D, J, 3], and behind them those of what was missed: none to be seen."""
    return np.concatenate((keypoints, np.zeros((len(judged.missed), *keypoints.shape[1:]))))


def _readable(dataset: Dataset) -> Iterator[RawSample]:
    """The images in their order, without those that cannot be read, where the data set skips them."""
    for index in range(len(dataset)):
        try:
            yield dataset.load(index)
        except DataError as error:
            if dataset.on_error != "skip":
                raise
            dataset.report.image(int(dataset.image_ids[index]), str(error))
