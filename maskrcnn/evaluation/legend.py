"""What figures mean that are easily misread: those that are not defined, and recalls that cannot be high."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Sizes by the letter at the end of a figure's name: word, and area of the mask or box (COCO's areaRng).
_SIZES = {
    "s": ("small", "under 32 x 32 px"),
    "m": ("medium", "32 x 32 to 96 x 96 px"),
    "l": ("large", "96 x 96 px or more"),
}
#: A cap on recall below this is told.
_LOW = 0.9


Figures = Mapping[str, Mapping[str, float | None]]


def legend(figures: Figures, images: int, objects: Sequence[int]) -> list[str]:
    """A sentence for each kind of figure that needs one; most results need none.

    Args:
        figures: kind of evaluation -> name -> value, None where it is not defined.
        images: how many were evaluated.
        objects: instances of each class, crowds left out.
    """
    return [*_undefined(figures, sum(objects)), *_capped(figures, images, [n for n in objects if n])]


def _undefined(figures: Figures, objects: int) -> list[str]:
    found = []
    for letter, (word, area) in _SIZES.items():
        names = [
            name
            for name in (f"AP{letter}", f"AR{letter}")
            if any(named.get(name, 0) is None for named in figures.values())
        ]
        if names and objects:
            verb = "are" if len(names) > 1 else "is"
            found.append(
                f"{' and '.join(names)} {verb} n/a: the annotations hold no {word} objects ({area};"
                " crowds do not count)"
            )
    return found


def _capped(figures: Figures, images: int, counts: Sequence[int]) -> list[str]:
    """AR1 and AR10 count so many detections an image and class: crowded images cannot reach 1."""
    if not counts or not any("AR1" in named for named in figures.values()):
        return []
    caps = {n: sum(min(1.0, n * images / c) for c in counts) / len(counts) for n in (1, 10, 100)}
    low = {n: cap for n, cap in caps.items() if cap < _LOW}
    if not low:
        return []
    told = ", ".join(f"AR{n} above {cap:.2f}" for n, cap in low.items())
    sentence = (
        "AR1, AR10 and AR100 allow 1, 10 and 100 detections an image and class; with"
        f" {sum(counts) / images:.3g} objects an image no model can reach {told}"
    )
    return [sentence]
