"""Annotations checked many in one go give what they give one by one, and so do both readers of json."""

from __future__ import annotations

import copy
import json
import random
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data import annotation_reader
from maskrcnn.data.annotation_reader import read_annotations
from maskrcnn.data.fault_report import FaultReport
from maskrcnn.data.formats import coco_json
from maskrcnn.data.formats.plain import OddError
from maskrcnn.data.index import AnnotationIndex
from maskrcnn.errors import DataError
from tests.data import fuzz
from tests.evaluation.test_backends import random_case

VARIANTS = [{"masks": True}, {"masks": False}, {"masks": True, "keypoints": True}]
Outcome = tuple[dict[str, Any], dict[str, Any]] | str


def content(seed: int) -> dict[str, Any]:
    """Sound annotations of many forms: whole numbers, finer than hundredths, parts, values left out."""
    found, _ = random_case(seed, joints=3)
    for k, annotation in enumerate(found["annotations"]):
        if k % 5 == 0:
            del annotation["area"], annotation["iscrowd"], annotation["num_keypoints"]
        if k % 7 == 0 and isinstance(annotation["segmentation"], list):
            annotation["segmentation"][0] = [round(v) for v in annotation["segmentation"][0]]
        if k % 7 == 1 and isinstance(annotation["segmentation"], list):
            annotation["segmentation"][0][0] += 1 / 3
        if k % 11 == 0:
            annotation["num_keypoints"] = "many"
            annotation["bbox"] = [round(v) for v in annotation["bbox"]]
    return found


def outcome(source: Path | dict[str, Any], **options: Any) -> Outcome:
    """The index by field and the report by field, or what is said instead."""
    report = FaultReport("x.json", None)
    try:
        found: AnnotationIndex = read_annotations(source, report, files=False, **options)
    except DataError as error:
        return str(error)
    return vars(found), vars(report)


def assert_same(a: Outcome, b: Outcome, where: object) -> None:
    if isinstance(a, str) or isinstance(b, str):
        assert a == b, where
        return
    assert a[1] == b[1], where
    assert a[0].keys() == b[0].keys()
    for name, value in a[0].items():
        if isinstance(value, np.ndarray):
            assert value.dtype == b[0][name].dtype, (where, name)
            assert value.tobytes() == b[0][name].tobytes(), (where, name)
        else:
            assert value == b[0][name], (where, name)


def refuse(*_: Any) -> None:
    raise OddError


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> Any:
    """:func:`outcome` without what looks at many in one go."""

    def found(source: Any, **options: Any) -> Outcome:
        with monkeypatch.context() as patch:
            patch.setattr(annotation_reader._Packer, "_extend_plain", refuse)
            return outcome(source, **options)

    return found


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_sound_files_have_one_index(options: Any, one_by_one: Any) -> None:
    for seed in range(8):
        source = content(seed)
        assert_same(outcome(source, **options), one_by_one(source, **options), seed)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_mutated_files_have_one_index(options: Any, one_by_one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_reader, "_ONE_BY_ONE", 1)  # so that all but the odd ones go in one go
    kinds = set()
    for seed in range(40):
        rng = random.Random(seed)
        source = content(seed % 4)
        source["annotations"] = source["annotations"][:30]
        for _ in range(rng.randrange(1, 6)):
            changed, _ = fuzz.mutate({"annotations": source["annotations"]}, rng)
            source |= changed
        if not isinstance(source["annotations"], list):
            continue
        found = outcome(copy.deepcopy(source), **options)
        assert_same(found, one_by_one(source, **options), seed)
        kinds |= set() if isinstance(found, str) else set(found[1]["annotations"]) | set(found[1]["mended"])
    assert len(kinds) > 5, "the mutations do reach the checks"


def odd(key: str, value: Any) -> Any:
    return pytest.param(key, value, id=f"{key}={str(value)[:40]}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(odd("id", v) for v in (2, "2", 2.0, True, 2**63, None)),
        *(odd("image_id", v) for v in ("1", 1.0, True, 4, -1, 2**64)),
        *(odd("category_id", v) for v in ("3", 3.0, 4, -(2**63))),
        *(odd("iscrowd", v) for v in (1, 2, -1, "1", None, True, 0.0, 10**30)),
        *(odd("area", v) for v in (-1, 1e18, "5", True, float("nan"), None, 10**400)),
        *(odd("bbox", [2.0, 4.0, *v]) for v in ((0, 5), (5, -1), (True, 5), (float("nan"), 5), (5,))),
        *(odd("bbox", [x, 4.0, 10.0, 10.0]) for x in (60, -10, -1, -1.01, 51, 51.01, 1e9, 59.9999999)),
        *(odd("bbox", v) for v in ((2.0, 4.0, 10.0, 10.0), [2.0, 4.0, 1e-6, 10.0], None, "box")),
        *(odd("segmentation", v) for v in (None, [], [[]], [5, 5, 9, 5, 9, 9], [[[5, 5], [9, 5], [9, 9]]])),
        *(odd("segmentation", [fuzz.square(5, 5, 9), v]) for v in ([], [1, 2, 3, 4], [1] * 7, "x" * 6)),
        *(
            odd("segmentation", [[5, 5, 9, 5, 9, v]])
            for v in (81, 81.01, -41, -41.5, float("inf"), "9", True)
        ),
        odd("segmentation", [array("i", [5, 5, 9, 5, 9, 9])]),
        odd("segmentation", [array("d", [5, 5, 9, 5, 9, 9])]),
        odd("segmentation", [[5, 5, 9, 5, 9, 9], array("f", [5, 5, 9, 5, 9, 9.5])]),
        odd("segmentation", [[0.0, 0.0, 60.0, 40.0] * 30_000]),
        odd("segmentation", [[0.0, 0.0, 0.0, 1e-9, 1e-9, 0.004]]),
    ],
)
def test_the_edges_of_what_is_plain(
    key: str, value: Any, one_by_one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_reader, "_ONE_BY_ONE", 1)
    source, _ = fuzz.sound()
    source["annotations"][0][key] = value
    for options in VARIANTS[:2]:
        found = outcome(source, **options)
        assert_same(found, one_by_one(source, **options), key)


def test_sound_polygons_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above compare nothing."""
    source = content(0)
    seen: list[Any] = []
    add = annotation_reader._Packer.add
    monkeypatch.setattr(
        annotation_reader._Packer, "add", lambda *given: (seen.append(given[1]["segmentation"]), add(*given))
    )
    monkeypatch.setattr(annotation_reader, "_ONE_BY_ONE", 1)
    outcome(source)
    codes = [a["segmentation"] for a in source["annotations"] if isinstance(a["segmentation"], dict)]
    assert [s for s in seen if isinstance(s, dict)] == codes
    assert len(seen) < len(codes) + len(source["annotations"]) / 10  # a run of one is looked at as one


def test_the_same_is_read_with_and_without_msgspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("msgspec", reason="msgspec is not installed")
    path = tmp_path / "x.json"
    texts = [json.dumps(content(0))]
    for seed in range(150):
        data, _, _ = fuzz.case("data", seed)
        texts.append(data.decode("latin-1"))
    parts = 0
    for k, text in enumerate(texts):
        path.write_bytes(text.encode("latin-1"))
        with monkeypatch.context() as patch:
            patch.setattr(coco_json, "msgspec", None)
            patch.setattr(coco_json, "_REFUSALS", (AttributeError,))
            slow, whole = outcome(path), read(path)
        assert_same(outcome(path), slow, k)
        assert repr(read(path)) == repr(whole), k
        parts += isinstance(coco_json._read_in_parts(path)["annotations"], coco_json._Encoded) if whole else 0
    assert parts > 50


def read(path: Path) -> Any:
    """The json as it is read without a hook; None where it is broken."""
    try:
        return coco_json.read_json(path)
    except DataError:
        return None


@pytest.mark.parametrize(
    "number", ["1e400", "18446744073709551616", "-0", "-0.0", "1E5", "0.1000000000000000055511151231257827"]
)
def test_numbers_are_read_as_the_standard_library_reads_them(tmp_path: Path, number: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(f"[{number}]")
    found = coco_json.read_json(path)
    assert repr(found) == repr(json.loads(path.read_text()))


def test_a_record_that_msgspec_refuses_is_read_after_all(tmp_path: Path) -> None:
    """NaN and halves of surrogates stand in some files; the other records are read as quickly as ever."""
    source = content(0)
    source["annotations"][3]["area"] = float("nan")
    source["annotations"][4]["note"] = "\ud800"
    path = tmp_path / "x.json"
    path.write_text(json.dumps(source))
    assert_same(outcome(path), outcome(source), "file and content")
    damaged = path.read_bytes().replace(b'"\\ud800"', b'"\xed\xa0\x80"')
    path.write_bytes(damaged)
    place = damaged.index(b"\xed")
    assert outcome(path) == f"{path}: is not UTF-8 text (byte {place})"
