"""What the guides name exists: keys, findings, options of torchvision."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

from maskrcnn.recipe import load_recipe
from tests.rules.pages import FENCE, ROOT
from tests.rules.test_imports import MODULES

OWN_DATA, LOW_AP, COMING, FAQ = (
    ROOT / "docs" / f"{name}.md" for name in ("own_data", "low_ap", "coming_from", "faq")
)
#: Keys that a table names of a part that is not the default one.
OTHERS = ("solver.schedule=cosine", "model.backbone.norm=gn")
CODE = re.compile(r"`([^`]+)`")


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose head begins so."""
    (_, _, after) = text.partition(f"\n| {head} |")
    assert after, f"no table {head!r}"
    lines = after.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def paths(config: Any, prefix: str = "") -> Iterator[str]:
    """All keys of a config, with those of its lists' items."""
    if isinstance(config, tuple):
        for i, item in enumerate(config):
            yield from paths(item, f"{prefix}{i}.")
    if not dataclasses.is_dataclass(config):
        return
    for field in dataclasses.fields(config):
        yield prefix + field.name
        yield from paths(getattr(config, field.name), f"{prefix}{field.name}.")


@pytest.fixture(scope="module")
def keys() -> set[str]:
    found: set[str] = set()
    for overrides in ((), OTHERS):
        found |= set(paths(load_recipe("configs/coco/mask_rcnn_r50_fpn_1x.yaml", overrides)))
    assert len(found) > 150
    return found


def is_key(word: str) -> bool:
    return bool(re.fullmatch(r"(model|data|solver|train|eval)(\.(?!json$|yaml$)[a-z0-9_]+)+", word))


def test_keys_of_the_tables_exist(keys: set[str]) -> None:
    texts = [FENCE.sub("", page.read_text(encoding="utf-8")) for page in (OWN_DATA, LOW_AP, COMING, FAQ)]
    named = {word for text in texts for word in CODE.findall(text) if is_key(word)}
    assert len(named) > 40 and named - keys == set()
    first = [CODE.findall(row[0]) for row in rows(COMING.read_text(), "here")]
    assert {word for cell in first for word in cell} <= keys


def test_names_of_torchvision_exist() -> None:
    detection = pytest.importorskip("torchvision.models.detection")
    functions = (
        detection.maskrcnn_resnet50_fpn,
        detection.MaskRCNN,
        detection.anchor_utils.AnchorGenerator,
        detection.backbone_utils.resnet_fpn_backbone,
    )
    known = {name for function in functions for name in inspect.signature(function).parameters}
    known |= {function.__name__ for function in functions}
    cells = [CODE.findall(row[3]) for row in rows(COMING.read_text(), "here")]
    named = {word for cell in cells for word in cell if not word.startswith("--")}
    assert len(named) > 12 and named - known == set()


def strings() -> set[str]:
    """What the modules of findings say."""
    rooms = ("maskrcnn/data/doctor", "maskrcnn/run")
    paths = [path for path in MODULES if path.relative_to(ROOT).as_posix().startswith(rooms)]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_findings_are_called_as_the_doctor_calls_them() -> None:
    table = rows(LOW_AP.read_text(), "what you see")
    named = {name for row in table for name in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", row[1])}
    said = strings() | {"left out: ..."}
    # Built from parts: "more objects than {proposals, ...}".
    built = {f"more objects than {what}" for what in ("detections", "proposals", "RoIs")} & named
    assert len(built) == 3 and {"more objects than ", "detections", "proposals", "RoIs"} <= said
    assert len(named) > 20 and named - built - said == set()
