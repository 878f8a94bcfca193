from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from maskrcnn.data import CocoDataset
from maskrcnn.data import digest as module
from maskrcnn.data.digest import coco_digest
from tests.data.files import coco, write_coco


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, Path]:
    return write_coco(tmp_path / "data", coco(6))


def of(images: Path, annotations: Path) -> str:
    return CocoDataset(images, annotations).digest()


def test_it_is_equal_wherever_the_data_lie(dataset: tuple[Path, Path], tmp_path: Path) -> None:
    images, annotations = dataset
    before = of(images, annotations)
    assert len(before) == 16
    shutil.copytree(images.parent, tmp_path / "copy")
    assert of(tmp_path / "copy" / images.name, tmp_path / "copy" / annotations.name) == before


def test_annotations_images_and_their_number_change_it(dataset: tuple[Path, Path]) -> None:
    images, annotations = dataset
    seen = {of(images, annotations), CocoDataset(images, annotations, max_images=5).digest()}
    first = min(images.iterdir())
    first.write_bytes(first.read_bytes() + b"\0")
    seen.add(of(images, annotations))
    first.unlink()
    seen.add(of(images, annotations))
    annotations.write_text(annotations.read_text() + "\n")
    seen.add(of(images, annotations))
    assert len(seen) == 5


def test_sizes_are_read_of_a_bounded_number(
    dataset: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, annotations = dataset
    asked: list[Path] = []
    monkeypatch.setattr(module, "file_size", lambda path: asked.append(path) or 1)
    monkeypatch.setattr(module, "_MOST_SIZES", 3)
    coco_digest(annotations, images, [f"{i}.png" for i in range(10)])
    assert [p.name for p in asked] == ["0.png", "4.png", "8.png"]
