"""Tiled prediction of real images: montages of the nuclei's validation images, and the larger images.

    python benchmarks/tiles_nuclei.py --checkpoint runs/nuclei        # with tiles as trained
    python benchmarks/tiles_nuclei.py --checkpoint runs/nuclei --tiles 320 --montages 2

``NUCLEI_ROOT`` (default ``data/nuclei``) is the folder that holds train/, val/ and the two jsons.

Montages are 3 x 3 validation images of 256 x 256 pixels side by side; what is found there is cut back to the
images and judged with what is found in those one by one.  A nucleus that a montage cuts by a seam may be
joined with another beyond it.  The larger images (over 512 pixels wide, of both sets: on some the model has
trained) are judged in tiles and as a whole.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.images import read_image
from maskrcnn.evaluation import evaluate_coco
from maskrcnn.run import Predictor
from maskrcnn.structures import rle

#: Side of the images of a montage; detections an image that are judged; below this score there are none.
SIDE, MOST, LEAST = 256, 400, 0.05


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
    for record in records:
        x, y, width, height = record["bbox"]
        column, row = (min(int(v // SIDE), 2) for v in (x + width / 2, y + height / 2))
        mask = rle.decode(record["segmentation"])[row * SIDE :, column * SIDE :][:SIDE, :SIDE]
        code = rle.encode(np.ascontiguousarray(mask))
        if mask.any():
            new = {"bbox": list(rle.box(code)), "segmentation": rle.as_text(code)}
            out += of_image(nine[row * 3 + column], [{**record, **new}])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="of a model that was trained on them")
    parser.add_argument("--tiles", type=int, help="side of a tile, pixels; default as trained")
    parser.add_argument("--overlap", type=float, help="default 0.2")
    parser.add_argument("--montages", type=int, default=5, help="how many, of nine images; default 5")
    args = parser.parse_args()
    root = Path(os.environ.get("NUCLEI_ROOT", "data/nuclei"))
    predictor = Predictor(args.checkpoint, score=LEAST)
    options = {"size": args.tiles, "overlap": args.overlap}
    print(f"tiles of {predictor.tiling(args.tiles, args.overlap)}", flush=True)
    sets = {name: json.loads((root / f"instances_{name}.json").read_text()) for name in ("val", "train")}

    squares = [i for i in sets["val"]["images"] if (i["height"], i["width"]) == (SIDE, SIDE)]
    squares = squares[: len(squares) // 9 * 9][: 9 * args.montages]
    alone, together = [], []
    for first in range(0, len(squares), 9):
        nine = squares[first : first + 9]
        pictures = [read_image(root / "val" / image["file_name"]) for image in nine]
        for image, picture in zip(nine, pictures, strict=True):
            alone += of_image(image, predictor(picture).records)
        canvas = np.vstack([np.hstack(pictures[row : row + 3]) for row in (0, 3, 6)])
        together += cut_back(predictor.tiled(canvas, **options).records, nine)
    print(
        f"{len(squares) // 9} montages: segm AP {segm(sets['val'], squares, together):.4f} in tiles,"
        f" {segm(sets['val'], squares, alone):.4f} of single images",
        flush=True,
    )
    for name, content in sets.items():
        large = [image for image in content["images"] if image["width"] > 512]
        if not large:
            continue
        found: dict[str, list[dict[str, Any]]] = {"tiles": [], "whole": []}
        seconds = dict.fromkeys(found, 0.0)
        for image in large:
            path = root / name / image["file_name"]
            for how in found:
                start = time.perf_counter()
                result = predictor.tiled(path, **options) if how == "tiles" else predictor(path)
                seconds[how] += time.perf_counter() - start
                found[how] += of_image(image, result.records)
        scores = {how: segm(content, large, records) for how, records in found.items()}
        told = "  ".join(f"{how} {scores[how]:.4f} ({seconds[how]:.0f} s)" for how in found)
        print(f"{len(large)} images of {name} over 512 px: segm AP {told}", flush=True)


if __name__ == "__main__":
    main()
