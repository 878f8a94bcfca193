"""A model that is trained on windows (``data.tiles``) is judged by them, and goes on to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.data.loader import eval_loader
from maskrcnn.data.tiles import TiledDataset, TileInfo
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.errors import UserError
from maskrcnn.files import save_tensors
from maskrcnn.inference.loop import predict_dataset
from maskrcnn.recipe import load_recipe
from maskrcnn.run import train
from maskrcnn.run.evaluation import evaluate
from maskrcnn.run.fit_doubts import Seen
from maskrcnn.run.kept_batch import _batch, _plain
from maskrcnn.run.setup import build_val, train_batches
from maskrcnn.run.tiled_evaluation import tile_batches
from maskrcnn.structures import Detections
from tests.data.test_tiles import write_data
from tests.engine.tiny import RECIPE
from tests.test_resume import StopAfter, assert_same_state, last

ALONE = Ranks(0, 1, 0, torch.device("cpu"))
BOXES = [[[20, 20, 30, 30], [120, 90, 40, 40]], [[70, 30, 60, 60], [5, 100, 20, 40]], [[100, 10, 90, 30]]]


def recipe_on_tiles(folder: Path) -> Path:
    images = folder / "images"
    write_data(images, BOXES)
    for split in ("train", "val"):
        (images / f"{split}.json").write_text((images / "data.json").read_text())
    path = folder / "tiles.yaml"
    text = RECIPE.format(folder=images)
    path.write_text(text.replace("  workers: 0", "  workers: 0\n  tiles: {size: 96, overlap: 0.2}"))
    return path


class Knows(torch.nn.Module):
    """Finds what of :data:`BOXES` the pixels of a window show: red is x, green y, blue the image."""

    def predict(self, images: list[torch.Tensor], *_: Any) -> list[Detections]:
        out = []
        for image in images:
            x0, y0, number = (int(image[c, 0, 0]) for c in (0, 1, 2))
            height, width = image.shape[-2:]
            boxes = torch.tensor(BOXES[number - 1], dtype=torch.float32)
            boxes[:, 2:] += boxes[:, :2]
            boxes = (boxes - torch.tensor([x0, y0, x0, y0])).clamp(min=0)
            boxes = torch.minimum(boxes, torch.tensor([width, height, width, height]))
            boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)]
            ones = torch.ones(len(boxes))
            out.append(Detections(boxes, 0.9 * ones, ones.long() * 0, torch.ones(len(boxes), 28, 28)))
        return out


def test_the_records_are_those_of_the_whole_images(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_on_tiles(tmp_path), ["data.eval_transforms=[]", "eval.batch_size=4"])
    val = build_val(recipe, ALONE)
    loader, predict, most = tile_batches(val, recipe, ALONE)
    seen: list[tuple[int, int | None]] = []
    options: dict[str, Any] = {"progress": lambda p: seen.append((p.done, p.total)), "total": 3}
    found = predict(Knows(), loader, "cpu", val.categories, **options)
    plain = predict_dataset(Knows(), eval_loader(val, []), "cpu", val.categories)
    key = lambda r: (r["image_id"], r["bbox"])  # noqa: E731
    assert sorted(map(key, found)) == sorted(map(key, plain))
    codes = [{r["segmentation"]["counts"] for r in records} for records in (found, plain)]
    assert codes[0] == codes[1]
    assert seen == [(1, 3), (2, 3)] and most == 6 * recipe.model.roi.max_detections
    assert isinstance(loader.dataset, TiledDataset)


def test_two_ranks_share_the_images(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_on_tiles(tmp_path), ["data.eval_transforms=[]"])
    val = build_val(recipe, ALONE)
    ids = []
    for rank in (0, 1):
        loader, predict, _ = tile_batches(val, recipe, Ranks(rank, 2, rank, torch.device("cpu")))
        ids.append({r["image_id"] for r in predict(Knows(), loader, "cpu", val.categories)})
    assert ids == [{1, 3}, {2}]


def test_images_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_on_tiles(tmp_path), ["data.eval_transforms=[]", "data.on_error=skip"])
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    val = build_val(recipe, ALONE)
    loader, predict, _ = tile_batches(val, recipe, ALONE)
    assert {r["image_id"] for r in predict(Knows(), loader, "cpu", val.categories)} == {1, 3}
    assert set(val.report.unreadable) == {2}


def test_a_training_on_windows_goes_on_to_the_bit_and_is_evaluated(tmp_path: Path) -> None:
    path = recipe_on_tiles(tmp_path)
    keys = [
        "model.roi.max_detections=20",
        "data.copy_paste={}",
        "data.cache=ram",
        "data.repeat_threshold=1.0",
    ]
    recipe = load_recipe(path, keys)
    straight = train(recipe, tmp_path / "straight", console=Console(quiet=True))
    assert "segm/AP@120" in straight.metrics  # six windows an image, of twenty detections each
    with pytest.raises(Interrupted, match="after step 3 of 6"):
        train(recipe, tmp_path / "run", console=StopAfter(2))
    train(recipe, tmp_path / "run", resume=True, console=Console(quiet=True))
    assert_same_state(last(tmp_path / "straight"), last(tmp_path / "run"))
    assert last(tmp_path / "run").image_size == (150, 200)
    found = evaluate(tmp_path / "run")
    assert found is not None and found.result.scalars() == straight.metrics


def test_doubts_about_sizes_and_caps_see_windows(tmp_path: Path) -> None:
    """eval_transforms make 64 px of a window of 96; an image of 150 x 200 they would make 64 x 85."""
    recipe = load_recipe(recipe_on_tiles(tmp_path))
    dataset = recipe.data.build(recipe.data.train, True)
    seen = Seen(dataset, recipe)
    wanted = sorted(box[2] * 64 / 96 for of_image in BOXES for box in of_image)
    widths = np.sort(seen.boxes[:, 2] - seen.boxes[:, 0])
    assert widths == pytest.approx(wanted, rel=0.02)
    assert seen.counts.tolist() == [1, 1, 1]  # no window holds the centres of two


def test_a_batch_of_windows_is_kept_in_plain_values(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_on_tiles(tmp_path))
    (batch,) = train_batches(recipe.data.build(recipe.data.train, True), recipe, ALONE, range(1))
    assert all(isinstance(info, TileInfo) for info in batch.infos)
    plain = _plain(batch)
    save_tensors(tmp_path / "batch.pt", plain)
    back = _batch(torch.load(tmp_path / "batch.pt", weights_only=True), None)
    assert [info.image_id for info in back.infos] == [info.image_id for info in batch.infos]
    assert all(map(torch.equal, back.images, batch.images))


def test_proposals_of_whole_images_do_not_go_with_tiles(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_on_tiles(tmp_path))
    val = build_val(recipe, ALONE)
    object.__setattr__(recipe.model, "rpn", None)
    with pytest.raises(UserError, match="leave data.tiles out"):
        tile_batches(val, recipe, ALONE)
