"""What is not wrong in a data set but is hardly meant: told once, before hours are spent on it.

A doubt stops nothing.  Who asks for one is in :data:`DOUBTS`; a plugin can add its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from maskrcnn.config.registry import Named, on_demand
from maskrcnn.data.interfaces import Dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Doubt:
    """Something that is hardly meant.

    kind: a fixed name of what it is, for programs.
    where: the file.
    what: what it is about, in words.
    count, total, of: how many of how many, and of what.
    ids: of the first few, category, image or annotation ids by ``of``.
    names: the same few, in words.
    cost: what becomes of it in training and evaluation.
    advice: what to do.
    every: all ids, where ``ids`` are of images or annotations.
    images: of annotations, the id of the image of each of ``every``.
    others: of repetitions, the id of what each of ``every`` repeats.
    """

    kind: str
    where: str
    what: str
    count: int
    total: int
    of: str
    ids: tuple[int, ...]
    names: tuple[str, ...]
    cost: str
    advice: str
    every: tuple[int, ...] = ()
    images: tuple[int, ...] = ()
    others: tuple[int, ...] = ()

    def __str__(self) -> str:
        """One line."""
        more = ", ..." if self.count > len(self.names) else ""
        named = f" ({', '.join(self.names)}{more})" if self.names else ""
        what = f"{self.where}: {self.what}: {self.count} of {self.total} {self.of}{named}"
        return f"{what}; {self.cost}; {self.advice}"

    def as_json(self) -> dict[str, Any]:
        """As JSON's types, with all ids."""
        return asdict(self)


#: Looks at a data set, and at the training set that it stands beside (itself, where it is that one); of a
#: format that it does not know it says nothing.
Doubter: TypeAlias = Callable[[Dataset, Dataset | None], Iterable[Doubt]]
DOUBTS: Named[Doubter] = Named(
    "doubt",
    "maskrcnn.data.doctor",
    classes="doubts",
    annotations="annotation_doubts",
    files="file_doubts",
    masks="mask_doubts",
    split="split_doubts",
)


#: The same, of those that open every image (by a ``look.Look``) or need a library of
#: their own: ``maskrcnn doctor`` asks for them.
ThoroughDoubter: TypeAlias = Callable[[Dataset, Dataset | None, Any], Iterable[Doubt]]
THOROUGH: Named[ThoroughDoubter] = Named(
    "thorough doubt",
    "maskrcnn.data.doctor",
    copies="copy_doubts",
    images="image_doubts",
    overlaps="overlap_doubts",
)


#: What few runs need is imported when it is asked for.
__getattr__ = on_demand(__name__, Look="look")


def find_doubts(train: Dataset | None, val: Dataset | None, look: Any = None) -> Iterator[Doubt]:
    """What is hardly meant in the data that a run reads.

    look: a :class:`maskrcnn.data.doctor.look.Look` opens all images; None: what takes that is not asked for.
    """
    for dataset in (train, val):
        if dataset is not None:
            found = [d for name in DOUBTS.names() for d in DOUBTS.get(name)(dataset, train)]
            if look is not None:
                more = [d for name in THOROUGH.names() for d in THOROUGH.get(name)(dataset, train, look)]
                every = {d.kind for d in more}
                found = [d for d in found if d.kind not in every] + more  # not those of a sample, too
            yield from found


def tell_doubts(train: Dataset | None, val: Dataset | None, *, thorough: bool = False) -> None:
    """Log each as a warning of one line; ``thorough``: open every image for it."""
    look = __getattr__("Look")() if thorough else None
    for doubt in find_doubts(train, val, look):
        logger.warning("%s", doubt)
    for what in look.skipped if look is not None else ():
        logger.warning("not looked for: %s", what)
