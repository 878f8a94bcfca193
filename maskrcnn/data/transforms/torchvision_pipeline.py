"""``torchvision.transforms.v2`` as a transform."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch

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

_NAME = "torchvision_v2"
#: Classes that change values alone: masks need not go through them.
_VALUES_ALONE = {
    *("ColorJitter", "RandomGrayscale", "Grayscale", "RGB", "RandomPhotometricDistort", "RandomInvert"),
    *("GaussianBlur", "GaussianNoise", "RandomAdjustSharpness", "JPEG", "RandomAutocontrast", "Identity"),
    *("RandomEqualize", "RandomPosterize", "RandomSolarize", "RandomChannelPermutation"),
}


@TRANSFORMS.register("torchvision_v2")
@dataclass(frozen=True, kw_only=True)
class TorchvisionPipeline(ForeignPipeline):
    """Steps of ``torchvision.transforms.v2``, as ``{name: RandomPerspective, options: {p: 0.3}}``.

    Steps that change values alone leave masks as they are; where any step moves the image, masks go through
    it as bitmaps.  Interpolations are named as ``bilinear``.
    """

    library: ClassVar[str] = "torchvision"

    def prepare(self) -> None:
        """See :meth:`ForeignPipeline.prepare`."""
        _pipeline(self.steps)

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> RawSample:
        from torchvision import tv_tensors  # which takes a second to import

        moving, pipeline = _pipeline(self.steps)
        seed = int(rng.integers(2**63))

        def change(given: Foreign) -> Foreign:
            size = given.image.shape[:2]
            image = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(given.image.transpose(2, 0, 1))))
            inputs: dict[str, Any] = {"image": image}
            if moving:
                boxes = tv_tensors.BoundingBoxes(given.boxes, format="XYXY", canvas_size=size)
                rows = torch.from_numpy(given.rows)
                inputs |= {"boxes": boxes, "labels": rows}
                if given.points is not None:
                    inputs["points"] = tv_tensors.KeyPoints(given.points, canvas_size=size)
                if given.bitmaps is not None and len(rows) > len(given.bitmaps):
                    raise ConfigError(
                        "torchvision_v2 steps that move the image take no proposals besides masks; leave the"
                        " steps out, or use the transforms affine, hflip, random_crop ... instead"
                    )
                if given.bitmaps is not None:
                    inputs["masks"] = tv_tensors.Mask(torch.from_numpy(given.bitmaps))
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)  # of the CPU alone; a GPU's stays as it is
                out = pipeline(inputs)
            given.image = out["image"].numpy().transpose(1, 2, 0)
            if not moving:
                return given
            given.boxes, given.rows = out["boxes"].numpy(), out["labels"].numpy()
            if given.points is not None:
                given.points = out["points"].numpy()
            if given.bitmaps is not None:
                left = out["masks"].numpy()  # of the rows that are left
                given.bitmaps = np.zeros((len(given.bitmaps), *left.shape[1:]), dtype=np.uint8)
                given.bitmaps[given.rows] = left
            return given

        return run_foreign(_NAME, sample, moving, change)


@lru_cache(maxsize=8)
def _pipeline(steps: tuple[PipelineStep, ...]) -> tuple[bool, Any]:
    """Whether any step moves the image, and the library's object, made once a process."""
    from torchvision.transforms import InterpolationMode, v2

    def made(step: PipelineStep) -> Any:
        more: dict[str, Any] = {"transforms": [made(part) for part in step.of]} if step.of else {}
        mode = step.options.get("interpolation")
        if isinstance(mode, str) and mode in {m.value for m in InterpolationMode}:
            more["interpolation"] = InterpolationMode(mode)
            step = PipelineStep(
                name=step.name, options={k: v for k, v in step.options.items() if k != "interpolation"}
            )
        return make_step(step, _NAME, v2, (v2.Transform,), **more)

    transforms = [made(step) for step in steps]
    leaves = each(transforms, lambda t: list(getattr(t, "transforms", ())))
    return any(type(leaf).__name__ not in _VALUES_ALONE for leaf in leaves), v2.Compose(transforms)
