"""Tiled prediction of one large image whose objects are known, against the same objects in single images.

    python benchmarks/tiles.py --oracle                        # 20,000 px and 50,000 objects, true masks cut
    python benchmarks/tiles.py --oracle --side 3000            # as the suite does
    python benchmarks/tiles.py --side 3000 --out runs/tiles    # with a model that is trained for it, on a CPU

The image holds ellipses of two classes: most are 20 to 60 pixels long, one in ten touches a neighbour, some
are larger than a tile.  It is written as a tiled TIFF and read by windows.  The oracle gives, for a window,
the true masks cut to it, each shifted by up to a pixel, with random scores: it tests the merging alone.

Scored by windows of 1,000 pixels, each an image of its own to the evaluator; an object, or a detection,
belongs to the window of its centre.  Single images are those windows with what they need around them.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.data.regions import Regions, open_regions
from maskrcnn.data.windows import Window, rows_of_windows
from maskrcnn.evaluation import evaluate_coco
from maskrcnn.files import write_json
from maskrcnn.inference.tile_merger import Found, TileMerger
from maskrcnn.picture_files import write_image
from maskrcnn.recipe import load_recipe
from maskrcnn.run import Predictor, train
from maskrcnn.structures import rle

ROOT = Path(__file__).resolve().parents[1]
#: Pixels a regular object has to itself, and of a large one.
CELL, BLOCK = 82, 12
#: Side of a window that is scored, and how far its objects may reach beyond.
SCORED, AROUND = 1000, 1000
#: Cells that hold two objects that touch.
TOUCHING = 0.056
MOST = 400


class Item(NamedTuple):
    """An object: class (1 or 2), gray level, and its mask [h, w] at (x, y)."""

    category: int
    level: int
    x: int
    y: int
    mask: npt.NDArray[np.uint8]
    touches: bool = False

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.mask.shape[1] / 2, self.y + self.mask.shape[0] / 2


@dataclass(frozen=True)
class Field:
    """Objects on a square of ``side`` pixels, none over another, by the cells that they lie in."""

    side: int
    items: list[Item]
    cells: dict[tuple[int, int], list[int]]

    def meeting(self, window: Window) -> Iterator[tuple[int, Item]]:
        """The objects whose boxes meet a window."""
        x1, y1, x2, y2 = window.box
        numbers = {
            n
            for cy in range(y1 // SCORED, (y2 - 1) // SCORED + 1)
            for cx in range(x1 // SCORED, (x2 - 1) // SCORED + 1)
            for n in self.cells.get((cx, cy), ())
        }
        for number in sorted(numbers):
            item = self.items[number]
            height, width = item.mask.shape
            if item.x < x2 and item.x + width > x1 and item.y < y2 and item.y + height > y1:
                yield number, item


def make_field(side: int, seed: int = 0) -> Field:
    """About one object a cell; of every 16 blocks of cells one is a single large object."""
    rng = np.random.default_rng(seed)
    items: list[Item] = []
    count = side // CELL
    large = {
        (bx, by) for by in range(count // BLOCK) for bx in range(count // BLOCK) if (bx + 4 * by) % 7 == 3
    }
    for bx, by in sorted(large):
        room = BLOCK * CELL
        centre = (bx * room + room / 2, by * room + room / 2)
        axes = rng.uniform(0.32, 0.47, 2) * room
        items.append(_ellipse(centre, axes, rng.uniform(0, 180), rng))
    for cy in range(count):
        for cx in range(count):
            if (cx // BLOCK, cy // BLOCK) in large:
                continue
            first = rng.uniform(10, 30, 2)
            centre = np.array([cx, cy]) * CELL + CELL / 2 + rng.uniform(-8, 8, 2)
            if rng.random() >= TOUCHING:
                items.append(_ellipse(tuple(centre), first, rng.uniform(0, 180), rng))
                continue
            radius = rng.uniform(9, 15, 2)  # two discs that touch
            angle = rng.uniform(0, 2 * np.pi)
            step = np.array([np.cos(angle), np.sin(angle)]) * (radius.sum() + 0.5) / 2
            a = _ellipse(tuple(centre - step), (radius[0],) * 2, 0, rng)
            b = _ellipse(tuple(centre + step), (radius[1],) * 2, 0, rng)
            items += [a._replace(touches=True), _without(b, a)._replace(touches=True)]
    cells: dict[tuple[int, int], list[int]] = {}
    for number, item in enumerate(items):
        height, width = item.mask.shape
        for y in range(item.y // SCORED, (item.y + height - 1) // SCORED + 1):
            for x in range(item.x // SCORED, (item.x + width - 1) // SCORED + 1):
                cells.setdefault((x, y), []).append(number)
    return Field(side, items, cells)


def _ellipse(centre: Sequence[float], axes: Sequence[float], angle: float, rng: np.random.Generator) -> Item:
    reach = int(max(axes)) + 2
    x, y = int(centre[0]) - reach, int(centre[1]) - reach
    mask = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)
    at = tuple(round((centre[k] - (x, y)[k] - 0.5) * 16) for k in (0, 1))
    cv2.ellipse(mask, at, tuple(round(a * 16) for a in axes), angle, 0, 360, 1, -1, cv2.LINE_8, 4)
    category = int(rng.integers(1, 3))
    return _tight(Item(category, int(rng.integers(150, 200)) if category == 1 else 90, x, y, mask))


def _tight(item: Item) -> Item:
    rows, columns = np.flatnonzero(item.mask.any(1)), np.flatnonzero(item.mask.any(0))
    mask = item.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return item._replace(x=item.x + int(columns[0]), y=item.y + int(rows[0]), mask=np.ascontiguousarray(mask))


def _without(item: Item, other: Item) -> Item:
    cover = paste(other, Window(item.x, item.y, item.mask.shape[1], item.mask.shape[0]))
    return _tight(item._replace(mask=item.mask & (1 - cover)))


def paste(item: Item, window: Window) -> npt.NDArray[np.uint8]:
    """The object's pixels in a window: uint8 [h, w]."""
    out = np.zeros((window.height, window.width), dtype=np.uint8)
    x, y = item.x - window.x, item.y - window.y
    height, width = item.mask.shape
    top, left, bottom, right = (
        max(y, 0),
        max(x, 0),
        min(y + height, window.height),
        min(x + width, window.width),
    )
    if top < bottom and left < right:
        out[top:bottom, left:right] = item.mask[top - y : bottom - y, left - x : right - x]
    return out


def draw(field: Field, window: Window) -> npt.NDArray[np.uint8]:
    """The picture of a window: uint8 [h, w, 3]; the same pixels in every window that shows them."""
    y, x = np.mgrid[window.y : window.y + window.height, window.x : window.x + window.width].astype(np.uint32)
    noise = ((x * np.uint32(2654435761) ^ y * np.uint32(2246822519)) * np.uint32(3266489917)) >> np.uint32(27)
    out = np.full((window.height, window.width), 40, dtype=np.uint8) + noise.astype(np.uint8)
    for _, item in field.meeting(window):
        inside = paste(item, window) > 0
        out[inside] = np.uint8(item.level) + noise[inside].astype(np.uint8)
    return np.repeat(out[..., None], 3, axis=2)


def oracle(field: Field, window: Window, seed: int = 1) -> list[dict[str, Any]]:
    """Records of a window, in its frame: true masks cut to it, shifted by up to a pixel, of random scores."""
    rng = np.random.default_rng([seed, *(SCORED * 10 + v for v in window)])
    records = []
    for _, item in field.meeting(window):
        dx, dy = rng.integers(-1, 2, 2).tolist()
        one = record(item._replace(x=item.x + dx, y=item.y + dy), window, float(rng.uniform(0.5, 1)))
        records += [one] if one and one["bbox"][2] * one["bbox"][3] >= 6 else []
    return records


def record(item: Item, window: Window, score: float) -> dict[str, Any] | None:
    """The COCO record of an object in a window; None where none of it is seen."""
    x, y = item.x - window.x, item.y - window.y
    mask = item.mask[max(-y, 0) : max(window.height - y, 0), max(-x, 0) : max(window.width - x, 0)]
    if not mask.any():
        return None
    code = rle.encode_crop(mask, max(x, 0), max(y, 0), window.height, window.width)
    return {"category_id": item.category, "score": score, "bbox": list(rle.box(code)), "segmentation": code}


def tiled(field: Field, size: int, overlap: float, regions: Regions | None = None) -> list[Found]:
    """The oracle's objects through the merging; with ``regions`` the pixels of each window are read too."""
    rows = rows_of_windows(field.side, field.side, size, overlap)
    merger = TileMerger(rows, (field.side, field.side))
    out: list[Found] = []
    for window in (window for row in rows for window in row):
        if regions is not None:
            assert regions.read(window).values.shape == (window.height, window.width, 3)
        out += merger.add(oracle(field, window))
    return out


def singles(field: Field) -> list[tuple[int, dict[str, Any]]]:
    """The oracle's objects in single images, with the number of the scored window."""
    out = []
    across = -(-field.side // SCORED)
    for number in range(across * across):
        frame = scored_frame(number, field.side)
        for one in oracle(field, frame):
            x, y, width, height = one["bbox"]
            if home((frame.x + x + width / 2, frame.y + y + height / 2), field.side) == number:
                out.append((number, one))
    return out


def home(centre: tuple[float, float], side: int) -> int:
    """The number of the scored window that a centre lies in."""
    across = -(-side // SCORED)
    x, y = (min(max(int(c // SCORED), 0), across - 1) for c in centre)
    return y * across + x


def scored_frame(number: int, side: int) -> Window:
    """A scored window with what is around it."""
    across = -(-side // SCORED)
    y, x = divmod(number, across)
    return Window(x * SCORED - AROUND, y * SCORED - AROUND, SCORED + 2 * AROUND, SCORED + 2 * AROUND)


def in_frame(found: Found, side: int) -> tuple[int, dict[str, Any]]:
    """A merged object as a record of the scored window that it belongs to, with that window's number."""
    x1, y1, x2, y2 = found.box
    number = home(((x1 + x2) / 2, (y1 + y2) / 2), side)
    assert found.bitmap is not None
    item = Item(found.category, 0, *found.corner, found.bitmap)
    one = record(item, scored_frame(number, side), found.score)
    assert one is not None
    return number, one


def write_tiff(field: Field, path: Path, tile: int = 512) -> None:
    """The picture as a tiled TIFF, drawn a tile at a time."""
    import tifffile

    def tiles() -> Iterator[npt.NDArray[np.uint8]]:
        for y in range(0, field.side, tile):
            for x in range(0, field.side, tile):
                yield draw(field, Window(x, y, tile, tile))

    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (field.side, field.side, 3)
    options = {"tile": (tile, tile), "compression": "zlib", "photometric": "rgb"}
    tifffile.imwrite(path, tiles(), shape=shape, dtype=np.uint8, **options)


def average_precision(field: Field, records: Sequence[tuple[int, dict[str, Any]]]) -> float:
    """segm AP over the scored windows."""
    side = SCORED + 2 * AROUND
    images = [
        {"id": n + 1, "height": side, "width": side, "file_name": ""}
        for n in range((-(-field.side // SCORED)) ** 2)
    ]
    annotations = []
    for item in field.items:
        number = home(item.centre, field.side)
        one = record(item, scored_frame(number, field.side), 1.0)
        assert one is not None
        area = float(item.mask.sum())
        annotations.append(
            {**one, "id": len(annotations) + 1, "image_id": number + 1, "area": area, "iscrowd": 0}
        )
    truth = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "bright"}, {"id": 2, "name": "dark"}],
    }
    results = [{**one, "image_id": number + 1} for number, one in records]
    figures = evaluate_coco(truth, results, iou_types=["segm"], max_detections=MOST).figures["segm"]
    return float(figures[f"AP@{MOST}"] or 0.0)


def shares(field: Field, size: int, overlap: float) -> dict[str, float]:
    """How many objects there are, lie across a tile's border, touch another, are larger than a tile."""
    rows = rows_of_windows(field.side, field.side, size, overlap)
    edges = [sorted({e for row in rows for w in row for e in (w.box[k], w.box[k + 2])}) for k in (0, 1)]
    across = large = 0
    for item in field.items:
        height, width = item.mask.shape
        ends = ((item.x, item.x + width), (item.y, item.y + height))
        across += any(low < e < high for (low, high), es in zip(ends, edges, strict=True) for e in es)
        large += max(height, width) > size
    touching = sum(item.touches for item in field.items)
    count = len(field.items)
    return {"objects": count, "across": across / count, "touching": touching / count, "larger": large}


CONFIG = """\
base: {root}/configs/base/mask_rcnn_fpn.yaml
model:
  backbone: {{depth: 18, norm: gn, freeze_at: 0}}
  neck: {{out_channels: 64}}
  rpn: {{anchors: {{sizes: [[16], [32], [64], [128], [384]]}}}}
  roi: {{samples: 128, max_detections: 200}}
  box_head: {{hidden: 256}}
  mask_head: {{width: 64}}
  mask_target: bitmask_hard
data:
  train: {{type: coco, images: {folder}, annotations: {folder}/train.json}}
  tiles: {{size: 512, overlap: 0.2}}
  train_transforms: [{{type: hflip}}, {{type: vflip}}]
  eval_transforms: []
solver:
  optimizer: {{type: sgd, lr: 0.02}}
  schedule: {{type: cosine, warmup_steps: 20, warmup_factor: 0.01}}
  steps: {steps}
  batch_size: 2
  reference_batch_size: 4
  clip_grad_norm: 10.0
  precision: bfloat16
train: {{log_every: 20, checkpoint_every: 60, tensorboard: false, check_data: none}}
"""


def train_model(out: Path, steps: int) -> Path:
    """A small model, trained on tiles of four images like the large one; the folder of its run."""
    folder, run = out / "images", out / "run"
    images, annotations = [], []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 5):
        field = make_field(2000, seed=number)
        whole = Window(0, 0, field.side, field.side)
        write_image(folder / f"{number}.png", draw(field, whole))
        images.append({"id": number, "file_name": f"{number}.png", "height": 2000, "width": 2000})
        for item in field.items:
            one = record(item, whole, 1.0)
            assert one is not None
            one["segmentation"] = rle.as_text(one["segmentation"])
            ids = {"id": len(annotations) + 1, "image_id": number, "iscrowd": 0}
            annotations.append(one | ids | {"area": float(item.mask.sum())})
    categories = [{"id": 1, "name": "bright"}, {"id": 2, "name": "dark"}]
    write_json(
        folder / "train.json", {"images": images, "annotations": annotations, "categories": categories}
    )
    config = out / "config.yaml"
    config.write_text(CONFIG.format(root=ROOT, folder=folder.absolute(), steps=steps))
    train(load_recipe(config), run, resume=run.exists())
    return run


def of_model(field: Field, tiff: Path, run: Path) -> tuple[list[Any], list[Any]]:
    """What a model finds in tiles of the file, and in single images: records with their scored windows."""
    predictor = Predictor(run, score=0.05)
    whole = predictor.tiled(tiff, progress=lambda p: print(f"tile {p.done}/{p.total}", end="\r", flush=True))
    in_tiles, alone = [], []
    for one in whole.records:
        counts = {**one["segmentation"], "counts": one["segmentation"]["counts"].encode()}
        bitmap, x, y = rle.decode_crop(counts)
        x1, y1, width, height = one["bbox"]
        number = home((x1 + width / 2, y1 + height / 2), field.side)
        frame = scored_frame(number, field.side)
        in_tiles.append((number, record(Item(one["category_id"], 0, x, y, bitmap), frame, one["score"])))
    for number in range((-(-field.side // SCORED)) ** 2):
        frame = scored_frame(number, field.side)
        x1, y1 = max(frame.x + AROUND - 250, 0), max(frame.y + AROUND - 250, 0)
        x2, y2 = (min(v + AROUND + SCORED + 250, field.side) for v in (frame.x, frame.y))
        window = Window(x1, y1, x2 - x1, y2 - y1)
        for one in predictor(draw(field, window)).records:
            counts = {**one["segmentation"], "counts": one["segmentation"]["counts"].encode()}
            bitmap, x, y = rle.decode_crop(counts)
            left, top, width, height = one["bbox"]
            if home((x1 + left + width / 2, y1 + top + height / 2), field.side) == number:
                item = Item(one["category_id"], 0, x1 + x, y1 + y, bitmap)
                alone.append((number, record(item, frame, one["score"])))
    return [r for r in in_tiles if r[1]], [r for r in alone if r[1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000, help="of the image, pixels; default 20000")
    parser.add_argument("--oracle", action="store_true", help="true masks in place of a model")
    parser.add_argument("--steps", type=int, default=120, help="of the model's training; default 120")
    parser.add_argument("--out", type=Path, default=Path("runs/tiles"), help="default runs/tiles")
    args = parser.parse_args()
    field = make_field(args.side)
    tiff = args.out / f"field_{args.side}.tif"
    write_tiff(field, tiff)
    facts: dict[str, Any] = shares(field, 512, 0.2)
    start = time.perf_counter()
    if args.oracle:
        found = tiled(field, 512, 0.2, open_regions(tiff))
        facts["seconds"] = time.perf_counter() - start
        facts["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        in_tiles, alone = [in_frame(one, field.side) for one in found], singles(field)
    else:
        in_tiles, alone = of_model(field, tiff, train_model(args.out, args.steps))
        facts["seconds"] = time.perf_counter() - start
        facts["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    facts |= {"found": len(in_tiles), "found_in_single_images": len(alone)}
    facts["AP"] = average_precision(field, in_tiles)
    facts["AP_of_single_images"] = average_precision(field, alone)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
