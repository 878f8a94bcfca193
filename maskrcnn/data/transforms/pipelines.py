"""Augmentations of other libraries: how a config names them, and a sample through one.

A pipeline is a list of steps, each the name of one of the library's classes with its arguments; nothing else
of the library can be named, and nothing is evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.config import Config, did_you_mean, load
from maskrcnn.config.ranges import any_number
from maskrcnn.data.transforms.moving import fit_boxes
from maskrcnn.errors import ConfigError, UserError
from maskrcnn.structures import InstanceMasks, RawSample, Targets, clip_boxes, large_enough, rle
from maskrcnn.structures.samples import Image

_ANY = any_number("arguments of another library's own")
Single = bool | Annotated[int, _ANY] | Annotated[float, _ANY] | str
Option = Single | tuple[Single, ...] | tuple[tuple[Single, ...], ...] | None


@dataclass(frozen=True, kw_only=True)
class PipelineStep(Config):
    """One transform of the library."""

    #: Its class, as ``HorizontalFlip``.
    name: str
    #: Arguments of the class by name; a mapping is written as JSON in quotes, '{"x": [0.9, 1.1]}'.
    options: dict[str, Option] = field(default_factory=dict, hash=False)
    #: Of a class that holds other transforms (``OneOf``, ``RandomApply``): those.
    of: tuple[PipelineStep, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PipelineFile(Config):
    """A YAML file of steps."""

    #: In order.
    pipeline: tuple[PipelineStep, ...]


@dataclass(frozen=True, kw_only=True)
class ForeignPipeline(Config):
    """Steps of a library, run as one transform; all randomness comes from ``rng`` by one seed.

    library: the distribution's name; its version decides what is drawn.
    """

    library: ClassVar[str]

    #: The steps, or a file of them: YAML with the key ``pipeline``, or the JSON that albumentations saves.
    #: What the file holds becomes part of the recipe, as if it stood there.
    pipeline: Path | tuple[PipelineStep, ...]

    def __post_init__(self) -> None:
        if isinstance(self.pipeline, Path):
            object.__setattr__(self, "pipeline", read_steps(self.pipeline))
        super().__post_init__()

    @property
    def steps(self) -> tuple[PipelineStep, ...]:
        """What stands in ``pipeline``, or in the file that it named."""
        return () if isinstance(self.pipeline, Path) else self.pipeline

    def prepare(self) -> None:
        """Make the library's objects, which a call does otherwise.

        Raises:
            ConfigError: the library is missing, or does not take the steps as they are.
        """
        raise NotImplementedError


@dataclass
class Foreign:
    """What goes through another library, and comes back.

    image: [H, W, C], uint8, or float32 in [0, 1] as these libraries have it.
    boxes: float64 [B, 4] xyxy: of the instances, and then the proposals.
    rows: int64 [B], which of those each box is; some may be left out on the way.
    bitmaps: uint8 0/1 [G, H, W], of all instances that went in; None where there are none or nothing moves.
    points: float64 [P, 2]: instances' keypoints in a row, then three that tell whether the image is mirrored;
        as indices of pixels, whose centres are whole numbers.  None without keypoints.
    """

    image: Image
    boxes: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]
    bitmaps: npt.NDArray[np.uint8] | None
    points: npt.NDArray[np.float64] | None


def run_foreign(
    library: str,
    sample: RawSample,
    moves: bool,
    change: Callable[[Foreign], Foreign],
) -> RawSample:
    """``sample`` through ``change``.

    Where the geometry may change, masks go through as bitmaps, boxes become the tight boxes of what is left
    of them, and instances of which nothing is left are dropped; without masks boxes are the library's.

    moves: whether it may.

    Raises:
        ConfigError: the library refuses, or gives back no image of the same kind.
    """
    image, floats = sample.image, sample.image.dtype != np.uint8
    given = _given(sample, moves)
    given.image = image / np.float32(255) if floats else image.copy()
    try:
        found = change(given)
    except UserError:
        raise
    except Exception as error:  # of the library, or of the arguments that its steps were given
        what = f"{type(error).__name__}: {str(error)[:300]}"
        raise ConfigError(
            f"image {sample.info.image_id}: the {library} pipeline fails ({what}); change its steps"
        ) from error
    out = np.asarray(found.image)
    if out.dtype != image.dtype or out.ndim != 3 or out.shape[2] != image.shape[2]:
        raise ConfigError(
            f"the {library} pipeline makes {out.dtype} {list(out.shape)} of an image of {image.dtype}"
            f" {list(image.shape)}; leave out the step that does so (normalising and making tensors is the"
            " model's)"
        )
    out = np.ascontiguousarray(out * np.float32(255) if floats else out)
    if not moves:
        return replace(sample, image=out)
    return _taken_back(sample, replace(found, image=out))


def _given(sample: RawSample, moves: bool) -> Foreign:
    targets, proposals = sample.targets, sample.proposals
    boxes = targets.boxes if proposals is None else torch.cat((targets.boxes, proposals))
    points = None
    if targets.keypoints is not None and moves:
        height, width = sample.size
        x, y = width / 2, height / 2
        own = targets.keypoints[..., :2].reshape(-1, 2).double().numpy()
        points = np.concatenate((own, [[x, y], [x + 1, y], [x, y + 1]])) - 0.5
    bitmaps = None
    if targets.masks is not None and moves:
        bitmaps = targets.masks.to_bitmaps().numpy()
    return Foreign(sample.image, boxes.double().numpy(), np.arange(len(boxes)), bitmaps, points)


def _taken_back(sample: RawSample, found: Foreign) -> RawSample:
    targets, count = sample.targets, len(sample.targets)
    height, width = found.image.shape[:2]
    own = found.rows < count
    rows = found.rows[own]
    masks = targets.masks
    if found.bitmaps is not None:
        left = found.bitmaps[rows]
        rows, left = rows[left.any((1, 2))], left[left.any((1, 2))]
        codes = [rle.encode(np.ascontiguousarray(bitmap)) for bitmap in left]
        masks = InstanceMasks.from_coco(codes, height, width)
    boxes = np.zeros((count, 4))
    boxes[found.rows[own]] = found.boxes[own]
    keypoints = targets.keypoints
    if keypoints is not None and found.points is not None:
        points = torch.from_numpy(found.points + 0.5)
        middle, right, below = points[-3:]
        flags = keypoints[..., 2:]
        keypoints = torch.cat((points[:-3].reshape(*flags.shape[:2], 2).float(), flags), -1)
        (a, b), (c, d) = (right - middle).tolist(), (below - middle).tolist()
        if a * d - b * c < 0 and sample.mirror is not None:
            keypoints = keypoints[:, list(sample.mirror)]
        inside = ((keypoints[..., :2] >= 0) & (keypoints[..., :2] <= torch.tensor([width, height]))).all(-1)
        keypoints = torch.where((inside & (keypoints[..., 2] > 0))[..., None], keypoints, 0)[rows]
    moved = Targets(
        torch.from_numpy(boxes[rows]).float(),
        targets.labels[rows],
        masks,
        targets.annotation_ids[rows],
        keypoints,
    )
    proposals = sample.proposals
    if proposals is not None:
        proposals = clip_boxes(torch.from_numpy(found.boxes[~own]).float(), height, width)
        proposals = proposals[large_enough(proposals, 0)]
    whole = replace(sample, image=found.image, targets=moved, proposals=proposals)
    whole = fit_boxes(whole, 0.0, loose=masks is not None)
    return replace(whole, targets=whole.targets.select(large_enough(whole.targets.boxes, 0)))


def make_step(step: PipelineStep, library: str, module: Any, base: tuple[type, ...], **arguments: Any) -> Any:
    """The library's object.

    module: where its classes are.  base: what they must be of.

    Raises:
        ConfigError: it has no such class, or the class does not take the arguments.
    """
    cls = getattr(module, step.name, None)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        known = [n for n in dir(module) if isinstance(c := getattr(module, n), type) and issubclass(c, base)]
        near = did_you_mean(step.name, known).partition(" Known:")[0]
        raise ConfigError(f"pipeline: {library} has no transform {step.name!r}.{near}")
    try:
        return cls(**{name: _plain(value) for name, value in step.options.items()}, **arguments)
    except Exception as error:  # of the library's own checks
        raise ConfigError(
            f"pipeline: {library}'s {step.name} does not take these arguments: {str(error)[:300]}"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ConfigError(f"{value!r} begins as JSON does and is none ({error})") from None
    return value


def read_steps(path: Path) -> tuple[PipelineStep, ...]:
    """The steps that a file holds, see :class:`ForeignPipeline`.

    Raises:
        ConfigError: it cannot be read, or is neither.
    """
    if path.suffix.lower() != ".json":
        return load(PipelineFile, path).pipeline
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        saved = _of_saved(content["transform"])
    except OSError as error:
        raise ConfigError(f"pipeline: {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"pipeline: {path} is not what albumentations.save writes ({type(error).__name__}: {error})"
        ) from None
    return saved.of if saved.name == "Compose" else (saved,)


def _of_saved(entry: dict[str, Any]) -> PipelineStep:
    """A step of what albumentations calls the dictionary of a transform."""
    name = str(entry["__class_fullname__"]).rpartition(".")[2]
    settings = {"__class_fullname__", "transforms", "bbox_params", "keypoint_params", "additional_targets"}
    options = {key: _option(value) for key, value in entry.items() if key not in settings}
    if name == "Compose":
        options = {key: value for key, value in options.items() if key == "p" and value != 1.0}
    return PipelineStep(name=name, options=options, of=tuple(map(_of_saved, entry.get("transforms", ()))))


def _option(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value)
    return tuple(map(_option, value)) if isinstance(value, list) else value


def each(steps: Sequence[Any], inner: Callable[[Any], Sequence[Any]]) -> list[Any]:
    """All transforms of a pipeline, those inside others too, but not the holders."""
    found = []
    for step in steps:
        parts = inner(step)
        found += each(parts, inner) if parts else [step]
    return found
