"""Windows of a data set: of their files alone where these let it, else of images that are kept a while."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from maskrcnn.data.formats.coco import CocoDataset, file_notes
from maskrcnn.data.interfaces import Dataset
from maskrcnn.data.regions import open_windows
from maskrcnn.data.windows import Window
from maskrcnn.errors import DataError
from maskrcnn.structures import RawSample
from maskrcnn.structures.samples import Image

#: Bytes of decoded images that a process keeps for the next windows; the last one stays whatever it has.
KEPT = 256 << 20


class WindowReader:
    """Reads windows of one data set's images, in one process.

    Windows of TIFFs of tiles or strips (of no lossy compression) and of npy files are read without the rest,
    to the values that the whole file has.  Of others, and with a contrast, which is the whole image's, images
    are read whole; the last that :data:`KEPT` holds are kept.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._kept: OrderedDict[int, RawSample] = OrderedDict()
        self._bytes = 0

    def read(self, place: int, window: Window) -> tuple[RawSample, Image | None]:
        """The image at a place with all its objects, in its frame, and the window's pixels: where these are
        not None, the sample's are none.

        Raises:
            DataError: see the data set.
        """
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place], None
        found = _part(self._dataset, place, window)
        if found is not None:
            return found
        sample = self._dataset.load(place)
        self._kept[place] = sample
        self._bytes += sample.image.nbytes
        while self._bytes > KEPT and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._bytes -= old.image.nbytes
        return sample, None


def _part(dataset: Dataset, place: int, window: Window) -> tuple[RawSample, Image] | None:
    """What :meth:`WindowReader.read` gives of a file that is read by windows; None of others, and of those
    with a fault, which reading them whole tells.
    """
    if not isinstance(dataset, CocoDataset) or dataset.cache is not None:
        return None
    path, page = dataset.place(place)
    regions = open_windows(path, sixteen_bit=dataset.sixteen_bit, reading=dataset.reading, page=page)
    if regions is None:
        return None
    try:
        if list(regions.size) != np.asarray(dataset.sizes)[place].tolist():
            return None
        pixels = np.array(regions.read(window).values)  # and no view of the file
    except DataError:
        return None
    finally:
        regions.close()
    notes = file_notes(path, (), pages=dataset.reading.pages == "first")
    nothing = np.broadcast_to(np.zeros((), dtype=pixels.dtype), (*regions.size, pixels.shape[2]))
    return dataset.sample(place, nothing, notes), pixels
