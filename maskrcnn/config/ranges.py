"""Bounds of numbers: generous ones, so that a slip of some zeros does not take a machine down."""

from __future__ import annotations

from maskrcnn.errors import ConfigError


def check_range(low: int, high: int, why: str, **values: int | None) -> None:
    """Every one of ``values`` lies in [``low``, ``high``]; None passes.

    Args:
        why: reason of the upper bound, a phrase.

    Raises:
        ConfigError: one does not; the message begins with its name, by which a config finds its line.
    """
    for name, value in values.items():
        if value is None:
            continue
        if value < low:
            raise ConfigError(f"{name} must be >= {low}, got {value}")
        if value > high:
            raise ConfigError(f"{name} must be at most {high:,}, got {value}: {why}")


def check_boxes(**values: int | None) -> None:
    """Numbers of boxes an image, of which non-maximum suppression compares each with each.

    Raises:
        ConfigError: one is below 1, or above 100,000 (at which the comparison takes 1.25 GB; published
            models have at most 12,000).
    """
    check_range(1, 100_000, "so many boxes an image fill the memory", **values)


def check_sides(**values: int | None) -> None:
    """Sides of images, in pixels.

    Raises:
        ConfigError: one is below 1, or above 16,384 (an image of 16,384 x 16,384 is 3.2 GB in float32).
    """
    check_range(1, 16_384, "an image of that size fills the memory; cut it into tiles", **values)
