"""A run's figures beside the published ones that its recipe expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maskrcnn.recipe import Expectation


def compare(expected: Sequence[Expectation], metrics: Mapping[str, float]) -> tuple[bool, list[str]]:
    """Whether every expected figure was met, and a line a figure.

    A figure is met from ``value - tolerance`` on; one that ``metrics`` does not hold is not met.
    """
    met, lines = True, []
    for item in expected:
        own = metrics.get(item.metric)
        reached = own is not None and own >= item.value - item.tolerance
        met &= reached
        word = "NOT COMPUTED" if own is None else f"{own:.3f}: {'met' if reached else 'NOT MET'}"
        source = f" ({item.source})" if item.source else ""
        lines.append(f"expected {item.metric} {item.value:.3f} - {item.tolerance:.3f}{source}, here {word}")
    return met, lines
