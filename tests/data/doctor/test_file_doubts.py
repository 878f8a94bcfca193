"""Doubts about image files: repeated ones, damaged JPEGs, several pages; at the start and by the loader."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from maskrcnn.data import CocoDataset, SyntheticConfig, eval_loader
from maskrcnn.data.doctor import DOUBTS, Doubt, find_doubts, split_doubts
from maskrcnn.data.doctor.file_doubts import damage_doubt, page_doubt, repeated_file_doubt
from maskrcnn.data.doctor.overhear import overhear
from maskrcnn.data.doctor.page_count import count_pages
from maskrcnn.data.doctor.split_doubts import repeated_split_doubt
from tests.data.doctor.test_doubts import sound
from tests.data.files import SIZE, write_coco


def damaged_jpeg(height: int = SIZE[0], width: int = SIZE[1]) -> bytes:
    """A JPEG with a hole in its middle, that decodes with a warning."""
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    middle = len(whole) * 3 // 4
    return whole[: middle - 100] + whole[middle + 100 :]


def pages(kind: str, count: int) -> bytes:
    """An image file of ``count`` frames or pages."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)) for _ in range(count)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=count > 1, append_images=frames[1:])
    return file.getvalue()


def with_files(folder: Path, files: dict[str, bytes]) -> CocoDataset:
    """:func:`sound` with the first images replaced by files of these names and contents."""
    content = sound()
    for image, name in zip(content["images"], files, strict=False):
        image["file_name"] = name
    paths = write_coco(
        folder, {**content, "images": [i for i in content["images"] if i["file_name"] not in files]}
    )
    paths[1].write_text(json.dumps(content))
    for name, data in files.items():
        (paths[0] / name).write_bytes(data)
    return CocoDataset(*paths)


def test_one_file_under_two_ids_is_told(tmp_path: Path) -> None:
    content = sound()
    content["images"][2]["file_name"] = "./0.png"
    content["images"][3]["file_name"] = "sub\\..\\1.png"
    index = CocoDataset(*write_coco(tmp_path, content)).index
    doubt = repeated_file_doubt(index)
    assert doubt is not None
    assert (doubt.count, doubt.total, doubt.ids) == (2, 2, (10, 30, 20, 40))
    assert "0.png: images 10 and 30" in str(doubt) and "the annotations of 2 of them are parted" in str(doubt)
    # The advice: one id a file.
    for annotation in content["annotations"]:
        annotation["image_id"] = {30: 10, 40: 20}.get(annotation["image_id"], annotation["image_id"])
    content["images"] = content["images"][:2]
    assert repeated_file_doubt(CocoDataset(*write_coco(tmp_path, content)).index) is None


def two_sets(tmp_path: Path) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
    """Train and val with images of noise, all different."""
    rng = np.random.default_rng(0)
    paths = []
    for split in ("train", "val"):
        images, file = write_coco(tmp_path / split, sound())
        for path in sorted(images.iterdir()):
            cv2.imwrite(str(path), rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
        paths.append((images, file))
    return paths[0], paths[1]


def test_val_that_repeats_train_is_told(tmp_path: Path) -> None:
    train_paths, val_paths = two_sets(tmp_path)
    train, val = CocoDataset(*train_paths, training=True), CocoDataset(*val_paths)
    assert repeated_split_doubt(train, val) is None
    # The same files, by another way to their folder.
    again = repeated_split_doubt(
        train, CocoDataset(tmp_path / "val" / ".." / "train" / "images", val_paths[1])
    )
    assert again is not None
    assert (again.count, again.total, again.ids) == (4, 4, (10, 20, 30, 40))
    # Files of the same content.
    shutil.copy(train_paths[0] / "2.png", val_paths[0] / "1.png")
    copied = repeated_split_doubt(train, val)
    assert copied is not None
    assert (copied.count, copied.ids) == (1, (20,))
    assert "image 20 has the bytes of image 30" in str(copied)


def test_files_are_found_by_the_names_that_windows_gives_them(tmp_path: Path) -> None:
    train_paths, val_paths = two_sets(tmp_path)
    shutil.copy(train_paths[0] / "2.png", val_paths[0] / "1.png")
    (train_paths[0] / "3.png").write_bytes(pages("png", 2))
    for images, file in (train_paths, val_paths):
        content = json.loads(file.read_text())
        (images / "sub").mkdir()
        for image in content["images"]:
            shutil.move(images / image["file_name"], images / "sub")
            image["file_name"] = f"sub\\{image['file_name']}"
        file.write_text(json.dumps(content))
    train = CocoDataset(*train_paths, training=True)
    copied = repeated_split_doubt(train, CocoDataset(*val_paths))
    assert copied is not None and copied.ids == (20,)
    paged = page_doubt(train)
    assert paged is not None and paged.ids == (40,)


def test_files_that_are_only_of_one_size_are_not_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_paths, val_paths = two_sets(tmp_path)
    for folder in (train_paths[0], val_paths[0]):
        for path in folder.iterdir():
            data = path.read_bytes()
            path.write_bytes(data.ljust(10_000, str(path)[-40:].encode()[-1:]))
    same = (val_paths[0] / "0.png").read_bytes()
    (train_paths[0] / "0.png").write_bytes(same[:-1] + b"?")  # the middles are the same, the ends are not
    train, val = CocoDataset(*train_paths, training=True), CocoDataset(*val_paths)
    assert repeated_split_doubt(train, val) is None
    (train_paths[0] / "0.png").write_bytes(same)
    assert repeated_split_doubt(train, val) is not None
    monkeypatch.setattr(split_doubts, "MOST_PIECES", 7)  # eight would have to be read
    assert repeated_split_doubt(train, val) is None


def test_empty_pictures_may_be_alike(tmp_path: Path) -> None:
    train_paths, val_paths = two_sets(tmp_path)
    shutil.copy(train_paths[0] / "2.png", val_paths[0] / "1.png")
    content = json.loads(val_paths[1].read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 20]
    val_paths[1].write_text(json.dumps(content))
    assert repeated_split_doubt(CocoDataset(*train_paths), CocoDataset(*val_paths)) is None


def test_a_jpeg_that_is_damaged_inside_is_named_at_the_start(tmp_path: Path) -> None:
    good = cv2.imencode(".jpg", np.full((*SIZE, 3), 90, np.uint8))[1].tobytes()
    dataset = with_files(tmp_path, {"a.jpg": good, "b.jpg": damaged_jpeg()})
    doubt = damage_doubt(dataset)
    assert doubt is not None
    assert (doubt.count, doubt.total, doubt.ids) == (1, 2, (20,))
    assert "image 20: b.jpg" in str(doubt) and "Corrupt JPEG data" in str(doubt)
    (tmp_path / "images" / "b.jpg").write_bytes(good)
    assert damage_doubt(dataset) is None


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_names_each_damaged_or_many_paged_image_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    dataset = with_files(tmp_path, {"a.jpg": damaged_jpeg(), "b.gif": pages("gif", 3)})
    for _ in range(2):
        assert sum(len(b) for b in eval_loader(dataset, [], workers=workers)) == 4
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 2
    assert "image 10: a.jpg is damaged inside" in said[0] and "Corrupt JPEG data" in said[0]
    assert "image 20: b.gif holds 3 frames or pages, of which the first alone is read" in said[1]


def test_what_was_told_at_the_start_is_not_told_by_the_loader(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = with_files(tmp_path, {"a.jpg": damaged_jpeg(), "b.gif": pages("gif", 3)})
    assert [d.kind for d in find_doubts(dataset, None)] == ["several pages", "damaged images"]
    assert len(list(eval_loader(dataset, []))) == 4
    assert not caplog.records


def test_of_many_images_the_first_few_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = with_files(tmp_path, {})
    for image_id in range(20):
        dataset.report.doubt("pages", image_id, "x.gif holds 2")
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 5
    assert said[4].endswith("image 4: x.gif holds 2 (5 images so far; further ones are not named)")


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_pages_are_counted(tmp_path: Path, kind: str, count: int) -> None:
    data = pages(kind, count)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(data)
    assert count_pages(path) == count
    for cut in range(0, len(data), max(len(data) // 50, 1)):  # nothing raises, whatever is left of it
        path.write_bytes(data[:cut])
        assert 1 <= count_pages(path) <= count
    (tmp_path / "x.jpg").write_bytes(data)
    assert count_pages(tmp_path / "x.jpg") == 1
    assert count_pages(tmp_path / f"missing.{kind}") == 1


def test_smaller_copies_and_masks_in_a_tiff_are_no_pages(tmp_path: Path) -> None:
    path = tmp_path / "x.tiff"
    page, other = (Image.fromarray(np.full((*SIZE, 3), v, np.uint8)) for v in (10, 20))
    other.encoderinfo = {"tiffinfo": {254: 1}}
    page.save(path, save_all=True, append_images=[other])
    assert Image.open(path).n_frames == 2
    assert count_pages(path) == 1


def test_many_paged_files_are_named_at_the_start(tmp_path: Path) -> None:
    dataset = with_files(tmp_path, {"a.tif": pages("tiff", 4), "b.png": pages("png", 1)})
    doubt = page_doubt(dataset)
    assert doubt is not None
    assert (doubt.count, doubt.total, doubt.names) == (1, 4, ("a.tif: 4",))


def test_what_others_write_to_standard_error_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with overhear() as heard:
        os.write(2, b"Corrupt JPEG data: bad Huffman code\nlibpng warning: of something\n")
        os.write(2, b"Corrupt JPEG data: bad ICC marker\n")
    assert heard == ["Corrupt JPEG data: bad Huffman code"]
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "libpng warning: of something\nafter\n"
    with pytest.raises(RuntimeError, match="inside"), overhear() as heard:  # noqa: PT012 - the write is the point
        os.write(2, b"Corrupt JPEG data: 3 extraneous bytes\n")
        raise RuntimeError("inside")
    assert len(heard) == 1


def test_threads_hear_their_own(tmp_path: Path) -> None:
    data = np.frombuffer(damaged_jpeg(), np.uint8)
    whole = np.frombuffer(cv2.imencode(".jpg", np.zeros((9, 9, 3), np.uint8))[1].tobytes(), np.uint8)
    wrong: list[Any] = []

    def work(image: np.ndarray, expected: int) -> None:
        for _ in range(30):
            with overhear() as heard:
                cv2.imdecode(image, cv2.IMREAD_COLOR)
            if len(heard) != expected:
                wrong.append(heard)

    threads = [threading.Thread(target=work, args=a) for a in ((data, 1), (whole, 0), (data, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_doubt_about_generated_data(tmp_path: Path) -> None:
    sets = [
        SyntheticConfig(root=tmp_path, split=split, num_images=24, size=96).build(split == "train")
        for split in ("train", "val")
    ]
    assert list(find_doubts(*sets)) == []


@pytest.mark.parametrize("name", ["coco", "nuclei"])
def test_no_doubt_about_real_data(shared_data: Callable[[str], Path], name: str) -> None:
    root = shared_data(name)
    year, folder = ("2017", "annotations/") if name == "coco" else ("", "")
    train, val = (
        CocoDataset(
            root / f"{split}{year}", root / f"{folder}instances_{split}{year}.json", training=split == "train"
        )
        for split in ("train", "val")
    )
    # An excerpt does not have all of COCO's classes: a line a set says so.
    assert {d.kind for d in find_doubts(train, val)} <= ({"class without annotations"} if year else set())
    assert len(list(find_doubts(train, val))) == (2 if year else 0)


def test_doubts_are_told_of_both_sets(tmp_path: Path) -> None:
    train_paths, _ = two_sets(tmp_path)
    train = CocoDataset(*train_paths, training=True)
    content = sound()
    content["annotations"][0]["bbox"] = [50, 30, 5, 5]
    val = CocoDataset(*write_coco(tmp_path / "val", content))
    found = list(find_doubts(train, val))
    assert [(d.kind, d.where) for d in found] == [("box disagrees with mask", str(val.annotation_file))]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="worker processes are not forked here")
def test_a_forked_process_listens_at_a_file_of_its_own() -> None:
    def file() -> int:
        with overhear():
            return os.fstat(2).st_ino

    assert file() == file()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(file()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = int(os.read(reading, 100))
    os.close(reading)
    os.close(writing)
    assert theirs != file()


def test_a_plugin_adds_a_doubt_about_any_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for each data set, and told which one trains; one of no json is none of ours' business."""

    def alone(dataset: Any, train: Any) -> list[Doubt]:
        place = "train" if dataset is train else "val"
        return [
            Doubt(
                "alone",
                place,
                "images",
                len(dataset),
                len(dataset),
                "images",
                (),
                (),
                "little is learned",
                "add more",
            )
        ]

    monkeypatch.setitem(DOUBTS._entries, "alone", alone)
    found = list(find_doubts([0], [0, 1]))  # type: ignore[arg-type]
    assert [(d.where, d.count) for d in found] == [("train", 1), ("val", 2)]
    assert str(found[0]) == "train: images: 1 of 1 images; little is learned; add more"
    assert [d.where for d in find_doubts(None, [0])] == ["val"]  # type: ignore[arg-type]
