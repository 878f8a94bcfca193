"""Our reader of run-length codes against pycocotools."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from maskrcnn.layers.ops import has_kernels
from maskrcnn.native import library
from maskrcnn.structures import rle
from tests.layers.cases import needs_kernels


def random_bitmap(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.random((height // 3 + 2, width // 3 + 2)) < rng.random()
    return np.kron(low, np.ones((3, 3)))[:height, :width].astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2))
def test_decode_crop_is_the_crop_of_the_whole(seed: int, height: int, width: int, margin: int) -> None:
    bitmap = random_bitmap(seed, height, width)
    crop, x0, y0 = rle.decode_crop(rle.encode(bitmap), margin)
    pasted = np.zeros_like(bitmap)
    pasted[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] = crop
    assert (pasted == bitmap).all()
    if bitmap.any():
        rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
        y1, x1 = min(rows[-1] + 1 + margin, height), min(columns[-1] + 1 + margin, width)
        assert (y0, x0) == (max(rows[0] - margin, 0), max(columns[0] - margin, 0))
        assert crop.shape == (y1 - y0, x1 - x0)
    else:
        assert crop.size == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 12), st.data())
def test_encode_crop_is_the_code_of_the_whole(
    seed: int, height: int, width: int, data: st.DataObject
) -> None:
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    crop = random_bitmap(seed, height, width)[: height - y0, : width - x0]
    whole = np.zeros((height, width), dtype=np.uint8)
    whole[y0:, x0:] = crop
    assert rle.encode_crop(crop, x0, y0, height, width) == rle.encode(whole)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(1, 300))
def test_runs_and_area(seed: int, height: int, width: int) -> None:
    bitmap = random_bitmap(seed, height, width)
    flat = bitmap.reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [flat.size]]))
    if flat[0] == 1:
        lengths = np.concatenate([[0], lengths])
    code = rle.encode(bitmap)
    assert rle.runs(code["counts"]).tolist() == lengths.tolist()
    assert rle.area(code) == bitmap.sum()


def test_normalise_takes_every_form_of_coco() -> None:
    bitmap = random_bitmap(3, 20, 30)
    code = rle.encode(bitmap)
    runs = rle.runs(code["counts"]).tolist()
    for counts in (code["counts"], code["counts"].decode(), runs):
        found = rle.normalise({"size": [20, 30], "counts": counts}, 20, 30)
        assert (coco_mask.decode(found) == bitmap).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_runs_of_nothing_change_neither_the_mask_nor_its_box(lengths: list[int]) -> None:
    lengths = [*lengths, 100 - sum(lengths)]
    flat = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(np.uint8)
    bitmap = flat.reshape(10, 10, order="F")
    right = rle.encode(bitmap)
    raw = coco_mask.frPyObjects([{"size": [10, 10], "counts": lengths}], 10, 10)[0]
    for counts in (lengths, [float(n) for n in lengths], raw["counts"], raw["counts"].decode()):
        found = rle.normalise({"size": [10, 10], "counts": counts}, 10, 10)
        assert (rle.decode(found) == bitmap).all()
        assert rle.box(found) == rle.box(right)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"size": [20, 30]}, "needs the keys"),
        ({"size": [30, 20], "counts": [600]}, r"size \[30, 20\], the image \[20, 30\]"),
        ({"size": "20x30", "counts": [600]}, "size 20x30"),
        ({"size": [20, 30], "counts": [10, 20]}, "covers 30 pixels, the image has 600"),
        ({"size": [20, 30], "counts": [-10, 610]}, "not all integers >= 0"),
        ({"size": [20, 30], "counts": [300.5, 299.5]}, "not all integers >= 0"),
        ({"size": [20, 30], "counts": "\u00fc"}, "characters"),
        ({"size": [20, 30], "counts": "~~~"}, "characters"),
        ({"size": [20, 30], "counts": "P"}, "cut short"),
        ({"size": [20, 30], "counts": "11"}, "damaged: it covers 2 of 600"),
        ({"size": [20, 30], "counts": ""}, "covers 0 of 600"),
        ({"size": [20, 30], "counts": "o" * 20 + "0"}, "too large"),
        ({"size": [20, 30], "counts": 600}, "are a int"),
    ],
)
def test_normalise_names_the_fault(entry: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rle.normalise(entry, 20, 30)


def test_union_of_none_is_empty() -> None:
    assert rle.decode(rle.union([], 4, 5)).tolist() == np.zeros((4, 5)).tolist()


def test_a_polygon_of_four_numbers_is_not_taken_for_a_box() -> None:
    # frPyObjects would read [x, y, w, h] there.
    assert rle.area(rle.from_polygons([np.array([1.0, 1, 5, 5])], 10, 10)) < 10


@pytest.fixture(params=["operator", "numpy"])
def measured_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of measuring codes: the compiled operator, and its slow twin."""
    way: str = request.param
    if way == "numpy":
        monkeypatch.setattr(library, "at_hand", lambda: False)
    elif not has_kernels("cpu"):
        pytest.skip("the operators are not compiled")
    return way


def test_the_areas_of_many_codes_are_those_of_each(monkeypatch: pytest.MonkeyPatch, measured_by: str) -> None:
    monkeypatch.setattr(rle, "_CHARACTERS_AT_ONCE", 200)  # several parts
    rng = np.random.default_rng(0)
    masks, codes = [], []
    for k in range(200):
        size = (int(rng.integers(1, 60)), int(rng.integers(1, 60)))
        mask = (rng.random(size) < rng.choice([0.0, 0.02, 0.5, 0.98, 1.0])).astype(np.uint8)
        if k % 2:
            mask = cv2.resize(mask, (400, 300), interpolation=cv2.INTER_NEAREST)  # long runs
        masks.append(mask)
        codes.append(rle.encode(mask)["counts"])
    totals = np.array([m.size for m in masks])
    found = rle.areas(codes, totals)
    assert found is not None
    assert found.tolist() == [int(m.sum()) for m in masks]
    assert rle.areas([], np.zeros(0, dtype=np.int64)).tolist() == []  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(3))
def test_one_unsound_code_among_many_is_found(seed: int, measured_by: str) -> None:
    rng = np.random.default_rng(seed)
    codes = [rle.encode((rng.random((20, 30)) < 0.3).astype(np.uint8))["counts"] for _ in range(5)]
    totals = np.full(5, 600)
    verdicts = []
    for _ in range(300):
        changed = bytearray(codes[2])
        place = int(rng.integers(len(changed)))
        match rng.integers(3):
            case 0:
                changed[place] = int(rng.integers(256))
            case 1:
                del changed[place]
            case _:
                changed.insert(place, int(rng.integers(48, 112)))
        try:
            rle.normalise({"size": [20, 30], "counts": bytes(changed)}, 20, 30)
        except ValueError:
            sound = False
        else:
            sound = True
        verdicts.append(sound)
        assert (rle.areas([*codes[:2], bytes(changed), *codes[3:]], totals) is not None) == sound
    assert 0 < sum(verdicts) < 300
    assert rle.areas([b"", codes[0]], totals[:2]) is None


@needs_kernels
def test_the_operator_looks_at_nothing_beyond_its_text() -> None:
    op = torch.ops.maskrcnn.rle_areas.default
    text, one = torch.tensor([48 + 6], dtype=torch.uint8), torch.tensor([1])
    assert op(text, one, torch.tensor([6])).tolist() == [0]
    for sizes in ([2], [0], [-1, 2], [2**62, 2**62]):
        totals = torch.full((len(sizes),), 6)
        with pytest.raises(RuntimeError, match="sizes must add up"):
            op(text, torch.tensor(sizes), totals)
    with pytest.raises(RuntimeError, match="one length"):
        op(text, one, torch.tensor([6, 6]))
    with pytest.raises(RuntimeError, match="contiguous"):
        op(text.long(), one, one)
    torch.library.opcheck(op, (text, one, torch.tensor([6])))


def test_images_too_large_for_32_bits_have_no_codes() -> None:
    with pytest.raises(ValueError, match="a run-length mask holds less than 2147483648"):
        rle.normalise({"size": [50_000, 50_000], "counts": [2_500_000_000]}, 50_000, 50_000)


@pytest.mark.parametrize("text", ["b'3o0'", 'b"3o0"', "b'3\\\\x'", "b'", "b'a", "b'\\udcff'"])
def test_the_text_of_bytes_is_read_as_meant(text: str) -> None:
    wanted = {"b'3o0'": "3o0", 'b"3o0"': "3o0", "b'\\udcff'": "\\udcff", "b'3\\\\x'": "3\\x"}.get(text, text)
    assert rle.text_of_bytes(text) == wanted
