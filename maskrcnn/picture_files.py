"""Pictures, label images and videos as files, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn.errors import OutputError
from maskrcnn.files import replacing, temporary_beside, unwritten, write_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def encode_png(image: npt.NDArray[np.uint8], compression: int | None = None) -> bytes:
    """uint8 [H, W, 3] RGB as a PNG; ``compression`` from 0 (fast) to 9 (small), None: OpenCV's own choice.

    Raises:
        OutputError: OpenCV makes no PNG of it.
    """
    import cv2

    options = [] if compression is None else [cv2.IMWRITE_PNG_COMPRESSION, compression]
    made, png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not made:
        raise OutputError(f"OpenCV cannot make a PNG of {image.shape[1]} x {image.shape[0]} pixels")
    return png.tobytes()


def encode_jpeg(image: npt.NDArray[np.uint8], quality: int) -> bytes:
    """uint8 [H, W, 3] RGB as a JPEG; ``quality`` from 0 (small) to 100 (close to it).

    Raises:
        OutputError: OpenCV makes no JPEG of it.
    """
    import cv2

    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    made, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not made:
        raise OutputError(f"OpenCV cannot make a JPEG of {image.shape[1]} x {image.shape[0]} pixels")
    return jpeg.tobytes()


def encode_labels(labels: npt.NDArray[Any], kind: str = ".png") -> bytes:
    """A label image [H, W] of 16 bits as a PNG or a TIFF (``.tiff``).

    Raises:
        OutputError: it has more bits, or OpenCV makes no such file of it.
    """
    import cv2

    if labels.dtype.itemsize > 2:
        raise OutputError(f"an image of 16 bits numbers 65535 objects, and there are {labels.max()}")
    made, data = cv2.imencode(kind, labels)
    if not made:
        raise OutputError(f"OpenCV cannot make a {kind} of {labels.shape[1]} x {labels.shape[0]} pixels")
    return data.tobytes()


def write_image(path: Path, image: npt.NDArray[np.uint8], *, compression: int | None = None) -> None:
    """uint8 [H, W, 3] RGB as a PNG, as :func:`write_bytes` (OpenCV takes no names that are not UTF-8)."""
    write_bytes(path, encode_png(image, compression))


def write_tiled_tiff(
    path: Path, tiles: Iterator[npt.NDArray[np.uint32]], size: tuple[int, int], side: int
) -> None:
    """uint32 [H, W] as a TIFF of tiles of ``side`` pixels, given row by row, as :func:`write_bytes`.

    size: (height, width).

    Raises:
        OutputError: as there; or the tifffile library is missing.
    """
    try:
        import tifffile  # optional
    except ImportError:
        raise OutputError(
            f"{path}: label images of 32 bits are written by the tifffile library: pip install maskrcnn[tiff]"
        ) from None
    options: dict[str, Any] = {"tile": (side, side), "compression": "zlib", "photometric": "minisblack"}
    options |= {"shape": size, "dtype": "uint32", "bigtiff": size[0] * size[1] * 4 > 1 << 31}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            tifffile.imwrite(file, tiles, **options)
    except OSError as error:
        raise unwritten(path, error) from None


@contextlib.contextmanager
def writing_video(
    path: Path, rate: float, height: int, width: int
) -> Iterator[Callable[[npt.NDArray[np.uint8]], object]]:
    """A video (MPEG-4, without sound) that grows by uint8 [H, W, 3] RGB frames while the body runs, and takes
    the place of ``path`` when that ends well; else it goes.

    rate: frames a second.

    Raises:
        OutputError: it cannot be written; ``path`` is then as it was.
    """
    import cv2

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY) if not str(path.parent).isascii() else -1
    except OSError as error:
        raise unwritten(path, error) from None
    # OpenCV takes no folder whose name is not UTF-8; one that is open has another name.
    temporary = path.with_name(f"{temporary_beside(path).name}.mp4")
    plain = temporary if folder < 0 else Path(f"/dev/fd/{folder}") / temporary.name
    writer = cv2.VideoWriter(os.fspath(plain), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    try:
        if not writer.isOpened():
            raise OutputError(
                f"{path}: OpenCV cannot write a video of {width} x {height} pixels here; check the folder, or"
                " write pictures of frames in its place"
            )
        yield lambda frame: writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        temporary.replace(path)
    except OSError as error:
        raise unwritten(path, error) from None
    finally:
        writer.release()
        temporary.unlink(missing_ok=True)
        if folder >= 0:
            os.close(folder)
