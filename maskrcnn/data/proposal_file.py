"""Proposals from a file: what Fast R-CNN reads where the others have a region proposal network.

Our file is an uncompressed ``.npz`` of three arrays, which ``numpy.savez`` writes as well:

    image_ids   integer [N]     each id once
    counts      integer [N]     how many rows of ``proposals`` belong to each image, in this order
    proposals   float [P, 5]    x1, y1, x2, y2, score: pixels of the original frame, xyxy

It is mapped into memory, not read: the pages are shared by all workers and all processes of a machine, and
only those of the images in use are there.  20 bytes a proposal: 4.7 GB for 2000 on each image of COCO's
training set.  Anything else must be a COCO results file: a json list of {image_id, bbox, score}.
"""

from __future__ import annotations

import struct
import zipfile
from array import array
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskrcnn.data.formats.coco_json import as_id, read_json
from maskrcnn.errors import DataError, plural
from maskrcnn.files import replacing
from maskrcnn.structures import clip_boxes, large_enough

#: Rows that are checked or copied at once.
_CHUNK = 1 << 18
_ROW_BYTES = 20
_HOW = "write it by 'maskrcnn proposals'"

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class ProposalFile:
    """The proposals of many images.

    Args:
        path: our .npz, or a COCO results json.

    Raises:
        DataError: it is missing, of another format or shape, names an image twice, or holds a number that is
            not finite or a box with x2 < x1 or y2 < y1.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        ids, counts, self.rows = _read_npz(path) if _is_zip(path) else _read_coco(path)
        order = np.argsort(ids, kind="stable")
        #: int64 [N], rising.
        self.image_ids: Integers = ids[order]
        ends = np.cumsum(counts, dtype=np.int64)
        self._ends, self._starts = ends[order], (ends - counts)[order]
        repeated = self.image_ids[:-1][np.diff(self.image_ids) == 0]
        if len(repeated):
            raise DataError(
                f"{path}: image {repeated[0]} is listed twice; join its proposals under one entry"
            )
        for start in range(0, len(self.rows), _CHUNK):
            rows = self.rows[start : start + _CHUNK]
            good = np.isfinite(rows).all(1) & (rows[:, 2] >= rows[:, 0]) & (rows[:, 3] >= rows[:, 1])
            if not good.all():
                bad = start + int(np.argmin(good))
                image = ids[np.searchsorted(ends, bad, side="right")]
                raise DataError(
                    f"{path}: image {image} has the proposal {self.rows[bad].tolist()}; it must be finite"
                    " numbers x1, y1, x2, y2, score with x1 <= x2 and y1 <= y2 (not x, y, width, height)"
                )

    def __len__(self) -> int:
        return len(self.image_ids)

    def check_images(self, known: Integers, wanted: Integers, annotations: Path) -> None:
        """
        Args:
            known: the ids of all images of the data set.  wanted: of those that are used.
            annotations: the data set's file, for messages.

        Raises:
            DataError: an image that is used has no entry, or an entry is of no image of the data set.
        """
        missing = wanted[~np.isin(wanted, self.image_ids)]
        if len(missing):
            raise DataError(
                f"{self.path}: no proposals for image {missing[0]} of {annotations} ({len(missing)} of"
                f" {plural(len(wanted), 'image')} lack them); {_HOW} over the whole data set"
            )
        strange = self.image_ids[~np.isin(self.image_ids, known)]
        if len(strange):
            raise DataError(
                f"{self.path}: its image {strange[0]} is not in {annotations} ({len(strange)} of"
                f" {plural(len(self), 'image')} are not); the proposals belong to another data set"
            )

    def of(self, image_id: int, height: int, width: int, count: int) -> Tensor:
        """The best proposals of an image.

        Args:
            height, width: of the image in the original frame, pixels; the boxes are cut to it.
            count: at most so many, those of the highest scores.

        Returns:
            float32 [P, 4] xyxy, original frame, by falling score, without boxes that have no area.
        """
        place = int(np.searchsorted(self.image_ids, image_id))
        rows = torch.from_numpy(
            np.array(self.rows[self._starts[place] : self._ends[place]], dtype=np.float32)
        )
        if (rows[1:, 4] > rows[:-1, 4]).any():
            rows = rows[rows[:, 4].sort(descending=True, stable=True).indices]
        boxes = clip_boxes(rows[:, :4], height, width)
        return boxes[large_enough(boxes, 0)][:count].contiguous()


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError as error:
        raise DataError(f"{path}: the proposals cannot be read: {error.strerror}; {_HOW}") from None


def _read_npz(path: Path) -> tuple[Integers, Integers, Floats]:
    """Ids, counts and rows; the rows mapped, where they are neither compressed nor empty."""
    try:
        with np.load(path, allow_pickle=False) as content:
            missing = [n for n in ("image_ids", "counts", "proposals") if n not in content]
            if missing:
                raise DataError(f"{path}: has no array {missing[0]!r}, only {sorted(content)}; {_HOW}")
            ids, counts = content["image_ids"], content["counts"]
            mapped = _map_member(path, "proposals.npy")
            rows = content["proposals"] if mapped is None else mapped
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is damaged, or no file of proposals: {error}; {_HOW} again") from None
    if (
        ids.ndim != 1
        or ids.shape != counts.shape
        or ids.dtype.kind not in "iu"
        or counts.dtype.kind not in "iu"
    ):
        raise DataError(
            f"{path}: 'image_ids' and 'counts' must be integers of one length, they are"
            f" {ids.dtype} {list(ids.shape)} and {counts.dtype} {list(counts.shape)}"
        )
    if rows.ndim != 2 or rows.shape[1] != 5 or rows.dtype.kind != "f":
        raise DataError(f"{path}: 'proposals' must be float [P, 5], it is {rows.dtype} {list(rows.shape)}")
    if (counts < 0).any() or int(counts.sum()) != len(rows):
        raise DataError(
            f"{path}: 'counts' add up to {int(counts.sum())}, but there are {plural(len(rows), 'proposal')}"
        )
    return ids.astype(np.int64), counts.astype(np.int64), rows


def _map_member(path: Path, name: str) -> npt.NDArray[Any] | None:
    """A stored array of an .npz, mapped in place; None where it is compressed, empty or stored by columns."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        with archive.open(info) as member:
            major, _ = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(member)
            header = member.tell()
    if fortran or 0 in shape:
        return None
    with path.open("rb") as file:  # a zip's local header: 30 bytes, then two fields of variable length
        file.seek(info.header_offset + 26)
        offset = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))) + header
    return np.memmap(path, dtype, "r", offset, shape)


def _read_coco(path: Path) -> tuple[Integers, Integers, Floats]:
    """A COCO results json as arrays; its records never exist as Python objects all at once."""
    ids, values = array("q"), array("d")

    def take(record: dict[str, Any]) -> dict[str, Any] | None:
        image_id, box, score = record.get("image_id"), record.get("bbox"), record.get("score")
        if as_id(image_id) is None or type(image_id) is not int or type(box) is not list or len(box) != 4:
            return record
        try:
            values.extend(float(v) for v in (*box, score))
        except (TypeError, ValueError, OverflowError):
            del values[len(ids) * 5 :]
            return record
        ids.append(image_id)
        return None

    content = read_json(path, take)
    if not isinstance(content, list):
        raise DataError(f"{path}: proposals as json are a list of COCO results, this is none; {_HOW}")
    for number, record in enumerate(content):
        if record is not None:
            raise DataError(
                f"{path}: entry {number} of the list needs an 'image_id' (integer), a 'bbox' [x, y, width,"
                " height] and a 'score'"
            )
    if len(ids) != len(content):
        raise DataError(f"{path}: has results within results; it must be a plain list")
    rows = np.array(values, dtype=np.float32).reshape(-1, 5)
    rows[:, 2:4] += rows[:, :2]
    all_ids = np.array(ids, dtype=np.int64)
    order = np.argsort(all_ids, kind="stable")
    unique, counts = np.unique(all_ids, return_counts=True)
    return unique, counts.astype(np.int64), rows[order]


class ProposalSpool:
    """Takes proposals image by image into a file of raw rows, so that memory stays flat however many come.

    Args:
        file: the raw file, empty.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.path = Path(file.name)
        self.image_ids: list[int] = []
        self.counts: list[int] = []
        self._file = file

    def add(self, image_id: int, boxes: Tensor, scores: Tensor) -> None:
        """``boxes`` [P, 4] xyxy in the original frame and ``scores`` [P] of one image."""
        order = scores.sort(descending=True, stable=True).indices
        rows = torch.cat((boxes, scores[:, None]), dim=1)[order].float().cpu().numpy()
        self._file.write(rows.astype("<f4").tobytes())
        self.image_ids.append(image_id)
        self.counts.append(len(rows))

    def close(self) -> None:
        """No more images come."""
        self._file.close()


def write_proposals(path: Path, parts: Iterable[tuple[Path, Sequence[int], Sequence[int]]]) -> int:
    """Join raw files into one proposal file, images by rising id; it appears complete or not at all.

    Args:
        parts: raw file, image ids and counts of each :class:`ProposalSpool`.  An image that several have is
            taken from the first.

    Returns:
        the number of proposals.
    """
    found: dict[int, tuple[int, int, int]] = {}
    files: list[Path] = []
    for number, (raw, ids, counts) in enumerate(parts):
        files.append(raw)
        offset = 0
        for image_id, count in zip(ids, counts, strict=True):
            found.setdefault(image_id, (number, offset, count))
            offset += count * _ROW_BYTES
    order = sorted(found)
    total = sum(found[i][2] for i in order)
    with ExitStack() as stack:
        sources = [stack.enter_context(raw.open("rb")) for raw in files]
        archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(replacing(path)), "w"))
        for name, values in (("image_ids", order), ("counts", [found[i][2] for i in order])):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.array(values, np.int64), allow_pickle=False)
        with archive.open("proposals.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f4", "fortran_order": False, "shape": (total, 5)}
            )
            for image_id in order:
                number, offset, count = found[image_id]
                sources[number].seek(offset)
                member.write(sources[number].read(count * _ROW_BYTES))
    return total
