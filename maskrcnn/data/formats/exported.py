"""A data set image by image, for those who write it in another format."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maskrcnn.data.formats.sources import common_folder
from maskrcnn.data.interfaces import Dataset
from maskrcnn.errors import DataError


@dataclass(frozen=True)
class ExportedImage:
    """An image: its file, the name that a copy gets below the folder of images, and its objects.

    height, width: pixels.  rows: places of its objects among those of the ground truth.
    """

    image_id: int
    path: Path
    name: str
    height: int
    width: int
    rows: tuple[int, ...]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return os.path.splitext(self.name)[0]  # noqa: PTH122 - of a name with folders


def exported_images(dataset: Dataset) -> Iterator[ExportedImage]:
    """The images, by rising id.

    Raises:
        DataError: the data set does not say where its files are, or two have one name but for the suffix.
    """
    path_of = getattr(dataset, "path", None)
    if path_of is None:
        raise DataError(
            f"{dataset.annotation_file}: a {type(dataset).__name__} does not say where its images are"
        )
    truth = dataset.ground_truth()
    rows: dict[int, list[int]] = defaultdict(list)
    for row, image in enumerate(truth.images.tolist()):
        rows[int(truth.image_ids[image])].append(row)
    paths = [Path(os.path.abspath(path_of(i))) for i in range(len(dataset))]  # noqa: PTH100
    root = common_folder(paths, getattr(dataset, "images", None))
    stems: dict[str, str] = {}
    for i, (image_id, path) in enumerate(zip(map(int, dataset.image_ids), paths, strict=True)):
        name = path.relative_to(root).as_posix()
        height, width = map(int, dataset.sizes[i])
        image = ExportedImage(image_id, path, name, height, width, tuple(rows[image_id]))
        other = stems.setdefault(image.stem, name)
        if other != name:
            raise DataError(f"{root}: {other} and {name} would have label files of one name; rename one")
        yield image
