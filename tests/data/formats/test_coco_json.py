"""The annotations of a large file are decoded one by one, with the same result and the same complaints."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data.fault_report import FaultReport
from maskrcnn.data.formats import coco_json
from maskrcnn.data.formats.coco_json import Records, load_coco
from maskrcnn.data.index import AnnotationIndex, read_annotations
from maskrcnn.errors import DataError
from tests.data.files import coco


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_json, "LARGE", 0)


def index(path: Path) -> AnnotationIndex:
    return read_annotations(path, FaultReport(str(path), None))


def same(a: AnnotationIndex, b: AnnotationIndex) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


@pytest.mark.parametrize("order", list(itertools.permutations(["images", "annotations", "categories"])))
@pytest.mark.parametrize("indent", [None, 2])
def test_in_any_order_the_index_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[str, ...], indent: int | None
) -> None:
    content = coco()
    content["annotations"][1]["caption"] = 'a ] or } or "categories": [] in a text'
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"info": {"a": [1]}} | {key: content[key] for key in order}, indent=indent))
    expected = index(path)
    assert isinstance(load_coco(path, "a")["annotations"], list)
    monkeypatch.setattr(coco_json, "LARGE", 0)
    assert isinstance(load_coco(path, "a")["annotations"], Records)
    assert same(index(path), expected)


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("extra", ["licenses", "images"])
def test_further_keys_between_do_no_harm(tmp_path: Path, extra: str) -> None:
    content: dict[str, Any] = coco()
    del content["categories"], content["images"]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content | {"licenses": [{"id": 1}]} | coco()))
    assert len(index(path).images) == 8
    assert len(list(load_coco(path, "a")["annotations"])) == 8


@pytest.mark.usefixtures("one_by_one")
def test_an_empty_list_has_no_records(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(coco() | {"annotations": []}))
    assert list(load_coco(path, "a")["annotations"]) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-30],
        lambda text: text.replace('"bbox": ', '"bbox" ', 1),
        lambda text: text.replace('}, {"id": 101', '} {"id": 101', 1),
        lambda text: text.replace('"annotations"', '"annotation"'),
        lambda text: text.replace('"categories"', '"category"'),
        lambda text: "[" + text + "]",
        lambda text: "",
        lambda text: text.replace("400", "4" * 5000, 1),
    ],
)
def test_what_is_broken_is_told_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(spoil(json.dumps(coco())))
    with pytest.raises(DataError) as whole:
        index(path)
    monkeypatch.setattr(coco_json, "LARGE", 0)
    with pytest.raises(DataError) as single:
        index(path)
    assert str(single.value) == str(whole.value)
