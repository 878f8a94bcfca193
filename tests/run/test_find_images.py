"""Which images a command line stands for, and what is told about the rest."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from maskrcnn.errors import UserError
from maskrcnn.run.find_images import ImagePage, find_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("b.png", "a.JPG", "x.gif", "y.heic", "z.txt", "seq1/1.png", "seq1/deep/1.png", "seq2/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "not_a_file.png").mkdir()
    return folder


def test_a_folder_says_what_it_passed_over(photos: Path) -> None:
    found = find_images([str(photos)])
    assert [p.name for p in found.names] == ["a.JPG", "b.png"]
    (note,) = found.notes
    assert note.startswith(f"{photos}: 2 images; passed over 3 files: x.gif, y.heic, z.txt of another kind")
    assert "3 folders: not_a_file.png, seq1, seq2 (take them with --recursive)" in note


def test_recursive_takes_what_the_note_named(photos: Path) -> None:
    found = find_images([str(photos)], recursive=True)
    assert list(found.names.values()) == ["a", "b", "seq1__1", "seq1__deep__1", "seq2__1"]
    assert "folder" not in found.notes[0].removeprefix(str(photos))
    (photos / "seq1" / "loop").symlink_to(photos)
    linked = find_images([str(photos)], recursive=True)
    assert linked.names == found.names
    assert f"1 folder: {Path('seq1/loop')} (links are not followed" in linked.notes[0]


def test_a_sound_folder_has_nothing_to_say(photos: Path) -> None:
    assert find_images([str(photos / "seq2")]).notes == []


def test_many_others_are_counted_and_few_named(tmp_path: Path) -> None:
    for i in range(3000):
        (tmp_path / f"{i:04d}.txt").touch()
    with pytest.raises(
        UserError, match=r"no images in this folder \(passed over 3000 files: 0000.txt"
    ) as caught:
        find_images([str(tmp_path)])
    assert "0004.txt, ..." in str(caught.value)
    assert "0005.txt" not in str(caught.value)


def test_names_say_where_images_of_several_inputs_come_from(photos: Path) -> None:
    both = find_images([str(photos / "seq1"), str(photos / "seq2"), str(photos / "b.png")])
    assert list(both.names.values()) == ["seq1__1", "seq2__1", "b"]
    pattern = find_images([str(photos / "seq*" / "*.png"), str(photos / "seq1" / "1.png")])
    assert list(pattern.names.values()) == ["seq1__1", "seq2__1"]
    assert list(find_images([str(photos / "seq1" / "1.png")]).names.values()) == ["1"]
    apart = find_images([str(photos / "seq1" / "1.png"), str(photos / "b.png")])
    assert list(apart.names.values()) == ["1", "b"]


def test_a_pattern_drops_nothing_in_silence(photos: Path) -> None:
    (photos / "gone.png").symlink_to("nowhere")
    found = find_images([str(photos / "*.png")])
    assert [p.name for p in found.names] == ["b.png", "gone.png"]  # the link is told when it is read
    assert found.notes == [
        f"{photos}/*.png: 2 files; passed over 1 folder: {photos}/not_a_file.png (name them too)"
    ]
    with pytest.raises(UserError, match=r"no file matches this pattern, only 2 folders: .*seq1, .*seq2"):
        find_images([str(photos / "seq[12]")])
    assert len(find_images([str(photos / "seq[12]/*")]).names) == 2
    assert find_images([str(photos / "**" / "1.png")]).notes == []


def test_inputs_that_name_nothing_are_told(tmp_path: Path) -> None:
    for item, word in (
        (str(tmp_path), "no images in this folder"),
        ("nope.png", "no such image"),
        ("*.nope", "no file"),
        ("x" * 5000, "no such image"),
    ):
        with pytest.raises(UserError, match=word):
            find_images([item])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    with pytest.raises(UserError, match="the folder cannot be read"):
        find_images([str(locked)])


def test_a_list_names_files_relative_to_itself(photos: Path, tmp_path: Path) -> None:
    (photos / "take.txt").write_bytes(b"./b.png\r\n\nseq1/1.png\n" + os.fsencode(photos / "a.JPG") + b"\n")
    found = find_images([str(photos / "take.txt")])
    assert [str(p.relative_to(photos)) for p in found.names] == ["b.png", "seq1/1.png", "a.JPG"]
    assert list(found.names.values()) == ["b", "seq1__1", "a"]
    assert list(found.below.values()) == ["b.png", "seq1/1.png", "a.JPG"]
    (photos / "take.txt").write_text("b.png\nhttps://somewhere/a.png\n")
    with pytest.raises(UserError, match=r"take\.txt:2: https://somewhere/a\.png: is a URL; download it"):
        find_images([str(photos / "take.txt")])
    (photos / "take.txt").write_text("gone.png\n")
    with pytest.raises(UserError, match=r"take\.txt:1: gone\.png: there is no such file"):
        find_images([str(photos / "take.txt")])
    (photos / "take.txt").write_text("\n")
    with pytest.raises(UserError, match="names no file"):
        find_images([str(photos / "take.txt")])


def test_a_url_is_refused_with_what_to_do() -> None:
    for url in ("https://a.b/c.png?d=1", "s3://bucket/a.png", "rtsp://camera"):
        with pytest.raises(UserError, match=r"is a URL.*download it"):
            find_images([url])


def test_videos_are_apart_and_only_where_they_are_named(photos: Path) -> None:
    for name in ("clip.mp4", "b.MOV"):
        (photos / name).touch()
    assert "b.MOV, clip.mp4" in find_images([str(photos)]).notes[0]
    found = find_images([str(photos / "clip.mp4"), str(photos / "b.*")])
    assert list(found.names.values()) == ["b.png"]  # b.MOV has the name first
    assert list(found.videos.values()) == ["clip", "b"]
    assert [p.name for p in found.videos] == ["clip.mp4", "b.MOV"]


def test_pages_of_a_tiff_are_images_but_not_its_smaller_copies(tmp_path: Path) -> None:
    stack, pyramid, single = (tmp_path / f"{name}.tif" for name in ("stack", "pyramid", "single"))
    pixels = np.zeros((2, 8, 8), dtype=np.uint8)
    tifffile.imwrite(stack, pixels, photometric="minisblack")
    with tifffile.TiffWriter(pyramid) as file:
        file.write(pixels[0])
        file.write(pixels[0, ::2, ::2], subfiletype=1)
    tifffile.imwrite(single, pixels[0])
    found = find_images([str(tmp_path)])
    pages = [ImagePage(stack, 0), ImagePage(stack, 1)]
    assert list(found.names.items()) == [
        (pyramid, "pyramid"),
        (single, "single"),
        *zip(pages, ["stack_0", "stack_1"], strict=True),
    ]
    assert found.below[pages[1]] == "stack.tif[1]" == pages[1].__str__().removeprefix(f"{tmp_path}{os.sep}")
    assert found.notes == [f"1 TIFF: {stack} of several pages, each an image"]
    assert stack in find_images([str(tmp_path)], pages=False).names
