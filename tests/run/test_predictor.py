"""Batches and streams find what single images do; which scores count."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.data import apply_transforms
from maskrcnn.errors import CheckpointError, DataError, UserError
from maskrcnn.inference.loop import predict_dataset
from maskrcnn.run import Model, Predictor, setup
from maskrcnn.run.thresholds import Thresholds, thresholds_file, write_thresholds
from maskrcnn.structures import ImageInfo, RawSample, Targets, collate


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(tiny_run, device="cpu", score=0.0)


def images_of(tiny_run: Path) -> list[Path]:
    return sorted((tiny_run.parent / "images").glob("*.png"))


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_a_batch_finds_what_single_images_do(tiny_run: Path, predictor: Predictor, batch_size: int) -> None:
    """To rounding where no image is padded to another's size: those of the data set are of one."""
    images = images_of(tiny_run)
    together = predictor.predict(images, batch_size=batch_size)
    for place, (found, image) in enumerate(zip(together, images, strict=True)):
        alone = predictor(image)
        assert (found.image_id, found.name, found.size) == (place, str(image), alone.size)
        assert {record["image_id"] for record in found.to_coco()} == {place}
        assert found.labels.tolist() == alone.labels.tolist() and len(found) > 0
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-2)
        assert found.masks is not None and alone.masks is not None
        assert (found.masks != alone.masks).mean() < 1e-3


def test_batches_of_any_sizes_find_what_an_evaluation_does(tiny_run: Path, predictor: Predictor) -> None:
    rng = np.random.default_rng(0)
    sizes = ((50, 90), (80, 40), (64, 64), (30, 30), (200, 100))
    arrays = [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
    none = torch.zeros(0, dtype=torch.int64)
    no_targets = Targets(torch.zeros(0, 4), none, None, none)
    samples = []
    for place, pixels in enumerate(arrays):
        raw = RawSample(pixels, ImageInfo(place, "", *pixels.shape[:2]), no_targets)
        transforms = setup.build_transforms(predictor.recipe, training=False)
        samples.append(apply_transforms(transforms, raw, rng).to_sample())
    loader = [collate(samples[:2]), collate(samples[2:4]), collate(samples[4:])]
    evaluated = predict_dataset(predictor.model, loader, "cpu", predictor.categories)
    found = predictor.predict(arrays, batch_size=2)
    assert [record for one in found for record in one.to_coco()] == evaluated
    assert {record["image_id"] for record in evaluated} == set(range(5))


def test_a_stream_is_bounded_in_order_and_ends_when_it_is_closed(
    tiny_run: Path, predictor: Predictor
) -> None:
    asked: list[int] = []
    threads: set[int] = set()

    def without_end() -> Iterator[np.ndarray]:
        for k in range(1000):
            asked.append(k)
            threads.add(threading.get_ident())
            yield np.full((40 + k, 50, 3), 7 * k % 255, dtype=np.uint8)

    stream = predictor.stream(without_end(), batch_size=2)
    assert [next(stream).size[0] for _ in range(5)] == [40, 41, 42, 43, 44]
    assert len(asked) < 15 and threading.get_ident() not in threads
    stream.close()  # type: ignore[attr-defined]
    before = len(asked)
    assert len(asked) == before


def test_an_image_that_cannot_be_read_ends_a_stream_or_is_skipped(
    tiny_run: Path, predictor: Predictor
) -> None:
    good = tiny_run.parent / "images" / "101.png"
    images = [good, "gone.png", good, np.zeros((3, 4), dtype=np.float64), good]
    stream = predictor.stream(images, batch_size=4)
    assert next(stream).image_id == 0
    with pytest.raises(DataError, match=r"gone\.png"):
        next(stream)
    told: list[tuple[Any, str]] = []
    found = list(
        predictor.stream(images, batch_size=2, skipped=lambda image, error: told.append((image, str(error))))
    )
    assert [one.image_id for one in found] == [0, 2, 4]
    assert told[0][0] == "gone.png" and "float64" in told[1][1]


def test_scores_of_each_class_are_those_beside_the_checkpoint(tiny_run: Path) -> None:
    image = tiny_run.parent / "images" / "101.png"
    everything = Predictor(tiny_run, device="cpu", score=0.0)(image)
    # All of one class, of the other its better half: no one score for both does that.
    other = everything.classes[-1]
    (first,) = set(everything.classes) - {other}
    of_first = [s for s, c in zip(everything.scores, everything.classes, strict=True) if c == first]
    cut = {other: 0.0, first: float(np.median(of_first))}
    expected = [
        (score, name)
        for score, name in zip(everything.scores.tolist(), everything.classes, strict=True)
        if score >= cut[name]
    ]
    assert 0 < len(expected) < len(everything)
    by_name = Predictor(tiny_run, device="cpu", score=cut)(image)
    assert [*zip(by_name.scores.tolist(), by_name.classes, strict=True)] == expected

    checkpoint = Path(Predictor(tiny_run, device="cpu").identity[0])
    try:
        write_thresholds(checkpoint, Thresholds(cut))
        beside = Predictor(tiny_run, device="cpu")
        assert [*zip(beside(image).scores.tolist(), beside(image).classes, strict=True)] == expected
        assert str(thresholds_file(checkpoint)) in beside.scores_told
        assert len(Model(tiny_run).predict(image)[0]) == len(expected)
        assert len(Model(tiny_run).predict(image, score=0.0)[0]) == len(everything)
        write_thresholds(checkpoint, Thresholds({"box": 0.0, "of another model": 0.1}))
        assert Predictor(tiny_run, device="cpu").thresholds == (0.0, 0.5)
        thresholds_file(checkpoint).write_text("[]")
        with pytest.raises(CheckpointError, match="thresholds"):
            Predictor(tiny_run, device="cpu")
        assert Predictor(tiny_run, device="cpu", score=0.3).thresholds == (0.3, 0.3)
    finally:
        thresholds_file(checkpoint).unlink()
    assert Predictor(tiny_run, device="cpu").scores_told == "shown are scores from 0.5 on"


def test_a_wrong_score_is_told(predictor: Predictor) -> None:
    with pytest.raises(UserError, match=r"\[0, 1\], got 1.5"):
        predictor.choose_score(1.5)
    with pytest.raises(UserError, match="'bx', and the model has no such class"):
        predictor.choose_score({"bx": 0.5})


def test_small_objects_and_a_reached_cap_are_counted(tiny_run: Path, predictor: Predictor) -> None:
    image = tiny_run.parent / "images" / "101.png"
    found = predictor(image)
    assert found.capped and len(found) == predictor.recipe.model.roi.max_detections
    above = float(np.nextafter(np.float32(found.scores.min()), np.float32(1)))
    assert not Predictor(tiny_run, device="cpu", score=above)(image).capped
    # 64 x 64 is the network's size of these images, too.
    sides = np.sqrt((found.boxes[:, 2:] - found.boxes[:, :2]).prod(1))
    assert found.small == int((sides < 8).sum())
    large = np.zeros((640, 640, 3), dtype=np.uint8)
    scaled = predictor(large)
    sides = np.sqrt((scaled.boxes[:, 2:] - scaled.boxes[:, :2]).prod(1)) / 10
    assert scaled.small == int((sides < 8).sum())


def test_precision_and_compilation_are_the_models(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tiny_run.parent / "images" / "101.png"
    half = Predictor(tiny_run, device="cpu", score=0.0, precision="bfloat16")
    seen: list[torch.dtype] = []
    half.model.backbone.register_forward_hook(lambda *given: seen.append(next(iter(given[2].values())).dtype))
    assert len(half(image)) > 0 and seen == [torch.bfloat16]
    compiled: list[Any] = []
    monkeypatch.setattr(setup, "compile_layers", lambda model, *_, **__: compiled.append(model))
    assert Predictor(tiny_run, device="cpu").model not in compiled and not compiled
    assert [Predictor(tiny_run, device="cpu", compile=True).model] == compiled
