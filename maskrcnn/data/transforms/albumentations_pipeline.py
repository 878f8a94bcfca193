"""albumentations (optional: ``pip install maskrcnn[albumentations]``) as a transform.

That is the library under the MIT licence, 2.0; its successor albumentationsX, under the AGPL, is not used.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from maskrcnn.data.interfaces import TRANSFORMS
from maskrcnn.data.transforms.pipelines import (
    Foreign,
    ForeignPipeline,
    PipelineStep,
    each,
    make_step,
    run_foreign,
)
from maskrcnn.errors import ConfigError
from maskrcnn.structures import RawSample

_NAME = "albumentations"


@TRANSFORMS.register("albumentations")
@dataclass(frozen=True, kw_only=True)
class AlbumentationsPipeline(ForeignPipeline):
    """Steps of albumentations, as ``{name: RandomBrightnessContrast, options: {p: 0.2}}``.

    Steps that change values alone leave masks as they are; where any step moves the image, masks go through
    it as bitmaps.
    """

    library: ClassVar[str] = _NAME

    def prepare(self) -> None:
        """See :meth:`ForeignPipeline.prepare`."""
        _pipeline(self.steps, False)

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        moving, pipeline = _pipeline(self.steps, sample.targets.keypoints is not None)
        seed = int(rng.integers(2**32))

        def change(given: Foreign) -> Foreign:
            pipeline.set_random_seed(seed)
            if not moving:
                given.image = pipeline(image=given.image)["image"]
                return given
            more: dict[str, Any] = {} if given.points is None else {"keypoints": given.points}
            if given.bitmaps is not None and len(given.bitmaps):
                more["masks"] = given.bitmaps
            out = pipeline(image=given.image, bboxes=given.boxes, rows=given.rows, **more)
            bitmaps = given.bitmaps
            if "masks" in more:
                bitmaps = np.stack(list(out["masks"]))
            return Foreign(
                out["image"],
                np.asarray(out["bboxes"], dtype=np.float64).reshape(-1, 4),
                np.asarray(out["rows"], dtype=np.int64),
                bitmaps,
                None if given.points is None else np.asarray(out["keypoints"], dtype=np.float64),
            )

        return run_foreign(_NAME, sample, moving, change)


@lru_cache(maxsize=8)
def _pipeline(steps: tuple[PipelineStep, ...], keypoints: bool) -> tuple[bool, Any]:
    """Whether any step moves the image, and the library's object, made once a process."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else importing it asks a server for its newest version
    try:
        import albumentations
    except ImportError:
        raise ConfigError(
            "pipeline: the albumentations library is not installed: pip install maskrcnn[albumentations]"
        ) from None

    def made(step: PipelineStep) -> Any:
        inner = {"transforms": [made(part) for part in step.of]} if step.of else {}
        base = (albumentations.BasicTransform, albumentations.BaseCompose)
        with warnings.catch_warnings():  # it tells wrong arguments by a warning
            warnings.filterwarnings("error", message=".*not valid for transform.*")
            return make_step(step, _NAME, albumentations, base, **inner)

    transforms = [made(step) for step in steps]
    leaves = each(transforms, lambda t: getattr(t, "transforms", ()))
    moves = any(isinstance(leaf, albumentations.DualTransform) for leaf in leaves)
    parameters: dict[str, Any] = {}
    if moves:
        parameters["bbox_params"] = albumentations.BboxParams("pascal_voc", label_fields=["rows"], clip=True)
    if moves and keypoints:
        parameters["keypoint_params"] = albumentations.KeypointParams("xy", remove_invisible=False)
    try:
        return moves, albumentations.Compose(transforms, **parameters)
    except ValueError as error:  # as of steps that know no keypoints
        raise ConfigError(f"pipeline: albumentations refuses its steps: {str(error)[:300]}") from None
