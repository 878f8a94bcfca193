"""A data set of ours written in another format."""

from __future__ import annotations

from pathlib import Path

from maskrcnn.data.formats.exchange import EXPORTERS
from maskrcnn.data.interfaces import Dataset
from maskrcnn.recipe import DataConfig
from maskrcnn.run.import_data import refuse_or_tell


def export_data(data: DataConfig, format: str, out: Path, *, overwrite: bool = False) -> list[str]:
    """Write all images of the data sets, with what is sound of their annotations, into ``out``.

    Returns:
        what was replaced, and what the format cannot hold, a line each.

    Raises:
        UserError: the folder is there, or no format has that name.
        DataError: the data cannot be read.
        OutputError: something cannot be written.
    """
    notes = refuse_or_tell(out, overwrite)
    splits: dict[str, Dataset] = {"train": data.build(data.train, False)}
    if data.val is not None:
        splits["val"] = data.build(data.val, False)
    lost = EXPORTERS.get(format)(splits, out)
    return notes + [f"not kept: {what}: {count}" for what, count in lost.items() if count]
