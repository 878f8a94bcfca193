"""An exported file in its format's own runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from maskrcnn.inference.records import Result
from maskrcnn.run.export.needed import needed
from maskrcnn.structures import ImageInfo
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.rle import as_text, encode

Array = npt.NDArray[Any]

#: Outputs that are not a further head's.
KNOWN = ("boxes", "scores", "classes", "images", "masks", "mask_probabilities", "mask_boxes", "keypoints")


class Instances(NamedTuple):
    """What a file finds in one image, by falling score.

    boxes: float [K, 4] xyxy, image frame.  scores: float [K].  classes: int64 [K].  masks: bool [K, H, W]; or
    None.  keypoints: float [K, J, 3], image frame (continuous, as boxes), and a score; or None.  extras: [K,
    ...] by the names of further heads.
    """

    boxes: Array
    scores: Array
    classes: Array
    masks: Array | None
    keypoints: Array | None = None
    extras: Mapping[str, Array] = MappingProxyType({})

    def records(self, info: ImageInfo, categories: Categories, keypoint_offset: float = 0.5) -> list[Result]:
        """COCO's records of them, with all that further heads tell; see ``inference.records``."""
        sides = np.concatenate((self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]), axis=1)
        made: list[Result] = []
        for i, (box, score, label) in enumerate(
            zip(sides.tolist(), self.scores.tolist(), self.classes.tolist(), strict=True)
        ):
            record = {
                "image_id": info.image_id,
                "category_id": categories.ids[label],
                "bbox": box,
                "score": score,
            }
            if self.masks is not None:
                record["segmentation"] = as_text(encode(self.masks[i].view(np.uint8)))
            if self.keypoints is not None:
                offset = np.array([keypoint_offset, keypoint_offset, 0.0])
                record["keypoints"] = (self.keypoints[i] - offset).ravel().tolist()
            made.append(record | {name: values[i].tolist() for name, values in self.extras.items()})
        return made


class Runner(Protocol):
    """Runs one image, uint8 [H, W, C]."""

    def __call__(self, image: Array) -> Instances:
        """What is found in it."""
        ...


class OnnxRunner:
    """By onnxruntime, on the CPU."""

    def __init__(self, file: Path, threads: int = 0) -> None:
        runtime = needed("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, image: Array) -> Instances:
        """See :class:`Runner`."""
        return _found(self._names, self._session.run(None, {"image": image[None]}))


class OpenVinoRunner:
    """By OpenVINO, on the CPU.  What it gives lies in the runtime's memory and lasts until the next call."""

    def __init__(self, file: Path, threads: int = 0, precision: str = "f32") -> None:
        runtime = needed("openvino")
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        self._model = runtime.Core().compile_model(file, "CPU", options)
        self._names = [output.get_any_name() for output in self._model.outputs]

    def __call__(self, image: Array) -> Instances:
        """See :class:`Runner`."""
        results = self._model({"image": image[None]}, share_inputs=True, share_outputs=True)
        return _found(self._names, [results[i] for i in range(len(self._names))])


def _found(names: Sequence[str], values: Sequence[Array]) -> Instances:
    named = dict(zip(names, values, strict=True))
    masks = named.get("masks")
    return Instances(
        named["boxes"],
        named["scores"],
        named["classes"],
        None if masks is None else masks.view(np.bool_),
        named.get("keypoints"),
        {name: named[name] for name in names if name not in KNOWN},
    )
