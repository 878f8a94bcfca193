"""Videos of any name, and cameras."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data.video import frames, opened_video
from maskrcnn.errors import DataError
from maskrcnn.picture_files import writing_video


def write(path: Path, count: int = 5) -> None:
    with writing_video(path, 10.0, 48, 64) as add:
        for k in range(count):
            pixels = np.zeros((48, 64, 3), dtype=np.uint8)
            pixels[..., 0] = 40 * k  # red
            add(pixels)


@pytest.mark.parametrize(
    "name",
    [
        b"clip.mp4",
        pytest.param(
            b"caf\xe9/v\xff.mp4",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux"),
        ),
    ],
)
def test_frames_are_those_that_were_written(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    write(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with opened_video(path) as video:
        assert (video.rate, video.count) == (10.0, 5)
        found = list(frames(video.camera))
    assert [frame.shape for frame in found] == [(48, 64, 3)] * 5
    red = [int(frame[..., 0].mean()) for frame in found]
    assert np.allclose(red, [0, 40, 80, 120, 160], atol=8)
    assert max(int(frame[..., 2].mean()) for frame in found) < 10


def test_a_video_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write(path, 2)
    before = path.read_bytes()

    def break_off() -> None:
        with writing_video(path, 10.0, 48, 64) as add:
            add(np.zeros((48, 64, 3), dtype=np.uint8))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"] and path.read_bytes() == before


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"clip\.mp4: is no video"), opened_video(path):
        pass
    with pytest.raises(DataError, match=r"gone\.mp4: cannot be read"), opened_video(tmp_path / "gone.mp4"):
        pass


def test_a_camera_is_read_until_it_ends() -> None:
    class FakeCamera:
        left = 3

        def read(self) -> tuple[bool, Any]:
            self.left -= 1
            return (self.left >= 0, np.full((4, 4, 3), (1, 2, 3), dtype=np.uint8) if self.left >= 0 else None)

    found = list(frames(FakeCamera()))
    assert len(found) == 3 and found[0][0, 0].tolist() == [3, 2, 1]  # RGB
