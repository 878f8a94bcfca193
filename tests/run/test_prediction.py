"""A prediction, made of arrays, in every form that it is handed on in."""

from __future__ import annotations

import builtins
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from maskrcnn.errors import DataError, UserError
from maskrcnn.run import Prediction
from maskrcnn.structures import rle
from maskrcnn.structures.outlines import code_of_polygons

H, W = 40, 60
#: Top, left, height, width: a large one with a hole, a small one on top of it, one at the border.
PLACES = ((5, 5, 20, 30), (8, 8, 4, 5), (30, 50, 10, 10))


def bitmaps() -> np.ndarray:
    masks = np.zeros((3, H, W), dtype=np.uint8)
    for mask, (y, x, h, w) in zip(masks, PLACES, strict=True):
        mask[y : y + h, x : x + w] = 1
    masks[0, 18:20, 20:24] = 0
    return masks


def prediction(*, image: bool = True, masks: bool = True, **further: Any) -> Prediction:
    records = []
    for k, (y, x, h, w) in enumerate(PLACES):
        record: dict[str, Any] = {"image_id": 7, "category_id": 3 * (k % 2) + 2}
        record |= {"bbox": [float(x), float(y), float(w), float(h)], "score": 0.9 - 0.1 * k, "fill": 0.5}
        records.append(record)
        if masks:
            record["segmentation"] = rle.as_text(rle.encode(bitmaps()[k]))
    pixels = np.random.default_rng(0).integers(0, 255, (H, W, 3), dtype=np.uint8)
    return Prediction(
        image=pixels if image else None,
        boxes=np.array([[x, y, x + w, y + h] for y, x, h, w in PLACES], dtype=np.float64),
        scores=np.array([0.9, 0.8, 0.7]),
        labels=np.array([0, 1, 0]),
        records=records,
        names=("box", "disc"),
        size=(H, W),
        name="a.png",
        image_id=7,
        **further,
    )


def test_masks_in_every_form_are_the_same_pixels() -> None:
    found = prediction()
    assert found.masks is not None and np.array_equal(found.masks, bitmaps().astype(bool))
    for parts, code, bitmap in zip(found.to_polygons(), found.rles or [], bitmaps(), strict=True):
        assert np.array_equal(rle.decode(code_of_polygons(parts, H, W)), bitmap)
        assert rle.as_text(code_of_polygons(parts, H, W)) == code
    assert [len(parts[0].holes) for parts in found.to_polygons()] == [1, 0, 0]
    assert found.to_coco() == found.records and found.to_coco()[0] is not found.records[0]


def test_a_label_image_gives_pixels_to_the_smallest() -> None:
    labels = prediction().to_label_image()
    assert (labels.dtype, labels.shape) == (np.uint16, (H, W))
    expected = bitmaps()[0] * 1 + bitmaps()[2] * 3
    expected[bitmaps()[1] > 0] = 2
    assert np.array_equal(labels, expected)


def test_crops_are_whole_pixels_of_the_image() -> None:
    found = prediction()
    assert found.image is not None
    crops = found.crops()
    assert [crop.shape for crop in crops] == [(h, w, 3) for _, _, h, w in PLACES]
    assert np.array_equal(crops[1], found.image[8:12, 8:13])
    assert [crop.shape[:2] for crop in found.crops(margin=3)] == [(26, 36), (10, 11), (13, 13)]
    cut = found.crops(background=0)[0]
    assert not cut[13:15, 15:19].any() and np.array_equal(cut[0], found.image[5, 5:35])
    sides = np.array([[1.5, 2.2, 3.1, 4.0]])
    one = Prediction(found.image, sides, np.ones(1), np.zeros(1, dtype=np.int64), [{}], ("box",))
    assert [crop.shape[:2] for crop in one.crops()] == [(2, 3)]


def test_without_its_image_it_says_what_to_pass() -> None:
    found = prediction(image=False)
    pixels = np.zeros((H, W, 3), dtype=np.uint8)
    for work in (found.draw, found.crops):
        with pytest.raises(DataError, match=rf"60 x 40 pixels.*pass it: {work.__name__}\(image\)"):
            work()
        assert len(work(pixels)) == len(prediction().__getattribute__(work.__name__)(pixels))
    assert found.to_label_image().shape == (H, W)
    with pytest.raises(ValueError, match="size"):
        Prediction(None, found.boxes, found.scores, found.labels, found.records, found.names)


def test_without_masks_boxes_stand_for_them_or_it_is_said() -> None:
    found = prediction(masks=False)
    assert found.masks is None and found.rles is None
    kinds = {feature["geometry"]["type"] for feature in found.to_geojson()["features"]}
    assert kinds == {"Polygon"}
    for work in (found.to_polygons, found.to_label_image, lambda: found.crops(background=0)):
        with pytest.raises(DataError, match="boxes alone"):
            work()


def test_a_notebook_shows_the_picture() -> None:
    found = prediction()
    shown = cv2.imdecode(np.frombuffer(found._repr_png_(), dtype=np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(cv2.cvtColor(shown, cv2.COLOR_BGR2RGB), found.draw())


def test_what_a_notebook_keeps_is_small_and_without_an_image_a_line() -> None:
    show = pytest.importorskip("IPython.core.formatters").DisplayFormatter().format
    line = "<Prediction of a.png, 60 x 40: 3 instances (2 box, 1 disc)>"
    found = prediction()
    assert show(found)[0].keys() == {"image/png", "text/plain"}
    assert show(prediction(image=False)) == ({"text/plain": line}, {})
    none = replace(found, records=[], labels=found.labels[:0])
    assert repr(found) == line and repr(none) == "<Prediction of a.png, 60 x 40: 0 instances>"
    large = replace(none, image=np.zeros((1500, 3000, 3), dtype=np.uint8), size=(1500, 3000))
    shown = cv2.imdecode(np.frombuffer(show(large)[0]["image/png"], dtype=np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (1024, 2048, 3)


def test_a_data_frame_has_a_row_an_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def frame(rows: list[dict[str, Any]], columns: list[str]) -> str:
        given.update(rows=rows, columns=columns)
        return "a frame"

    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=frame))
    assert prediction().to_dataframe() == "a frame"  # type: ignore[comparison-overlap]
    assert [*given["rows"][0]] == given["columns"]
    first = given["rows"][0]
    assert (first["file_name"], first["instance"], first["class"], first["x"]) == ("a.png", 1, "box", 5.0)
    assert [row["area"] for row in given["rows"]] == bitmaps().sum((1, 2)).tolist()
    assert first["fill"] == 0.5


def test_supervision_takes_boxes_masks_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(Detections=lambda **given: given)
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    found = prediction()
    given: Any = found.to_supervision()
    assert np.array_equal(given["xyxy"], found.boxes) and np.array_equal(given["mask"], bitmaps() > 0)
    assert given["class_id"].tolist() == [0, 1, 0] and given["confidence"].tolist() == [0.9, 0.8, 0.7]
    assert given["data"]["class_name"].tolist() == ["box", "disc", "box"]


@pytest.mark.parametrize("library", ["pandas", "supervision"])
def test_a_missing_library_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **named: Any) -> Any:
        if name == library:
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    work = {"pandas": prediction().to_dataframe, "supervision": prediction().to_supervision}[library]
    with pytest.raises(UserError, match=f"pip install {library}"):
        work()
