"""Frames of a video file, or of a camera, by OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2

from maskrcnn.data.file_names import shown
from maskrcnn.data.image_files import open_image
from maskrcnn.errors import DataError
from maskrcnn.structures.samples import Image

#: Frames a second where a file does not say.
_RATE = 25.0


class Camera(Protocol):
    """What is used of a ``cv2.VideoCapture``: of a file, of a camera, or of a test's own."""

    def read(self) -> tuple[bool, Any]:
        """Whether there is a further frame, and the frame: uint8 [H, W, 3] BGR."""
        ...


def frames(camera: Camera) -> Iterator[Image]:
    """uint8 [H, W, 3] RGB, until there are no more."""
    while True:
        there, frame = camera.read()
        if not there or frame is None:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class Video:
    """A video that is open.

    rate: frames a second.  count: frames that it says it has; 0 where it does not.
    """

    camera: Camera
    rate: float
    count: int


@contextmanager
def opened_video(path: Path) -> Iterator[Video]:
    """A video file of any name, open while the body runs.

    Raises:
        DataError: it is not there, or is no video that OpenCV reads.
    """
    try:
        file = open_image(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(path)}: cannot be read: {getattr(error, 'strerror', error)}") from None
    with file:
        # FFmpeg takes no name that is not UTF-8; an open file has another one.
        plain = os.fspath(path) if str(path).isascii() else f"/dev/fd/{file.fileno()}"
        camera = cv2.VideoCapture(plain if os.path.exists(plain) else os.fspath(path))  # noqa: PTH110
        try:
            if not camera.isOpened():
                raise DataError(f"{shown(path)}: is no video that OpenCV reads, or is damaged")
            rate, count = camera.get(cv2.CAP_PROP_FPS), camera.get(cv2.CAP_PROP_FRAME_COUNT)
            sound = 0 < rate < 1000  # what some files say of themselves is no rate
            yield Video(camera, rate if sound else _RATE, max(int(count), 0))
        finally:
            camera.release()
