"""Predictions that are recorded by shape and replayed are those of the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from maskrcnn.inference.graphs import ReplayedModel
from maskrcnn.inference.loop import predict_batches
from maskrcnn.modeling import MaskRCNN
from maskrcnn.modeling.precision import autocast
from maskrcnn.modeling.roi.rois import FoundRoIs
from maskrcnn.structures import Batch, Detections, ImageInfo
from tests.modeling import tiny

UPRIGHT, LYING = (96, 64), (64, 96)


def filled(found: FoundRoIs, anew: FoundRoIs) -> None:
    """Puts the numbers of one into the tensors of the other."""
    for field in fields(found.rois):
        getattr(found.rois, field.name).copy_(getattr(anew.rois, field.name))
    for name, value in anew.values.items():
        found.values[name].copy_(value)


class Recorder:
    """Stands for CUDA graphs: what is recorded reads and writes the same tensors at each replay."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, work: Callable[[], FoundRoIs]) -> tuple[Callable[[], None], FoundRoIs]:
        self.recorded += 1
        found = work()
        filled(found, found)

        def replay() -> None:
            self.replayed += 1
            filled(found, work())

        return replay, found


@contextmanager
def predicting(model: MaskRCNN) -> Iterator[None]:
    model.eval()
    with torch.inference_mode():
        yield


def same(ours: list[Detections], theirs: list[Detections]) -> None:
    assert sum(map(len, ours)) > 0
    for a, b in zip(ours, theirs, strict=True):
        for name in ("boxes", "scores", "labels", "mask_probs"):
            assert getattr(a, name).equal(getattr(b, name)), name


def model_and_recorder() -> tuple[MaskRCNN, Recorder, ReplayedModel]:
    model, recorder = tiny.detecting(), Recorder()
    model.static_shapes = True
    return model, recorder, ReplayedModel(model, recorder)


def test_the_third_batch_of_a_shape_is_recorded() -> None:
    model, recorder, replayed = model_and_recorder()
    counts = []
    with predicting(model):
        for seed in range(5):
            for size in (UPRIGHT, LYING):
                images = tiny.images(seed, (size,))
                same(replayed.predict(images), model.predict(images))
            counts.append((recorder.recorded, recorder.replayed))
    assert counts == [(0, 0), (0, 0), (2, 2), (2, 4), (2, 6)]


def test_sizes_within_one_padded_shape_share_a_recording() -> None:
    model, recorder, replayed = model_and_recorder()
    with predicting(model):
        for seed, size in enumerate([(96, 64), (90, 60), (70, 64), (96, 40)]):
            images = tiny.images(seed, (size,))
            same(replayed.predict(images), model.predict(images))
    assert recorder.recorded == 1


def test_detections_stay_as_they_are_when_others_are_made() -> None:
    model, _, replayed = model_and_recorder()
    with predicting(model):
        for seed in range(3):
            replayed.predict(tiny.images(seed, (UPRIGHT,)))
        first = replayed.predict(tiny.images(3, (UPRIGHT,)))
        copies = [d.boxes.clone() for d in first]
        replayed.predict(tiny.images(4, (UPRIGHT,)))
        assert all(d.boxes.equal(copy) for d, copy in zip(first, copies, strict=True))


def test_weights_may_change_in_between_and_other_weights_are_recorded_anew() -> None:
    model, recorder, replayed = model_and_recorder()
    images = tiny.images(0, (UPRIGHT,))
    with predicting(model):
        for _ in range(3):
            replayed.predict(images)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.mul_(1.1)
    with predicting(model):
        same(replayed.predict(images), model.predict(images))
        assert recorder.recorded == 1
    model.double().float()  # at other places in memory
    with predicting(model):
        for _ in range(3):
            same(replayed.predict(images), model.predict(images))
        assert recorder.recorded == 2


def test_each_precision_has_its_own() -> None:
    model, recorder, replayed = model_and_recorder()
    images = tiny.images(0, (UPRIGHT,))
    with predicting(model):
        for precision in ("float32", "bfloat16"):
            for _ in range(4):
                with autocast(torch.device("cpu"), precision):  # type: ignore[arg-type]
                    same(replayed.predict(images), model.predict(images))
    assert recorder.recorded == 2


def test_what_cannot_be_recorded_is_told_once_and_predicted(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.detecting()
    model.static_shapes = True
    tries = []

    def fails(work: Callable[[], FoundRoIs]) -> tuple[Callable[[], None], FoundRoIs]:
        tries.append(work)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    replayed = ReplayedModel(model, fails)
    images = tiny.images(0, (UPRIGHT,))
    with predicting(model), caplog.at_level(logging.WARNING):
        for _ in range(5):
            same(replayed.predict(images), model.predict(images))
    assert len(tries) == 1
    (told,) = caplog.messages
    assert told.endswith("slower: operation not permitted when stream is capturing")


def test_the_dynamic_form_and_no_image_are_left_to_the_model() -> None:
    model, recorder, replayed = model_and_recorder()
    model.static_shapes = None  # on a CPU: dynamic
    images: list[Tensor] = tiny.images(0, (UPRIGHT,))
    with predicting(model):
        for _ in range(4):
            same(replayed.predict(images), model.predict(images))
        assert replayed.predict([]) == []
    assert recorder.recorded == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu_replays_are_predictions_to_the_bit(precision: str) -> None:
    model = tiny.detecting().cuda()

    def batches() -> Iterator[Batch]:
        for seed in range(6):
            for size in (UPRIGHT, LYING, (70, 60)):
                yield Batch(tiny.images(seed, (size,)), [ImageInfo(seed, "", *size)], None)

    once = [found for _, found in predict_batches(model, batches(), "cuda", precision, graphs=False)]  # type: ignore[arg-type]
    graph, replays = torch.cuda.CUDAGraph.replay, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.CUDAGraph, "replay", lambda self: (replays.append(1), graph(self)))
        for expected, (_, found) in zip(
            once, predict_batches(model, batches(), "cuda", precision), strict=True
        ):  # type: ignore[arg-type]
            same(found, expected)
    assert len(replays) == 18 - 2 * 2  # (70, 60) is padded to UPRIGHT
