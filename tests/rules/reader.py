"""What a reader of the README and the docs has: the files that they name, small, and a finished run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from maskrcnn.cli import main
from tests.cli.test_convert import write as write_foreign
from tests.engine.tiny import write_data
from tests.rules.pages import ROOT, blocks
from tests.run.test_convert_config import MMDET, PYRAMID, RUNTIME3

#: Its first block is run in its order, from an empty folder, by tests/test_own_data.py.
TUTORIAL = ROOT / "docs" / "own_data.md"
#: Placeholders of synopses, and names of files that a reader has.
STANDS_FOR = {
    "FILE": "mine.yaml",
    "FILE...": "mine.yaml",
    "CONFIG": "mine.yaml",
    "A": "mine.yaml",
    "B": "configs/demo.yaml",
    "C": "runs/mine",
    "RUN": "runs/mine",
    "runs/demo": "runs/mine",
    "runs/demo/config.yaml": "runs/mine/config.yaml",
    "RUN...": "runs/mine",
    "IMAGE...": "photo.jpg",
    "KEY=VALUE": "seed=3",
    "my_config.yaml": "mine.yaml",
    "LABELS": "mine/train.json",
    "DIR": "mine/train",
    "mine/": "mine",
    "annotations.json": "mine/train.json",
    "IN": "mask_rcnn_R_50_FPN_3x.pkl",
    "nuclei/instances_train.json": "mine/train.json",
    "coco/annotations/instances_val2017.json": "mine/val.json",
    "mine-1.0": "runs/mine",
    "pictures/val/images": "mine/val",
}
SMALL = [
    *("model.backbone.depth=18", "model.backbone.width=16", "model.neck.out_channels=16"),
    *("model.box_head.hidden=16", "model.mask_head.width=16", "model.roi.samples=16"),
    *("model.rpn.pre_nms_train=60", "model.rpn.post_nms_train=30", "model.rpn.pre_nms_test=60"),
    *("model.rpn.post_nms_test=30", "train.tensorboard=false"),
]
OURS = [
    "data.train_transforms.0.min_sizes=[64]",
    "data.eval_transforms.0.min_sizes=[64]",
]
SPLITS = {"train": 2, "val": 101}
DEMO = ["data.train.num_images=4", "data.val.num_images=2", "data.train.size=64", "data.val.size=64"]


def sets(items: list[str]) -> list[str]:
    return [part for item in items for part in ("--set", item)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder with the example of docs/own_data.md in it, its data, and a finished run of it."""
    folder = tmp_path_factory.mktemp("reader")
    (config,) = [text for text in blocks(TUTORIAL, "yaml") if text.startswith("# mine.yaml")]
    (folder / "mine.yaml").write_text(config)
    write_data(folder / "images")
    for split, image in SPLITS.items():
        shutil.copytree(folder / "images", folder / "mine" / split, ignore=shutil.ignore_patterns("*.json"))
        shutil.copy(folder / "images" / f"{split}.json", folder / "mine")
        cv2.imwrite(str(folder / "photo.jpg"), cv2.imread(str(folder / "images" / f"{image}.png")))
    shutil.copy(folder / "photo.jpg", folder / "image.png")
    splits = (
        f"  {s}: {{type: coco, images: '${{HERE}}/{s}', annotations: '${{HERE}}/{s}.json'}}" for s in SPLITS
    )
    (folder / "mine/data.yaml").write_text("\n".join(["data:", *splits, ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "mine.yaml", *sets([*SMALL, *OURS, "solver.steps=1"])]) == 0
        shutil.copy(folder / "runs/mine/checkpoints/last.pt", folder / "weights.pt")
        write_foreign(folder, "detectron2").rename(folder / "mask_rcnn_R_50_FPN_3x.pkl")
        (folder / "theirs.yaml").write_text(PYRAMID)
        (folder / "theirs.py").write_text(MMDET + RUNTIME3)
        yield folder
