"""A data set divided into one for training and one for validation."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.data import CocoConfig, CocoDataset
from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.coco_json import as_id, load_coco, read_json
from maskrcnn.data.formats.data_folder import write_data_folder
from maskrcnn.data.splitting import choose
from maskrcnn.errors import DataError, UserError, few, plural
from maskrcnn.recipe import DataConfig
from maskrcnn.run.import_data import refuse_or_tell
from maskrcnn.structures.ground_truth import GroundTruth

#: Keys of a data set that its parts do not take over: they have their own.
_OWN = ("images", "annotations", "max_images")


@dataclass(frozen=True)
class Divided:
    """Images and groups by split, objects by class and split, and what was replaced, a line each."""

    images: Mapping[str, int]
    groups: Mapping[str, int]
    objects: Mapping[str, Counter[str]]
    notes: tuple[str, ...]


def split_data(
    data: DataConfig,
    out: Path,
    share: float,
    *,
    by: str = "image",
    seed: int = 0,
    stratify: bool = True,
    overwrite: bool = False,
) -> Divided:
    """Write ``out`` with ``train.json``, ``val.json`` and ``data.yaml``; images stay where they are.

    Args:
        data: its training set is divided.
        share: of the images, to validation.
        by: ``image``; ``folder``, ``key:NAME`` of the image's record, or ``regex:...`` of its file's name
            (its group, or all of the match): images that are equal in it stay together.
        seed, stratify: see :func:`maskrcnn.data.splitting.choose`.
        overwrite: write although there is something in ``out``.

    Raises:
        UserError: the folder is there, or there is nothing to divide, or no way to.
        DataError: the data cannot be read.
        OutputError: something cannot be written.
    """
    if not 0 < share < 1:
        raise UserError(f"--val {share:g} is no share of the images; write one between 0 and 1, as --val 0.2")
    config = data.train
    if data.val is not None:
        known = (
            f"{shown(config.annotations)} --images {shown(config.images)}"
            if isinstance(config, CocoConfig)
            else ""
        )
        advice = f"; divide its training set alone by naming {known}" if known else ""
        raise UserError(f"this data set has a validation set already{advice}")
    notes = refuse_or_tell(out, overwrite)
    groups = Groups.read(data, by)
    in_val = choose(groups.counts, groups.sizes, share, seed, stratify=stratify)
    contents, images, of_groups, objects = {}, {}, {}, {}
    for split, wanted in (("train", False), ("val", True)):
        contents[split] = (groups.images, groups.content(in_val == wanted))
        images[split], of_groups[split] = (
            int(groups.sizes[in_val == wanted].sum()),
            int((in_val == wanted).sum()),
        )
        objects[split] = groups.objects(in_val == wanted)
    write_data_folder(
        out,
        contents,
        options=_options(config),
        note=f"Made by `maskrcnn split` of {shown(groups.file)}: by {by}, seed {seed}.",
    )
    return Divided(images, of_groups, objects, tuple(notes))


@dataclass(frozen=True)
class Groups:
    """A data set's images in groups that stay together.

    file, images: its json and the folder of its images.
    whole: what the json says.
    place: the group of each image's id.
    at: int64 [I], the group of each image of ``truth``, -1 of one that is not used.
    counts: int64 [G, K], images of each group that have an object of each class.  sizes: int64 [G].
    """

    file: Path
    images: Path
    whole: Mapping[str, Any]
    place: Mapping[int, int]
    truth: GroundTruth
    at: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    @classmethod
    def read(cls, data: DataConfig, by: str) -> Groups:
        """Those of ``data.train``; ``by``: see :func:`split_data`.

        Raises:
            UserError: there is nothing to divide, or no way to.
            DataError: the data cannot be read.
        """
        dataset = data.build(data.train, False)
        if not isinstance(dataset, CocoDataset) or not dataset.annotation_file.is_file():
            raise UserError(
                f"{shown(dataset.annotation_file)}: only a COCO json can be divided; export the data as one"
                " first"
            )
        content = load_coco(read_json(dataset.annotation_file), str(dataset.annotation_file))
        used = set(dataset.image_ids.tolist())
        records = {as_id(r.get("id")): r for r in content["images"] if isinstance(r, Mapping)}
        chosen = {i: record for i, record in records.items() if i in used}
        groups: dict[str, list[int]] = defaultdict(list)
        group_of = _grouping(by)
        for i, record in chosen.items():
            assert i is not None
            groups[group_of(record)].append(i)
        if len(groups) < 2:
            raise UserError(
                f"{plural(len(chosen), 'image is', 'images are')} of one group ({few(map(shown, groups))}),"
                " which is not divided"
            )
        truth = dataset.ground_truth()
        place = {i: g for g, ids in enumerate(groups.values()) for i in ids}
        at = np.array([place.get(i, -1) for i in truth.image_ids.tolist()])
        pairs = np.unique(np.stack([truth.images, truth.labels], axis=1), axis=0)
        counts = np.zeros((len(groups), len(truth.category_ids)), dtype=np.int64)
        np.add.at(counts, (at[pairs[:, 0]], pairs[:, 1]), (at[pairs[:, 0]] >= 0).astype(np.int64))
        sizes = np.array([len(ids) for ids in groups.values()], dtype=np.int64)
        images = Path(dataset.images.absolute())
        return cls(dataset.annotation_file, images, content, place, truth, at, counts, sizes)

    def content(self, chosen: npt.NDArray[np.bool_]) -> dict[str, Any]:
        """The json with the images of the chosen groups alone (bool [G]), all else as it is."""
        ids = {i for i, group in self.place.items() if chosen[group]}

        def kept(records: list[Any], key: str) -> list[Any]:
            return [r for r in records if isinstance(r, Mapping) and as_id(r.get(key)) in ids]

        images = kept(self.whole["images"], "id")
        return {**self.whole, "images": images, "annotations": kept(self.whole["annotations"], "image_id")}

    def objects(self, chosen: npt.NDArray[np.bool_]) -> Counter[str]:
        """How many of each class the chosen groups have."""
        truth = self.truth
        inside = (self.at >= 0) & chosen[self.at]
        found = np.bincount(truth.labels[inside[truth.images]], minlength=len(truth.category_ids)).tolist()
        return Counter(dict(zip(truth.category_names, found, strict=True)))


def _grouping(by: str) -> Callable[[Mapping[str, Any]], str]:
    """What images that stay together have in common, of an image's record.

    Raises:
        UserError: it is no such word, or no regular expression.
    """
    kind, _, rest = by.partition(":")
    if by == "image":
        return lambda record: str(record["id"])
    if by == "folder":
        return lambda record: str(PurePosixPath(str(record["file_name"]).replace("\\", "/")).parent)
    if kind == "key" and rest:
        return lambda record: _value(record, rest)
    if kind != "regex" or not rest:
        raise UserError(f"--by {by}: write image, folder, key:NAME (of the image's record) or regex:PATTERN")
    try:
        pattern = re.compile(rest)
    except re.error as error:
        raise UserError(f"--by {by}: is no regular expression: {error}") from None

    def matched(record: Mapping[str, Any]) -> str:
        found = pattern.search(str(record["file_name"]))
        if found is None:
            raise UserError(
                f"--by {by}: nothing in the file name {shown(record['file_name'])} matches; mend the pattern"
            )
        return found[1 if found.lastindex else 0] or ""

    return matched


def _value(record: Mapping[str, Any], key: str) -> str:
    """The value at a key of an image's record, ``a.b`` of a record in it.

    Raises:
        DataError: it is not there.
    """
    value: Any = record
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            keys = few(sorted(map(str, record)), 20)
            raise DataError(f"image {record['id']}: its record has no key {key!r}; it has {keys}")
        value = value[part]
    return str(value)


def _options(config: Any) -> dict[str, Any]:
    """Keys of the data set that are not at their defaults, but those that its parts have themselves."""
    if not isinstance(config, CocoConfig):
        return {}
    changed = {
        f.name: getattr(config, f.name) for f in fields(config) if getattr(config, f.name) != f.default
    }
    return {
        key: str(value.absolute()) if isinstance(value, Path) else value
        for key, value in changed.items()
        if key not in _OWN
    }
