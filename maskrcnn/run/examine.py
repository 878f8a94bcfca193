"""``maskrcnn doctor DATA|CONFIG``: all that is found out about data, alone or for a recipe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.data.doctor import Doubt, find_doubts
from maskrcnn.data.doctor.doubts import few
from maskrcnn.data.doctor.file_doubts import doubt_of_files
from maskrcnn.data.doctor.look import Look
from maskrcnn.data.fault_report import NAMED
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.image_files import missing_files
from maskrcnn.data.interfaces import Dataset
from maskrcnn.engine.distributed import connect
from maskrcnn.errors import DataError, plural
from maskrcnn.evaluation import IouType
from maskrcnn.modeling.rpn.anchor_fit import fit_anchors
from maskrcnn.recipe import DataConfig, Recipe, check_same_categories
from maskrcnn.run import setup
from maskrcnn.run.fit_doubts import Seen, fit_doubts, reached, suggested
from maskrcnn.run.learnable import epoch_doubts, solver_doubts
from maskrcnn.run.recipe_checks import build_without_memory
from maskrcnn.run.step_cost import count_step, measure_step
from maskrcnn.run.truth_doubt import truth_doubt
from maskrcnn.viz.tables import Table

#: Ends of the classes of size, pixels; COCO's are at 32 and 96.
SIZES = (8, 16, 32, 96)
#: Classes that a table lists; a file has all.
MOST_CLASSES = 100
#: How the kinds of what the reader did begin.
READER = ("left out: ", "read as meant: ")
#: FPN's levels p2 to p6, for anchors where no recipe names others.
STRIDES = (4, 8, 16, 32, 64)

Sets = dict[str, Dataset]


@dataclass
class Examination:
    """What was found.

    data: the data sets that could be read, by their keys.
    facts: lines about each.  tables: of classes and sizes.
    doubts: the findings.  skipped: what could not be looked for, and why.
    """

    data: Sets
    facts: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For a terminal."""
        parts = ["\n".join(self.facts), *(table.text() for table in self.tables)]
        parts += [f"finding {n}: {doubt}" for n, doubt in enumerate(self.doubts, start=1)]
        parts += [f"not looked for: {what}" for what in self.skipped]
        count = len(self.doubts)
        verdict = f"{count} finding{'s' * (count > 1)}" if count else "sound: no findings"
        return "\n\n".join([*filter(None, parts), verdict])

    def as_json(self) -> dict[str, Any]:
        """As JSON's types, with all ids of all findings."""
        return {
            "facts": self.facts,
            "tables": [
                {"title": t.title, "head": list(t.head), "rows": list(map(list, t.rows))} for t in self.tables
            ],
            "findings": [doubt.as_json() for doubt in self.doubts],
            "not_looked_for": self.skipped,
        }


def examine(
    config: DataConfig,
    recipe: Recipe | None = None,
    *,
    look: Look | None = None,
    measure: bool = False,
    tell: Callable[[str], object] = lambda line: None,
) -> Examination:
    """Read the data and find out all about it.

    Args:
        recipe: whose data they are: then what does not fit it is told, too.
        look: opens all images; None: what takes that is left out.
        measure: make some steps of the recipe's training, and say what they take.
        tell: called with what is being done, for what takes long.

    Raises:
        UserError: (DataError, ConfigError) the data cannot be read at all.
    """
    data, doubts = read_sets(config)
    found = Examination(data, doubts=doubts)
    train, val = data["data.train"], data.get("data.val")
    for dataset in data.values():
        found.doubts += reader_doubts(dataset)
        if look is None:
            found.doubts += missing_doubts(dataset)
    if look is not None:
        tell("opening every image")
    found.doubts += find_doubts(train, val, look)
    found.skipped += [] if look is None else look.skipped
    if recipe is not None:
        _of_recipe(found, recipe, measure)
    tell("evaluating the truth")
    kinds: tuple[IouType, ...] = ("bbox", "segm") if recipe is None else setup.iou_types(recipe)
    by = (100,) if recipe is None else (recipe.model.roi.max_detections, recipe.eval.best_metric)
    judged = train if val is None else val
    with quietly():
        found.doubts += filter(None, [truth_doubt(judged, kinds, *by)])
    found.facts[:0] = [fact for key, dataset in data.items() for fact in _facts(key, dataset)]
    found.tables += [_classes(data), _sizes(data, recipe)]
    if recipe is None and Seen(train, None).counts.any():
        fit = fit_anchors(Seen(train, None).boxes, STRIDES)
        found.facts.append(
            f"anchors for the images at their own size: {fit.written()}, which reach {fit.recall:.1%}"
        )
    return found


def read_sets(config: DataConfig) -> tuple[Sets, list[Doubt]]:
    """Both data sets, all their images, with what is faulty passed over; and that their classes differ.

    Raises:
        DataError: one cannot be read.
    """

    def read(part: Any) -> Dataset:
        tolerant = replace(part, on_error="skip") if hasattr(part, "on_error") else part
        with quietly():
            return replace(config, on_error="skip").build(tolerant, False)

    data = {"data.train": read(config.train)}
    if config.val is None:
        return data, []
    data["data.val"] = val = read(config.val)
    try:
        check_same_categories(data["data.train"].categories, val.categories, "data.val")
    except DataError as error:
        doubt = Doubt(
            kind="classes differ",
            where=str(val.annotation_file),
            what="the classes are not those of the training data",
            count=len(val.categories),
            total=len(val.categories),
            of="classes",
            ids=(),
            names=(),
            cost=f"the head has an output for each class of the training data: training is refused ({error})",
            advice="give both files the same 'categories', ids and names",
        )
        return data, [doubt]
    return data, []


def reader_doubts(dataset: Dataset) -> list[Doubt]:
    """What the reader left out, and what it read as meant."""
    report, found = dataset.report, []
    for counter, of in ((report.records, "image records"), (report.annotations, "annotations")):
        for kind, count in counter.most_common():
            ids = report.ids.get(kind, [])
            found.append(
                Doubt(
                    kind=f"{READER[0]}{kind}",
                    where=str(dataset.annotation_file),
                    what=f"faulty {of} ({kind})",
                    count=count,
                    total=_read(dataset, of) + counter.total(),
                    of=of,
                    ids=tuple(ids[:NAMED]),
                    names=few(map(str, ids)),
                    cost=f"they are left out, in training and evaluation; the first: {report.first[kind]}",
                    advice="mend them; --fix writes a copy without them",
                    every=tuple(ids),
                )
            )
    for how, count in report.mended.most_common():
        ids = report.ids.get(how, [])
        found.append(
            Doubt(
                kind=f"{READER[1]}{how}",
                where=str(dataset.annotation_file),
                what=f"annotations that are read as they are meant: {how}",
                count=count,
                total=_read(dataset, "annotations") + report.annotations.total(),
                of="annotations",
                ids=tuple(ids[:NAMED]),
                names=few(map(str, ids)),
                cost="nothing here; other programs may read them otherwise, or not at all",
                advice="--fix writes a copy in which they stand as they are meant",
                every=tuple(ids),
            )
        )
    return found


def missing_doubts(dataset: Dataset) -> list[Doubt]:
    """Image files that are not there."""
    if not isinstance(dataset, CocoDataset):
        return []
    paths = [dataset.path(i) for i in range(len(dataset))]
    names = {i: f"image {int(dataset.image_ids[i])}: {paths[i].name}" for i in missing_files(paths)}
    if not names:
        return []
    advice = "correct the folder of images, restore the files, or take their records out of the json"
    what = ("missing image", "image files that are not there", "training does not begin without them")
    return [doubt_of_files(dataset, names, len(dataset), *what, advice)]


def _of_recipe(found: Examination, recipe: Recipe, measure: bool) -> None:
    """Add what the recipe makes of the data."""
    train = found.data["data.train"]
    model = build_without_memory(recipe)
    strides = [] if model.rpn is None else model.rpn.anchors.strides
    for key, dataset in found.data.items():
        found.doubts += fit_doubts(recipe, strides, dataset, training=key == "data.train")
    for sentence in [*solver_doubts(recipe.solver), *epoch_doubts(recipe.solver, len(train))]:
        found.doubts.append(_of_solver(sentence, len(train)))
    seen = _seen(train, recipe)
    if strides and seen.counts.any() and seen.recipe is not None:
        fit = suggested(seen, strides)
        found.facts.append(
            f"anchors reach {reached(seen, strides).mean():.1%} of the training objects; {fit.written()}"
            f" would reach {fit.recall:.1%}"
        )
    ranks = connect(recipe.device)
    if measure:
        cost = measure_step(recipe, train, ranks)
    else:
        sizes = seen.sizes if len(seen.sizes) else train.sizes
        height, width = np.median(sizes, axis=0).astype(int).tolist()
        per_pass = setup.images_per_pass(recipe, ranks)
        cost = count_step(recipe, (height, width), len(train.categories), per_pass)
    found.facts += cost.lines(recipe.solver.steps)


def _seen(dataset: Dataset, recipe: Recipe) -> Seen:
    """As the network sees the objects; as stored, where transforms of one's own have no one scale."""
    seen = Seen(dataset, recipe)
    try:
        _ = seen.sizes
    except DataError:
        return Seen(dataset, None)
    return seen


def _of_solver(sentence: str, images: int) -> Doubt:
    """What the start of a training says of rates and steps."""
    what, _, advice = sentence.rpartition("; ")
    return Doubt(
        kind="solver",
        where="the config",
        what=what,
        count=images,
        total=images,
        of="training images",
        ids=(),
        names=(),
        cost="the model learns little, or nothing",
        advice=advice,
    )


def _facts(key: str, dataset: Dataset) -> Iterator[str]:
    truth, counts = dataset.ground_truth(), Seen(dataset, None).counts
    crowds = int(truth.crowds.sum())
    middle, many = np.quantile(counts, [0.5, 0.95]) if len(counts) else (0, 0)
    ids = dataset.categories.ids
    gaps = ids[-1] - ids[0] + 1 - len(ids)
    yield f"{key}: {dataset.annotation_file}"
    yield (
        f"  {plural(len(dataset), 'image')}, {int((counts == 0).sum())} of them without objects;"
        f" {plural(int(counts.sum()), 'object')}, {plural(crowds, 'crowd region')}; {middle:g} objects an"
        f" image (95 %: {many:g}, most: {int(counts.max(initial=0))})"
    )
    if gaps:
        yield f"  category ids {ids[0]} to {ids[-1]} have {plural(gaps, 'gap')}, no harm: outputs are by rank"


def _classes(data: Sets) -> Table:
    """Objects and images of each class."""
    categories = data["data.train"].categories
    head, columns = ["class", "id"], []
    for key, dataset in data.items():
        truth = dataset.ground_truth()
        rows = np.flatnonzero(~truth.crowds)
        k = len(truth.category_ids)
        objects = np.bincount(truth.labels[rows], minlength=k)
        pairs = np.unique(truth.images[rows] * k + truth.labels[rows]) % k
        head += [f"{key.removeprefix('data.')} objects", "images"]
        by_id = dict(
            zip(truth.category_ids, zip(objects, np.bincount(pairs, minlength=k), strict=True), strict=True)
        )
        columns.append([by_id.get(i, (0, 0)) for i in categories.ids])
    order = np.argsort(-np.array([c[0] for c in columns[0]]), kind="stable")[:MOST_CLASSES].tolist()
    lines = [
        [categories.names[c], str(categories.ids[c]), *(str(v) for column in columns for v in column[c])]
        for c in order
    ]
    more = f" (the {len(lines)} most frequent of {len(categories)})" if len(lines) < len(categories) else ""
    return Table(head, lines, f"classes{more}")


def _sizes(data: Sets, recipe: Recipe | None) -> Table:
    """How many objects are of which size, in the original frame and as the network sees them."""
    columns: dict[str, npt.NDArray[np.float64]] = {}
    for key, dataset in data.items():
        name = key.removeprefix("data.")
        columns[f"{name}, as stored"] = Seen(dataset, None).sides
        if recipe is not None:
            columns[f"{name}, resized"] = _seen(dataset, recipe).sides
    names = [
        f"< {SIZES[0]}",
        *(f"{a} to {b}" for a, b in pairwise(SIZES)),
        f">= {SIZES[-1]}",
    ]
    lines = []
    for number, name in enumerate(names):
        shares = [(np.searchsorted(SIZES, sides, side="right") == number) for sides in columns.values()]
        lines.append([name, *(f"{s.mean():.1%}" if len(s) else "" for s in shares)])
    return Table(("side, px", *columns), lines, "sizes of objects (square root of the box's area)")


def _read(dataset: Dataset, of: str) -> int:
    truth = dataset.ground_truth()
    return len(truth) if of == "annotations" else len(truth.image_ids)


@contextmanager
def quietly() -> Iterator[None]:
    """What reading logs is told as findings."""
    logger = logging.getLogger("maskrcnn")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
