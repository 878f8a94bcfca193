"""The masks of a batch as tensors: what is packed is what was given."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from maskrcnn.structures import InstanceMasks, PackedMasks
from tests.structures.instances import HEIGHT, TURNS, WIDTH, make_segmentations


@pytest.fixture
def images() -> list[InstanceMasks]:
    masks = InstanceMasks.from_coco(make_segmentations(), HEIGHT, WIDTH)
    return [masks, TURNS["rotate 1"][0](masks.select([4, 0, 2])), masks.select([])]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
def test_every_instance_is_found_again(images: list[InstanceMasks], drawn: bool, padded: bool) -> None:
    packed = PackedMasks.of([*images, None], drawn=drawn, padded=padded)
    assert packed.per_image == 6 and len(packed.instances) == len(packed.placing) == 24
    polygon_ends = packed.polygon_ends.numpy()
    seen = 0
    for n, masks in enumerate(images):
        for g in range(6):
            row = n * 6 + g
            bitmap, placing = packed.bitmap(row)
            first, last = (int(packed.instances[r, 0]) if r >= 0 else 0 for r in (row - 1, row))
            if g >= len(masks):
                assert bitmap.size == 0 and first == last
            elif drawn and masks.is_polygon(g):
                starts = np.concatenate(([0], polygon_ends))[first:last]
                ours = [packed.points[a:b] for a, b in zip(starts, polygon_ends[first:last], strict=True)]
                for mine, given in zip(ours, masks.polygons(g), strict=True):
                    assert torch.equal(mine, torch.from_numpy(given))
                assert bitmap.size == 0
                seen += 1
            else:
                wanted, where = masks.placed_bitmap(g)
                assert np.array_equal(bitmap, wanted) and placing == where
                assert first == last
                seen += 1
    assert seen == 9


def test_padded_shapes_come_again(images: list[InstanceMasks]) -> None:
    def shapes(count: int, padded: bool) -> set[tuple[int, ...]]:
        packed = PackedMasks.of([images[0].select(range(count))], drawn=True, padded=padded)
        return {tuple(t.shape) for t in packed.tensors}

    assert shapes(5, True) == shapes(6, True)
    assert shapes(5, False) != shapes(6, False)
    assert all(len(t) >= 256 for t in PackedMasks.of(images, drawn=True, padded=True).tensors[:4])
    many = [PackedMasks.of([images[0].select([0] * n)], drawn=True, padded=True) for n in range(100)]
    assert {len(p.points) for p in many} == {256, 512, 1024}
    assert {p.per_image for p in many} == {0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128}


def test_an_empty_batch_is_packed(images: list[InstanceMasks]) -> None:
    for masks in ([], [None], [images[2]]):
        for drawn in (False, True):
            packed = PackedMasks.of(masks, drawn=drawn)
            assert packed.per_image == 0 and packed.instances.shape == (0, 3)


def test_all_tensors_move_together(images: list[InstanceMasks]) -> None:
    packed = PackedMasks.of(images, drawn=False)
    names = [f.name for f in fields(packed) if isinstance(getattr(packed, f.name), torch.Tensor)]
    assert [getattr(packed, name).data_ptr() for name in names] == [t.data_ptr() for t in packed.tensors]
    moved = packed.to("meta")
    assert all(t.device.type == "meta" for t in moved.tensors)
    assert (moved.per_image, moved.drawn) == (6, False)
