"""``maskrcnn weights``: what is known by name, where it lies, and names of one's own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskrcnn.errors import CheckpointError, ConfigError, UserError
from maskrcnn.run.convert import read_names
from maskrcnn.run.named_weights import is_name, publisher_of
from maskrcnn.run.published_weights import place
from maskrcnn.run.timm_weights import BY_HAND
from maskrcnn.viz.tables import Table
from maskrcnn.weights import published
from maskrcnn.weights.fetch import digests, facts_of, fetch
from maskrcnn.weights.published import Published

logger = logging.getLogger(__name__)

#: Figures and the titles of their columns.
_FIGURES = {"bbox/AP": "box AP", "segm/AP": "mask AP", "keypoints/AP": "kp AP", "imagenet/top1": "top-1"}


@dataclass(frozen=True)
class Row:
    """Weights by name.

    state: what is known of the file: that it is here, or what is stated, or that nothing is.
    """

    name: str
    entry: Published
    state: str


def listed(words: Iterable[str] = ()) -> list[Row]:
    """All names that hold all of ``words``, in the registry's order."""
    words = list(words)
    found = published.registry().items()
    return [Row(name, e, _state(name, e)) for name, e in found if all(word in name for word in words)]


def _state(name: str, entry: Published) -> str:
    facts = facts_of(place(name, entry))
    if facts is not None:
        return f"here, {facts.size / 2**20:.1f} MiB, SHA-256 {facts.sha256[:8]}"
    digest = f"SHA-256 {entry.sha256[:8]}" if entry.sha256 else f"MD5 {entry.md5}" if entry.md5 else ""
    size = f"{entry.mebibytes:.1f} MiB" if entry.mebibytes else ""
    return ", ".join(filter(None, (size, digest))) or "not tried here"


def text(rows: Sequence[Row]) -> str:
    """The table, and what else there is."""
    head = ("name", "kind", *_FIGURES.values(), "rate", "licence", "file")
    cells = [
        (
            row.name,
            row.entry.kind,
            *(f"{100 * row.entry.figures[m]:.1f}" if m in row.entry.figures else "" for m in _FIGURES),
            "" if row.entry.rate is None else f"{row.entry.rate:g}",
            row.entry.licence or "not stated",
            row.state,
        )
        for row in rows
    ]
    return "\n".join(
        [
            Table(head, cells, left=(0, 1, len(head) - 2, len(head) - 1)).text(),
            "",
            "and timm/MODEL.TAG, by timm's own loader (timm.list_pretrained() has the names). Figures:",
            "stated by the publisher, in percent; rate: of SGD for a step of 16 images. Not tried here:",
            "neither size nor digest is stated, and the first fetch fills them in. All of it lies in",
            str(published.home() / "weights"),
        ]
    )


def where(name: str | None) -> str:
    """The place of a name's file; of all, without one.

    Raises:
        CheckpointError: there is no such name.
    """
    if name is None:
        return str(published.home() / "weights")
    if not is_name(Path(name)):
        raise CheckpointError(f"{name}: {published.unknown(name, published.registry())}")
    outlook = publisher_of(Path(name)).outlook(name)
    if name.startswith("timm/"):
        path = published.folder_of(name) / BY_HAND[0]
    else:
        path = place(*published.find(name))
    return f"{path}\n(not there yet: {outlook})" if outlook else str(path)


def add(name: str, source: str, classes: Path | None, stated: Mapping[str, Any]) -> str:
    """A name of one's own for an address or a file, or a known name's file from elsewhere; what was done.

    Args:
        stated: fields of :class:`Published`.

    Raises:
        ConfigError: the name, or something that is stated, will not do.
        CheckpointError: the file is not that of the known name.
        OutputError: it cannot be kept.
    """
    file = None if "://" in source else Path(source)
    if file is not None and not file.is_file():
        raise UserError(f"{source}: no such file; name a file, or an address as https://HOST/FILE")
    address = source if file is None else file.resolve().as_uri()
    if is_name(Path(name)) and not name.startswith("own/"):
        if file is None:
            raise ConfigError(f"{name}: for an address take a name of your own, as own/{Path(name).name}")
        full, entry = published.find(name)
        fetch(full, replace(entry, url=address), place(full, entry), logger.info)
        return f"{full}: is here, {place(full, entry)}"
    names = () if classes is None else read_names(classes).names
    digest = {} if file is None else {"sha256": digests(file).sha256}
    try:
        entry = Published(url=address, classes=names, **{**stated, **digest})
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
    registry = published.add(name, entry)
    if file is not None:
        fetch(name, entry, place(name, entry), logger.info)
    return f"{name}: added to {registry}"
