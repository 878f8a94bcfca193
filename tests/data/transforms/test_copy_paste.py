"""Copy-paste: what is seen in the picture, and nothing else, is what the masks and boxes say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.data import CocoDataset, RawSample, SyntheticConfig, synthetic_dataset, train_loader
from maskrcnn.data.transforms.basic import HorizontalFlip
from maskrcnn.data.transforms.copy_paste import CopyPasteConfig
from maskrcnn.data.transforms.jitter import LargeScaleJitter
from maskrcnn.errors import ConfigError, DataError
from maskrcnn.structures import ImageInfo, InstanceMasks, Targets, rle
from tests.data.files import coco, write_coco
from tests.data.test_loader import assert_same, damaged

SIDE = 40


class Draws(np.random.Generator):
    """A generator whose integers are the largest that they may be: all objects are pasted."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def integers(self, low: int, *args: Any, **kwargs: Any) -> Any:
        return low - 1


def scene(rectangles: list[tuple[int, int, int, int]], gray: int, form: str, size: int = SIDE) -> RawSample:
    """Rectangles of pixels, each of its own gray, as polygons or RLE; later ones lie on top."""
    image = np.full((size, size, 3), gray, dtype=np.uint8)
    segmentations: list[Any] = []
    for k, (x1, y1, x2, y2) in enumerate(rectangles):
        image[y1:y2, x1:x2] = gray + k + 1
        bitmap = np.zeros((size, size), dtype=np.uint8)
        bitmap[y1:y2, x1:x2] = 1
        polygon = [[float(v) for v in (x1, y1, x2, y1, x2, y2, x1, y2)]]
        segmentations.append(polygon if form == "polygon" else rle.encode(bitmap))
    masks = InstanceMasks.from_coco(segmentations, size, size)
    labels = torch.arange(len(rectangles))
    return RawSample(
        image, ImageInfo(1, "a", size, size), Targets(masks.boxes(), labels, masks, labels + gray)
    )


BELOW = [(0, 0, 10, 10), (20, 20, 30, 30), (30, 0, 40, 8), (0, 30, 6, 40)]
ABOVE = [(4, 0, 14, 10), (18, 18, 32, 32), (34, 4, 38, 6)]


@pytest.mark.parametrize("below", ["polygon", "rle"])
@pytest.mark.parametrize("above", ["polygon", "rle"])
def test_by_hand(below: str, above: str) -> None:
    under, over = scene(BELOW, 100, below), scene(ABOVE, 200, above)
    found = CopyPasteConfig().paste(under, over, Draws())
    targets = found.targets
    assert targets.masks is not None
    # The second is wholly covered: gone.  The first loses its right part, the third gets a hole.
    assert targets.annotation_ids.tolist() == [100, 102, 103, 200, 201, 202]
    assert targets.labels.tolist() == [0, 2, 3, 0, 1, 2]
    boxes = [(0, 0, 4, 10), BELOW[2], BELOW[3], *ABOVE]
    assert targets.boxes.tolist() == [[float(v) for v in box] for box in boxes]
    assert torch.equal(targets.masks.boxes(), targets.boxes)
    grays = [101, 103, 104, 201, 202, 203]
    for gray, bitmap in zip(grays, targets.masks.to_bitmaps().numpy(), strict=True):
        assert np.array_equal(found.image[..., 0] == gray, bitmap > 0), gray
    assert (found.image[15, :] == under.image[15, :]).all()  # nothing of the other background
    # What is untouched keeps its form; what is cut becomes a code.
    assert targets.masks.is_polygon(2) == (below == "polygon") and not targets.masks.is_polygon(0)
    # Neither input has changed.
    assert under.targets.boxes[0].tolist() == [0, 0, 10, 10] and (under.image[5, 5] == 101).all()


def test_keypoints_under_a_pasted_object_are_hidden_and_proposals_join() -> None:
    def points(sample: RawSample, values: list[list[float]]) -> RawSample:
        keypoints = torch.tensor(values).view(len(sample.targets), -1, 3)
        return replace(
            sample, targets=replace(sample.targets, keypoints=keypoints), proposals=sample.targets.boxes
        )

    under = points(scene(BELOW[:1], 100, "rle"), [[2, 2, 2], [5, 5, 2], [6, 6, 0], [999, 5, 1]])
    over = points(scene(ABOVE[:1], 200, "rle"), [[8, 8, 2], [8, 8, 1], [0, 0, 0], [8, 8, 2]])
    found = CopyPasteConfig().paste(under, over, Draws())
    assert found.targets.keypoints is not None and found.proposals is not None
    assert found.targets.keypoints[..., 2].tolist() == [[2, 1, 0, 1], [2, 1, 0, 2]]
    assert found.proposals.tolist() == [[0, 0, 10, 10], [4, 0, 14, 10]]


@pytest.mark.parametrize("size", [30, 50])
def test_the_other_image_is_cut_to_the_frame(size: int) -> None:
    under, over = scene(BELOW, 100, "rle"), scene([(2, 2, 9, 9), (25, 25, 30, 30)], 200, "polygon", size)
    over = replace(over, image=over.image[:, :28], targets=over.targets) if size == 30 else over
    found = CopyPasteConfig().paste(under, over, Draws())
    assert found.size == (SIDE, SIDE)
    assert found.targets.masks is not None
    assert (found.targets.masks.height, found.targets.masks.width) == (SIDE, SIDE)
    assert found.targets.boxes[-1].tolist() == [25, 25, 28 if size == 30 else 30, 30]


def test_nothing_to_paste_and_nothing_to_paste_onto() -> None:
    full, none = scene(BELOW, 100, "polygon"), scene([], 200, "polygon")
    assert CopyPasteConfig().paste(full, none, Draws()) is full
    found = CopyPasteConfig().paste(none, full, Draws())
    assert found.targets.boxes.tolist() == full.targets.boxes.tolist()


def test_the_subset_is_random_in_number_and_choice() -> None:
    under, over = scene([], 100, "rle"), scene(ABOVE, 200, "rle")
    chosen = set()
    for seed in range(200):
        found = CopyPasteConfig(max_instances=2).paste(under, over, np.random.default_rng(seed))
        chosen.add(tuple((found.targets.annotation_ids - 200).tolist()))
    assert chosen == {(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}
    partners = [CopyPasteConfig(p=0.5).partner(4, np.random.default_rng(seed)) for seed in range(200)]
    assert set(partners) == {None, 0, 1, 2, 3}
    assert 70 < partners.count(None) < 130


def test_bad_values_and_data_without_masks_are_told() -> None:
    for values, message in (({"p": 2.0}, "p must be"), ({"max_instances": 0}, "max_instances must be > 0")):
        with pytest.raises(ConfigError, match=message):
            CopyPasteConfig(**values)  # type: ignore[arg-type]
    bare = scene(BELOW, 100, "rle")
    bare = replace(bare, targets=replace(bare.targets, masks=None))
    with pytest.raises(DataError, match=r"image 1 has no masks, which data\.copy_paste needs"):
        CopyPasteConfig().paste(bare, bare, Draws())


# ---- in the loader --------------------------------------------------------------------------------------

AUGMENT = [LargeScaleJitter((48, 48), 0.5, 2.0), HorizontalFlip(0.5)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    root = tmp_path_factory.mktemp("synthetic")
    folder = synthetic_dataset(root, SyntheticConfig(level="medium", split="train", num_images=9, size=48))
    return CocoDataset(folder / "images", folder / "annotations.json", training=True)


def test_batches_stay_functions_of_seed_and_step(dataset: CocoDataset) -> None:
    options: dict[str, Any] = {
        "images_per_rank": 2,
        "total_steps": 6,
        "seed": 4,
        "copy_paste": CopyPasteConfig(),
    }
    whole = list(train_loader(dataset, AUGMENT, **options))
    assert_same(list(train_loader(dataset, AUGMENT, start_step=3, workers=2, **options)), whole[3:])
    plain = list(train_loader(dataset, AUGMENT, **{**options, "copy_paste": None}))
    assert [b.infos for b in plain] == [b.infos for b in whole]
    changed = [
        not torch.equal(a, b)
        for x, y in zip(plain, whole, strict=True)
        for a, b in zip(x.images, y.images, strict=True)
    ]
    assert 6 <= sum(changed) < 12  # most images got something, some drew an empty subset
    # The image below is the same one, augmented the same way.
    for x, y in zip(plain, whole, strict=True):
        for a, b in zip(x.images, y.images, strict=True):
            assert (a == b).all(0).float().mean() > 0.3


def test_each_epoch_pastes_anew(dataset: CocoDataset) -> None:
    loader = train_loader(dataset, [], images_per_rank=1, total_steps=21, copy_paste=CopyPasteConfig())
    found: dict[int, set[tuple[int, ...]]] = {}
    for batch in loader:
        assert batch.targets is not None
        found.setdefault(batch.infos[0].image_id, set()).add(tuple(batch.targets[0].annotation_ids.tolist()))
    assert sum(len(sets) > 1 for sets in found.values()) >= 5  # of 7 images, three epochs each


def test_an_unreadable_partner_is_replaced_and_counted(tmp_path: Path) -> None:
    broken = damaged(tmp_path, "skip")
    list(train_loader(broken, [], images_per_rank=1, total_steps=8, copy_paste=CopyPasteConfig()))
    assert len(broken.report) > 0
    raising = CocoDataset(*write_coco(tmp_path / "b", coco()), training=True)
    (tmp_path / "b" / "images" / "1.png").unlink()
    with pytest.raises(DataError, match="1.png"):
        list(train_loader(raising, [], images_per_rank=1, total_steps=8, copy_paste=CopyPasteConfig()))
