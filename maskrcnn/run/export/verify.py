"""Whether an exported file finds what the model finds: detection by detection, and by AP."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn.data.interfaces import Dataset
from maskrcnn.data.regions import Pixels
from maskrcnn.errors import plural
from maskrcnn.evaluation import IouType, evaluate_coco
from maskrcnn.inference.records import Result
from maskrcnn.run.export.running import Runner
from maskrcnn.run.predictor import Predictor
from maskrcnn.structures import RawSample
from maskrcnn.structures.ground_truth import GroundTruth

#: AP may differ by as much, by the precision of the file.
AP_BOUNDS = {"float32": 0.001, "bfloat16": 0.01, "int8": 0.01}
#: And of the model's detections as many must be found again: AP alone says nothing of a model that has none.
FOUND_AGAIN = {"float32": 0.9, "bfloat16": 0.75, "int8": 0.5}
#: Boxes of one class are the same detection from this IoU on.
SAME = 0.9
#: Which detections are compared one by one: those that are told to people.
TOLD = 0.5


@dataclass(frozen=True)
class Comparison:
    """
    images: how many were looked at.
    detections, matched: of the model with a score of ``TOLD`` and more, and those that the file has, too.
    boxes, scores: the largest differences of these, pixels of the image and in [0, 1].
    masks: the smallest IoU of theirs; None without masks.
    keypoints: the largest distance of theirs, pixels of the image; None without keypoints.
    extras: by the name of a further head the largest difference of its numbers.
    ap: by the kind of AP, the model's and the file's.
    bound: by how much these may differ.
    share: of the detections, which must be matched.
    """

    images: int
    detections: int
    matched: int
    boxes: float
    scores: float
    masks: float | None
    ap: dict[str, tuple[float, float]]
    bound: float = AP_BOUNDS["float32"]
    share: float = FOUND_AGAIN["float32"]
    keypoints: float | None = None
    extras: Mapping[str, float] = field(default_factory=dict)

    @property
    def doubt(self) -> str | None:
        """Why the file is not called good, or None."""
        if not self.ap or any(abs(a - b) > self.bound for a, b in self.ap.values()):
            return f"AP differs by more than {self.bound}"
        if self.matched < self.share * self.detections:
            return f"of the model's detections less than {self.share:.0%} are found again"
        return None

    def lines(self) -> list[str]:
        """In words."""
        told = [
            f"{plural(self.images, 'image')}: {self.matched} of {plural(self.detections, 'detection')} with a"
            f" score of {TOLD} and more found again; worst differences: boxes {self.boxes:.3g} px, scores"
            f" {self.scores:.3g}"
            + ("" if self.masks is None else f", IoU of masks {self.masks:.4f}")
            + ("" if self.keypoints is None else f", keypoints {self.keypoints:.3g} px")
            + "".join(f", {name} {value:.3g}" for name, value in self.extras.items())
        ]
        return told + [f"{kind} AP {a:.4f}, of the file {b:.4f}" for kind, (a, b) in self.ap.items()]


def compare(
    predictor: Predictor,
    runner: Runner,
    dataset: Dataset,
    count: int,
    tell: Callable[[int], None],
    precision: str = "float32",
) -> Comparison:
    """Both over the first ``count`` images of a data set.

    Args:
        predictor: with a score of 0.
        tell: called with how many images are done.
        precision: of the file.

    Raises:
        DataError: an image cannot be read.
    """
    ours: list[Result] = []
    theirs: list[Result] = []
    pairs, settings = Meetings(), predictor.recipe.eval
    for index in range(count):
        sample: RawSample = dataset.load(index)
        info = sample.info
        found = predictor(Pixels(sample.image))
        extras = {name: values.tolist() for name, values in found.extras.items()}
        before = [
            {**r, "image_id": info.image_id} | {name: values[i] for name, values in extras.items()}
            for i, r in enumerate(found.records)
        ]
        after = runner(sample.image).records(info, predictor.categories, settings.keypoint_offset)
        pairs.add(before, after, tuple(extras))
        ours += before
        theirs += after
        tell(index + 1)
    kinds = told_kinds(predictor, truth := dataset.ground_truth())
    ids = [int(i) for i in dataset.image_ids[:count]]
    cap = predictor.recipe.model.roi.max_detections
    figures = []
    for records in (ours, theirs):
        result = evaluate_coco(
            truth, records, kinds, max_detections=cap, image_ids=ids, sigmas=settings.sigmas
        )
        figures.append({kind: result.figures[kind]["AP"] or 0.0 for kind in kinds})
    ap = {str(kind): (figures[0][kind], figures[1][kind]) for kind in kinds}
    found_all = pairs.comparison(count, ap)
    return replace(found_all, bound=AP_BOUNDS[precision], share=FOUND_AGAIN[precision])


def told_kinds(predictor: Predictor, truth: GroundTruth) -> tuple[IouType, ...]:
    """What is evaluated: all that the model predicts and the annotations have."""
    model = predictor.recipe.model
    kinds: list[IouType] = ["bbox"]
    if model.mask_head is not None and truth.has_masks:
        kinds.append("segm")
    if model.keypoint_head is not None and truth.keypoints is not None and truth.keypoints.any():
        kinds.append("keypoints")
    return tuple(kinds)


class Meetings:
    """The detections of both, image by image.

    Args:
        told: the least score of those that are compared.
    """

    def __init__(self, told: float = TOLD) -> None:
        self.told = told
        self.detections = self.matched = 0
        self.boxes = self.scores = 0.0
        self.masks: float | None = None
        self.keypoints: float | None = None
        self.extras: dict[str, float] = {}

    def add(self, before: Sequence[Result], after: Sequence[Result], extras: Collection[str] = ()) -> None:
        """Those of an image; ``extras``: which entries are of further heads."""
        before = [r for r in before if r["score"] >= self.told]
        self.detections += len(before)
        if not before or not after:
            return
        boxes = [np.array([r["bbox"] for r in records]) for records in (before, after)]
        ious = np.asarray(coco_mask.iou(*boxes, [0] * len(after)))
        same = np.array([[a["category_id"] == b["category_id"] for b in after] for a in before])
        ious = np.where(same, ious, 0.0)
        for i, j in enumerate(ious.argmax(1).tolist()):
            if ious[i, j] < SAME:
                continue
            a, b = before[i], after[j]
            self.matched += 1
            corners = [np.cumsum(np.reshape(r["bbox"], (2, 2)), axis=0) for r in (a, b)]
            self.boxes = max(self.boxes, float(np.abs(corners[0] - corners[1]).max()))
            self.scores = max(self.scores, abs(a["score"] - b["score"]))
            if "keypoints" in a:
                apart = np.subtract(a["keypoints"], b["keypoints"]).reshape(-1, 3)[:, :2]
                self.keypoints = max(self.keypoints or 0.0, float(np.hypot(*apart.T).max()))
            for name in extras:
                other = float(np.abs(np.subtract(a[name], b[name])).max())
                self.extras[name] = max(self.extras.get(name, 0.0), other)
            if "segmentation" in a:
                drawn = [a["segmentation"], b["segmentation"]]
                shared = float(coco_mask.iou(drawn[:1], drawn[1:], [0])[0, 0])
                if not coco_mask.area(drawn).any():  # both without a pixel
                    shared = 1.0
                self.masks = shared if self.masks is None else min(self.masks, shared)

    def comparison(self, images: int, ap: dict[str, tuple[float, float]]) -> Comparison:
        """All of it."""
        matched = self.detections, self.matched, self.boxes, self.scores, self.masks
        return Comparison(images, *matched, ap, keypoints=self.keypoints, extras=self.extras)
