"""Doubts that take opening every image: each kind in a data set that is spoilt in that way alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from maskrcnn.data import CocoDataset
from maskrcnn.data.doctor import Doubt, copy_doubts, find_doubts, image_doubts
from maskrcnn.data.doctor.look import Look, image_form
from tests.data.doctor.scenes import SIZE, content, dataset, scene, write
from tests.data.doctor.test_file_doubts import damaged_jpeg
from tests.data.files import palette_png, with_exif

Spoil = Callable[[Path], None]


def doubts(folder: Path, spoil: Spoil | None = None, **options: str) -> list[Doubt]:
    """Of six images, of which ``spoil`` is given the third's file."""
    images, annotations = write(folder)
    if spoil is not None:
        spoil(images / "003.png")
    data = CocoDataset(images, annotations, on_error="skip", **options)
    return list(find_doubts(data, None, Look(workers=0)))


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def encoded(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def pil(path: Path, mode: str, kind: str) -> None:
    PIL.Image.fromarray(scene(3)[..., ::-1]).convert(mode).save(path, format=kind)


def transparent(path: Path) -> None:
    alpha = np.dstack([scene(3), np.tile(np.arange(SIZE[1], dtype=np.uint8), (SIZE[0], 1))])
    put(path, encoded(".png", alpha))


def deep(path: Path, highest: int) -> None:
    wide = scene(3).astype(np.uint32) * highest // 255
    put(path, encoded(".png", wide.astype(np.uint16)))


@pytest.mark.parametrize(
    ("spoil", "kind", "said"),
    [
        (lambda p: put(p, p.read_bytes()[:-40]), "unreadable image", "truncated"),
        (lambda p: p.unlink(), "unreadable image", "there is no such image file"),
        (lambda p: put(p, encoded(".png", scene(3).transpose(1, 0, 2))), "size differs", "96x128 pixels"),
        (lambda p: put(p, damaged_jpeg(*SIZE)), "damaged images", "Corrupt JPEG data"),
        (
            lambda p: put(p, with_exif(encoded(".jpg", scene(3)), 3)),
            "turned by EXIF",
            "set exif: false on the data set",
        ),
        (lambda p: pil(p, "L", "PNG"), "gray among colour", "gray images among colour ones"),
        (lambda p: put(p, palette_png(np.tile(np.arange(128), (96, 1)), [(k, 9, 9) for k in range(128)])),
         "palette images", "files of labels"),
        (lambda p: pil(p, "CMYK", "JPEG"), "CMYK images", "store them as RGB"),
        (transparent, "further channels", "data.channels"),
        (lambda p: deep(p, 4095), "few bits of 16", "only 12 are used"),
        (lambda p: deep(p, 65535), "16 bits scaled", "sixteen_bit: keep"),
    ],
)  # fmt: skip
def test_each_kind_is_told(tmp_path: Path, spoil: Spoil, kind: str, said: str) -> None:
    (doubt,) = doubts(tmp_path, spoil)
    assert (doubt.kind, doubt.every, doubt.count, doubt.total) == (kind, (3,), 1, 6)
    assert said in str(doubt) and doubt.cost and doubt.advice


def test_sound_images_raise_none(tmp_path: Path) -> None:
    assert doubts(tmp_path) == []


def test_what_advice_ends_is_ended(tmp_path: Path) -> None:
    assert doubts(tmp_path / "a", lambda p: deep(p, 65535), sixteen_bit="keep") == []
    assert doubts(tmp_path / "b", lambda p: put(p, encoded(".png", scene(3)))) == []


def test_opaque_alpha_is_no_doubt(tmp_path: Path) -> None:
    opaque = np.dstack([scene(3), np.full(SIZE, 255, np.uint8)])
    assert doubts(tmp_path, lambda p: put(p, encoded(".png", opaque))) == []


def test_huge_images_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_doubts, "HUGE", SIZE[0] * SIZE[1] - 1)
    (doubt,) = doubts(tmp_path)
    assert (doubt.kind, doubt.count) == ("huge images", 6)


def test_forms_of_files() -> None:
    rgb16 = encoded(".tiff", scene(1).astype(np.uint16) * 257)
    assert image_form(rgb16) == ("colour", 16, int(scene(1).max()) * 257)
    assert image_form(encoded(".png", scene(1)[..., 0])) == ("gray", 8, -1)
    assert image_form(encoded(".jpg", scene(1))) == ("colour", 8, -1)
    assert image_form(b"no image") == ("", 8, -1)


def test_copies_are_told_with_what_they_copy(tmp_path: Path) -> None:
    (doubt,) = doubts(tmp_path, lambda p: put(p, (p.parent / "001.png").read_bytes()))
    assert (doubt.kind, doubt.every, doubt.others) == ("image twice", (3,), (1,))
    assert "image 3 is image 1" in str(doubt)


def two_sets(folder: Path, name: str, image: np.ndarray) -> tuple[CocoDataset, CocoDataset]:
    """Training images, and validation images of which the second, number 102, is ``image``."""
    train = dataset(folder / "a")
    source = content(3, 101)
    source["images"][1]["file_name"] = name
    images, path = write(folder / "b", source)
    cv2.imwrite(str(images / name), image)
    return train, CocoDataset(images, path)


def test_near_duplicates_across_the_sets_are_told(tmp_path: Path) -> None:
    pytest.importorskip("imagehash", reason="imagehash is not installed")
    brighter = cv2.GaussianBlur(np.clip(scene(4).astype(int) + 12, 0, 255).astype(np.uint8), (3, 3), 0)
    train, val = two_sets(tmp_path, "102.jpg", brighter)
    (doubt,) = find_doubts(train, val, Look(workers=0))
    assert (doubt.kind, doubt.every, doubt.others) == ("val near train", (102,), (4,))
    assert "image 102 looks like 4 (004.png)" in str(doubt)


def test_the_same_pixels_in_another_file_are_near(tmp_path: Path) -> None:
    train, val = two_sets(tmp_path, "102.bmp", scene(4))
    (doubt,) = find_doubts(train, val, Look(workers=0))
    assert (doubt.kind, doubt.every, doubt.others) == ("val near train", (102,), (4,))


def test_other_images_and_images_without_detail_are_not_near(tmp_path: Path) -> None:
    flat = np.full((*SIZE, 3), 90, np.uint8)
    train, val = two_sets(tmp_path, "102.png", flat)
    cv2.imwrite(str(train.path(2)), flat + 1)
    assert list(find_doubts(train, val, Look(workers=0))) == []


def test_without_imagehash_it_is_said_what_was_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_doubts, "installed", lambda module: False)
    train, val = two_sets(tmp_path, "102.png", scene(102))
    look = Look(workers=0)
    assert list(find_doubts(train, val, look)) == []
    # Without shapely the self-overlaps are told, too.
    skipped = [s.partition(" (")[0] for s in look.skipped]
    assert "near-duplicates across training and validation" in skipped


def test_processes_find_what_one_finds_and_tell_their_progress(tmp_path: Path) -> None:
    data = dataset(tmp_path, content(20))
    told: list[tuple[int, int]] = []
    several = Look(lambda done, total: told.append((done, total)), workers=2)
    assert several.facts(data) == Look(workers=0).facts(data)
    assert several.facts(data) is several.facts(data)
    assert told[-1] == (20, 20) and len(told) == 3
