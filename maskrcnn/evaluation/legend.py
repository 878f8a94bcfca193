"""What figures mean that are easily misread: those that are not defined, and recalls that cannot be high."""

from __future__ import annotations

from maskrcnn.evaluation.eval_result import EvalResult

#: Sizes by the letter at the end of a figure's name: word, and area of the mask or box (COCO's areaRng).
_SIZES = {
    "s": ("small", "under 32 x 32 px"),
    "m": ("medium", "32 x 32 to 96 x 96 px"),
    "l": ("large", "96 x 96 px or more"),
}
#: A cap on recall below this is told.
_LOW = 0.9


def legend(result: EvalResult) -> list[str]:
    """A sentence for each kind of figure of ``result`` that needs one; most results need none."""
    return [*_undefined(result), *_capped(result)]


def _undefined(result: EvalResult) -> list[str]:
    found = []
    for letter, (word, area) in _SIZES.items():
        names = sorted(
            {
                name
                for named in result.figures.values()
                for name, value in named.items()
                if value is None and name in (f"AP{letter}", f"AR{letter}")
            }
        )
        if names and result.ground_truth:
            verb = "are" if len(names) > 1 else "is"
            found.append(
                f"{' and '.join(names)} {verb} n/a: the annotations hold no {word} objects ({area};"
                " crowds do not count)"
            )
    return found


def _capped(result: EvalResult) -> list[str]:
    """AR1 and AR10 count so many detections an image and class: crowded images cannot reach 1."""
    counts = next(
        ([entry.ground_truth for entry in entries] for entries in result.per_class.values() if entries), []
    )
    counts = [count for count in counts if count]
    if not counts or not any("AR1" in named for named in result.figures.values()):
        return []
    caps = {n: sum(min(1.0, n * result.images / c) for c in counts) / len(counts) for n in (1, 10, 100)}
    low = {n: cap for n, cap in caps.items() if cap < _LOW}
    if not low:
        return []
    told = ", ".join(f"AR{n} above {cap:.2f}" for n, cap in low.items())
    sentence = (
        "AR1, AR10 and AR100 allow 1, 10 and 100 detections an image and class; with"
        f" {result.ground_truth / result.images:.3g} objects an image no model can reach {told}"
    )
    return [sentence]
