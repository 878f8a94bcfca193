"""What falls to which split, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from maskrcnn.errors import plural
from maskrcnn.viz.tables import Table

#: Classes that are written out; the others are counted.
_LISTED = 40


def shares(
    images: Mapping[str, int],
    objects: Mapping[str, Mapping[str, int]],
    groups: Mapping[str, int] | None = None,
) -> Table:
    """Images, groups where there are any, objects in all, and those of each class, the most frequent first.

    images, groups: by split.  objects: by split and class.
    """
    splits = list(images)
    total = {split: sum(objects[split].values()) for split in splits}
    rows = [["images", *(str(images[s]) for s in splits)]]
    if groups is not None:
        rows.append(["groups", *(str(groups[s]) for s in splits)])
    rows.append(["objects", *(str(total[s]) for s in splits)])
    names = dict.fromkeys(name for split in splits for name in objects[split])
    ranked = sorted(names, key=lambda name: -sum(objects[s].get(name, 0) for s in splits))
    rows += [[f"  {name}", *(str(objects[s].get(name, 0)) for s in splits)] for name in ranked[:_LISTED]]
    if len(ranked) > _LISTED:
        rows.append([f"  and {plural(len(ranked) - _LISTED, 'class')} more", *("" for _ in splits)])
    return Table(["", *splits], rows)
