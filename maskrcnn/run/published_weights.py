"""Weights of the registry: fetched, converted by our converters once, and kept."""

from __future__ import annotations

import hashlib
import logging
from functools import cache
from pathlib import Path

import maskrcnn
from maskrcnn.engine.checkpoint import load_if_ours, save
from maskrcnn.run.convert import Options, convert_file
from maskrcnn.run.named_weights import PUBLISHERS, WeightsFacts
from maskrcnn.structures.categories import Categories
from maskrcnn.weights.download import PATIENCE
from maskrcnn.weights.fetch import alone, facts_of, fetch
from maskrcnn.weights.published import Published, find, folder_of

logger = logging.getLogger(__name__)


@PUBLISHERS.register("torchvision")
@PUBLISHERS.register("detectron2")
@PUBLISHERS.register("own")
class PublishedWeights:
    """torchvision's, Detectron2's and those that ``maskrcnn weights add`` added."""

    def facts(self, name: str) -> WeightsFacts:
        """What is stated; see :class:`maskrcnn.run.named_weights.Publisher`."""
        name, entry = find(name)
        stride = entry.stride_in_1x1 if entry.std is not None else None
        return WeightsFacts(name, entry.mean, entry.std, stride, entry.rate, entry.recipe, entry.licence)

    def outlook(self, name: str) -> str:
        """See there."""
        name, entry = find(name)
        raw = place(name, entry)
        if raw.is_file():
            return ""
        size = f"{entry.mebibytes:.1f} MiB" if entry.mebibytes else "of a size that is not stated"
        return f"{name} would be fetched from {entry.url} ({size}) to {raw}"

    def local(self, name: str) -> Path:
        """See there."""
        name, entry = find(name)
        raw = place(name, entry)
        facts = fetch(name, entry, raw, logger.info, PATIENCE)
        made = raw.with_name(f"{facts.sha256[:16]}-{converter()}.pt")
        if not made.is_file():
            with alone(raw.with_name("lock"), f"another process that converts {name}", logger.info):
                if not made.is_file():
                    logger.info("converting %s; %s", name, licence(entry))
                    _convert(entry, raw, made)
        return made


def _convert(entry: Published, raw: Path, made: Path) -> None:
    """Write what we read; a checkpoint of ours is that already.

    Raises:
        CheckpointError: as :func:`maskrcnn.run.convert.convert_file`.
    """
    ours = None if raw.suffix == ".pkl" else load_if_ours(raw)
    if ours is not None:
        save(ours, made)
        return
    options = Options(names=_categories(entry), overrides=_overrides(entry))
    logger.info("  %s", convert_file(raw, made, options).lines[0])


def place(name: str, entry: Published) -> Path:
    """Where the file lies as its publisher made it, or is to be put by hand."""
    return folder_of(name) / entry.file_name


def licence(entry: Published) -> str:
    """A phrase."""
    return f"licence: {entry.licence}" if entry.licence else "a licence is not stated, so ask its publisher"


def is_here(name: str, entry: Published) -> bool:
    """Whether the file was fetched and checked."""
    return facts_of(place(name, entry)) is not None


@cache
def converter() -> str:
    """Eight hex digits over the converters' sources: what another version made is made again."""
    package = Path(maskrcnn.__file__).parent
    files = [*sorted((package / "convert").glob("*.py")), package / "run/convert.py"]
    digest = hashlib.sha256(maskrcnn.__version__.encode())
    for path in (*files, package / "run/converted_recipe.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _categories(entry: Published) -> Categories | None:
    return Categories(tuple(range(1, len(entry.classes) + 1)), entry.classes) if entry.classes else None


def _overrides(entry: Published) -> list[str]:
    """What is stated has the last word over what the converter concludes from the weights."""
    if entry.kind == "backbone":
        return []
    stated = {"mean": entry.mean, "std": entry.std}
    return [f"model.preprocess.{key}={list(value)}" for key, value in stated.items() if value is not None]
