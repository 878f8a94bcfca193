"""Predictions replayed as CUDA graphs: what is queued for a batch of a shape is recorded once.

The host takes longer to queue the thousand kernels of one image than a GPU to run them (docs/results.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from maskrcnn.modeling import MaskRCNN
from maskrcnn.modeling.preprocess import ImageBatch
from maskrcnn.modeling.roi.rois import FoundRoIs
from maskrcnn.structures import Detections

logger = logging.getLogger(__name__)

#: Calls of a shape that run as they come: a single image of its size is not worth a recording.
_UNRECORDED = 2
#: Shapes recorded at most: COCO's, at one short side, are about 40.
_MOST = 64

#: Runs work once and keeps it; returns what runs it again, into the same tensors, and these.
Record = Callable[[Callable[[], FoundRoIs]], tuple[Callable[[], None], FoundRoIs]]


@dataclass(frozen=True)
class _Recorded:
    """batch: whose tensors are read by ``replay``.  found: whose tensors it fills."""

    batch: ImageBatch
    replay: Callable[[], None]
    found: FoundRoIs


class ReplayedModel:
    """``model.predict`` with the same numbers, on a GPU in the static form from recordings.

    All else is left to the model: a CPU, the dynamic form, given proposals.  Recordings read the weights
    where they are, so these may change in between, but hold memory: keep this no longer than it is used.

    record: None: as CUDA graphs, which share one pool of memory, since what they give is copied at once.
    """

    def __init__(self, model: MaskRCNN, record: Record | None = None) -> None:
        self.model = model
        self._record = record or _cuda_recorder()
        self._recorded: dict[object, _Recorded] = {}
        self._seen: dict[object, int] = {}
        self._given_up = False

    def predict(
        self, images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None
    ) -> list[Detections]:
        """See :meth:`MaskRCNN.predict`."""
        model = self.model
        static = bool(images) and model.in_static_form(images[0].device)
        if proposals is not None or not static or model.training or self._given_up:
            return model.predict(images, proposals)
        batch = model.preprocess(images)
        key = self._key(batch)
        recorded = self._recorded.get(key)
        if recorded is None:
            self._seen[key] = self._seen.get(key, 0) + 1
            if self._seen[key] <= _UNRECORDED or len(self._recorded) == _MOST:
                return [*model.predict_batch(batch)]
            recorded = self._make(batch)
            if recorded is None:
                return [*model.predict_batch(batch)]
            self._recorded[key] = recorded
        recorded.batch.tensor.copy_(batch.tensor)
        recorded.batch.extents.copy_(batch.extents)
        recorded.replay()
        return [*replace(recorded.found)]  # rows that are chosen are copies

    def _key(self, batch: ImageBatch) -> object:
        """What decides which kernels run, and on what memory."""
        kind = batch.tensor.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        weights = tuple(tensor.data_ptr() for tensor in (*self.model.parameters(), *self.model.buffers()))
        return batch.tensor.shape, batch.tensor.device, precision, torch.is_inference_mode_enabled(), weights

    def _make(self, batch: ImageBatch) -> _Recorded | None:
        """A recording for batches like this; None where there can be none, and then of no other either."""
        own = ImageBatch(batch.tensor.clone(), batch.sizes, batch.extents.clone())
        kind = batch.tensor.device.type
        # Weights that autocast has cast before would be freed with its cache, before the last replay.
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        try:
            with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
                replay, found = self._record(lambda: self.model.predict_batch(own))
        except RuntimeError as error:  # a head of one's own that waits for the device; no memory
            self._given_up = True
            why = str(error).splitlines()[0]
            logger.warning("predictions are not replayed as CUDA graphs, which is slower: %s", why)
            return None
        return _Recorded(own, replay, found)


def _cuda_recorder() -> Record:
    kept: list[Any] = []

    def record(work: Callable[[], FoundRoIs]) -> tuple[Callable[[], None], FoundRoIs]:
        kept[:] = kept or [torch.cuda.graph_pool_handle()]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # thread_local: the loader's thread pins memory meanwhile.
        with torch.cuda.graph(graph, pool=kept[0], capture_error_mode="thread_local"):
            found = work()
        return graph.replay, found

    return record
