"""Large images in tiles against whole, with a real model on images that are held back from its training.

    python benchmarks/tiles_nuclei.py --checkpoint runs/nuclei  # in tiles as `predict --tiles` has them
    python benchmarks/tiles_nuclei.py --checkpoint runs/nuclei --tiles 320 --montages 2

``NUCLEI_ROOT`` (default ``data/nuclei``) is the folder that holds val/ and instances_val.json; other images
are named by --images and --annotations.

Montages are 3 x 3 images of one size side by side, the last of a size filled up by black; what is found there
is cut back to the images and judged with what is found in those one by one.  A nucleus that a montage cuts by
a seam may be joined with another beyond it.  Then the images themselves whose longer side is over --over
pixels.

Each is predicted in tiles; whole as the config has it, which shrinks it to the size of its images; and whole
at the scale at which the training's median image enters the network, so that nothing but the cap and the
number of proposals differs from tiles of that image's size.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.data.images import read_image
from maskrcnn.data.transforms.network_size import resize_of
from maskrcnn.evaluation import evaluate_coco
from maskrcnn.run import Predictor
from maskrcnn.run.prediction import Prediction
from maskrcnn.run.setup import build_transforms
from maskrcnn.structures import rle

#: Detections an image that are judged; below this score there are none.
MOST, LEAST = 400, 0.05
#: Longest side that OpenCV, and a config, take for an image.
_LONGEST = 16_384
Pixels = npt.NDArray[np.uint8]


def segm(content: dict[str, Any], images: list[Any], results: Iterable[dict[str, Any]]) -> float:
    """AP of masks over some images."""
    ids = {image["id"] for image in images}
    annotations = [a for a in content["annotations"] if a["image_id"] in ids]
    truth = {**content, "images": images, "annotations": annotations}
    figures = evaluate_coco(truth, list(results), iou_types=["segm"], max_detections=MOST).figures["segm"]
    return float(figures[f"AP@{MOST}"] or 0.0)


def of_image(image: dict[str, Any], records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**record, "image_id": image["id"]} for record in records]


def cut_back(records: Iterable[dict[str, Any]], nine: list[Any]) -> list[dict[str, Any]]:
    """Of a montage's records, those of the image that their middle lies in, in its frame."""
    out = []
    tall, wide = nine[0]["height"], nine[0]["width"]
    for record in records:
        x, y, width, height = record["bbox"]
        column, row = min(int((x + width / 2) // wide), 2), min(int((y + height / 2) // tall), 2)
        mask = rle.decode(record["segmentation"])[row * tall :, column * wide :][:tall, :wide]
        code = rle.encode(np.ascontiguousarray(mask))
        if mask.any() and row * 3 + column < len(nine):
            new = {"bbox": list(rle.box(code)), "segmentation": rle.as_text(code)}
            out += of_image(nine[row * 3 + column], [{**record, **new}])
    return out


def montage(pictures: list[Pixels]) -> Pixels:
    pictures = pictures + [np.zeros_like(pictures[0])] * (9 - len(pictures))
    return np.vstack([np.hstack(pictures[row : row + 3]) for row in (0, 3, 6)])


@dataclass
class Ways:
    """The ways to predict an image, each with its records, seconds, and images at the cap."""

    checkpoint: Path
    options: dict[str, Any]
    precision: Any
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    capped: dict[str, int] = field(default_factory=dict)
    tiles: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.usual = Predictor(self.checkpoint, score=LEAST, precision=self.precision)
        resize = resize_of(build_transforms(self.usual.recipe, training=False), "data.eval_transforms")
        side = self.usual.tiling().size  # of the training's median image
        self._scale = resize(side, side)[0] / side
        self._large: dict[int, Predictor] = {}

    def at_scale(self, image: Pixels) -> Prediction:
        """Whole, as large as the training's median image is seen."""
        short = round(min(image.shape[:2]) * self._scale)
        if short not in self._large:
            resize = f"{{type: resize_shortest_edge, min_sizes: [{short}], max_size: {_LONGEST}}}"
            wish = f"data.eval_transforms=[{resize}]"
            options: dict[str, Any] = {"score": LEAST, "precision": self.precision, "overrides": [wish]}
            self._large = {short: Predictor(self.checkpoint, **options)}
        return self._large[short](image)

    def predict(self, image: Pixels) -> Iterator[tuple[str, Prediction]]:
        """By each way; time and cap are counted."""
        calls = {
            "in tiles": lambda: self.usual.tiled(image, **self.options),
            "whole": lambda: self.usual(image),
            "whole at scale": lambda: self.at_scale(image),
        }
        for way, call in calls.items():
            start = time.perf_counter()
            found = call()
            self.seconds[way] = self.seconds.get(way, 0.0) + time.perf_counter() - start
            self.capped[way] = self.capped.get(way, 0) + found.capped
            self.tiles += [found.tile] if found.tile else []
            yield way, found

    def tell(self, what: str, content: dict[str, Any], images: list[Any]) -> None:
        """A line a way, and begin anew."""
        objects = sum(a["image_id"] in {i["id"] for i in images} for a in content["annotations"])
        print(f"{what}, {objects} objects; tiles of {sorted(set(self.tiles))} px", flush=True)
        for way, records in self.records.items():
            cap = f", {self.capped[way]} at the cap" if way in self.capped else ""
            told = f"{self.seconds.get(way, 0.0):.0f} s{cap}"
            print(f"  {way:16} segm AP {segm(content, images, records):.4f}  ({told})", flush=True)
        self.records, self.seconds, self.capped, self.tiles = {}, {}, {}, []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="of a model that has not seen the images"
    )
    root = Path(os.environ.get("NUCLEI_ROOT", "data/nuclei"))
    parser.add_argument("--images", type=Path, default=root / "val", help="folder; default NUCLEI_ROOT/val")
    parser.add_argument(
        "--annotations", type=Path, default=root / "instances_val.json", help="their COCO json"
    )
    parser.add_argument("--tiles", type=int, help="side of a tile, pixels; default as predict --tiles")
    parser.add_argument("--overlap", type=float, help="default 0.2")
    parser.add_argument("--montages", type=int, default=1000, help="how many of a size at most; default all")
    parser.add_argument("--over", type=int, default=400, help="longer side of large images; default 400")
    parser.add_argument("--precision", default="float32", help="default float32")
    args = parser.parse_args()
    ways = Ways(args.checkpoint, {"size": args.tiles, "overlap": args.overlap}, args.precision)
    print(f"tiles of {ways.usual.tiling(args.tiles, args.overlap)}", flush=True)
    content = json.loads(args.annotations.read_text())
    by_size: dict[tuple[int, int], list[Any]] = {}
    for image in content["images"]:
        by_size.setdefault((image["height"], image["width"]), []).append(image)

    judged, every = [], dict[str, list[dict[str, Any]]]()
    for (height, width), images in sorted(by_size.items()):
        images = images[: 9 * args.montages]
        alone: list[dict[str, Any]] = []
        found: dict[str, list[dict[str, Any]]] = {}
        for first in range(0, len(images), 9):
            nine = images[first : first + 9]
            pictures = [read_image(args.images / image["file_name"]) for image in nine]
            start = time.perf_counter()
            for image, picture in zip(nine, pictures, strict=True):
                alone += of_image(image, ways.usual(picture).records)
            ways.seconds["one by one"] = ways.seconds.get("one by one", 0.0) + time.perf_counter() - start
            for way, one in ways.predict(montage(pictures)):
                found.setdefault(way, []).extend(cut_back(one.records, nine))
        ways.records = {"one by one": alone, **found}
        for way, records in ways.records.items():
            every.setdefault(way, []).extend(records)
        judged += images
        count = -(-len(images) // 9)
        ways.tell(f"{count} montages of {len(images)} images of {width} x {height}", content, images)
    ways.records = every
    ways.tell(f"all montages, {len(judged)} images", content, judged)

    large = [image for image in content["images"] if max(image["height"], image["width"]) > args.over]
    for image in large:
        for way, one in ways.predict(read_image(args.images / image["file_name"])):
            ways.records.setdefault(way, []).extend(of_image(image, one.records))
    if large:
        ways.tell(f"{len(large)} images over {args.over} px", content, large)


if __name__ == "__main__":
    main()
