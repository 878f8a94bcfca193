"""Every image of a data set opened once, by several processes; a few hundred bytes are kept of each."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.image_files import open_image
from maskrcnn.data.image_header import parse_header
from maskrcnn.data.interfaces import Dataset
from maskrcnn.data.workers import POLL, WorkerStart, iterate
from maskrcnn.errors import DataError
from maskrcnn.structures.samples import Image

#: Side of the gray thumbnail by which a pair of like images is confirmed.
THUMB = 16
#: Processes that open images; the decoder is fast, and the disk is one.
_MOST_WORKERS = 8
#: PNG's colour types (ISO/IEC 15948, table 11.1), with the number of channels.
_PNG = {0: ("gray", 1), 2: ("colour", 3), 3: ("palette", 1), 4: ("alpha", 2), 6: ("alpha", 4)}
#: TIFF 6.0, section 8; Pillow's modes hide it.
_BITS_PER_SAMPLE = 258
#: Pillow's modes that tell more than a number of channels.
_MODES = {
    "1": ("gray", 1),
    "L": ("gray", 1),
    "P": ("palette", 1),
    "LA": ("alpha", 2),
    "PA": ("alpha", 2),
    "RGB": ("colour", 3),
    "RGBA": ("alpha", 4),
    "CMYK": ("CMYK", 4),
}


@dataclass(frozen=True)
class ImageFacts:
    """What one image file holds.

    fault: why it cannot be used; empty where it can.  Then all else is as by default.
    other_size: the fault is that it has another size than the json says.
    form: ``gray``, ``colour``, ``palette``, ``alpha``, ``CMYK``, ``many`` channels, or empty where unknown.
    bits: a channel, as stored.  highest: the largest value as stored, of more than 8 bits a channel; else -1.
    orientation: EXIF's, 1 to 8.
    damage: what the decoder said of damaged data that it decoded all the same.
    digest: of the pixels as they are read.
    hash: the perceptual hash, 64 bits; -1 where it means nothing (images without detail) or is not computed.
    thumb: uint8 [THUMB * THUMB], gray.
    """

    fault: str = ""
    other_size: bool = False
    form: str = ""
    bits: int = 8
    highest: int = -1
    orientation: int = 1
    damage: str = ""
    digest: bytes = b""
    hash: int = -1
    thumb: bytes = b""


class Look:
    """Looks at data sets, each once, and remembers what could not be looked for.

    Args:
        progress: called with the number of images that are done, and that there are.
        workers: processes; None: as many as there are cores, at most 8.
    """

    def __init__(
        self, progress: Callable[[int, int], None] = lambda done, total: None, workers: int | None = None
    ) -> None:
        self._progress = progress
        self._workers = min(_MOST_WORKERS, os.cpu_count() or 1) if workers is None else workers
        self._known: dict[int, tuple[Dataset, list[ImageFacts]]] = {}
        self.skipped: list[str] = []

    def facts(self, dataset: CocoDataset) -> list[ImageFacts]:
        """Of every image of ``dataset``, in its order."""
        if id(dataset) not in self._known:
            self._known[id(dataset)] = dataset, self._look(dataset)
        return self._known[id(dataset)][1]

    def skip(self, sentence: str) -> None:
        """Remember what was not looked for, and why."""
        if sentence not in self.skipped:
            self.skipped.append(sentence)

    def _look(self, dataset: CocoDataset) -> list[ImageFacts]:
        workers = self._workers if len(dataset) > 4 * self._workers else 0
        loader: DataLoader[Any] = DataLoader(
            _Looks(dataset),
            batch_size=8,
            collate_fn=list,
            num_workers=workers,
            worker_init_fn=WorkerStart(),
            timeout=POLL if workers else 0,
        )
        found: list[ImageFacts] = []
        with closing(iterate(loader, lambda: False)) as source:
            for facts in source:
                found += facts
                self._progress(len(found), len(dataset))
        return found


class _Looks(TorchDataset[ImageFacts]):
    """The facts of image i."""

    def __init__(self, dataset: CocoDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, i: int) -> ImageFacts:
        return look_at(self._dataset, i)


def look_at(dataset: CocoDataset, i: int) -> ImageFacts:
    """Image ``i`` of the data set, read as training reads it."""
    path = dataset.path(i)
    try:
        sample = dataset.load(i)
    except DataError as error:
        size = stored_size(path, dataset.exif)
        return ImageFacts(fault=str(error), other_size=size not in (None, tuple(dataset.sizes[i].tolist())))
    data = _bytes(path)
    form, bits, highest = image_form(data)
    header = parse_header(data)
    hashed, thumb = perceptual_hash(sample.image)
    return ImageFacts(
        form=form,
        bits=bits,
        highest=highest,
        orientation=1 if header is None else header.orientation,
        damage=next((note.words for note in sample.notes if note.kind == "damaged"), ""),
        digest=hashlib.blake2b(np.ascontiguousarray(sample.image).tobytes(), digest_size=8).digest(),
        hash=hashed,
        thumb=thumb,
    )


def image_form(data: bytes) -> tuple[str, int, int]:
    """Form, bits a channel and, beyond 8, the largest value of an image file; see :class:`ImageFacts`."""
    form, channels, bits = "", 0, 8
    if data.startswith(b"\x89PNG") and len(data) > 26:
        bits, (form, channels) = max(data[24], 8), _PNG.get(data[25], ("", 0))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size: the reader has a limit of its own
            try:
                with PIL.Image.open(io.BytesIO(data)) as image:
                    form, channels = _MODES.get(image.mode, ("", 0))
                    bits = max((8, *getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())))
            except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
                pass
    if bits <= 8 and form not in ("", "alpha"):
        return form, 8, -1
    stored = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None:
        return form, bits, -1
    channels = channels or (1 if stored.ndim == 2 else stored.shape[2])
    bits = 8 * stored.dtype.itemsize
    if form == "alpha" and stored.ndim == 3 and stored[..., -1].min() == 2**bits - 1:
        form = "colour" if channels == 4 else "gray"  # nothing shows through
    form = form or {1: "gray", 3: "colour"}.get(channels, "many")
    return form, bits, int(stored.max()) if bits > 8 else -1


def perceptual_hash(image: Image) -> tuple[int, bytes]:
    """The DCT hash of 64 bits (imagehash's ``phash``), -1 where it is not installed or means nothing; the
    thumbnail.

    image: [H, W, C].
    """
    gray = image[..., :3].astype(np.float32).mean(2)
    small = cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA)
    thumb = np.clip(cv2.resize(small, (THUMB, THUMB), interpolation=cv2.INTER_AREA), 0, 255).astype(np.uint8)
    try:
        import imagehash
    except ImportError:
        return -1, thumb.tobytes()
    if small.std() < 2.0:  # gray values: noise alone decides the hash
        return -1, thumb.tobytes()
    found = imagehash.phash(PIL.Image.fromarray(np.clip(small, 0, 255).astype(np.uint8)))
    return int(str(found), 16), thumb.tobytes()


def stored_size(path: Path, exif: bool) -> tuple[int, int] | None:
    """(height, width) of a file as it would be read; None where it does not say."""
    data = _bytes(path)
    header = parse_header(data)
    if header is not None:
        return header.size(exif)
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except Exception:  # whatever a damaged file makes of Pillow
        return None


def _bytes(path: Path) -> bytes:
    try:
        with open_image(path) as file:
            return file.read()
    except (OSError, ValueError):
        return b""


def installed(module: str) -> bool:
    """Whether an optional module is there."""
    return find_spec(module) is not None
