"""Synthetic data sets: shapes of six classes, generated once, in true COCO format on disk."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import Boxes
from maskrcnn.data.fault_report import OnError
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.interfaces import DATASETS, RGB, ImageReading
from maskrcnn.data.synthetic.scenes import LEVELS, category_id, make_scene
from maskrcnn.data.synthetic.shapes import KEYPOINTS, POSED, SHAPES, SKELETON
from maskrcnn.files import locked, unwritten, write_text
from maskrcnn.picture_files import write_image
from maskrcnn.structures.categories import Categories

logger = logging.getLogger(__name__)

#: Raise it when the generator changes: data of another version are made anew.
VERSION = 1

LevelName: TypeAlias = Literal["easy", "medium", "hard"]
Split: TypeAlias = Literal["train", "val"]

# Parts of the seed, so that no two levels or splits share an image.
_LEVEL_SEED = {"easy": 0, "medium": 1, "hard": 2}
_SPLIT_SEED = {"train": 0, "val": 1}


def synthetic_dataset(root: Path, config: SyntheticConfig) -> Path:
    """The folder ``root``/<name> with ``images/`` and ``annotations.json``, generated if need be.

    The folder's name holds all that decides the pictures, and the generator's version.  It appears complete
    or not at all, and of several processes one generates while the others wait.

    Image k is the same whatever ``num_images`` is.

    Raises:
        OutputError: the folder cannot be written.
    """
    level = config.level + ("-keypoints" if config.keypoints else "")
    count = f"{config.num_images}x{config.size}px"
    name = f"{level}-{config.split}-{count}-seed{config.seed}-v{VERSION}"
    folder = root / name
    if (folder / "annotations.json").is_file():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f".{name}.lock", wait=True):
            if not (folder / "annotations.json").is_file():
                part = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
                try:
                    write_synthetic(part, config)
                    part.chmod(0o755)  # mkdtemp makes it private
                    shutil.rmtree(folder, ignore_errors=True)
                    part.replace(folder)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise unwritten(folder, error) from None
    return folder


def write_synthetic(folder: Path, config: SyntheticConfig) -> None:
    """Write ``images/*.png`` and ``annotations.json`` into ``folder``; the json comes last.

    Raises:
        OutputError: the folder cannot be written.
    """
    level, split, num_images = config.level, config.split, config.num_images
    size, seed, keypoints = config.size, config.seed, config.keypoints
    logger.info("generating %d %s images of %d px (%s)", num_images, level, size, split)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for k in range(num_images):
        rng = np.random.Generator(np.random.PCG64([seed, _LEVEL_SEED[level], _SPLIT_SEED[split], size, k]))
        scene = make_scene(LEVELS[level], size, rng, keypoints)
        image_id = k + 1
        file_name = f"{image_id:06d}.png"
        write_image(folder / "images" / file_name, scene.image, compression=1)
        height, width = scene.image.shape[:2]
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for annotation in scene.annotations:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
        if sys.stderr.isatty() and ((k + 1) % 50 == 0 or k + 1 == num_images):
            end = "\n" if k + 1 == num_images else ""
            print(f"\rgenerating {level} {split}: {k + 1}/{num_images}", end=end, file=sys.stderr, flush=True)
    content: dict[str, Any] = {
        "info": {
            "description": "synthetic shapes",
            "level": level,
            "split": split,
            "seed": seed,
            "version": str(VERSION),
        },
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": category_id(i), "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES)
        ],
    }
    if keypoints:
        skeleton = [[a + 1, b + 1] for a, b in SKELETON]
        content["categories"] = [
            {**content["categories"][POSED], "keypoints": list(KEYPOINTS), "skeleton": skeleton}
        ]
    write_text(folder / "annotations.json", json.dumps(content))


def default_root() -> Path:
    """``$MASKRCNN_CACHE/synthetic``, by default ``~/.cache/maskrcnn/synthetic``."""
    cache = os.environ.get("MASKRCNN_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "maskrcnn") / "synthetic"


@DATASETS.register("synthetic")
@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(Config):
    """Generated shapes of six classes: disc, box, star, crescent, ring, cross."""

    #: easy, medium (the demo), or hard (small and crowded).
    level: LevelName = "medium"
    #: train or val; they share no image.
    split: Split = "train"
    #: Number of images.
    num_images: Annotated[int, Range(1, 1_000_000, "they are written to the disk first")] = 800
    #: Longer side, pixels.
    size: Annotated[int, Range(32, 4096, "a picture is drawn at 16 times its pixels")] = 128
    #: Seed of the pictures.
    seed: Annotated[int, Range(0)] = 0
    #: Crescents alone, each with four keypoints: belly, waist, left_tip, right_tip.
    keypoints: bool = False
    #: Folder to keep the data in; unset: in the cache folder of the user.
    root: Path | None = None
    #: In training, drop images without an instance that trains.  Never applied in evaluation.
    filter_empty: bool = True
    #: Proposals for a model without RPN, as of the type coco.
    proposals: Path | None = None
    #: At most so many proposals an image, by score; unset: 2000 in training, 1000 in evaluation.
    num_proposals: Boxes | None = None

    def build(
        self,
        training: bool,
        *,
        categories: Categories | None = None,
        on_error: OnError = None,
        reading: ImageReading = RGB,
    ) -> CocoDataset:
        """Generate the data if they are not there yet, and read them."""
        folder = synthetic_dataset(self.root or default_root(), self)
        options = self.arguments("level", "split", "num_images", "size", "seed", "root")
        options |= {"training": training, "on_error": on_error, "categories": categories, "reading": reading}
        return CocoDataset(folder / "images", folder / "annotations.json", **options)
