"""A trained model as a function from images to instances."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskrcnn.config.registry import did_you_mean
from maskrcnn.data import Categories, RawSample, apply_transforms
from maskrcnn.data.images import SixteenBit, read_image, to_values, wrong_channels
from maskrcnn.data.interfaces import RGB
from maskrcnn.data.regions import Pixels
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.distributed import choose_device
from maskrcnn.errors import CheckpointError, DataError, UserError, few
from maskrcnn.evaluation import coco_results
from maskrcnn.inference.ahead import ahead, behind
from maskrcnn.inference.loop import predict_batch, predicting
from maskrcnn.inference.records import in_image
from maskrcnn.modeling.precision import Precision
from maskrcnn.recipe import Recipe, parse_recipe
from maskrcnn.run.find_images import AnyImage, ImagePage
from maskrcnn.run.fit_doubts import SMALL
from maskrcnn.run.named_weights import local_file
from maskrcnn.run.prediction import Prediction
from maskrcnn.run.setup import build_transforms, checkpoint_categories, keypoint_scores, load_model
from maskrcnn.run.thresholds import PLAIN_SCORE, read_thresholds, thresholds_file, views_of
from maskrcnn.run.tiled_prediction import predict_tiled
from maskrcnn.run.tiling import Tiling, choose_tiling, training_sizes
from maskrcnn.structures import Detections, ImageInfo, Sample, Targets, clip_boxes, collate, large_enough
from maskrcnn.viz.instances import as_rgb
from maskrcnn.viz.labels import Image

#: Threads that read and transform images beside a GPU; more help nobody.
_MOST_READERS = 8


@dataclass(frozen=True)
class _Prepared:
    """An image as its file has it, [H, W, C], and as the network takes it; or why it cannot be read."""

    image: AnyImage
    pixels: Image
    sample: Sample
    error: DataError | None = None


class Predictor:
    """``Predictor("runs/x")(image)``: the model of a checkpoint, ready to use."""

    def __init__(
        self,
        checkpoint: Path | str,
        *,
        device: str = "auto",
        score: float | Mapping[str, float] | None = None,
        precision: Precision = "float32",
        compile: bool | None = None,
        overrides: Sequence[str] = (),
        recipe: Recipe | None = None,
    ) -> None:
        """
        Args:
            checkpoint: a file, a run's folder (its best), or published weights by name.
            device: auto, cpu or cuda.
            score: instances below it are left out, in [0, 1]: one for all, or by the names of the classes;
                None: those beside the checkpoint, and 0.5 where there are none.
            precision: as ``solver.precision``.
            compile: let torch.compile fuse what lies between the convolutions, which takes a minute at first
                and pays for thousands of images; None: as the recipe says (``solver.compile``).
            overrides: ``key.path=value`` on the checkpoint's recipe, as ``model.roi.max_detections=200``.
            recipe: in place of the checkpoint's.

        Raises:
            CheckpointError: it cannot be read, or holds no recipe.
        """
        path = local_file(Path(checkpoint))
        state = load(path)
        if recipe is None and not state.config:
            raise CheckpointError(f"{path}: holds no recipe, so the model cannot be built")
        recipe = recipe or parse_recipe(state.config, f"the config in {path}", overrides)
        if compile is not None:
            recipe = replace(recipe, solver=replace(recipe.solver, compile=compile))
        self.recipe: Recipe = recipe
        self.categories: Categories = checkpoint_categories(state)
        self._trained = state.image_size, state.object_sides
        self.device = choose_device(device)
        self._checkpoint = path
        self.choose_score(score)
        self.model = load_model(self.recipe, state, path, self.device).eval()
        settings = self.recipe.eval
        self._predicting = predicting(self.model, graphs=settings.cuda_graphs, tta=settings.tta)
        self._transforms = build_transforms(self.recipe, training=False)
        self._precision = precision
        # As the evaluation data are read.
        data = self.recipe.data.val or self.recipe.data.train
        self.sixteen_bit: SixteenBit = getattr(data, "sixteen_bit", "scale")

    def choose_score(self, score: float | Mapping[str, float] | None) -> None:
        """Take another ``score``, as the constructor does; :attr:`scores_told` then says on one line which.

        Raises:
            UserError: it is not in [0, 1], or names a class that there is not.
            CheckpointError: the file beside the checkpoint cannot be used.
        """
        names = self.categories.names
        found = read_thresholds(self._checkpoint) if score is None else None
        if isinstance(score, Mapping):
            for name in score.keys() - set(names):
                raise UserError(
                    f"score names {name!r}, and the model has no such class.{did_you_mean(name, names)}"
                )
        beside = {} if found is None else found.scores
        by_class = score if isinstance(score, Mapping) else beside
        other = PLAIN_SCORE if score is None or isinstance(score, Mapping) else score
        thresholds = tuple(by_class.get(name, other) for name in names)
        if not all(0.0 <= value <= 1.0 for value in thresholds):
            raise UserError(f"score must be in [0, 1], got {score}")
        #: The score of each class: K numbers in [0, 1].
        self.thresholds: tuple[float, ...] = thresholds
        listed = few(f"{name} {value:.3g}" for name, value in zip(names, thresholds, strict=True))
        source = doubt = ""
        if found is not None:
            source = f", from {thresholds_file(self._checkpoint)}"
            doubt = found.doubt(views_of(self.recipe.eval.tta))
        shown = f"{thresholds[0]:.3g}" if len(set(thresholds)) == 1 else listed
        self.scores_told = f"shown are scores from {shown} on{source}{doubt and f'; {doubt}'}"

    @property
    def identity(self) -> list[Any]:
        """The checkpoint's file, and its size in bytes and date, which another one would not have."""
        state = self._checkpoint.stat()
        return [str(self._checkpoint.absolute()), state.st_size, state.st_mtime_ns]

    def __call__(self, image: AnyImage, proposals: npt.NDArray[Any] | None = None) -> Prediction:
        """Find the instances in an image file, or in uint8 [H, W, 3] RGB (or [H, W] gray).

        A model of other channels (``data.channels``) or with a contrast (``data.contrast``) takes [H, W, C]
        of the type of its files.

        proposals: float [P, 4] xyxy, pixels of the image; for a model without RPN, which needs them.

        Raises:
            DataError: the file cannot be read, an array has another shape or type, or there are no proposals
                for a model without RPN.
        """
        (found,) = self._found([self._prepare(image, 0, proposals)])
        return self._prediction(*found)

    def predict(self, images: Sequence[AnyImage], *, batch_size: int | None = None) -> list[Prediction]:
        """As :meth:`__call__`, of several images of any sizes, several at a time.

        Args:
            batch_size: images a pass; None: the recipe's ``eval.batch_size``.  Padding to the largest of a
                pass moves results by rounding, as it does in an evaluation.

        Raises:
            DataError: as :meth:`__call__`.
        """
        return list(self.stream(images, batch_size=batch_size))

    def stream(
        self,
        images: Iterable[AnyImage],
        *,
        batch_size: int | None = None,
        skipped: Callable[[AnyImage, DataError], None] | None = None,
    ) -> Iterator[Prediction]:
        """As :meth:`predict`, one by one in their order, for images without end.

        Threads ask for images, read and transform them ahead of the model, a few at a time; on a GPU another
        one makes the results while the model works on the next.  To stop half-way, close the iterator.

        Args:
            images: asked for by one thread.
            skipped: takes each image that cannot be read, and why; None: that is raised.

        Raises:
            DataError: as :meth:`__call__`, behind the results of the images before it.
        """
        size = self.recipe.eval.batch_size if batch_size is None else batch_size
        on_gpu = self.device.type != "cpu"
        threads = min(_MOST_READERS, max(1, (os.cpu_count() or 1) - 1)) if on_gpu else 1
        prepared = ahead(enumerate(images), self._try_to_prepare, threads=threads, most=threads + size)

        def passes() -> Iterator[list[tuple[_Prepared, Detections]]]:
            batch: list[_Prepared] = []
            for one in prepared:
                if one.error is None:
                    batch.append(one)
                elif skipped is not None:
                    skipped(one.image, one.error)
                if batch and (len(batch) == size or (one.error is not None and skipped is None)):
                    yield self._found(batch)
                    batch = []
                if one.error is not None and skipped is None:
                    raise one.error
            if batch:
                yield self._found(batch)

        def finish(found: list[tuple[_Prepared, Detections]]) -> list[Prediction]:
            return [self._prediction(*one) for one in found]

        for predictions in behind(passes(), finish, most=2 if on_gpu else 0):
            yield from predictions

    def tiling(self, size: int | None = None, overlap: float | None = None) -> Tiling:
        """The tiles that :meth:`tiled` takes; see :func:`choose_tiling`."""
        if size is None and self.recipe.data.tiles is None and not all(self._trained):
            image_size, sides = training_sizes(self.recipe)
            self._trained = self._trained[0] or image_size, self._trained[1] or sides
        return choose_tiling(self.recipe, self._trained[0], size, overlap, self._trained[1])

    def tiled(self, image: AnyImage, **options: Any) -> Prediction:
        """As :meth:`__call__`, of an image of any size, window by window; see :func:`predict_tiled`."""
        return predict_tiled(self, image, **options)

    def _try_to_prepare(self, item: tuple[int, AnyImage]) -> _Prepared:
        place, image = item
        try:
            return self._prepare(image, place)
        except DataError as error:
            nothing = np.zeros((0, 0, 3), dtype=np.uint8)
            info = ImageInfo(place, "", 0, 0)
            return _Prepared(image, nothing, Sample(torch.zeros(3, 0, 0), info, None), error)

    def _prepare(self, image: AnyImage, place: int, proposals: npt.NDArray[Any] | None = None) -> _Prepared:
        if (self.recipe.model.rpn is None) != (proposals is not None):
            raise DataError(
                "this model has no RPN, so it needs proposals with each image"
                if proposals is None
                else "this model makes its own proposals; give it none"
            )
        reading = self.recipe.data.reading
        if isinstance(image, ImagePage):
            reading = replace(reading, pages="images")
            pixels = read_image(image.path, sixteen_bit=self.sixteen_bit, reading=reading, page=image.page)
        elif isinstance(image, (str, Path)):
            pixels = read_image(Path(image), sixteen_bit=self.sixteen_bit, reading=reading)
        elif isinstance(image, Pixels):
            pixels = image.values
        elif reading == RGB:
            pixels = _as_rgb(image)
        else:
            pixels = self._as_pixels(image)
        height, width = pixels.shape[:2]
        name = "" if isinstance(image, (np.ndarray, Pixels)) else str(image)
        info = ImageInfo(image_id=place, file_name=name, height=height, width=width)
        given = None if proposals is None else _as_boxes(proposals, height, width)
        sample = RawSample(pixels, info, _no_targets(), given)
        sample = apply_transforms(self._transforms, sample, np.random.default_rng(0))
        return _Prepared(image, pixels, sample.to_sample())

    def _found(self, batch: list[_Prepared]) -> list[tuple[_Prepared, Detections]]:
        """One pass of the model; each image with what was found in the network frame, on the CPU."""
        samples = collate([one.sample for one in batch])
        found = predict_batch(self._predicting, samples, self.device, self._precision)
        return [(one, each.to("cpu")) for one, each in zip(batch, found, strict=True)]

    def _prediction(self, prepared: _Prepared, found: Detections) -> Prediction:
        info, seen = prepared.sample.info, prepared.sample.image.shape[-2:]
        size = (info.height, info.width)
        good = found.scores >= found.scores.new_tensor(self.thresholds)[found.labels]
        capped = len(found) >= self.recipe.model.roi.max_detections and bool(good.all())
        found = in_image(found.select(good), (seen[0], seen[1]), size)
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        areas = sides.prod(1) * (seen[0] * seen[1] / (size[0] * size[1]))
        settings = self.recipe.eval
        # Already in the frame of the image.
        ways = settings.paste, settings.keypoint_offset, settings.clean
        records = coco_results(info, found, size, self.categories, *ways)
        points = found.keypoints
        boxes = np.array([r["bbox"] for r in records], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return Prediction(
            image=as_rgb(prepared.pixels),
            boxes=boxes,
            scores=found.scores.double().numpy(),
            labels=found.labels.numpy(),
            records=records,
            names=self.categories.names,
            keypoints=None if points is None else points.double().numpy(),
            keypoint_scores=keypoint_scores(self.recipe),
            extras={name: values.numpy() for name, values in found.extras.items()},
            size=size,
            name=info.file_name,
            image_id=info.image_id,
            capped=capped,
            small=int((areas < SMALL**2).sum()),
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
        return np.ascontiguousarray(to_values(image, self.sixteen_bit, reading.contrast))


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
