"""What is built keeps plain values: no part of a model, of its data or its loop holds on to a config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from maskrcnn.config import Config
from maskrcnn.layers import RoIOperator
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run.recipe_checks import build_without_memory
from tests.engine.tiny import write_recipe
from tests.rules.test_configs import full_size, recipe, small

#: Parts without tensors that are the registered dataclass itself.
THEMSELVES = (RoIOperator,)


def kept(part: Any, path: str, seen: set[int]) -> Iterator[str]:
    """Paths of the configs among the attributes of an object of ours, and of what those hold."""
    if isinstance(part, Config) and not isinstance(part, THEMSELVES):
        yield f"{path}: {type(part).__name__}"
    if id(part) in seen:
        return
    seen.add(id(part))
    inside: dict[Any, Any] = {}
    if isinstance(part, dict):
        inside = part
    elif isinstance(part, (list, tuple)):
        inside = dict(enumerate(part))
    elif isinstance(part, nn.Module) or type(part).__module__.startswith(("maskrcnn.", "tests.")):
        inside = getattr(part, "__dict__", {})
    for name, value in inside.items():
        yield from kept(value, f"{path}.{name}", seen)


@pytest.mark.parametrize("name", full_size())
def test_no_module_keeps_a_config(name: str) -> None:
    found = recipe(name)
    model = build_without_memory(Recipe(data=found.data, model=small(found.model)))
    assert list(kept(model, "model", set())) == []


def test_no_data_set_keeps_a_config(tmp_path: Path) -> None:
    data = load_recipe(write_recipe(tmp_path)).data
    assert list(kept(data.train.build(True), "data.train", set())) == []


def test_one_that_is_kept_is_found() -> None:
    @dataclass(frozen=True)
    class Kept(Config):
        pass

    module = nn.Sequential(nn.Identity())
    module[0].rules = {"a": [Kept()]}  # type: ignore[assignment]
    assert list(kept(module, "m", set())) == ["m._modules.0.rules.a.0: Kept"]
