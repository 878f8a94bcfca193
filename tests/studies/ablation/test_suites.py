"""Every suite that we ship is valid, and each of its variants builds and differs from the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskrcnn.config import fingerprint
from maskrcnn.config.shipped import shipped_configs
from maskrcnn.errors import ConfigError
from maskrcnn.modeling.mask_rcnn import without_weights
from maskrcnn.recipe import NEUTRAL_KEYS, Recipe
from maskrcnn.studies.ablation.plan import check_metrics
from maskrcnn.studies.ablation.suite import find_suite, load_suite, recipe_of

FILES = sorted((shipped_configs() / "suites").glob("*.yaml"))
#: Models that were built; suites share most of theirs.
BUILT: set[str] = set()


def test_the_tables_are_there_in_their_sizes() -> None:
    names = {path.stem for path in FILES}
    tables = ("table2a", "table2c", "table2d", "table2e", "sampling", "coordinates", "pool_size", "roi_pool")
    assert names >= {f"{table}_{size}" for table in tables for size in ("coco", "nuclei", "demo")}
    assert names >= {"table2b_coco", "table2b_demo", "table6_coco"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_variant_builds_and_is_another(path: Path) -> None:
    suite = load_suite(path)
    recipes: list[Recipe] = [recipe_of(suite, v, suite.seeds[0]) for v in suite.variants]
    assert len({fingerprint(r, NEUTRAL_KEYS) for r in recipes}) == len(recipes)
    assert len({repr(r.data.val) for r in recipes}) == 1
    assert any(v.core for v in suite.variants)
    for variant, recipe in zip(suite.variants, recipes, strict=True):
        check_metrics(suite, recipe)
        assert suite.reference_of(variant).core or not variant.core
        model = without_weights(recipe.model)
        if (key := fingerprint(model)) not in BUILT:
            with torch.device("meta"):
                model.build(3)
            BUILT.add(key)


def test_a_shipped_suite_is_found_by_its_name() -> None:
    assert find_suite(Path("table2c_demo")).name == "table2c_demo.yaml"
    with pytest.raises(ConfigError, match="table2x_demo: no such suite. Did you mean 'table2"):
        find_suite(Path("table2x_demo"))
