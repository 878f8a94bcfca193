"""Loaders: the same batches from any start, with any number of workers; faults arrive as sentences."""

from __future__ import annotations

import itertools
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.loader_memory import watch, write_data
from maskrcnn.data import CocoDataset, SyntheticConfig, eval_loader, synthetic_dataset, train_loader
from maskrcnn.data.loader import _Images
from maskrcnn.data.schedule import Draw
from maskrcnn.data.transforms.basic import ColorJitter, HorizontalFlip, RandomCrop
from maskrcnn.data.transforms.resizing import ResizeShortestEdge
from maskrcnn.errors import DataError
from maskrcnn.modeling.roi.mask_targets import masks_in_boxes, rasterise
from maskrcnn.structures import Batch
from tests.data.files import coco, write_coco

#: Everything random at once.
AUGMENT = [
    ResizeShortestEdge((40, 48, 56), 80),
    HorizontalFlip(0.5),
    RandomCrop(40, 40, p=0.5),
    ColorJitter(0.3, 0.3, 0.3),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    root = tmp_path_factory.mktemp("synthetic")
    folder = synthetic_dataset(root, SyntheticConfig(level="medium", split="train", num_images=13, size=48))
    return CocoDataset(folder / "images", folder / "annotations.json", training=True)


def assert_same(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert x.infos == y.infos
        assert all(torch.equal(p, q) for p, q in zip(x.images, y.images, strict=True))
        assert x.targets is not None
        assert y.targets is not None
        for s, t in zip(x.targets, y.targets, strict=True):
            assert torch.equal(s.boxes, t.boxes)
            assert torch.equal(s.annotation_ids, t.annotation_ids)
            assert s.masks is not None
            assert t.masks is not None
            assert torch.equal(s.masks.to_bitmaps(), t.masks.to_bitmaps())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_starting_at_step_k_is_dropping_k_steps(dataset: CocoDataset, workers: int, world: int) -> None:
    options: dict[str, Any] = {"images_per_rank": 2, "accumulate": 3, "total_steps": 5, "seed": 4}
    for rank in range(world):
        where = {"rank": rank, "world_size": world}
        whole = list(train_loader(dataset, AUGMENT, **options, **where))
        assert len(whole) == 15
        for start in (1, 3):
            loader = train_loader(dataset, AUGMENT, start_step=start, workers=workers, **options, **where)
            assert len(loader) == 3 * (5 - start)
            assert_same(list(loader), whole[3 * start :])


def test_iterating_again_starts_anew(dataset: CocoDataset) -> None:
    loader = train_loader(dataset, AUGMENT, images_per_rank=2, total_steps=3)
    assert_same(list(loader), list(loader))


def test_an_image_is_augmented_differently_each_epoch(dataset: CocoDataset) -> None:
    seen: dict[int, list[torch.Tensor]] = {}
    for batch in train_loader(dataset, AUGMENT, images_per_rank=1, total_steps=3 * len(dataset)):
        seen.setdefault(batch.infos[0].image_id, []).append(batch.images[0])
    assert all(len(images) == 3 for images in seen.values())
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b, _ in seen.values())


def test_a_lone_image_is_augmented_differently_each_epoch(dataset: CocoDataset) -> None:
    one = CocoDataset(dataset.images, dataset.annotation_file, max_images=1)
    images = [b.images[0] for b in train_loader(one, AUGMENT, images_per_rank=1, total_steps=4)]
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in itertools.combinations(images, 2))


def test_nothing_left_to_do(dataset: CocoDataset) -> None:
    for workers in (0, 1):
        loader = train_loader(dataset, [], images_per_rank=2, start_step=7, total_steps=5, workers=workers)
        assert len(loader) == 0
        assert list(loader) == []


@pytest.mark.parametrize("world", [1, 2, 3, 20])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_each_image_once(dataset: CocoDataset, world: int, workers: int) -> None:
    if workers and world == 20:
        pytest.skip("covered without workers")
    ids: list[int] = []
    for rank in range(world):
        batches = list(eval_loader(dataset, [], batch_size=4, rank=rank, world_size=world, workers=workers))
        mine = [info.image_id for batch in batches for info in batch.infos]
        assert mine == dataset.image_ids[rank::world].tolist()
        assert all(len(batch) == 4 for batch in batches[:-1])
        ids += mine
    assert sorted(ids) == dataset.image_ids.tolist()


def damaged(folder: Path, on_error: Any, missing: tuple[int, ...] = (1, 2)) -> CocoDataset:
    images, path = write_coco(folder, coco(6))
    for k in missing:
        (images / f"{k}.png").unlink()
    return CocoDataset(images, path, on_error=on_error)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("on_error", [None, "raise"])
def test_an_unreadable_image_raises_one_sentence(tmp_path: Path, workers: int, on_error: Any) -> None:
    dataset = damaged(tmp_path, on_error)
    for loader in (
        train_loader(dataset, [], images_per_rank=2, total_steps=9, workers=workers),
        eval_loader(dataset, [], workers=workers),
    ):
        with pytest.raises(DataError) as caught:
            list(loader)
        assert str(caught.value).count("\n") == 0
        assert "there is no such image file" in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_replaced_counted_and_named(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = damaged(tmp_path, "skip")
    with caplog.at_level(logging.WARNING):
        loader = train_loader(dataset, [], images_per_rank=2, total_steps=6, workers=workers)
        batches = list(loader)
    ids = [info.image_id for batch in batches for info in batch.infos]
    assert all(len(batch) == 2 for batch in batches)
    assert set(ids) == {10, 40, 50, 60}
    # In the two epochs images 20 and 30 came up twice each; 20 gives way to 30, and both to 40.
    assert ids.count(40) == 6
    assert dataset.report.images == 2 * 2 + 2
    assert len(caplog.records) == 2  # each named once
    assert "image 20" in caplog.text
    assert "passed over" in dataset.report.summary()
    other = [info.image_id for batch in loader for info in batch.infos]
    assert other == ids


def test_evaluation_leaves_skipped_images_out(tmp_path: Path) -> None:
    dataset = damaged(tmp_path, "skip", missing=(0, 1, 4))
    batches = list(eval_loader(dataset, [], batch_size=2))
    assert [[i.image_id for i in b.infos] for b in batches] == [[30, 40], [60]]
    assert dataset.report.images == 3


def test_training_stops_when_no_image_can_be_read(tmp_path: Path) -> None:
    dataset = damaged(tmp_path, "skip", missing=(0, 1, 2, 3, 4, 5))
    with pytest.raises(DataError, match="6 images in a row cannot .*; the last: image.*restore them"):
        list(train_loader(dataset, [], images_per_rank=2, total_steps=1))


def test_an_error_of_ours_keeps_its_traceback(dataset: CocoDataset) -> None:
    def broken(sample: Any, rng: np.random.Generator) -> Any:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(train_loader(dataset, [broken], images_per_rank=1, total_steps=1, workers=1))


def test_an_images_seed_is_of_its_place_alone(dataset: CocoDataset) -> None:
    """Of (seed, epoch, position), as its augmentation: not of step, rank, batch size or workers."""

    def seeds(**options: Any) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for batch in train_loader(dataset, [], group=False, **options):
            assert batch.seeds is not None and batch.seeds.shape == (len(batch),)
            for info, seed in zip(batch.infos, batch.seeds.tolist(), strict=True):
                found.setdefault(info.image_id, []).append(seed)
        return found

    count = len(dataset)
    alone = seeds(images_per_rank=1, total_steps=2 * count)
    assert all(len(both) == 2 for both in alone.values()), "two epochs"
    assert len({seed for both in alone.values() for seed in both}) == 2 * count
    first = seeds(images_per_rank=1, total_steps=count)
    dealt = [seeds(images_per_rank=2, total_steps=2, workers=2, rank=r, world_size=2) for r in (0, 1)]
    assert sum(map(len, dealt)) == 8 <= count
    for part in dealt:
        assert all(found == first[image] for image, found in part.items())
    assert seeds(images_per_rank=1, total_steps=count, seed=1) != first


@pytest.mark.parametrize("mode", ["polygon", "bitmask", "bitmask_hard"])
def test_masks_that_workers_packed_give_the_targets_of_those_that_they_did_not(
    dataset: CocoDataset, mode: Any
) -> None:
    drawn = mode == "polygon"
    loader = train_loader(dataset, AUGMENT, images_per_rank=3, total_steps=4, workers=1, drawn_masks=drawn)
    seen = 0
    for batch in loader:
        assert batch.targets is not None
        for target in batch.targets:
            assert target.packed is not None and target.masks is not None
            packed, first = target.packed
            index = torch.arange(len(target))
            found = rasterise(packed, target.boxes, index + first, 14, mode)
            assert torch.equal(found, masks_in_boxes(target.masks, target.boxes, index, 14, mode))
            seen += len(found)
    assert seen > 20


def test_a_worker_sends_images_alone_through_shared_memory(dataset: CocoDataset) -> None:
    images = _Images(dataset, [], 3)
    loaded = images[[Draw(0, 0, 4), Draw(0, 1, 2)]]
    receive, (fields, plain) = loaded.__reduce__()
    assert fields["batch"].targets is None
    assert not [
        value for targets in plain for value in vars(targets).values() if isinstance(value, torch.Tensor)
    ]
    assert_same([receive(fields, plain).batch], [loaded.batch])
    none = replace(loaded, batch=replace(loaded.batch, targets=None))
    receive, arguments = none.__reduce__()
    assert receive(*arguments).batch.targets is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and fork")
def test_a_workers_memory_does_not_grow_over_epochs(tmp_path: Path) -> None:
    """``benchmarks/loader_memory.py`` shows it at COCO's size."""
    images, batch = 1500, 4
    dataset = CocoDataset(tmp_path, write_data(tmp_path, images, 20_000), training=True)
    each = len(dataset) // batch
    loader = train_loader(dataset, [], images_per_rank=batch, total_steps=3 * each + 8, workers=1)
    _, first, _, third = watch(lambda: iter(loader), 3, each)
    assert dataset.index.nbytes > 3 * 2**20
    assert third - first < dataset.index.nbytes / 2**20 / 4
