"""The page of a report: one file in HTML that needs nothing else; see ``templates/report.html.j2``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from maskrcnn.data.file_names import shown
from maskrcnn.viz.gallery import Shot, count_items
from maskrcnn.viz.pages import render
from maskrcnn.viz.palette import GREEN, ORANGE, PURPLE, SKY, VERMILLION
from maskrcnn.viz.report_parts import ReportPart

#: Objects by size, as COCO has them.
AREAS = {"s": "small", "m": "medium", "l": "large"}


@dataclass(frozen=True)
class Kind:
    """How objects of a layer fare: the word that outlines have, what the key says, and the colour.

    filled: so that errors stand out from what is right.
    """

    layer: str
    word: str
    told: str
    colour: str
    filled: bool = True


#: Of one model, beside the truth.
KINDS = (
    Kind("truth", "met", "labelled, and found", SKY, filled=False),
    Kind("truth", "missed", "labelled, and missed", ORANGE),
    Kind("truth", "crowd", "labelled as a crowd", PURPLE, filled=False),
    Kind("found", "right", "found, right", GREEN, filled=False),
    Kind("found", "class", "found, another class", VERMILLION),
    Kind("found", "location", "found, placed badly", VERMILLION),
    Kind("found", "both", "found, another class and placed badly", VERMILLION),
    Kind("found", "duplicate", "found twice", PURPLE),
    Kind("found", "background", "found where nothing is labelled", VERMILLION),
    Kind("found", "ignored", "found, in a crowd", PURPLE, filled=False),
)
LAYERS = (("truth", "truth"), ("found", "predictions"))


@dataclass(frozen=True)
class Gallery:
    """The images of a page.

    told: what is shown and what is left out.  groups: names of the rankings, whose numbers the shots have.
    classes: names.  kinds, layers: what the outlines are.
    """

    shots: Sequence[Shot]
    told: str
    groups: Sequence[str]
    classes: Sequence[str]
    kinds: Sequence[Kind] = KINDS
    layers: Sequence[tuple[str, str]] = LAYERS

    def filters(self) -> list[tuple[str, str, list[tuple[str, str, int]]]]:
        """(id, word, entries (value, name, images)) of each list of the bar."""
        classes, areas, kinds = (count_items(self.shots, part) for part in range(3))
        words = [kind.word for kind in self.kinds]
        told = {k.word: k.told if words.count(k.word) == 1 else k.word for k in self.kinds}
        named = {str(i): shown(name) for i, name in enumerate(self.classes)}
        return [
            ("class", "class", _entries(classes, named)),
            ("area", "size", _entries(areas, AREAS)),
            ("error", "outcome", _entries(kinds, told)),
        ]


def _entries(counts: Mapping[str, int], names: Mapping[str, str]) -> list[tuple[str, str, int]]:
    return [(value, name, counts[value]) for value, name in names.items() if value in counts]


def report_page(
    title: str,
    parts: Sequence[ReportPart],
    *,
    leads: Sequence[tuple[str, str, str]] = (),
    advice: Sequence[str] = (),
    notes: Sequence[str] = (),
    gallery: Gallery | None = None,
) -> str:
    """The page.

    Args:
        leads: (name, figure, what stands below), large at the top.
        advice: what to change first.
        notes: sentences above all.
    """
    shots = () if gallery is None else gallery.shots
    return render(
        "report.html.j2",
        title=shown(title),
        parts=parts,
        leads=leads,
        advice=advice,
        notes=[shown(note) for note in notes],
        shots=shots,
        gallery_told="" if gallery is None else gallery.told,
        groups=() if gallery is None else gallery.groups,
        kinds=() if gallery is None else gallery.kinds,
        layers=() if gallery is None else gallery.layers,
        filters=() if gallery is None else gallery.filters(),
    )
