"""What was wrong with a data set and was passed over: counted by kind, the first few named."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Literal, TypeAlias

from maskrcnn.errors import DataError, plural

logger = logging.getLogger(__name__)

#: ``raise``: every fault raises.  ``skip``: faulty annotations and unreadable images are passed over,
#: counted and named.  None: faulty annotations are passed over, unreadable images raise.
OnError: TypeAlias = Literal["raise", "skip"] | None

#: This many faults are written out in full; the rest is counted.
NAMED = 5


class FaultError(Exception):
    """A record cannot be used: kind for counting, reason for the sentence."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class FaultReport:
    """Faults of one data set.

    annotations: number of annotations passed over, by kind of fault.
    records: number of image records passed over, by kind of fault.
    mended: number of annotations whose plain meaning was used, by what was done.
    ids: by kind, or by what was done, the ids that the file gives those records, where it gives any.
    first: by kind, or by what was done, a sentence about the first.
    images: number of unreadable images passed over (training counts an image each time it is drawn).
    named: the first ``NAMED`` faults of annotations and of images, a sentence each.
    """

    def __init__(self, where: str, on_error: OnError) -> None:
        self.where = where
        self.on_error = on_error
        self.annotations: Counter[str] = Counter()
        self.records: Counter[str] = Counter()
        self.mended: Counter[str] = Counter()
        self.ids: dict[str, list[int]] = {}
        self.first: dict[str, str] = {}
        self.images = 0
        self.named: list[str] = []
        self._first: dict[str, str] = {}
        self._named_images: set[int] = set()
        self._told: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return self._faulty() + self.images

    def __bool__(self) -> bool:
        """Whether there is anything to tell: faults, or what was mended."""
        return len(self) > 0 or bool(self.mended)

    def _faulty(self) -> int:
        return self.annotations.total() + self.records.total()

    @property
    def unreadable(self) -> frozenset[int]:
        """Ids of the images that were passed over."""
        return frozenset(self._named_images)

    def annotation(self, kind: str, sentence: str, which: int | None = None) -> None:
        """Record a faulty annotation, ``which`` by its id.

        Raises:
            DataError: ``on_error`` is ``raise``.
        """
        self._fault(self.annotations, kind, sentence, "annotations", which)

    def record(self, kind: str, sentence: str, which: int | None = None) -> None:
        """Record a faulty image record, ``which`` by its id.

        Raises:
            DataError: ``on_error`` is ``raise``.
        """
        self._fault(self.records, kind, sentence, "images", which)

    def _fault(self, counter: Counter[str], kind: str, sentence: str, what: str, which: int | None) -> None:
        if self.on_error == "raise":
            raise DataError(f"{sentence} (set on_error: skip to leave such {what} out)")
        counter[kind] += 1
        self._remember(kind, sentence, which)
        self._first.setdefault(what, sentence)
        if self._faulty() <= NAMED:
            self.named.append(sentence)

    def mend(self, what: str, where: str, which: int | None = None) -> None:
        """Record that the plain meaning of an annotation was used: what was done, and to which, by its id."""
        self.mended[what] += 1
        self._remember(what, where, which)

    def _remember(self, kind: str, sentence: str, which: int | None) -> None:
        self.first.setdefault(kind, sentence)
        ids = self.ids.setdefault(kind, [])
        if which is not None:
            ids.append(which)

    def image(self, image_id: int, sentence: str) -> None:
        """Record an unreadable image that was passed over, and warn the first time it is met."""
        self.images += 1
        if image_id not in self._named_images:
            self._named_images.add(image_id)
            if len(self._named_images) <= NAMED:
                self.named.append(sentence)
            logger.warning("%s; passed over (on_error: skip)", sentence)

    def doubt(self, kind: str, image_id: int, sentence: str) -> None:
        """Tell of an image that was read but hardly as meant: once, and of the first few of a kind alone."""
        told = self._told.setdefault(kind, set())
        if image_id in told:
            return
        told.add(image_id)
        if len(told) <= NAMED:
            rest = f" ({NAMED} images so far; further ones are not named)" if len(told) == NAMED else ""
            logger.warning("%s: image %d: %s%s", self.where, image_id, sentence, rest)

    def told(self, kind: str, image_ids: Iterable[int]) -> None:
        """Images of which :meth:`doubt` need not tell any more."""
        self._told.setdefault(kind, set()).update(image_ids)

    def notes(self, what: str = "annotation") -> tuple[str, ...]:
        """A sentence for each kind of thing that was left out or mended, without names beyond the first."""
        found = []
        for counter, of, key in (
            (self.records, "image record", "images"),
            (self.annotations, what, "annotations"),
        ):
            if counter:
                kinds = ", ".join(f"{n} {kind}" for kind, n in counter.most_common(NAMED))
                more = f", and {plural(len(counter) - NAMED, 'kind')} more" if len(counter) > NAMED else ""
                left_out = f"{plural(counter.total(), f'faulty {of}')} left out ({kinds}{more})"
                found.append(f"{left_out}; first: {self._first[key]}")
        return (
            *found,
            *(f"{plural(n, what)} read as meant: {how}" for how, n in self.mended.most_common(NAMED)),
        )

    def summary(self) -> str:
        """All of it in a few lines; empty where there is nothing to tell."""
        lines = []
        for counter, what in ((self.records, "image record"), (self.annotations, "annotation")):
            if counter:
                kinds = ", ".join(f"{n} {kind}" for kind, n in counter.most_common())
                lines.append(f"{self.where}: {plural(counter.total(), f'faulty {what}')} left out ({kinds})")
        if self.images:
            lines.append(f"{self.where}: unreadable images passed over {self.images} times")
        lines += [f"  {sentence}" for sentence in self.named]
        if self.mended:
            lines.append(f"{self.where}: read as meant, in training and evaluation alike:")
            lines += [f"  {n} {what} (first: {self.first[what]})" for what, n in self.mended.most_common()]
        return "\n".join(lines)
