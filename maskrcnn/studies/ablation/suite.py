"""A suite file: one recipe, the variants of it, their seeds, and what the source reported."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from maskrcnn.config import Config, Range, did_you_mean, load_traced
from maskrcnn.config.ranges import Share
from maskrcnn.config.reader import find_config
from maskrcnn.config.shipped import shipped_configs
from maskrcnn.errors import ConfigError, UserError
from maskrcnn.recipe import Recipe, load_recipe

#: COCO's figures of a table row, boxes first as the peers print them.
_METRICS = tuple(
    f"{kind}/{name}" for kind in ("bbox", "segm") for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")
)
#: What the report writes beside the variants' folders.
_TAKEN = ("pictures", "report.md", "report.csv", "report.html")
_METRIC = re.compile(r"\w+/\w+(@\d+)?")


@dataclass(frozen=True, kw_only=True)
class Variant(Config):
    """One row of the table."""

    #: Its name in the table and, with other characters than letters, digits and ._+- as "-", its folder's.
    label: str
    #: What is changed on the recipe, as ``--set`` takes it; after the suite's own.
    set: tuple[str, ...] = ()
    #: Another recipe than the suite's, relative to the suite file.  Default null.
    config: Path | None = None
    #: Label of the variant that it is compared with; null: the suite's.  Default null.
    reference: str | None = None
    #: Part of a plain run; the others join in with --full.  Default true.
    core: bool = True
    #: What the source reports, by metric, in [0, 1].
    published: dict[str, Share] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name of its folder."""
        return re.sub(r"[^A-Za-z0-9._+]+", "-", self.label).strip("-.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.slug:
            raise ValueError(f"label {self.label!r} needs a letter or a digit")
        if self.slug.lower() in _TAKEN:
            raise ValueError(f"label {self.label!r} is the name of a part of the report")
        _check_metrics("published", self.published)
        _check_set(self.set)


@dataclass(frozen=True, kw_only=True)
class Suite(Config):
    """Variants of one recipe that are trained and compared."""

    #: Heading of the report.
    title: str
    #: Who published the figures beside ours, and where.  Default none.
    source: str = ""
    #: Remarks for the reader of the report.
    notes: tuple[str, ...] = ()
    #: The recipe that the variants change, relative to the suite file that names it.
    config: Path
    #: Changes common to all variants, as ``--set`` takes them.
    set: tuple[str, ...] = ()
    #: The rows.
    variants: tuple[Variant, ...]
    #: Label of the row that the others are compared with; null: the first.  Default null.
    reference: str | None = None
    #: Every variant is trained once with each.  Default 0, 1, 2.
    seeds: tuple[Annotated[int, Range(0)], ...] = (0, 1, 2)
    #: Figures of the table, as ``kind/name``; above 100 detections as ``segm/AP@200``.
    metrics: tuple[str, ...] = _METRICS
    #: Validation images drawn under each variant, >= 0.  Default 4.
    pictures: Annotated[int, Range(0)] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.variants or not self.seeds:
            raise ValueError("variants and seeds must each have at least one entry")
        for name in ("label", "slug"):
            names = [getattr(v, name).lower() for v in self.variants]
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ValueError(f"variants: two of them have the {name} {twice[0]!r}")
        for key, values in (("seeds", self.seeds), ("metrics", self.metrics)):
            if len(set(values)) != len(values):
                raise ValueError(f"{key}: one of them is named twice")
        _check_set(self.set)
        _check_metrics("metrics", self.metrics)
        if not self.metrics:
            raise ValueError("metrics must have at least one entry")
        for label in (self.reference, *(v.reference for v in self.variants)):
            if label is not None:
                self.variant(label)

    def variant(self, label: str) -> Variant:
        """
        Raises:
            ValueError: no variant has this label.
        """
        for variant in self.variants:
            if variant.label == label:
                return variant
        labels = [v.label for v in self.variants]
        raise ValueError(f"reference: no variant is called {label!r}.{did_you_mean(label, labels)}")

    def reference_of(self, variant: Variant) -> Variant:
        """The variant that this one is compared with; itself for a reference."""
        label = variant.reference or self.reference
        return self.variant(label) if label is not None else self.variants[0]

    def chosen(self, *, full: bool, only: Sequence[str] = ()) -> tuple[Variant, ...]:
        """The core variants, or all with ``full``, or those of the labels in ``only``.

        Raises:
            UserError: no variant has such a label.
        """
        for label in only:
            try:
                self.variant(label)
            except ValueError as error:
                raise UserError(f"--only{str(error).removeprefix('reference')}") from None
        if only:
            return tuple(v for v in self.variants if v.label in only)
        return tuple(v for v in self.variants if full or v.core)


def _check_set(changes: Iterable[str]) -> None:
    for change in changes:
        if change.partition("=")[0].strip() == "seed":
            raise ValueError(f"set: {change!r}; the suite's key seeds says with which seeds to train")


def _check_metrics(key: str, names: Iterable[str]) -> None:
    for name in names:
        if not _METRIC.fullmatch(name):
            raise ValueError(f"{key}: {name!r} is not of the form segm/AP")


def find_suite(name: Path) -> Path:
    """``name`` itself where it is a file, or that of configs/suites: ``table2c_demo``.

    Raises:
        ConfigError: there is neither.
    """
    if name.exists() or name.suffix in (".yaml", ".yml"):
        return name
    shipped = {path.stem: path for path in (shipped_configs() / "suites").glob("*.yaml")}
    if str(name) not in shipped:
        raise ConfigError(f"{name}: no such suite.{did_you_mean(str(name), shipped)}")
    return shipped[str(name)]


def load_suite(path: Path) -> Suite:
    """Read a suite; its recipes' paths become relative to the working folder.

    Raises:
        ConfigError: anything is wrong, by file:line:column.
    """
    loaded = load_traced(Suite, path)
    suite = loaded.value

    def below(key: str, config: Path) -> Path:
        folder = (loaded.file_of(key) or path).parent
        return Path(os.path.normpath(find_config(config, folder)))  # for the eye: no "suites/../demo.yaml"

    variants = tuple(
        v if v.config is None else replace(v, config=below(f"variants.{i}.config", v.config))
        for i, v in enumerate(suite.variants)
    )
    return replace(suite, config=below("config", suite.config), variants=variants)


def recipe_of(suite: Suite, variant: Variant, seed: int, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of one run.

    Args:
        overrides: ``key.path=value`` for all variants alike; the last word.

    Raises:
        ConfigError: as ``load_recipe``; the message begins with the variant.
    """
    changes = [*suite.set, *variant.set, *overrides, f"seed={seed}"]
    try:
        return load_recipe(variant.config or suite.config, changes)
    except ConfigError as error:
        raise ConfigError(f"variant {variant.label!r}: {error}") from None
