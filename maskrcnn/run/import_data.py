"""Data sets of other formats made into ours: which format it is, and what is written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn.config.registry import did_you_mean
from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.data_folder import DATA_FILE, write_data_folder
from maskrcnn.data.formats.exchange import IMPORTERS, Gathered
from maskrcnn.data.formats.sources import LabelSource
from maskrcnn.errors import UserError, few, plural
from maskrcnn.files import copy_file


@dataclass(frozen=True)
class Imported:
    """What was made.

    format, found: the format's name, and what of it was there.
    images: their number by split.  objects: by class and split.
    notes: what was left out, read as meant, lost or replaced, a line each.
    """

    out: Path
    format: str
    found: str
    images: Mapping[str, int]
    objects: Mapping[str, Counter[str]]
    notes: tuple[str, ...]


def find_format(source: LabelSource, wanted: str | None = None) -> tuple[str, str]:
    """The name of the format, and what of it is there.

    wanted: the only format that is looked for.

    Raises:
        UserError: there is nothing, none of the formats is found, or several are.
    """
    where = shown(source.labels)
    if not source.labels.exists():
        raise UserError(f"{where}: there is no such file or folder of labels")
    if source.images is not None and not source.images.is_dir():
        raise UserError(f"{shown(source.images)}: there is no such folder of images")
    if source.labels.suffix.lower() in (".zip", ".tar", ".gz", ".7z", ".rar"):
        raise UserError(f"{where}: is an archive; unpack it, and name the folder")
    known = IMPORTERS.names()
    if wanted and wanted not in known:
        raise UserError(f"--format {wanted}: there is no such format.{did_you_mean(wanted, known)}")
    importers = {name: IMPORTERS.get(name)() for name in ([wanted] if wanted else known)}
    found = {name: what for name, importer in importers.items() if (what := importer.find(source))}
    if not found:
        looked = "; ".join(f"{name}: {importer.title}" for name, importer in importers.items())
        raise UserError(f"{where}: nothing in it is of a format that is known; looked for {looked}")
    if len(found) > 1:
        several = few((f"{name} ({what})" for name, what in found.items()), separator=" or ")
        raise UserError(f"{where}: this may be {several}; say which by --format {next(iter(found))}")
    return next(iter(found.items()))


def import_data(
    source: LabelSource,
    out: Path,
    *,
    format: str | None = None,
    copy: bool = False,
    overwrite: bool = False,
) -> Imported:
    """Make ``out`` with ``data.yaml`` and a COCO json a split; images stay where they are.

    Args:
        format: the only one that is looked for.
        copy: copy the images into ``out/images/SPLIT``.
        overwrite: write although there is something in ``out``.

    Raises:
        UserError: as :func:`find_format`; or the folder is there.
        DataError: the labels as a whole cannot be used, or there is no image or no object in them.
        OutputError: something cannot be written.
    """
    name, found = find_format(source, format)
    notes = refuse_or_tell(out, overwrite)
    gathered = Gathered(source)
    IMPORTERS.get(name)().read(source, gathered)
    contents = gathered.contents()
    if copy:
        for split, (folder, content) in contents.items():
            for image in content["images"]:
                copy_file(folder / image["file_name"], out / "images" / split / image["file_name"])
            contents[split] = (Path("images") / split, content)
    note = f"Made by `maskrcnn import` of {found} in {shown(source.labels)}."
    write_data_folder(out, contents, masks=gathered.masks, note=note)
    if gathered.report:
        notes.append(gathered.report.summary())
    notes += [f"not kept: {what}: {count}" for what, count in gathered.lost.items() if count]
    crowds = sum(a["iscrowd"] for _, content in contents.values() for a in content["annotations"])
    lone = plural(crowds, "object is a crowd region", "objects are crowd regions")
    notes += [f"{lone} (iscrowd: 1), which never train"] if crowds else []
    extra = [split for split in contents if split not in ("train", "val")]
    notes += [f"{split}.json is written, too; {DATA_FILE} names train and val alone" for split in extra]
    images = {split: len(content["images"]) for split, (_, content) in contents.items()}
    objects = {split: objects_by_class(content) for split, (_, content) in contents.items()}
    return Imported(out, name, found, images, objects, tuple(notes))


def objects_by_class(content: Mapping[str, Any]) -> Counter[str]:
    """How many objects of each class a COCO json of ours holds, classes without any too."""
    names = {record["id"]: record["name"] for record in content["categories"]}
    counts = Counter(names[a["category_id"]] for a in content["annotations"])
    return Counter({name: counts[name] for name in names.values()})


def refuse_or_tell(out: Path, overwrite: bool) -> list[str]:
    """What will be written over, in a line; none where the folder is empty or not there.

    Raises:
        UserError: something is there, and it may not be overwritten.
    """
    if not os.path.lexists(out):
        return []
    if not out.is_dir():
        raise UserError(f"{shown(out)}: is no folder; name another")
    held = sorted(path.name for path in out.iterdir())
    if held and not overwrite:
        raise UserError(
            f"{shown(out)}: this folder holds {few(map(shown, held))} already; name another, or write"
            " over files of the same names by --overwrite"
        )
    ours = [name for name in held if name.endswith(".json") or name == DATA_FILE]
    return (
        [f"{shown(out)}: {few(map(shown, ours or held))} replaced where names are the same"] if held else []
    )
