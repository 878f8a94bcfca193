"""Data sets in COCO's json format."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from maskrcnn.config import Config, Range
from maskrcnn.config.ranges import Boxes, Count, any_number
from maskrcnn.data.annotation_reader import read_annotations
from maskrcnn.data.digest import coco_digest
from maskrcnn.data.doctor.overhear import overhear
from maskrcnn.data.doctor.page_count import count_pages
from maskrcnn.data.fault_report import FaultReport, OnError
from maskrcnn.data.file_names import refuse_outside, shown
from maskrcnn.data.image_files import image_path, split_page
from maskrcnn.data.image_header import ImageHeader, read_header
from maskrcnn.data.images import SixteenBit, read_image
from maskrcnn.data.index import AnnotationIndex
from maskrcnn.data.interfaces import DATASETS, RGB, ImageCache, ImageReading
from maskrcnn.data.proposal_file import ProposalFile
from maskrcnn.errors import DataError, plural
from maskrcnn.structures import RawSample
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.ground_truth import GroundTruth
from maskrcnn.structures.samples import Image, Note

logger = logging.getLogger(__name__)

#: Proposals an image, by score (Girshick 2015, section 3: around 2000; Detectron2: 2000 and 1000).
TRAIN_PROPOSALS, EVAL_PROPOSALS = 2000, 1000


class CocoDataset:
    """Images of a folder with the annotations of a COCO json; N images by rising id.

    Args:
        annotations: the COCO json; with ``records`` what messages name.
        records: what such a json would hold, of a format of one's own; they go through the same checks.
        training: leave out images without ground truth that trains, where ``filter_empty``.
        on_error: see :data:`maskrcnn.data.fault_report.OnError`.
        categories: the classes that the file must share (those of the training data).
        reading: channels, pages and contrast of its images; the recipe's.
        proposals: file of proposals that every image then carries, see :mod:`maskrcnn.data.proposal_file`.
        images and the rest: see :class:`CocoConfig`.

    Raises:
        DataError: see :func:`maskrcnn.data.annotation_reader.read_annotations` and
            :class:`maskrcnn.data.proposal_file.ProposalFile`; or no image is left; or a file name leads out
            of the folder without ``allow_outside``.
    """

    def __init__(
        self,
        images: Path,
        annotations: Path,
        *,
        training: bool = False,
        on_error: OnError = None,
        exif: bool = True,
        sixteen_bit: SixteenBit = "scale",
        masks: bool = True,
        keypoints: bool = False,
        keypoint_offset: float = 0.5,
        min_keypoints: int = 1,
        filter_empty: bool = True,
        max_images: int | None = None,
        allow_outside: bool = False,
        categories: Categories | None = None,
        proposals: Path | None = None,
        num_proposals: int | None = None,
        records: Mapping[str, Any] | None = None,
        reading: ImageReading = RGB,
    ) -> None:
        self.images = Path(images)
        self.annotation_file = Path(annotations)
        self.on_error = on_error
        self.exif = exif
        self.sixteen_bit = sixteen_bit
        self.reading = reading
        #: Keeps decoded images; the run sets it where ``data.cache`` asks for one.
        self.cache: ImageCache | None = None
        self.report = FaultReport(str(self.annotation_file), on_error)
        if max_images is not None and max_images < 1:
            raise DataError(f"max_images is {max_images}; it must be at least 1")
        if not self.images.is_dir():
            raise DataError(
                f"{self.images}: there is no such folder of images; set `images` of the data (data.train or"
                " data.val) to theirs"
            )
        self.index: AnnotationIndex = read_annotations(
            self.annotation_file if records is None else records,
            self.report,
            masks=masks,
            keypoints=keypoints,
            keypoint_offset=keypoint_offset,
            categories=categories,
        )
        self.categories = self.index.categories
        self.keypoints = self.index.keypoint_schema
        self._mirror = None if self.keypoints is None else self.keypoints.mirror
        keep = np.arange(len(self.index))[:max_images]
        self.considered = len(keep)
        if training:
            self._refuse_all_crowd()
        if training and filter_empty:
            keep = keep[self.index.counts()[keep] > 0]
            if keypoints:
                keep = keep[self.index.labelled_keypoints()[keep] >= min_keypoints]
        if not len(keep):
            what = "no images with a usable annotation" if len(self.index) else "no images"
            if keypoints and len(self.index):
                what = f"no images with at least {plural(min_keypoints, 'labelled keypoint')}"
            sentence = f"{self.annotation_file}: there are {what} in it"
            raise DataError(f"{sentence}\n{self.report.summary()}".strip())
        if not allow_outside:
            infos = map(self.index.info, keep.tolist())
            names = ((info.image_id, info.file_name) for info in infos)
            refuse_outside(names, self.annotation_file, self.images)
        self.kept = keep
        self.image_ids: npt.NDArray[np.int64] = self.index.image_ids[keep]
        self.sizes: npt.NDArray[np.int32] = self.index.sizes[keep]
        self.num_proposals = num_proposals or (TRAIN_PROPOSALS if training else EVAL_PROPOSALS)
        self.proposals = None if proposals is None else ProposalFile(Path(proposals))
        # Records are not kept: of what they hold, the digest alone is asked for again.
        text = b"" if records is None else json.dumps(records, sort_keys=True, default=str).encode()
        self._content = self.annotation_file if records is None else hashlib.sha256(text).digest()
        self._other_files = () if proposals is None else (Path(proposals),)
        if self.proposals is not None:
            self.proposals.check_images(self.index.image_ids, self.image_ids, self.annotation_file)
        if self.report:
            logger.warning("%s", self.report.summary())

    def _refuse_all_crowd(self) -> None:
        """
        Raises:
            DataError: there are annotations, and all are crowd regions.
        """
        crowds = self.index.crowds[self.index.images < self.considered]
        if len(crowds) and crowds.all():
            raise DataError(
                f"{self.annotation_file}: of {plural(len(crowds), 'annotation')} all are crowd regions"
                " (iscrowd: 1), so none trains; set iscrowd to 0 if they are single objects"
                f"\n{self.report.summary()}".strip()
            )

    def __len__(self) -> int:
        return len(self.kept)

    @cached_property
    def _truth(self) -> GroundTruth:
        return self.index.ground_truth(self.report.notes())

    def ground_truth(self) -> GroundTruth:
        """All that the json holds and that is sound, for evaluation: no file is read again."""
        return self._truth

    def __repr__(self) -> str:
        return (
            f"CocoDataset({self.annotation_file}, {len(self)} of {plural(len(self.index), 'image')},"
            f" {plural(len(self.index.rows), 'instance')}, {plural(len(self.categories), 'class')})"
        )

    def path(self, index: int) -> Path:
        """The file of image ``index`` in [0, N); backslashes are read as Windows means them, see there."""
        return image_path(self.images, self._page(index)[0])

    @property
    def decoding(self) -> str:
        """All that decides what becomes of an image file."""
        return f"exif {self.exif}, sixteen_bit {self.sixteen_bit}, {self.reading}"

    @property
    def bytes_each(self) -> int:
        """Of a value of a decoded image, at most."""
        return 4 if self.reading.contrast is not None or self.sixteen_bit == "keep" else 1

    def places(self) -> list[tuple[Path, int]]:
        """The file of each image, and which page of that it is."""
        return [self.place(i) for i in range(len(self))]

    def place(self, index: int) -> tuple[Path, int]:
        """The file of image ``index``, and which page of that it is."""
        return self.path(index), self._page(index)[1]

    def _page(self, index: int) -> tuple[str, int]:
        """The name of its file, and which page of that it is."""
        name = self.index.info(int(self.kept[index])).file_name
        return split_page(name) if self.reading.pages == "images" else (name, 0)

    def load(self, index: int) -> RawSample:
        """Image ``index`` in [0, N) with its ground truth, original frame.

        Raises:
            DataError: the file is missing, damaged, or of another size than the json says.
        """
        info = self.index.info(int(self.kept[index]))
        path, page = self.place(index)
        says = (info.height, info.width)

        def check(header: ImageHeader) -> None:
            if sorted((header.height, header.width)) != sorted(says):
                raise DataError(self._wrong_size(path, (header.height, header.width), says))

        def read() -> tuple[Image, tuple[Note, ...]]:
            with overhear() as heard:
                options: Any = {"exif": self.exif, "sixteen_bit": self.sixteen_bit, "reading": self.reading}
                image = read_image(path, check=check, page=page, **options)
            if image.shape[:2] != says:
                raise DataError(self._wrong_size(path, (image.shape[0], image.shape[1]), says))
            return image, file_notes(path, heard, pages=self.reading.pages == "first")

        try:
            image, notes = read() if self.cache is None else self.cache.through(index, path, page, says, read)
        except DataError as error:
            raise DataError(f"image {info.image_id}: {error}") from None
        return self.sample(index, image, notes)

    def sample(self, index: int, image: Image, notes: tuple[Note, ...] = ()) -> RawSample:
        """Image ``index`` in [0, N) with its ground truth, of pixels that were read already."""
        info, proposals = self.index.info(int(self.kept[index])), None
        if self.proposals is not None:
            proposals = self.proposals.of(info.image_id, info.height, info.width, self.num_proposals)
        targets = self.index.targets(int(self.kept[index]))
        return RawSample(image, info, targets, proposals, self._mirror, notes)

    def _wrong_size(self, path: Path, found: tuple[int, int], says: tuple[int, int]) -> str:
        """What to do about an image of (height, width) ``found`` where the json ``says`` another size."""
        hint = "correct the json, or restore the image"
        if found == says[::-1]:
            header = read_header(path)
            hint = "width and height are exchanged in the json: exchange them there"
            if header is not None and header.turns:
                hint = (
                    "if the annotations were made on the image as stored, set exif: false"
                    if self.exif
                    else "if the annotations were made on the upright image, set exif: true"
                )
        return (
            f"{shown(path)} is {found[1]}x{found[0]} pixels,"
            f" {self.annotation_file.name} says {says[1]}x{says[0]}; {hint}"
        )

    def digest(self) -> str:
        """Its content as sixteen hex digits, see :func:`maskrcnn.data.digest.coco_digest`."""
        names = [self._page(i)[0] for i in range(len(self))]
        return coco_digest(self._content, self.images, names, self._other_files)


def file_notes(path: Path, heard: Sequence[str], *, pages: bool = True) -> tuple[Note, ...]:
    """What is doubtful about an image file that was read.

    heard: what the decoder said meanwhile.  pages: whether the first alone was read.
    """
    notes = []
    if heard:
        damage = f"damaged inside, parts of it may be gray or shifted (the decoder says {heard[0]!r})"
        notes.append(Note("damaged", heard[0], f"{path.name} is {damage}; restore the file"))
    count = count_pages(path) if pages else 1
    if count > 1:
        what = f"{path.name} holds {count} frames or pages, of which the first alone is read"
        advice = "store those to use as files of their own, or say by data.pages what the pages of a TIFF are"
        notes.append(Note("pages", plural(count, "page"), f"{what}; {advice}"))
    return tuple(notes)


@DATASETS.register("coco")
@dataclass(frozen=True, kw_only=True)
class CocoConfig(Config):
    """A data set in COCO's json format."""

    #: Folder that the file names in the json are relative to.
    images: Path
    #: The COCO json: polygons, RLE, crowd regions.
    annotations: Path
    #: raise: any faulty annotation or image stops.  skip: both are passed over, counted and named.
    #: Unset: as ``data.on_error`` says; else annotations are skipped and images raise.
    on_error: OnError = None
    #: Turn images as their EXIF orientation says; false where annotations were made on the stored pixels.
    exif: bool = True
    #: 16-bit images: scale to 8 bits, or keep the precision (float32 in [0, 255]).
    sixteen_bit: SixteenBit = "scale"
    #: Read masks; false for a data set of boxes alone.
    masks: bool = True
    #: Read keypoints, whose names and skeleton the json's categories define.
    keypoints: bool = False
    #: Added to keypoints' x and y: in COCO's files they are indices of pixels, whose centres are at + 0.5
    #: (as Detectron2); 0 where they are continuous as boxes are (so takes them torchvision).
    #: ``eval.keypoint_offset`` is its counterpart in results.
    keypoint_offset: Annotated[float, any_number("a convention of the file, of any size")] = 0.5
    #: With keypoints, in training: drop images with fewer labelled ones, where filter_empty (Detectron2: 1;
    #: torchvision: 10).
    min_keypoints: Annotated[int, Range(0)] = 1
    #: In training, drop images without an instance that trains (crowd regions do not).  Never in evaluation.
    filter_empty: bool = True
    #: Use only so many images, those of the smallest ids (to try things out).
    max_images: Count | None = None
    #: Read images outside the folder too: file names that are absolute, or that lead out of it by `..`.
    #: For jsons that you trust to name any file of this machine.  Symbolic links are always followed.
    allow_outside: bool = False
    #: Proposals for a model without RPN (Fast R-CNN): a file of `maskrcnn proposals`, or COCO results.
    proposals: Path | None = None
    #: At most so many proposals an image, by score; unset: 2000 in training, 1000 in evaluation.
    num_proposals: Boxes | None = None

    def build(
        self,
        training: bool,
        *,
        categories: Categories | None = None,
        on_error: OnError = None,
        reading: ImageReading = RGB,
    ) -> CocoDataset:
        """Read the json; see :class:`CocoDataset`."""
        options = self.arguments() | {"on_error": self.on_error or on_error, "reading": reading}
        return CocoDataset(training=training, categories=categories, **options)
