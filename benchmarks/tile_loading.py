"""Windows of large training images (``data.tiles``) in any order: milliseconds a window by kind of file.

    python benchmarks/tile_loading.py --side 4000 --images 4

Beside it what reading the whole image for every window takes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from maskrcnn.data import tile_reading
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.interfaces import TilesConfig
from maskrcnn.data.tiles import TiledDataset
from maskrcnn.picture_files import write_image

KINDS = ("png", "tif", "npy")


def write(folder: Path, kind: str, images: int, side: int) -> CocoDataset:
    """Images of smooth noise, with an object in every 128 pixels."""
    import tifffile

    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    for number in range(1, images + 1):
        rows = np.cumsum(rng.integers(-1, 2, (side, side, 3), dtype=np.int8), axis=0, dtype=np.int16)
        pixels = (128 + rows).astype(np.uint8)
        path = folder / f"{number}.{kind}"
        if kind == "png":
            write_image(path, pixels)
        elif kind == "npy":
            np.save(path, pixels)
        else:
            tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="zlib")
        content["images"].append({"id": number, "file_name": path.name, "height": side, "width": side})
        for place in range((side // 128) ** 2):
            x, y = 128 * (place % (side // 128)) + 20, 128 * (place // (side // 128)) + 20
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [x, y, 60, 60],
                    "area": 3600,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + 60, y, x + 60, y + 60, x, y + 60]],
                }
            )
    (folder / "data.json").write_text(json.dumps(content))
    return CocoDataset(folder, folder / "data.json", training=True)


def milliseconds(dataset: CocoDataset, order: list[int]) -> float:
    """A window, in an order."""
    tiles = TiledDataset(dataset, TilesConfig(size=512, overlap=0.2))
    start = time.perf_counter()
    for index in order:
        tiles.load(index % len(tiles))
    return 1000 * (time.perf_counter() - start) / len(order)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--side", type=int, default=4000, help="of an image, pixels; default 4000")
    parser.add_argument("--images", type=int, default=4, help="default 4")
    parser.add_argument("--windows", type=int, default=60, help="that are drawn; default 60")
    args = parser.parse_args()
    order = np.random.default_rng(0).integers(0, 2**20, args.windows).tolist()
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name:
            dataset = write(Path(name), kind, args.images, args.side)
            now = milliseconds(dataset, order)
            part, tile_reading._part = tile_reading._part, lambda *_: None
            kept, tile_reading.KEPT = tile_reading.KEPT, 0
            whole = milliseconds(dataset, order[: max(1, args.windows // 4)])
            tile_reading._part, tile_reading.KEPT = part, kept
        print(f"{kind}: {now:.0f} ms a window; {whole:.0f} ms where each reads the whole image", flush=True)


if __name__ == "__main__":
    main()
