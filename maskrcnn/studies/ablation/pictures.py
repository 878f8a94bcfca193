"""The same images under each variant, and the pixels where its masks differ from the reference's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from maskrcnn.data import Dataset, RawSample
from maskrcnn.errors import UserError
from maskrcnn.evaluation import Result
from maskrcnn.structures.rle import decode
from maskrcnn.studies.ablation.results import Outcome, VariantRow
from maskrcnn.viz.instances import as_rgb, draw_detections, draw_records
from maskrcnn.viz.labels import Image
from maskrcnn.viz.palette import LESS, MORE
from maskrcnn.viz.panels import ClassMap, mark_differences, shrunk, side_by_side
from maskrcnn.viz.picture_names import PictureNames

#: Detections below this score are not drawn.
SCORE = 0.5
#: Longer side of a panel, pixels; smaller images are enlarged by a whole number up to about it.
PANEL = 360
#: What the marked pixels mean, and their colours.
KEY = {
    "segmented here, and not (or as another class) by the reference": MORE,
    "segmented by the reference alone": LESS,
}


def compare(rows: Sequence[VariantRow], data: Dataset, count: int) -> Iterator[tuple[str, Image]]:
    """For the first ``count`` images with ground truth: their name, and truth and variants in a row.

    Images that cannot be read any more are passed over; evaluation said so where it was asked to.
    The runs are those of the lowest seed that all rows have; of no common seed, none.
    """
    seeds = set.intersection(*({o.run.seed for o in row.outcomes} for row in rows)) if rows else set()
    if not seeds:
        return
    chosen = {r.variant.label: o for r in rows for o in r.outcomes if o.run.seed == min(seeds)}
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
        picture = draw_records(
            image,
            found[label],
            [data.categories.index_of(r["category_id"]) for r in found[label]],
            names,
            show_labels=False,
            alpha=0.0 if compared else 0.3,
            smallest=PANEL,
        )
        panels.append(mark_differences(picture, maps[label], maps[reference]) if compared else picture)
        titles.append(label)
    return side_by_side(*(shrunk(p, round(1.5 * PANEL)) for p in panels), titles=titles)


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
