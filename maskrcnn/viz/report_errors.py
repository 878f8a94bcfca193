"""The parts of a report that say what is wrong, and what it costs; see ``report_figures.py``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from maskrcnn.data.file_names import shown
from maskrcnn.errors import plural
from maskrcnn.viz.charts import bar_chart
from maskrcnn.viz.report_figures import WORDS, Figures
from maskrcnn.viz.report_parts import NONE, Cell, Matrix, ReportPart, number, whole
from maskrcnn.viz.tables import Table

#: TIDE's errors: what they are, and what helps.
ERRORS = {
    "class": (
        "found, and called another class",
        (
            "look at the pairs under Confusion: labels that disagree, or rare classes (data.repeat_threshold,"
            " model.roi.balance_classes)"
        ),
    ),
    "location": (
        "the right class, with an overlap of 0.1 to 0.5",
        (
            "larger images (data.eval_transforms, data.train_transforms), model.roi.cascade, anchors that fit"
            " (model.rpn.anchors; maskrcnn doctor proposes some)"
        ),
    ),
    "both": ("another class, and an overlap of 0.1 to 0.5", "what helps against the two before"),
    "duplicate": (
        "an object that a better prediction has found already",
        "a lower model.roi.nms_threshold",
    ),
    "background": (
        "nothing is there",
        (
            "look at them in the gallery: objects that nobody labelled, or real mistakes; images without"
            " objects in training (data.train.filter_empty: false) teach what is none"
        ),
    ),
    "missed": (
        "an object that no prediction is near",
        (
            "a lower model.roi.score_threshold, a higher model.roi.max_detections and"
            " model.rpn.post_nms_test, anchors that fit (model.rpn.anchors), larger images for small objects"
        ),
    ),
}
#: Oracles: what would be perfect.
ORACLES = {
    "now": "nothing: as it is",
    "boxes": "boxes: every prediction that overlaps an object has its box, its mask moved with it",
    "masks": "masks: every prediction that overlaps an object has its mask",
    "classes": "classes: every prediction that overlaps an object has its class",
    "scores": "scores: what is right comes first",
    "no_background": "no predictions where nothing is",
    "no_duplicates": "no duplicates",
    "all_found": "no object is missed",
}
#: Rows of tables that could be endless, and classes that a matrix has.
MOST_ROWS, MOST_CLASSES = 50, 40


def error_parts(found: Figures, names: Mapping[int, str]) -> Iterator[ReportPart]:
    """In the order of the page; what was not computed has no part.  names: files of images by their ids."""
    if found["tide"]:
        yield _tide(found)
    if found["confusion"] is not None:
        yield _confusion(found)
    if found["oracles"]:
        yield _oracles(found)
    if found["proposals"] is not None:
        yield _proposals(found)
    if found["background"] is not None:
        yield _background(found, names)
    if found["limits"]:
        yield _limits(found)
    if found["label_errors"]:
        yield _labels(found, names)


def what_costs_most(found: Figures) -> list[str]:
    """The three errors that cost most AP, and what helps against each."""
    tide = found["tide"].get(found["kind"])
    if tide is None:
        return []
    costs = {name: entry["cost"] or 0.0 for name, entry in tide["errors"].items()}
    ranked = sorted((n for n in costs if costs[n] > 0.001), key=lambda n: -costs[n])[:3]
    return [
        f"{name} costs {costs[name]:.3f} of AP50 ({plural(tide['errors'][name]['count'], 'case', spec=',')}):"
        f" {ERRORS[name][0]}. What helps: {ERRORS[name][1]}."
        for name in ranked
    ]


def _tide(found: Figures) -> ReportPart:
    charts, columns = [], []
    for kind, tide in found["tide"].items():
        errors = tide["errors"]
        costs = {name: errors[name]["cost"] or 0.0 for name in ERRORS}
        charts.append(bar_chart(f"{WORDS[kind]}: AP50 that each error costs", costs))
        cells = [(number(errors[name]["cost"]), whole(errors[name]["count"])) for name in ERRORS]
        columns.append([*cells, (number(tide["false_positive"]), ""), (number(tide["false_negative"]), "")])
    names = [*ERRORS, "all that is found wrongly", "all that is not found"]
    told = [*ERRORS.values(), ("", ""), ("", "")]
    rows = [
        (name, *(cell for column in columns for cell in column[i]), *told[i]) for i, name in enumerate(names)
    ]
    groups = [
        ("", 1),
        *((f"{WORDS[k]}, AP50 {number(t['ap'])}", 2) for k, t in found["tide"].items()),
        ("", 2),
    ]
    n = 2 * len(columns)
    head = ("error", *("costs", "cases") * len(columns), "what it is", "what helps")
    table = Table(head, rows, left=(0, n + 1, n + 2), groups=groups)
    return ReportPart("errors", "Errors, and what each costs", tables=[table], charts=charts)


def _confusion(found: Figures) -> ReportPart:
    c = found["confusion"]
    pairs = [(shown(p["truth"]), shown(p["predicted"]), whole(p["count"])) for p in c["pairs"][:MOST_ROWS]]
    table = Table(("truth", "predicted", "cases"), pairs, "The most frequent mistakes", left=(0, 1))
    return ReportPart(
        "confusion",
        "Confusion",
        tables=[table] if pairs else (),
        matrix=None if c["matrix"] is None else _matrix(c["names"], c["matrix"]),
    )


def _matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Matrix:
    """The classes that are confused most, and background."""
    last = len(names) - 1
    wrong = [sum(counts[k]) + sum(row[k] for row in counts) - 2 * counts[k][k] for k in range(last)]
    chosen = [*sorted(sorted(range(last), key=lambda k: -wrong[k])[:MOST_CLASSES]), last]
    rows = []
    for i in chosen:
        total = max(sum(counts[i]), 1)
        cells = [
            Cell(
                str(counts[i][k]) if counts[i][k] or i == k != last else "",
                counts[i][k] / total,
                f"{shown(names[i])} as {shown(names[k])}: {counts[i][k]:,} of {sum(counts[i]):,}",
            )
            for k in chosen
        ]
        rows.append((names[i], cells))
    title = (
        ""
        if len(chosen) > last
        else f"The {len(chosen) - 1} that are confused most, of {plural(last, 'class')}"
    )
    return Matrix(title, [names[k] for k in chosen], rows)


def _oracles(found: Figures) -> ReportPart:
    kinds = list(found["oracles"])
    rows = []
    for name, told in ORACLES.items():
        cells = []
        for kind in kinds:
            entry = found["oracles"][kind].get(name, {})
            cells += [number(entry.get("AP")), number(entry.get("AP50"))]
        if any(cell != NONE for cell in cells):
            rows.append((told, *cells))
    head = ("were this perfect", *(name for _ in kinds for name in ("AP", "AP50")))
    return ReportPart(
        "oracles",
        "What AP would be",
        tables=[Table(head, rows, groups=[("", 1), *((WORDS[kind], 2) for kind in kinds)])],
    )


def _proposals(found: Figures) -> ReportPart:
    rows = [(name, number(value)) for name, value in found["proposals"].items()]
    return ReportPart(
        "proposals",
        "Proposals",
        tables=[Table(("", "recall"), rows)],
    )


def _background(found: Figures, names: Mapping[int, str]) -> ReportPart:
    b = found["background"]
    rows = [
        (_image(w["image_id"], names), whole(w["detections"]), number(w["score"], 2))
        for w in b["worst"][:MOST_ROWS]
    ]
    told = (
        f"On {b['with_detections']:,} of {plural(b['images'], 'image', spec=',')} that hold no object"
        f" something is found: {plural(b['detections'], 'prediction', spec=',')}."
    )
    return ReportPart(
        "background",
        "Images without objects",
        [told],
        [Table(("image", "predictions", "highest score"), rows)] if rows else (),
    )


def _limits(found: Figures) -> ReportPart:
    limit = found["limits"]
    notes = []
    if limit.get("cap") is not None:
        notes.append(
            f"{plural(limit['images_at_cap'], 'image', spec=',')} with as many predictions as the model gives"
            f" at most ({limit['cap']}), {plural(limit['images_over_cap'], 'image', spec=',')} with more"
            " objects than that."
        )
    if limit.get("tiny") is not None:
        size = limit.get("tiny_pixels", 8)
        notes.append(
            f"{plural(limit['tiny'], 'object', spec=',')} whose shorter side is under {size} px where the"
            " network sees it: so little can hardly be recognised."
        )
    return ReportPart(
        "limits",
        "Limits",
        notes,
    )


def _labels(found: Figures, names: Mapping[int, str]) -> ReportPart:
    classes = [entry["name"] for entry in found["classes"]]

    def called(label: int | None) -> str:
        return "" if label is None or not 0 <= label < len(classes) else classes[label]

    rows = [
        (
            e["type"],
            _image(e["image_id"], names),
            "" if e["annotation_id"] is None else str(e["annotation_id"]),
            called(e["label"]),
            called(e["predicted"]),
            "" if e["score"] is None else number(e["score"], 2),
            "" if e["iou"] is None else number(e["iou"], 2),
        )
        for e in found["label_errors"][:MOST_ROWS]
    ]
    head = ("type", "image", "annotation", "labelled", "predicted", "score", "IoU")
    return ReportPart(
        "labels",
        "Likely label errors",
        tables=[Table(head, rows, left=(0, 1, 3, 4))],
    )


def _image(image_id: int, names: Mapping[int, str]) -> str:
    return shown(names[image_id]) if image_id in names else f"image {image_id}"


def about_part(found: Figures) -> ReportPart:
    """What was evaluated, how fast, and what was left out."""
    rows = [(shown(name), shown(str(value))) for name, value in found["about"].items()]
    speed = [
        (name.replace("_", " "), f"{value:,.4g}" if isinstance(value, float) else shown(str(value)))
        for name, value in (found["speed"] or {}).items()
    ]
    tables = [Table(("", "model and data"), rows, left=(0, 1))] if rows else []
    if speed:
        tables.append(Table(("", "the evaluation"), speed))
    return ReportPart("about", "Model, data, speed", notes=found["notes"], tables=tables)
