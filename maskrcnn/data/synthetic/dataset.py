"""Synthetic data sets: shapes of six classes, generated once, in true COCO format on disk."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import cv2
import numpy as np

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import Boxes
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.interfaces import DATASETS
from maskrcnn.data.report import OnError
from maskrcnn.data.synthetic.scenes import LEVELS, category_id, make_scene
from maskrcnn.data.synthetic.shapes import KEYPOINTS, POSED, SHAPES, SKELETON
from maskrcnn.errors import DataError
from maskrcnn.structures.categories import Categories

logger = logging.getLogger(__name__)

#: Raise it when the generator changes: data of another version are made anew.
VERSION = 1

LevelName: TypeAlias = Literal["easy", "medium", "hard"]
Split: TypeAlias = Literal["train", "val"]

# Parts of the seed, so that no two levels or splits share an image.
_LEVEL_SEED = {"easy": 0, "medium": 1, "hard": 2}
_SPLIT_SEED = {"train": 0, "val": 1}


def synthetic_dataset(
    root: Path,
    *,
    level: LevelName,
    split: Split,
    num_images: int,
    size: int = 128,
    seed: int = 0,
    keypoints: bool = False,
) -> Path:
    """The folder ``root``/<name> with ``images/`` and ``annotations.json``, generated if need be.

    The folder's name holds all parameters and the generator's version.  It appears complete or not at all,
    and of several processes one generates while the others wait.

    Image k is the same whatever ``num_images`` is.

    Raises:
        DataError: the folder cannot be written.
    """
    kind = "-keypoints" if keypoints else ""
    name = f"{level}{kind}-{split}-{num_images}x{size}px-seed{seed}-v{VERSION}"
    folder = root / name
    if (folder / "annotations.json").is_file():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f".{name}.lock"):
            if not (folder / "annotations.json").is_file():
                part = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
                try:
                    write_synthetic(
                        part,
                        level=level,
                        split=split,
                        num_images=num_images,
                        size=size,
                        seed=seed,
                        keypoints=keypoints,
                    )
                    part.chmod(0o755)  # mkdtemp makes it private
                    shutil.rmtree(folder, ignore_errors=True)
                    part.replace(folder)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{folder}: the synthetic data cannot be written: {error.strerror}") from None
    return folder


def write_synthetic(
    folder: Path,
    *,
    level: LevelName,
    split: Split,
    num_images: int,
    size: int = 128,
    seed: int = 0,
    keypoints: bool = False,
) -> None:
    """Write ``images/*.png`` and ``annotations.json`` into ``folder``; the json comes last.

    keypoints: crescents alone, with their keypoints.

    Raises:
        OSError: the folder cannot be written.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    logger.info("generating %d %s images of %d px (%s)", num_images, level, size, split)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for k in range(num_images):
        rng = np.random.Generator(np.random.PCG64([seed, _LEVEL_SEED[level], _SPLIT_SEED[split], size, k]))
        scene = make_scene(LEVELS[level], size, rng, keypoints)
        image_id = k + 1
        file_name = f"{image_id:06d}.png"
        ok, png = cv2.imencode(
            ".png", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1]
        )
        if not ok:
            raise OSError(f"OpenCV cannot encode {file_name}")
        (folder / "images" / file_name).write_bytes(png.tobytes())
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
    part = folder / "annotations.json.part"
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(folder / "annotations.json")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock while the body runs, among processes of this machine."""
    with path.open("w") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
        self, training: bool, *, categories: Categories | None = None, on_error: OnError = None
    ) -> CocoDataset:
        """Generate the data if they are not there yet, and read them."""
        folder = synthetic_dataset(
            self.root or default_root(),
            level=self.level,
            split=self.split,
            num_images=self.num_images,
            size=self.size,
            seed=self.seed,
            keypoints=self.keypoints,
        )
        return CocoDataset(
            folder / "images",
            folder / "annotations.json",
            training=training,
            on_error=on_error,
            keypoints=self.keypoints,
            filter_empty=self.filter_empty,
            categories=categories,
            proposals=self.proposals,
            num_proposals=self.num_proposals,
        )
