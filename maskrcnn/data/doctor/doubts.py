"""Doubts about classes.

Legend: K = classes, A = annotations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from maskrcnn.data.doctor import DOUBTS, Doubt
from maskrcnn.data.fault_report import NAMED
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.index import AnnotationIndex
from maskrcnn.data.interfaces import Dataset
from maskrcnn.errors import plural
from maskrcnn.structures.categories import Categories

Integers = npt.NDArray[np.int64]


def few(names: Iterable[str]) -> tuple[str, ...]:
    """The first few, each cut to a length that a sentence bears."""
    return tuple(n if len(n) <= 60 else f"{n[:60]}..." for n in list(names)[:NAMED])


@DOUBTS.register("classes")
def _of_a_run(dataset: Dataset, train: Dataset | None) -> Iterable[Doubt]:
    """Of a validation set, those that the training set did not tell already."""
    if not isinstance(dataset, CocoDataset):
        return []
    known = None
    if isinstance(train, CocoDataset) and train is not dataset:
        known = trained_classes(train.index, train.considered)
    return class_doubts(dataset.index, training=dataset is train, most_images=dataset.considered, known=known)


def class_doubts(
    index: AnnotationIndex,
    *,
    training: bool,
    most_images: int | None = None,
    known: Sequence[int] | None = None,
) -> list[Doubt]:
    """Classes that never train (or are never judged), that group all others, or that share a name.

    training: whether the data set trains; else it judges.
    most_images: look at the first so many images alone.
    known: class indices that the training set has objects of, where a data set that judges was preceded by
        one; classes that it lacks were told there.
    """
    categories, k = index.categories, len(index.categories)
    used = index.images < (len(index) if most_images is None else most_images)
    objects = np.bincount(index.labels[used & ~index.crowds], minlength=k)
    crowds = np.bincount(index.labels[used & index.crowds], minlength=k)
    own = [c for c in range(k) if known is None or c in set(known)]
    root = index.root_class if index.root_class in own else None
    found = []
    if root is not None:
        found.append(_root(index, root))
    if not training and not objects.any() and not crowds.any():
        found.append(_nothing_to_judge(index, int(len(index) if most_images is None else most_images)))
    # Where nothing is annotated at all, that is the choice of whoever trains on background.
    if objects.any() or crowds.any():
        hidden = [c for c in own if objects[c] == 0 and crowds[c] > 0]
        absent = [c for c in own if objects[c] == 0 and crowds[c] == 0 and c != root]
        if hidden:
            found.append(_all_crowd(index, hidden, crowds, int((objects + crowds).sum()), training))
        if absent:
            found.append(_absent(index, absent, training))
    if known is None:
        twins = [c for c in same_names(categories) if c[0] != root]
        if twins:
            found.append(_one_name(index, twins))
    return found


def trained_classes(index: AnnotationIndex, most_images: int | None = None) -> list[int]:
    """Class indices that have an object which trains among the first ``most_images`` images."""
    used = index.images < (len(index) if most_images is None else most_images)
    found: list[int] = np.unique(index.labels[used & ~index.crowds]).tolist()
    return found


def same_names(categories: Categories) -> list[list[int]]:
    """Groups of class indices whose names differ in case and blanks at most."""
    groups: dict[str, list[int]] = {}
    for c, name in enumerate(categories.names):
        groups.setdefault("".join(name.split()).casefold(), []).append(c)
    return [group for group in groups.values() if len(group) > 1]


def _of_classes(
    index: AnnotationIndex, classes: Sequence[int], kind: str, what: str, cost: str, advice: str
) -> Doubt:
    return Doubt(
        kind=kind,
        where=index.source,
        what=what,
        count=len(classes),
        total=len(index.categories),
        of="classes",
        ids=tuple(index.categories.ids[c] for c in classes[:NAMED]),
        names=few(repr(index.categories.names[c]) for c in classes),
        cost=cost,
        advice=advice,
    )


def _root(index: AnnotationIndex, root: int) -> Doubt:
    return _of_classes(
        index,
        [root],
        "root class",
        "a class that only groups the others, as exporters write it",
        "no annotation has it, yet the model gets an output for it",
        "remove its record from"
        " 'categories' of the training and the validation file (the other ids may stay as they are)",
    )


def _all_crowd(
    index: AnnotationIndex, classes: Sequence[int], crowds: Integers, total: int, training: bool
) -> Doubt:
    cost = "they never train" if training else "they are never judged"
    doubt = _of_classes(
        index,
        classes,
        "class all crowd",
        "classes whose annotations are all crowd regions (iscrowd: 1)",
        f"{cost}; of {plural(total, 'annotation')} {int(crowds.sum())} are crowd regions",
        "set iscrowd to 0 on"
        " those that are single objects (labelling tools write 1 for whatever they store as RLE)",
    )
    return replace(doubt, names=few(f"{index.categories.names[c]!r}: {crowds[c]}" for c in classes))


def _absent(index: AnnotationIndex, classes: Sequence[int], training: bool) -> Doubt:
    cost = "they cannot be learned" if training else "nothing says how well they are learned"
    learned = (
        "annotate some, or remove their records from 'categories' of the training and the validation file"
    )
    judged = "the averages are over the other classes"
    what = "classes without any annotation"
    return _of_classes(
        index, classes, "class without annotations", what, cost, learned if training else judged
    )


def _nothing_to_judge(index: AnnotationIndex, images: int) -> Doubt:
    return Doubt(
        kind="nothing to judge",
        where=index.source,
        what="images without any annotation",
        count=images,
        total=images,
        of="images",
        ids=(),
        names=(),
        cost="no figure can be computed, and so no checkpoint is kept as the best",
        advice="name a file that has"
        " annotations as data.val, or evaluate for the results alone (maskrcnn eval --results FILE)",
    )


def _one_name(index: AnnotationIndex, groups: Sequence[Sequence[int]]) -> Doubt:
    categories = index.categories
    return Doubt(
        kind="classes of one name",
        where=index.source,
        what="classes of one name, but for case and blanks",
        count=sum(map(len, groups)),
        total=len(categories),
        of="classes",
        ids=tuple(categories.ids[c] for g in groups for c in g)[:NAMED],
        names=few(
            " = ".join(f"{categories.names[c]!r} (id {categories.ids[c]})" for c in g[:NAMED]) for g in groups
        ),
        cost="the model learns to tell them apart",
        advice="if they are one class, give their annotations one"
        " category_id and remove the other record, in the training and the validation file; else name"
        " them apart",
    )
