"""Windows cover images evenly; their objects follow the rule; batches of them are a function of the step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.interfaces import TilesConfig
from maskrcnn.data.loader import train_loader
from maskrcnn.data.tiles import TiledDataset, TileInfo, cut, densest
from maskrcnn.data.transforms.basic import HorizontalFlip
from maskrcnn.data.transforms.copy_paste import CopyPasteConfig
from maskrcnn.data.transforms.resizing import ResizeShortestEdge
from maskrcnn.data.windows import Window
from maskrcnn.picture_files import write_image
from maskrcnn.structures import Batch


def write_data(folder: Path, boxes: list[list[list[int]]], size: tuple[int, int] = (150, 200)) -> CocoDataset:
    """An image each, with rectangles x, y, width, height as masks; pixels say where they are."""
    height, width = size
    images, annotations = [], []
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:height, :width]
    for number, of_image in enumerate(boxes, start=1):
        write_image(folder / f"{number}.png", np.dstack([x, y, np.full_like(x, number)]).astype(np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        for a, b, w, h in of_image:
            polygon = [a, b, a + w, b, a + w, b + h, a, b + h]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": w * h,
                }
                | {"bbox": [a, b, w, h], "segmentation": [polygon]}
            )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    (folder / "data.json").write_text(json.dumps(content))
    return CocoDataset(folder, folder / "data.json", training=True)


def test_an_object_trains_where_enough_of_it_lies(tmp_path: Path) -> None:
    """keep 0.3: of 10 columns, three; and of one larger than the window, three tenths of the window."""
    boxes = [[90 + k, 10, 10, 10] for k in range(10)]  # inside x < 100: 10 - k columns
    sample = write_data(tmp_path, [boxes]).load(0)
    window = Window(0, 0, 100, 150)
    kept = cut(sample, window, 0.3).targets
    assert kept.annotation_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert kept.boxes[:, 2].tolist() == [100.0] * 8 and kept.boxes[-1].tolist() == [97, 10, 100, 20]
    assert cut(sample, window, 0.01).targets.annotation_ids.tolist() == list(range(1, 11))
    assert cut(sample, window, 1.0).targets.annotation_ids.tolist() == [1]
    large = write_data(tmp_path / "large", [[[0, 0, 200, 150]]]).load(0)
    assert len(cut(large, Window(0, 0, 40, 40), 0.3).targets) == 1  # 5 % of it, and all of the window


def test_a_window_is_that_part_of_its_image(tmp_path: Path) -> None:
    dataset = write_data(tmp_path, [[[20, 20, 30, 30]], [[100, 80, 60, 60]]])
    tiles = TiledDataset(dataset, TilesConfig(size=64, overlap=0.25, empty=True))
    assert len(tiles) == 2 * 3 * 4 and tiles.image_ids.tolist() == [1] * 12 + [2] * 12
    for index in range(len(tiles)):
        sample = tiles.load(index)
        x1, y1, x2, y2 = tiles.window(index).box
        assert isinstance(sample.info, TileInfo) and sample.info.window == tiles.window(index)
        assert sample.size == (64, 64) == tuple(tiles.sizes[index].tolist())
        assert (sample.image[..., 0] == np.arange(x1, x2)).all()
        assert (np.arange(y1, y2) == sample.image[..., 1].T).all()
        assert (sample.image[..., 2] == tiles.image_ids[index]).all()
        for mask, box in zip(range(len(sample.targets)), sample.targets.boxes.tolist(), strict=True):
            assert sample.targets.masks is not None
            bitmap, x0, y0 = sample.targets.masks.tile(mask)
            rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
            assert box == [x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1]


def test_windows_without_an_object_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    dataset = write_data(tmp_path, [[[20, 20, 30, 30], [57, 10, 10, 10]]])
    tiles = TiledDataset(dataset, TilesConfig(size=64, overlap=0.25))
    assert [tiles.window(i).box[:2] for i in range(len(tiles))] == [(0, 0), (45, 0)]
    assert len(TiledDataset(dataset, TilesConfig(size=64, overlap=0.25), training=False)) == 12
    assert [len(tiles.load(i).targets) for i in range(2)] == [2, 1]


def test_the_densest_window_of_each_image(tmp_path: Path) -> None:
    spread = [[10 * k, 10, 8, 8] for k in range(20)]
    dataset = write_data(tmp_path, [spread, [[20, 20, 30, 30]]])
    assert densest(dataset, TilesConfig(size=64, overlap=0.25)).tolist() == [7, 1]


def same(a: Batch, b: Batch) -> bool:
    assert a.targets is not None and b.targets is not None
    return (
        all(map(torch.equal, a.images, b.images))
        and all(torch.equal(s.boxes, t.boxes) for s, t in zip(a.targets, b.targets, strict=True))
        and list(a.infos) == list(b.infos)
    )


@pytest.mark.parametrize("pasting", [False, True])
def test_batches_are_a_function_of_seed_step_and_rank(tmp_path: Path, pasting: bool) -> None:
    dataset = write_data(tmp_path, [[[20, 20, 30, 30], [120, 90, 40, 40]], [[100, 80, 60, 60]]])
    tiles = TiledDataset(dataset, TilesConfig(size=96, overlap=0.2))
    transforms = [ResizeShortestEdge(min_sizes=(48, 64, 96)), HorizontalFlip()]
    options: dict[str, Any] = {"images_per_rank": 2, "total_steps": 8, "seed": 3, "world_size": 2, "rank": 1}
    options |= {"copy_paste": CopyPasteConfig() if pasting else None}
    straight = list(train_loader(tiles, transforms, **options))
    resumed = list(train_loader(tiles, transforms, start_step=3, workers=2, **options))
    assert len(straight) == 8 and all(map(same, straight[3:], resumed))
    other = list(train_loader(tiles, transforms, **options | {"rank": 0}))
    assert not all(map(same, straight, other))
