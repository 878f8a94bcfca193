"""Registries: built-in parts lie where their name says, once, and are imported when a config names them."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from maskrcnn.config.registry import Named, Registry, on_demand
from maskrcnn.data.doctor import DOUBTS, THOROUGH
from maskrcnn.data.formats.exchange import EXPORTERS, IMPORTERS
from maskrcnn.data.interfaces import DATASETS, TRANSFORMS
from maskrcnn.engine.optim import OPTIMIZERS
from maskrcnn.engine.schedules import SCHEDULES
from maskrcnn.layers import ROI_OPS
from maskrcnn.modeling import interfaces
from tests.engine.tiny import write_recipe
from tests.rules.test_imports import MODULES

REGISTRIES: dict[str, Named[Any]] = {
    **{name: r for name, r in vars(interfaces).items() if isinstance(r, Registry)},
    "DATASETS": DATASETS,
    "TRANSFORMS": TRANSFORMS,
    "OPTIMIZERS": OPTIMIZERS,
    "SCHEDULES": SCHEDULES,
    "DOUBTS": DOUBTS,
    "THOROUGH": THOROUGH,
    "IMPORTERS": IMPORTERS,
    "EXPORTERS": EXPORTERS,
}


def registered() -> dict[str, set[str]]:
    """By registry, the names that our sources register."""
    found: dict[str, set[str]] = {name: set() for name in REGISTRIES}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and call.removesuffix(".register") in found:
                found[call.removesuffix(".register")].add(ast.literal_eval(node.args[0]))
    return found


@pytest.mark.parametrize("name", REGISTRIES)
def test_what_our_sources_register_is_known_before_any_is_imported(name: str) -> None:
    registry = REGISTRIES[name]
    if name in ("OPTIMIZERS", "SCHEDULES"):  # these stand beside their registry
        assert registry._modules == {}
    else:
        assert set(registry._modules) == registered()[name]
    for part in registered()[name]:
        module = registry.get(part).__module__
        assert module == registry._modules.get(part, module)


@pytest.mark.parametrize("registry", [TRANSFORMS, SCHEDULES, ROI_OPS], ids=lambda r: r.slot)
def test_a_part_without_tensors_is_the_registered_dataclass_itself(registry: Registry[Any]) -> None:
    for name in registry.names():
        cls = registry.get(name)
        if not cls.__module__.startswith("maskrcnn."):
            continue
        assert dataclasses.is_dataclass(cls) and not cls.__name__.endswith("TransformConfig")
        made = getattr(cls, "build", None)
        if made is not None:  # an operator with its number of bins
            part = cls()
            assert type(part.build(7)) is cls
        else:
            assert callable(getattr(cls, "factor" if registry is SCHEDULES else "__call__"))


def test_a_training_imports_what_its_config_names(tmp_path: Any) -> None:
    """In a process of its own: building the parts of a recipe leaves the others where they are."""
    code = (
        "import sys\n"
        "from maskrcnn.recipe import load_recipe\n"
        "from maskrcnn.run import setup\n"
        f"recipe = load_recipe({str(write_recipe(tmp_path))!r})\n"
        "recipe.model.build(2), recipe.data.train.build(True)\n"
        "setup.build_transforms(recipe, training=True)\n"
        "print(*sorted(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    named = {"backbones.fpn", "roi.mask_head", "roi.box_head"}
    others = {"backbones.timm_backbone", "backbones.reduce", "roi.mask_mlp", "roi.trunk"}
    assert {f"maskrcnn.modeling.{name}" for name in named} <= loaded
    assert not {f"maskrcnn.modeling.{name}" for name in others} & loaded
    assert "maskrcnn.data.formats.coco" in loaded and "maskrcnn.data.synthetic.dataset" not in loaded
    assert "maskrcnn.data.transforms.jitter" not in loaded


def test_a_built_in_name_is_taken_before_its_module_is_imported() -> None:
    slot: Named[Any] = Named("part", "maskrcnn.config", one="nodes")
    assert slot.names() == ["one"]
    with pytest.raises(KeyError, match="unknown part 'one'"):  # that module registers nothing here
        slot.get("one")
    with pytest.raises(ValueError, match=r"transform 'hflip' is already maskrcnn\.data.*HorizontalFlip"):
        TRANSFORMS.register("hflip")(type("Mine", (), {}))
    assert TRANSFORMS.get("hflip").__name__ == "HorizontalFlip"
    assert TRANSFORMS.default("hflip")() == TRANSFORMS.make("hflip", p=0.5)


def test_a_package_hands_on_names_on_demand() -> None:
    import maskrcnn.data
    import maskrcnn.run

    for package in (maskrcnn.data, maskrcnn.run):
        assert all(getattr(package, name).__name__ for name in package.__all__ if name not in _VALUES)
    with pytest.raises(AttributeError, match=r"module 'maskrcnn\.data' has no attribute 'CocoDatset'"):
        maskrcnn.data.CocoDatset  # noqa: B018
    assert on_demand("maskrcnn.config", few="registry")("few")(["a"]) == "a"


#: Handed on, and neither classes nor functions.
_VALUES = ("DATASETS", "TRANSFORMS", "OnError")
