"""A DATA argument: folder, data.yaml, COCO json, config; what is none of them is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.data import CocoConfig
from maskrcnn.errors import ConfigError, UserError
from maskrcnn.run.data_argument import read_data_argument
from tests.data.files import write_coco

TEXT = """
data:
  train: {type: coco, images: "${HERE}/images", annotations: "${HERE}/annotations.json"}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_coco(tmp_path / "mine")
    (tmp_path / "mine" / "data.yaml").write_text(TEXT)
    (tmp_path / "config.yaml").write_text("base: mine/data.yaml\nsolver: {steps: 7}")
    return tmp_path / "mine"


def test_all_ways_name_the_same_data(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [read_data_argument(Path(name)) for name in ("mine", "mine/data.yaml", "config.yaml")]
    found.append(read_data_argument(mine / "annotations.json", mine / "images"))
    monkeypatch.chdir("/")
    found.append(read_data_argument(mine))
    assert all(data == found[0] and data.val is None for data in found)
    assert isinstance(found[0].train, CocoConfig) and len(found[0].train.build(True)) == 4


def test_a_set_changes_the_data(mine: Path) -> None:
    assert len(read_data_argument(mine, None, ["data.train.max_images=2"]).train.build(True)) == 2


def test_shipped_configs_by_name() -> None:
    assert read_data_argument(Path("configs/demo")).val is not None


@pytest.mark.parametrize(
    ("path", "images", "words"),
    [
        ("nowhere", None, "nowhere: there is no such file or folder; DATA is a folder with a data.yaml"),
        ("mine/images", None, "images: this folder holds no data.yaml; DATA is"),
        ("mine/annotations.json", None, "needs the folder of its images; name it with --images DIR"),
        ("mine/other.json", "mine/images", "other.json: there is no such file"),
        ("mine", "mine/images", "mine: --images goes with a COCO json alone"),
        ("yolo", None, "yolo/data.yaml: this is a data set of YOLO's.*maskrcnn import yolo/data.yaml --out"),
    ],
)
def test_what_is_no_data(mine: Path, path: str, images: str | None, words: str) -> None:
    (mine.parent / "yolo").mkdir()
    (mine.parent / "yolo" / "data.yaml").write_text("train: ../train/images\nnc: 1\nnames: ['a']\n")
    with pytest.raises(UserError, match=words):
        read_data_argument(Path(path), None if images is None else Path(images))


def test_a_wrong_config_is_told_as_ever(mine: Path) -> None:
    (mine / "data.yaml").write_text("data: {train: {type: cocoa}}")
    with pytest.raises(ConfigError, match=r"mine/data\.yaml:1:22: data\.train.*Did you mean 'coco'"):
        read_data_argument(Path("mine"))
