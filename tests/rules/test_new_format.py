"""CONTRIBUTING's recipe for a file format, followed to the letter: one file, and no COCO json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.cli import main
from maskrcnn.data import DATASETS
from maskrcnn.data.doctor import find_doubts
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import DataError
from maskrcnn.recipe import load_recipe
from tests.engine.tiny import write_recipe
from tests.rules.pages import ROOT, blocks

(PLUGIN,) = [text for text in blocks(ROOT / "CONTRIBUTING.md", "python") if "# text_folder.py" in text]
(SECTION,) = [text for text in blocks(ROOT / "CONTRIBUTING.md", "yaml") if "text_folder" in text]


def write_texts(folder: Path, split: str) -> None:
    """The tiny data set's images of a split, each with its text file, in ``mine/<split>``."""
    content = json.loads((folder / "images" / f"{split}.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    target = folder / "mine" / split
    target.mkdir(parents=True)
    for image in content["images"]:
        (folder / "images" / image["file_name"]).rename(target / image["file_name"])
        lines = []
        for a in (a for a in content["annotations"] if a["image_id"] == image["id"]):
            x, y, w, h = a["bbox"]
            numbers = [x, y, x + w, y + h, *a["segmentation"][0]]
            lines.append(" ".join([names[a["category_id"]], *map(str, numbers)]))
        (target / image["file_name"]).with_suffix(".txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("format")
    tiny = write_recipe(folder).rename(folder / "coco.yaml")
    for split in ("train", "val"):
        write_texts(folder, split)
    for path in (folder / "images").glob("*.json"):
        path.unlink()
    (folder / "text_folder.py").write_text(PLUGIN)
    lines = [line for line in tiny.read_text().splitlines() if "type: coco" not in line]
    tiny.write_text("\n".join(lines))
    (folder / "mine.yaml").write_text(f"base: coco.yaml\n{SECTION}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        yield folder
    DATASETS._entries.pop("text_folder", None)


def test_it_trains_and_is_evaluated_with_no_coco_file(folder: Path) -> None:
    command = ["train", "mine.yaml", "--output", "run", "--set", "solver.steps=2"]
    assert main(command) == 0
    assert load(folder / "run" / "checkpoints" / "last.pt").step == 2
    (found,) = [row for row in read_metrics(folder / "run" / "metrics.jsonl") if row.get("kind") == "eval"]
    assert {"bbox/AP", "segm/AP"} <= set(found)
    assert main(["eval", "mine.yaml", "--checkpoint", "run"]) == 0
    assert main(["train", "--resume", "run", "--set", "solver.steps=3"]) == 0


def test_its_records_go_through_the_same_checks(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config: Any = load_recipe("mine.yaml").data.train
    sound = config.build(True)
    assert len(sound) == 4 and list(find_doubts(sound, None)) == []  # one image has no object
    text = folder / "mine" / "train" / "2.txt"
    before = text.read_text()
    try:
        text.write_text(before + "\nbox 1 2 3 4  1 2 3 2")
        broken = config.build(True)
        assert broken.report.annotations == {"polygon of fewer than 3 points": 1}
        assert f"{Path('mine/train')}: annotation" in caplog.text
        assert broken.digest() != sound.digest()
        text.write_text(before + "\nbox 1 2 three 4")
        with pytest.raises(DataError, match=r"2\.txt:3: .*'three'; write: class x1 y1 x2 y2"):
            config.build(True)
    finally:
        text.write_text(before)
    assert config.build(True).digest() == sound.digest()
