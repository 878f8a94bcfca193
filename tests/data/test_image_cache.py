"""Kept images are those that reading gives, one copy for all processes, never out of date or half written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data import CocoDataset, image_cache, train_loader
from maskrcnn.data.formats import coco as coco_module
from maskrcnn.data.image_cache import DiskCache, MemoryCache
from maskrcnn.data.images import read_image
from maskrcnn.errors import DataError
from maskrcnn.picture_files import write_image
from tests.data.files import SIZE, coco, write_coco


def make_dataset(folder: Path, kind: str) -> CocoDataset:
    """Six images that changed a while ago, and their cache."""
    images, path = write_coco(folder, coco(6))
    for file in images.iterdir():
        os.utime(file, (10**9, 10**9))
    dataset = CocoDataset(images, path)
    give_cache(dataset, folder, kind)
    return dataset


def give_cache(dataset: CocoDataset, folder: Path, kind: str) -> None:
    dataset.cache = (
        MemoryCache(dataset.sizes, 3, dataset.bytes_each)
        if kind == "ram"
        else DiskCache(folder / "kept", dataset.decoding)
    )


@pytest.fixture(autouse=True)
def empty_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of this machine may be nearly full."""
    monkeypatch.setattr(image_cache, "room", lambda folder: 10**9)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded in this process."""
    found: list[Path] = []
    real = read_image

    def read(path: Path, **options: Any) -> Any:
        found.append(path)
        return real(path, **options)

    monkeypatch.setattr(coco_module, "read_image", read)
    return found


BOTH = pytest.mark.parametrize("kind", ["ram", "disk"])


@BOTH
def test_an_image_is_decoded_once_and_stays_the_same(kind: str, tmp_path: Path, decoded: list[Path]) -> None:
    dataset = make_dataset(tmp_path, kind)
    first = [dataset.load(i).image.copy() for i in range(6)]
    for i in range(6):
        image = dataset.load(i).image
        assert np.array_equal(image, first[i]) and image.dtype == np.uint8
        image[:] = 7  # what is made of it does not reach what is kept
        assert np.array_equal(dataset.load(i).image, first[i])
    assert len(decoded) == 6
    assert len({image.tobytes() for image in first}) == 6


@BOTH
@pytest.mark.parametrize("change", ["content", "size of the image", "gone"])
def test_a_file_that_changed_is_read_again(
    kind: str, change: str, tmp_path: Path, decoded: list[Path]
) -> None:
    dataset = make_dataset(tmp_path, kind)
    dataset.load(1)
    path = dataset.path(1)
    if change == "content":
        write_image(path, np.full((*SIZE, 3), 99, dtype=np.uint8))
        os.utime(path, (2 * 10**9 - 10**9 // 2, 10**9 + 7))
        for _ in range(2):
            assert (dataset.load(1).image == 99).all()
        # On the disk the new one takes the old one's place.
        assert len(decoded) == (3 if kind == "ram" else 2)
        return
    if change == "gone":
        path.unlink()
    else:
        write_image(path, np.zeros((9, 9, 3), dtype=np.uint8))
        os.utime(path, (10**9, 10**9))
    with pytest.raises(DataError, match="no such image file" if change == "gone" else "is 9x9"):
        dataset.load(1)


@BOTH
def test_a_file_that_changed_just_now_is_not_kept(kind: str, tmp_path: Path, decoded: list[Path]) -> None:
    dataset = make_dataset(tmp_path, kind)
    os.utime(dataset.path(2))
    for _ in range(2):
        dataset.load(2)
    assert len(decoded) == 2


@BOTH
def test_what_is_doubtful_about_a_file_is_told_each_time(
    kind: str, tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path, kind)
    monkeypatch.setattr(coco_module, "count_pages", lambda path: 3)
    for _ in range(2):
        assert [note.kind for note in dataset.load(0).notes] == ["pages"]
    assert len(decoded) == 2


@BOTH
def test_workers_share_one_copy(kind: str, tmp_path: Path, decoded: list[Path]) -> None:
    dataset = make_dataset(tmp_path, kind)
    for _ in train_loader(dataset, [], images_per_rank=2, total_steps=6, workers=2):
        pass
    wanted = [dataset.load(i).image for i in range(6)]
    assert decoded == []  # the workers did
    dataset.cache = None
    assert all(np.array_equal(dataset.load(i).image, wanted[i]) for i in range(6))


OTHER = """
import sys
import numpy as np
from pathlib import Path
from maskrcnn.data import CocoDataset
from maskrcnn.data.formats import coco
from maskrcnn.data.image_cache import MemoryCache
dataset = CocoDataset(Path(sys.argv[1]), Path(sys.argv[2]))
dataset.cache = MemoryCache(dataset.sizes, 3, 1, (int(sys.argv[3]), int(sys.argv[4])))
dataset.load(4)
coco.read_image = None
assert [int(dataset.load(i).image[9, 9, 0]) for i in (3, 4)] == [30, 40]
"""


def test_another_process_shares_the_memory(tmp_path: Path, decoded: list[Path]) -> None:
    dataset = make_dataset(tmp_path, "ram")
    dataset.load(3)
    assert isinstance(dataset.cache, MemoryCache)
    names = [str(dataset.images), str(dataset.annotation_file), *map(str, dataset.cache.handle)]
    subprocess.run([sys.executable, "-c", OTHER, *names], check=True)
    decoded.clear()
    assert (dataset.load(4).image[9] == 40).all() and decoded == []


@BOTH
def test_deep_images_keep_their_depth(kind: str, tmp_path: Path, decoded: list[Path]) -> None:
    import cv2

    images, path = write_coco(tmp_path, coco(2))
    deep = np.arange(SIZE[0] * SIZE[1] * 3, dtype=np.uint16).reshape(*SIZE, 3)
    cv2.imwrite(str(images / "0.png"), deep)
    for file in images.iterdir():
        os.utime(file, (10**9, 10**9))
    dataset = CocoDataset(images, path, sixteen_bit="keep")
    assert dataset.bytes_each == 4
    give_cache(dataset, tmp_path, kind)
    first = [dataset.load(i).image for i in (0, 1)]
    again = [dataset.load(i).image for i in (0, 1)]
    assert [image.dtype for image in again] == [np.float32, np.uint8] and len(decoded) == 2
    assert all(map(np.array_equal, first, again))


@pytest.mark.parametrize("damage", ["cut", "zeros", "header", "empty"])
def test_a_file_that_was_half_written_is_not_used(damage: str, tmp_path: Path, decoded: list[Path]) -> None:
    dataset = make_dataset(tmp_path, "disk")
    before = dataset.load(5).image
    assert isinstance(dataset.cache, DiskCache)
    file = dataset.cache.file(dataset.path(5), 0)
    data = bytearray(file.read_bytes())
    broken: dict[str, bytes] = {
        "cut": bytes(data[:-1]),
        "zeros": bytes(data[:-4096]) + bytes(4096),
        "header": bytes(20) + bytes(data[20:]),
        "empty": b"",
    }
    file.write_bytes(broken[damage])
    for _ in range(2):
        assert np.array_equal(dataset.load(5).image, before)
    assert len(decoded) == 2  # and the second time it was whole again
    assert file.read_bytes() == data


def test_images_read_in_another_way_are_others(tmp_path: Path, decoded: list[Path]) -> None:
    dataset = make_dataset(tmp_path, "disk")
    dataset.load(0)
    other = CocoDataset(dataset.images, dataset.annotation_file, sixteen_bit="keep")
    give_cache(other, tmp_path, "disk")
    other.load(0)
    assert len(decoded) == 2


def test_a_disk_without_room_keeps_nothing_more(
    tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path, "disk")
    assert isinstance(dataset.cache, DiskCache)
    assert dataset.cache.missing(dataset.places()).all()
    dataset.load(0)
    monkeypatch.setattr(image_cache, "room", lambda folder: SIZE[0] * SIZE[1] * 3 - 1)
    for _ in range(2):
        for i in range(3):
            dataset.load(i)
    assert len(decoded) == 1 + 2 + 2
    assert dataset.cache.missing(dataset.places()).tolist() == [False, True, True, True, True, True]


def test_what_was_cut_short_goes(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, "disk")
    dataset.load(0)
    assert isinstance(dataset.cache, DiskCache)
    folder = dataset.cache.file(dataset.path(0), 0).parent
    old, new = (folder / f".maskrcnn-{digit * 16}.tmp" for digit in "ab")
    for file in (old, new):
        file.touch()
    os.utime(old, (10**9, 10**9))
    assert dataset.cache.missing(dataset.places()).sum() == 5
    assert not old.exists() and new.exists()
