"""A data set of ours as a folder: a COCO json a split, and the ``data.yaml`` that configs take up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maskrcnn.config.encode import escape_path
from maskrcnn.config.text import format_plain
from maskrcnn.files import write_json, write_text

#: The file of a folder that says what its data are.
DATA_FILE = "data.yaml"
#: Splits that a config has a key for.
_KEYS = ("train", "val")


def write_data_folder(
    out: Path,
    contents: Mapping[str, tuple[Path, Mapping[str, Any]]],
    *,
    masks: bool = True,
    keypoints: bool = False,
    options: Mapping[str, Any] | None = None,
    of_split: Mapping[str, Mapping[str, Any]] | None = None,
    note: str = "",
) -> list[Path]:
    """Write ``SPLIT.json`` for each split, and ``data.yaml``, which comes last.

    contents: by split, the folder of its images (a relative one lies in ``out``), and its json.
    masks, keypoints: whether it has them.
    options: further keys of the data sets, with values that YAML holds; ``of_split``: of single ones.
    note: a comment at the head of ``data.yaml``.

    Returns:
        the files.

    Raises:
        OutputError: one cannot be written.
    """
    given = {"masks": None if masks else False, "keypoints": keypoints or None, **(options or {})}
    lines = [f"# {line}" for line in note.splitlines()] + ["data:"]
    written = []
    for split, (images, content) in contents.items():
        written.append(out / f"{split}.json")
        write_json(written[-1], content)
        if split in _KEYS:
            lines += _lines(split, images, {**given, **(of_split or {}).get(split, {})})
    written.append(out / DATA_FILE)
    write_text(written[-1], "\n".join(lines) + "\n")
    return written


def _lines(split: str, images: Path, options: Mapping[str, Any]) -> Iterator[str]:
    folder = escape_path(os.fspath(images))
    yield f"  {split}:"
    yield "    type: coco"
    yield f"    images: {format_plain(folder if images.is_absolute() else f'${{HERE}}/{images.as_posix()}')}"
    yield f"    annotations: {format_plain(f'${{HERE}}/{split}.json')}"
    yield from (f"    {key}: {format_plain(value)}" for key, value in options.items() if value is not None)
