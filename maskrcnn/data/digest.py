"""A data set's content as a few digits, so that a run that goes on can say that its data changed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from maskrcnn.data.image_files import file_size

#: Images whose sizes are read, evenly over the set: COCO's 118,000 would take a minute on a network's disk.
_MOST_SIZES = 2000
_CHUNK = 2**24


def coco_digest(
    annotations: Path | bytes, images: Path, file_names: Sequence[str], others: Sequence[Path] = ()
) -> str:
    """Sixteen hex digits over a COCO data set; equal for equal content, wherever it lies.

    The annotation file's bytes decide, the number of images, and the sizes in bytes of 2,000 of their files
    (all of them, in smaller sets).  An image that was replaced by another of the same size is not noticed.

    Args:
        annotations: the json; of records that lie in none, a digest.
        images: folder that ``file_names`` are relative to.
        file_names: of all images.
        others: further files that belong to the set (proposals); their sizes count.

    Raises:
        OSError: the annotation file cannot be read.
    """
    digest = hashlib.sha256()
    with io.BytesIO(annotations) if isinstance(annotations, bytes) else annotations.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    digest.update(f"\0{len(file_names)}\0".encode())
    every = max(1, -(-len(file_names) // _MOST_SIZES))
    for name in file_names[::every]:
        digest.update(f"{name}\0{file_size(images / name)}\0".encode("utf-8", "surrogatepass"))
    for path in others:
        digest.update(f"{file_size(path)}\0".encode())
    return digest.hexdigest()[:16]
