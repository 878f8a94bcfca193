"""The classes of a data set: its own ids, gaps and all, and the contiguous index that the model uses."""

from __future__ import annotations

from dataclasses import dataclass, field

from maskrcnn.errors import DataError, few, plural


@dataclass(frozen=True)
class Categories:
    """K classes by rising category id; class index k in [0, K) is position k (no background entry).

    ids: the data set's category ids, strictly rising, gaps allowed.
    names: one name an id.

    Raises:
        DataError: ids that repeat or are not sorted, or another number of names.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    _index: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise DataError(f"{plural(len(self.ids), 'category id')} but {plural(len(self.names), 'name')}")
        if any(a >= b for a, b in zip(self.ids, self.ids[1:], strict=False)):
            raise DataError(f"category ids must rise and not repeat: {few(self.ids, 20)}")
        object.__setattr__(self, "_index", {c: k for k, c in enumerate(self.ids)})

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, category_id: object) -> bool:
        return category_id in self._index

    def index_of(self, category_id: int) -> int:
        """The class index in [0, K) of a category id.

        Raises:
            DataError: there is no such category.
        """
        if category_id not in self._index:
            raise DataError(f"unknown category id {category_id}; known: {few(self.ids, 20)}")
        return self._index[category_id]
