"""The same images under each variant, and the pixels where its masks differ from the reference's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.data import Dataset, RawSample
from maskrcnn.errors import UserError
from maskrcnn.evaluation import Result
from maskrcnn.structures.rle import decode
from maskrcnn.studies.ablation.results import Outcome, VariantRow
from maskrcnn.viz.instances import as_rgb, draw_detections, draw_instances
from maskrcnn.viz.labels import Image
from maskrcnn.viz.panels import side_by_side
from maskrcnn.viz.picture_names import PictureNames

#: Detections below this score are not drawn.
SCORE = 0.5
#: Longer side of a panel, pixels; smaller images are enlarged by a whole number up to about it.
PANEL = 360
#: Added to, and missing from, what the reference segments (Okabe & Ito's orange and sky blue).
MORE, LESS = (230, 159, 0), (86, 180, 233)

ClassMap = npt.NDArray[np.int64]


def compare(rows: Sequence[VariantRow], data: Dataset, count: int) -> Iterator[tuple[str, Image]]:
    """For the first ``count`` images with ground truth: their name, and truth and variants in a row.

    Images that cannot be read any more are passed over; evaluation said so where it was asked to.
    The runs are those of the lowest seed that all rows have; of no common seed, none.
    """
    seeds = set.intersection(*({o.run.seed for o in row.outcomes} for row in rows)) if rows else set()
    if not seeds:
        return
    chosen = {row.variant.label: _of_seed(row, min(seeds)) for row in rows}
    drawn = 0
    names = PictureNames()
    for index in range(len(data)):
        if drawn == count:
            return
        try:
            sample = data.load(index)
        except UserError:
            continue
        if len(sample.targets):
            drawn += 1
            yield names.take(sample.info.file_name), _row(rows, chosen, sample, data)


def _of_seed(row: VariantRow, seed: int) -> Outcome:
    return next(o for o in row.outcomes if o.run.seed == seed)


def _row(rows: Sequence[VariantRow], chosen: dict[str, Outcome], sample: RawSample, data: Dataset) -> Image:
    names = data.categories.names
    image = as_rgb(sample.image)
    height, width = image.shape[:2]
    panels = [draw_detections(image, sample.targets, names, show_labels=False, smallest=PANEL)]
    titles = ["ground truth"]
    maps: dict[str, ClassMap] = {}
    found: dict[str, list[Result]] = {}
    for label, outcome in chosen.items():
        own = [r for r in outcome.records if r["image_id"] == sample.info.image_id and r["score"] >= SCORE]
        found[label] = sorted(own, key=lambda r: r["score"])
        maps[label] = class_map(found[label], height, width)
    for row in rows:
        label, reference = row.variant.label, row.reference.label
        compared = reference != label and reference in maps
        # Where differences are filled in, nothing else is.
        picture = _draw(image, found[label], data, alpha=0.0 if compared else 0.3)
        panels.append(highlight(picture, maps[label], maps[reference]) if compared else picture)
        titles.append(label)
    return side_by_side(*(_shrink(p) for p in panels), titles=titles)


def _draw(image: Image, records: Sequence[Result], data: Dataset, alpha: float) -> Image:
    labels = [data.categories.index_of(r["category_id"]) for r in records]
    with_masks = all("segmentation" in r for r in records)
    masks = [r["segmentation"] for r in records] if with_masks else None
    boxes = None
    if masks is None:
        boxes = torch.tensor([r["bbox"] for r in records])
        boxes[:, 2:] += boxes[:, :2]
    return draw_instances(
        image, boxes, masks, labels, data.categories.names, show_labels=False, alpha=alpha, smallest=PANEL
    )


def class_map(records: Sequence[Result], height: int, width: int) -> ClassMap:
    """int64 [H, W]: the category id of the best-scored mask that covers a pixel, -1 for none.

    Args:
        records: by rising score.
    """
    out = np.full((height, width), -1, dtype=np.int64)
    for record in records:
        if "segmentation" in record:
            out[decode(record["segmentation"]) > 0] = record["category_id"]
    return out


def highlight(picture: Image, own: ClassMap, reference: ClassMap) -> Image:
    """Paint the pixels at which the maps differ, over a picture enlarged by a whole number.

    What the reference lacks, or calls another class, in :data:`MORE`; what only the reference has in
    :data:`LESS`.
    """
    factor = picture.shape[0] // own.shape[0]
    out = picture.copy()
    differ = own != reference
    for pixels, colour in ((differ & (own >= 0), MORE), (differ & (own < 0), LESS)):
        large = np.kron(pixels, np.ones((factor, factor), dtype=np.bool_))
        out[large] = np.rint(0.25 * out[large] + 0.75 * np.array(colour)).astype(np.uint8)
    return np.asarray(out, dtype=np.uint8)


def _shrink(picture: Image) -> Image:
    """At most 1.5 panels long."""
    scale = 1.5 * PANEL / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
