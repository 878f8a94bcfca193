"""Doubts about images that take opening each: unreadable, of another size or form, of few values, huge."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from maskrcnn.data.doctor import THOROUGH, Doubt
from maskrcnn.data.doctor.file_doubts import doubt_of_files, printable
from maskrcnn.data.doctor.look import ImageFacts, Look
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.interfaces import Dataset

#: Pixels of an image that is better cut: 150 MB in memory, and shrunk by more than 5 to 1333 px.
HUGE = 50_000_000
#: Of the 16 bits, where a quarter of the range or less is used: 64 of 255 gray values after scaling.
FEW_VALUES = 2**14


@THOROUGH.register("images")
def _of_a_run(dataset: Dataset, _: Dataset | None, look: Look) -> Iterable[Doubt]:
    return image_doubts(dataset, look.facts(dataset)) if isinstance(dataset, CocoDataset) else []


def image_doubts(dataset: CocoDataset, facts: list[ImageFacts]) -> list[Doubt]:
    """All of them, from what is known of each image."""
    forms = [f.form for f in facts]
    deep = [f.highest for f in facts if f.bits == 16 and f.highest >= 0]
    stretched = dataset.reading.contrast is not None
    shallow = bool(deep) and max(deep) < FEW_VALUES and not stretched
    found: list[Doubt] = []

    def tell(
        kind: str, what: str, cost: str, advice: str, *, which: Callable[[int, ImageFacts], bool]
    ) -> None:
        places = [i for i, fact in enumerate(facts) if which(i, fact)]
        if not places:
            return
        names = {i: f"image {int(dataset.image_ids[i])}: {printable(dataset.path(i).name)}" for i in places}
        why = facts[places[0]].fault or facts[places[0]].damage
        cost += f"; the first: {why}" if why else ""
        found.append(doubt_of_files(dataset, names, len(dataset), kind, what, cost, advice))

    tell(
        "unreadable image",
        "images that cannot be read",
        "training stops at the first, or with on_error: skip goes on without",
        "restore the files, or take their records out of the json (--fix does)",
        which=lambda i, f: bool(f.fault) and not f.other_size,
    )
    tell(
        "size differs",
        "images of another size than the json says",
        "annotations would lie in wrong places, so such images cannot be used",
        "correct the json, or do as the message says (--fix takes exchanged sides from the file)",
        which=lambda i, f: f.other_size,
    )
    tell(
        "damaged images",
        "image files that are damaged inside and decode all the same",
        "parts of them may be gray or shifted",
        "restore the files, or remove their records",
        which=lambda i, f: bool(f.damage),
    )
    tell(
        "turned by EXIF",
        "images that EXIF turns or mirrors without a change of their size",
        f"whether the annotations were made on the {'stored' if dataset.exif else 'upright'} pixels cannot be"
        " told by the size; if they were, they lie turned or mirrored",
        f"look at one; if they do, set exif: {'false' if dataset.exif else 'true'} on the data set",
        which=lambda i, f: f.orientation in _UNSEEN or (f.orientation > 1 and _square(dataset, i)),
    )
    if "gray" in forms and "colour" in forms:
        less = "gray" if forms.count("gray") <= forms.count("colour") else "colour"
        tell(
            "gray among colour",
            f"{less} images among {'colour' if less == 'gray' else 'gray'} ones",
            "where some class has more of them, colour becomes its sign",
            "if the images to predict are all of one kind, store these so too",
            which=lambda i, f: f.form == less,
        )
    tell(
        "palette images",
        "images with a palette",
        "their colours are looked up; files of labels (class or instance numbers) are stored so too",
        "look at one: if it shows labels, name the photographs in the json instead",
        which=lambda i, f: f.form == "palette",
    )
    tell(
        "CMYK images",
        "images in CMYK, for print",
        "they are converted without their colour profile, and some come out inverted",
        "store them as RGB",
        which=lambda i, f: f.form == "CMYK",
    )
    tell(
        "further channels",
        "images with transparency or more than three channels",
        "what is beyond red, green and blue is dropped, and transparent pixels show what is under them",
        "store them as RGB over a background; or read all their channels with data.channels",
        which=lambda i, f: f.form in ("alpha", "many") and dataset.reading.channels == 3,
    )
    if shallow:
        highest = max(deep)
        tell(
            "few bits of 16",
            f"images of 16 bits of which only {highest.bit_length()} are used (largest value {highest})",
            f"scaled as 16 bits they are nearly black, 0 to {highest // 257} of 255, and nothing is found",
            "stretch the contrast between percentiles: data.contrast: {percentiles: [1, 99.8]}",
            which=lambda i, f: f.bits == 16,
        )
    elif dataset.sixteen_bit == "scale" and not stretched:
        tell(
            "16 bits scaled",
            "images of 16 bits a channel that are scaled to 8",
            "of 65,536 values 256 are left",
            "if the objects are faint, keep the precision: sixteen_bit: keep on the data set",
            which=lambda i, f: f.bits == 16,
        )
    tell(
        "huge images",
        f"images of more than {HUGE // 1_000_000} megapixels",
        "each is decoded whole, 3 bytes a pixel in every loading process, and then shrunk",
        "cut them into tiles, and their annotations with them",
        which=lambda i, f: int(np.prod(dataset.sizes[i].astype(np.int64))) > HUGE,
    )
    return found


#: EXIF orientations that keep width and height (EXIF 2.3, tag 274): mirrored, turned by 180 degrees, both.
_UNSEEN = (2, 3, 4)


def _square(dataset: CocoDataset, i: int) -> bool:
    height, width = dataset.sizes[i].tolist()
    return bool(height == width)
