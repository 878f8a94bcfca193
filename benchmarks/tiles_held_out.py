"""Real large images, none of which a training has seen: in tiles against whole, with intervals.

    python benchmarks/tiles_held_out.py --weights efficientnet-lite0.pth --out runs/held
    python benchmarks/tiles_held_out.py --checkpoint runs/held/run --out runs/held  # one trained before

``NUCLEI_ROOT`` (default ``data/nuclei``) holds train/, val/ and their annotations.  Held out are all images
of 640 x 512, of both; the model of configs/nuclei_imagenet/ is trained on the other training images (three to
ten minutes on a CPU; an interrupted one goes on).  Each large image is predicted in tiles, as ``predict
--tiles`` does, also with room for every detection, which shows what the cap takes away; whole, as the config
does, at a shorter side of 256 px; and whole at 520 px.

Intervals are of AP's difference from the tiles': 95 of 100 resamples of the images, paired.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiles_nuclei import LEAST, MOST, of_image

from maskrcnn.data.images import read_image
from maskrcnn.evaluation import evaluate_coco
from maskrcnn.files import write_json, write_text
from maskrcnn.recipe import load_recipe
from maskrcnn.run import Predictor, train
from maskrcnn.run.prediction import Prediction
from maskrcnn.studies.ablation.bootstrap import draw, interval, resampled_precision

ROOT = Path(__file__).resolve().parents[1]
NUCLEI = Path(os.environ.get("NUCLEI_ROOT", "data/nuclei"))
#: Images of this longer side, pixels, and more are held out.
LARGE = 500
#: What makes an image whole that large: (name, override of the recipe).
WHOLE = {
    f"whole at {side} px": f"data.eval_transforms=[{{type: resize_shortest_edge, min_sizes: [{side}],"
    f" max_size: {2 * side}}}]"
    for side in (256, 520)
}
#: What keeps every detection, for what the cap takes away.
UNCAPPED = "model.roi.max_detections=1000"
CONFIG = """\
base: {root}/configs/nuclei_imagenet/mask_rcnn_efficientnet_lite0_fpn.yaml
model: {{backbone: {{weights: {weights}}}}}
data:
  train: {{type: coco, images: {images}, annotations: {small}}}
  val: null
solver: {{precision: bfloat16}}
"""


def divided() -> tuple[dict[str, Any], dict[str, Any]]:
    """The training images that are not large, and all large ones, as COCO; files are named from NUCLEI."""
    parts: list[dict[str, Any]] = [{"images": [], "annotations": []} for _ in (0, 1)]
    for split in ("train", "val"):
        content = json.loads((NUCLEI / f"instances_{split}.json").read_text())
        first = len(parts[0]["images"]) + len(parts[1]["images"])
        for image in content["images"]:
            large = max(image["height"], image["width"]) >= LARGE
            if split == "val" and not large:
                continue
            new = {**image, "id": first + image["id"], "file_name": f"{split}/{image['file_name']}"}
            part = parts[large]
            part["images"].append(new)
            part["annotations"] += [
                {**a, "image_id": new["id"], "id": len(part["annotations"]) + k}
                for k, a in enumerate((a for a in content["annotations"] if a["image_id"] == image["id"]), 1)
            ]
        for part in parts:
            part["categories"] = content["categories"]
    return parts[0], parts[1]


def trained(small: dict[str, Any], weights: Path, out: Path) -> Path:
    """The folder of a run on the images that are not large."""
    write_json(out / "small.json", small)
    named = {"images": NUCLEI.absolute(), "small": (out / "small.json").absolute()}
    write_text(out / "config.yaml", CONFIG.format(root=ROOT, weights=weights.absolute(), **named))
    train(load_recipe(out / "config.yaml"), out / "run", resume=(out / "run").exists())
    return out / "run"


def ways(checkpoint: Path) -> dict[str, Callable[[Any], Prediction]]:
    """How an image is predicted, by name."""
    tiled = Predictor(checkpoint, score=LEAST)
    whole = {name: Predictor(checkpoint, score=LEAST, overrides=[wish]) for name, wish in WHOLE.items()}
    uncapped = Predictor(checkpoint, score=LEAST, overrides=[UNCAPPED])
    return {"in tiles": tiled.tiled, "in tiles, no cap": uncapped.tiled, **whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", type=Path, help="of EfficientNet-Lite0, which the training begins with")
    parser.add_argument("--checkpoint", type=Path, help="in place of a training; of such images alone")
    parser.add_argument("--out", type=Path, default=Path("runs/held"), help="default runs/held")
    args = parser.parse_args()
    if (args.weights is None) == (args.checkpoint is None):
        parser.error("give --weights or --checkpoint")
    args.out.mkdir(parents=True, exist_ok=True)
    small, large = divided()
    count = [f"{len(part['images'])} images, {len(part['annotations'])} objects" for part in (small, large)]
    print(f"trained on: {count[0]}; held out: {count[1]}", flush=True)
    checkpoint = args.checkpoint or trained(small, args.weights, args.out)
    draws = draw([image["id"] for image in large["images"]], seeds=1)
    aps, drawn = dict[str, float](), dict[str, Any]()
    for name, predict in ways(checkpoint).items():
        found = {i["id"]: predict(read_image(NUCLEI / i["file_name"])) for i in large["images"]}
        records = [r for i in large["images"] for r in of_image(i, found[i["id"]].records)]
        result = evaluate_coco(large, records, iou_types=["segm"], max_detections=MOST, matches=True)
        aps[name] = float(result.figures["segm"][f"AP@{MOST}"] or 0.0)
        resampled = resampled_precision(result.matches["segm"], draws.image_ids, draws.weights, MOST)
        drawn[name] = resampled.mean(axis=1)
        low, high = interval(drawn["in tiles"] - drawn[name])
        less = (
            ""
            if name == "in tiles"
            else f"; in tiles {aps['in tiles'] - aps[name]:+.4f} [{low:+.4f}, {high:+.4f}]"
        )
        tiles = sorted({one.tile for one in found.values()} - {0})
        told = f" of {tiles[0]} to {tiles[-1]} px" if tiles else ""
        capped = sum(one.capped for one in found.values())
        print(f"{name}{told}: segm AP {aps[name]:.4f}, {capped} at the cap{less}", flush=True)


if __name__ == "__main__":
    main()
