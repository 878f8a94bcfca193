"""Run a model over a data set and collect COCO results.

On a GPU the masks of one batch are pasted and encoded in a worker thread while the model works on the
next; on a CPU that would only compete for the same cores.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from maskrcnn.inference.graphs import ReplayedModel
from maskrcnn.inference.paste import Paste
from maskrcnn.inference.records import Result, coco_results
from maskrcnn.modeling import MaskRCNN
from maskrcnn.modeling.precision import Precision, autocast
from maskrcnn.structures import Batch, Detections, ImageInfo
from maskrcnn.structures.categories import Categories


class PredictingModel(Protocol):
    """A module that predicts; ``proposals`` are given where the batches carry some."""

    def predict(self, images: list[Tensor], proposals: list[Tensor] = ..., /) -> list[Detections]:
        """``images``: [3, H, W], ``proposals``: [P, 4], of each -> one Detections an image, network frame."""
        ...


@dataclass(frozen=True)
class PredictionProgress:
    """How far an evaluation is.

    done, total: images (total None where the loader does not say).
    rate: images a second since the start.
    eta: seconds still to go, None where the total is unknown.
    """

    done: int
    total: int | None
    rate: float
    eta: float | None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and afterwards each submodule in the mode it had (frozen ones stay so)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def predict_batches(
    model: nn.Module,
    loader: Iterable[Batch],
    device: torch.device | str,
    precision: Precision = "float32",
    graphs: bool = True,
) -> Iterator[tuple[Batch, list[Detections]]]:
    """Each batch (on the CPU, as loaded) with its detections (on ``device``, in the network frame).

    ``model`` is a :class:`PredictingModel`; one wrapped by DistributedDataParallel is unwrapped.  It is put
    in evaluation mode while the iterator lives, and restored when it ends or is closed.  With ``graphs``, on
    a GPU, batches of a shape that comes again are replayed (:class:`ReplayedModel`).
    """
    device = torch.device(device)
    predictor = cast(PredictingModel, getattr(model, "module", model))
    if graphs and device.type == "cuda" and isinstance(predictor, MaskRCNN):
        predictor = cast(PredictingModel, ReplayedModel(predictor))
    with evaluating(model):
        for batch in loader:
            yield batch, predict_batch(predictor, batch, device, precision)


def predict_batch(
    predictor: PredictingModel, batch: Batch, device: torch.device, precision: Precision
) -> list[Detections]:
    """What is found in each image of a batch: on ``device``, in the network frame."""
    with torch.inference_mode(), autocast(device, precision):
        images = [image.to(device, non_blocking=True) for image in batch.images]
        if batch.proposals is None:
            return predictor.predict(images)
        return predictor.predict(images, [p.to(device) for p in batch.proposals])


def predict_dataset(
    model: nn.Module,
    loader: Iterable[Batch],
    device: torch.device | str,
    categories: Categories,
    precision: Precision = "float32",
    paste: Paste = "aligned",
    progress: Callable[[PredictionProgress], None] | None = None,
    total: int | None = None,
    overlap: bool | None = None,
    keypoint_offset: float = 0.5,
    graphs: bool = True,
) -> list[Result]:
    """COCO result records of every image the loader gives, each image once.

    Args:
        model: see :func:`predict_batches`; its training mode is restored.
        loader: batches whose images are in the network frame, unpadded.
        device: where the model is.
        categories: maps class indices to category ids.
        precision: "bfloat16" and "float16" run the model under autocast.
        paste: how masks are pasted, see ``inference.paste``.
        progress: called after each batch.
        total: number of images, for the time left.
        overlap: encode masks in a thread beside the model; None: on a GPU.  The results are the same.
        keypoint_offset: see :func:`maskrcnn.inference.records.coco_results`.
        graphs: see :func:`predict_batches`.

    Returns:
        records in the loader's order.  With several processes, gather the lists and give them to
        ``results.merge_results``.
    """
    start = time.perf_counter()
    seen: set[int] = set()
    done = 0
    results: list[Result] = []
    pending: deque[Future[list[Result]]] = deque()
    overlap = torch.device(device).type != "cpu" if overlap is None else overlap

    def encode(found: list[tuple[ImageInfo, Detections, tuple[int, int]]]) -> list[Result]:
        return [
            record
            for info, detections, size in found
            for record in coco_results(info, detections, size, categories, paste, keypoint_offset)
        ]

    with ThreadPoolExecutor(max_workers=1) as pool:
        for batch, detections in predict_batches(model, loader, device, precision, graphs):
            fresh = []
            for image, info, found in zip(batch.images, batch.infos, detections, strict=True):
                if info.image_id not in seen:  # a padding sampler repeats images
                    seen.add(info.image_id)
                    fresh.append((info, found.to("cpu"), (image.shape[-2], image.shape[-1])))
            if overlap:
                pending.append(pool.submit(encode, fresh))
                while len(pending) > 2:  # bounds the probabilities held
                    results += pending.popleft().result()
            else:
                results += encode(fresh)
            done += len(batch)
            if progress is not None:
                rate = done / max(time.perf_counter() - start, 1e-9)
                eta = None if total is None else max(total - done, 0) / rate
                progress(PredictionProgress(done, total, rate, eta))
        for future in pending:
            results += future.result()
    return results
