"""What was wrong with a data set and was passed over: counted by kind, the first few named."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Literal, TypeAlias

from maskrcnn.errors import DataError

logger = logging.getLogger(__name__)

#: ``raise``: every fault raises.  ``skip``: faulty annotations and unreadable images are passed over,
#: counted and named.  None: faulty annotations are passed over, unreadable images raise.
OnError: TypeAlias = Literal["raise", "skip"] | None

#: This many faults are written out in full; the rest is counted.
NAMED = 5


class FaultReport:
    """Faults of one data set.

    annotations: number of annotations passed over, by kind of fault.
    images: number of unreadable images passed over (training counts an image each time it is drawn).
    named: the first ``NAMED`` faults of annotations and of images, a sentence each.
    """

    def __init__(self, where: str, on_error: OnError) -> None:
        self.where = where
        self.on_error = on_error
        self.annotations: Counter[str] = Counter()
        self.images = 0
        self.named: list[str] = []
        self._named_images: set[int] = set()

    def __len__(self) -> int:
        return sum(self.annotations.values()) + self.images

    def annotation(self, kind: str, sentence: str) -> None:
        """Record a faulty annotation.

        Raises:
            DataError: ``on_error`` is ``raise``.
        """
        if self.on_error == "raise":
            raise DataError(f"{sentence} (set on_error: skip to leave such annotations out)")
        self.annotations[kind] += 1
        if sum(self.annotations.values()) <= NAMED:
            self.named.append(sentence)

    def image(self, image_id: int, sentence: str) -> None:
        """Record an unreadable image that was passed over, and warn the first time it is met."""
        self.images += 1
        if image_id not in self._named_images:
            self._named_images.add(image_id)
            if len(self._named_images) <= NAMED:
                self.named.append(sentence)
            logger.warning("%s; passed over (on_error: skip)", sentence)

    def summary(self) -> str:
        """All of it in a few lines; empty where nothing was wrong."""
        if not len(self):
            return ""
        total = sum(self.annotations.values())
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.annotations.most_common())
        lines = []
        if total:
            lines.append(f"{self.where}: {total} faulty annotations left out ({kinds})")
        if self.images:
            lines.append(f"{self.where}: unreadable images passed over {self.images} times")
        lines += [f"  {sentence}" for sentence in self.named]
        return "\n".join(lines)
