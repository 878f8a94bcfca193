"""A trained model as a function from an image to instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskrcnn.data import Categories, RawSample, apply_transforms
from maskrcnn.data.images import SixteenBit, read_image, to_values, wrong_channels
from maskrcnn.data.interfaces import RGB
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.distributed import choose_device
from maskrcnn.errors import CheckpointError, DataError
from maskrcnn.evaluation import Result, coco_results
from maskrcnn.inference.graphs import ReplayedModel
from maskrcnn.inference.records import in_image
from maskrcnn.modeling.precision import Precision, autocast
from maskrcnn.recipe import Recipe, parse_recipe
from maskrcnn.run.named_weights import local_file
from maskrcnn.run.setup import build_transforms, checkpoint_categories, keypoint_scores, load_model
from maskrcnn.structures import ImageInfo, Targets, clip_boxes, large_enough
from maskrcnn.structures.rle import decode
from maskrcnn.viz.instances import as_rgb, draw_records
from maskrcnn.viz.labels import Image
from maskrcnn.viz.skeletons import sure


@dataclass(frozen=True)
class Prediction:
    """The instances found in one image, by falling score.

    image: uint8 [H, W, 3] RGB, original frame.
    boxes: float64 [D, 4] xyxy, original frame, pixels.
    scores: float64 [D] in [0, 1].
    labels: int64 [D], contiguous class indices; ``names[label]`` is the class.
    records: D COCO records with category ids and RLE masks.
    names: of all classes.
    keypoints: float64 [D, J, 3], original frame: x, y in pixels (continuous, as boxes) and a score; None
        where the model has none.
    keypoint_scores: what that score is: ``logit`` or ``probability``, the model's ``keypoint_head.scores``.
    extras: what further heads add, by their names: [D, ...]; numbers of an instance are in ``records`` too.
    """

    image: Image
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    records: list[Result]
    names: tuple[str, ...]
    keypoints: npt.NDArray[np.float64] | None = None
    keypoint_scores: str = "logit"
    extras: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each instance's class."""
        return tuple(self.names[label] for label in self.labels.tolist())

    @property
    def masks(self) -> npt.NDArray[np.bool_] | None:
        """bool [D, H, W], made when asked for; None where the model has no masks."""
        if any("segmentation" not in r for r in self.records):
            return None
        out = np.zeros((len(self), *self.image.shape[:2]), dtype=np.bool_)
        for i, record in enumerate(self.records):
            out[i] = decode(record["segmentation"])
        return out

    def draw(self) -> Image:
        """The image with its instances drawn over it, uint8 RGB, enlarged where it is small."""
        return draw_records(
            self.image,
            self.records,
            self.labels.tolist(),
            self.names,
            keypoints=None if self.keypoints is None else sure(self.keypoints, self.keypoint_scores),
        )


class Predictor:
    """``Predictor("runs/x")(image)``: the model of a checkpoint, ready to use."""

    def __init__(
        self,
        checkpoint: Path | str,
        *,
        device: str = "auto",
        score: float = 0.5,
        precision: Precision = "float32",
        overrides: Sequence[str] = (),
        recipe: Recipe | None = None,
    ) -> None:
        """
        Args:
            checkpoint: a file, a run's folder (its best), or published weights by name.
            device: auto, cpu or cuda.
            score: instances below it are left out, in [0, 1].
            precision: as ``solver.precision``.
            overrides: ``key.path=value`` on the checkpoint's recipe, as ``model.roi.max_detections=200``.
            recipe: in place of the checkpoint's.

        Raises:
            CheckpointError: it cannot be read, or holds no recipe.
        """
        path = local_file(Path(checkpoint))
        state = load(path)
        if recipe is None and not state.config:
            raise CheckpointError(f"{path}: holds no recipe, so the model cannot be built")
        self.recipe: Recipe = recipe or parse_recipe(state.config, f"the config in {path}", overrides)
        self.categories: Categories = checkpoint_categories(state)
        self.device = choose_device(device)
        self.score = score
        self.model = load_model(self.recipe, state, path, self.device).eval()
        # Left to the model where it does not apply.
        self._predicting = ReplayedModel(self.model) if self.recipe.eval.cuda_graphs else self.model
        self._transforms = build_transforms(self.recipe, training=False)
        self._precision = precision
        # As the evaluation data are read.
        data = self.recipe.data.val or self.recipe.data.train
        self._sixteen_bit: SixteenBit = getattr(data, "sixteen_bit", "scale")

    def __call__(
        self, image: npt.NDArray[Any] | Path | str, proposals: npt.NDArray[Any] | None = None
    ) -> Prediction:
        """Find the instances in an image file, or in uint8 [H, W, 3] RGB (or [H, W] gray).

        A model of other channels (``data.channels``) or with a contrast (``data.contrast``) takes [H, W, C]
        of the type of its files.

        proposals: float [P, 4] xyxy, pixels of the image; for a model without RPN, which needs them.

        Raises:
            DataError: the file cannot be read, an array has another shape or type, or there are no proposals
                for a model without RPN.
        """
        if (self.recipe.model.rpn is None) != (proposals is not None):
            raise DataError(
                "this model has no RPN, so it needs proposals with each image"
                if proposals is None
                else "this model makes its own proposals; give it none"
            )
        if isinstance(image, (str, Path)):
            pixels = read_image(Path(image), sixteen_bit=self._sixteen_bit, reading=self.recipe.data.reading)
        elif self.recipe.data.reading == RGB:
            pixels = _as_rgb(image)
        else:
            pixels = self._as_pixels(image)
        height, width = pixels.shape[:2]
        info = ImageInfo(image_id=0, file_name=str(image)[:200], height=height, width=width)
        given = None if proposals is None else _as_boxes(proposals, height, width)
        sample = RawSample(pixels, info, _no_targets(), given)
        sample = apply_transforms(self._transforms, sample, np.random.default_rng(0))
        tensor = sample.to_sample().image.to(self.device)
        network = None if sample.proposals is None else [sample.proposals.to(self.device)]
        with torch.inference_mode(), autocast(self.device, self._precision):
            found = self._predicting.predict([tensor], network)[0]
        found = found.to("cpu")
        found = in_image(
            found.select(found.scores >= self.score),
            (tensor.shape[-2], tensor.shape[-1]),
            (height, width),
        )
        settings = self.recipe.eval
        records = coco_results(
            info, found, (height, width), self.categories, settings.paste, settings.keypoint_offset
        )
        points = found.keypoints
        boxes = np.array([r["bbox"] for r in records], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return Prediction(
            image=as_rgb(pixels),
            boxes=boxes,
            scores=found.scores.double().numpy(),
            labels=found.labels.numpy(),
            records=records,
            names=self.categories.names,
            keypoints=None if points is None else points.double().numpy(),
            keypoint_scores=keypoint_scores(self.recipe),
            extras={name: values.numpy() for name, values in found.extras.items()},
        )

    def _as_pixels(self, image: npt.NDArray[Any]) -> Image:
        """An array as the model's images are read from files."""
        reading = self.recipe.data.reading
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3 if reading.channels == 3 else 1, axis=2)
        if image.ndim != 3 or not image.size:
            raise DataError(f"an image is [H, W, {reading.channels}], got {list(image.shape)}")
        if image.shape[2] != reading.channels:
            raise DataError(wrong_channels(image.shape[2], reading))
        return np.ascontiguousarray(to_values(image, self._sixteen_bit, reading.contrast))


def _as_rgb(image: npt.NDArray[Any]) -> Image:
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(f"an image is uint8 [H, W, 3] RGB or [H, W] gray, got {image.dtype} {image.shape}")
    return np.ascontiguousarray(image)


def _as_boxes(proposals: npt.NDArray[Any], height: int, width: int) -> Tensor:
    boxes = torch.as_tensor(proposals, dtype=torch.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(f"proposals are float [P, 4] xyxy, got {list(boxes.shape)}")
    boxes = clip_boxes(boxes, height, width)
    return boxes[large_enough(boxes, 0)]


def _no_targets() -> Targets:
    none = torch.zeros(0, dtype=torch.int64)
    return Targets(torch.zeros(0, 4), none, None, none)
