"""Specks and holes of pasted masks, against scipy's components."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskrcnn.config import loads
from maskrcnn.errors import ConfigError
from maskrcnn.inference.clean_masks import clean_masks, without_holes, without_specks
from maskrcnn.inference.paste import encode_masks
from maskrcnn.inference.records import coco_results
from maskrcnn.recipe import CleanConfig, EvalConfig
from maskrcnn.structures import Detections, ImageInfo
from maskrcnn.structures.rle import as_text, decode, encode

Bitmap = npt.NDArray[np.uint8]
CORNERS = np.ones((3, 3))


def drawn(*rows: str) -> Bitmap:
    return np.array([[c == "#" for c in row] for row in rows], dtype=np.uint8)


MASK = drawn(
    "##......",
    "##.####.",
    "...#..#.",
    "...#..#.",
    "#..####.",
    ".#.#.##.",
    "...####.",
)


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        (CleanConfig(parts="all"), MASK),
        (CleanConfig(), np.where(np.arange(8)[None] > 2, MASK, 0)),
        (
            CleanConfig(parts="all", smallest_part=3),
            np.where(
                np.arange(7)[:, None] * 0 + (np.arange(8)[None] > 2) | (np.arange(7)[:, None] < 2), MASK, 0
            ),
        ),
        (CleanConfig(parts="all", smallest_part=1000), np.where(np.arange(8)[None] > 2, MASK, 0)),
        (
            CleanConfig(parts="all", largest_hole=1),
            MASK | ((np.arange(7)[:, None] == 5) & (np.arange(8)[None] == 4)),
        ),
        (
            CleanConfig(largest_hole=4),
            ((np.arange(8)[None] > 2) & (np.arange(8)[None] < 7) & (np.arange(7)[:, None] > 0)).astype(
                np.uint8
            ),
        ),
    ],
)
def test_parts_and_holes(how: CleanConfig, wanted: Bitmap) -> None:
    (mask,) = clean_masks([as_text(encode(MASK))], how)
    assert np.array_equal(decode(mask), wanted)


@settings(max_examples=150, deadline=None)
@example(height=2, width=3, seed=7202, size=2)  # two parts of a pixel each
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_components_are_scipys(height: int, width: int, seed: int, size: int) -> None:
    bitmap = (np.random.default_rng(seed).random((height, width)) < 0.5).astype(np.uint8)
    labels, count = ndimage.label(bitmap, CORNERS)
    areas = ndimage.sum_labels(bitmap, labels, range(1, count + 1))
    wanted = np.isin(labels, [i + 1 for i, a in enumerate(areas) if a >= size or i == np.argmax(areas)]) & (
        labels > 0
    )
    assert np.array_equal(without_specks(bitmap, size, largest=False), wanted)
    largest = labels == 1 + np.argmax(areas) if count else bitmap
    assert np.array_equal(without_specks(bitmap, 0, largest=True), largest)
    filled = ndimage.binary_fill_holes(bitmap)
    holes, count = ndimage.label(filled & (bitmap == 0))
    small = [i for i in range(1, count + 1) if (holes == i).sum() <= size]
    assert np.array_equal(without_holes(bitmap, size), bitmap | np.isin(holes, small))


def test_records_carry_the_mended_masks() -> None:
    """A mask of two parts, and a box that stays."""
    probs = torch.zeros(1, 28, 28)
    probs[:, :20, :20], probs[:, 24:, 24:] = 1, 1
    found = Detections(torch.tensor([[0.0, 0.0, 56.0, 56.0]]), torch.tensor([0.9]), torch.tensor([0]), probs)

    class Ids:
        ids = (1,)

    info = ImageInfo(1, "a.png", 60, 60)
    plain, mended = (
        coco_results(info, found, (60, 60), Ids(), clean=c)[0]  # type: ignore[arg-type]
        for c in (None, CleanConfig())
    )
    assert ndimage.label(decode(plain["segmentation"]))[1] == 2
    assert ndimage.label(decode(mended["segmentation"]))[1] == 1
    assert plain["bbox"] == mended["bbox"]
    whole = encode_masks(probs, found.boxes, 60, 60, clean=CleanConfig(parts="all"))
    assert whole == [plain["segmentation"]]


def test_an_empty_mask_stays_empty() -> None:
    empty = as_text(encode(np.zeros((4, 5), np.uint8)))
    assert clean_masks([empty], CleanConfig(largest_hole=9)) == [empty]


def test_the_keys() -> None:
    assert EvalConfig().clean is None and EvalConfig().paste == "aligned"
    found = loads(EvalConfig, "clean: {largest_hole: 20}\npaste: smooth", "x")
    assert found == replace(EvalConfig(), clean=CleanConfig(largest_hole=20), paste="smooth")
    with pytest.raises(ConfigError, match="largest_hole must be >= 0"):
        loads(EvalConfig, "clean: {largest_hole: -1}", "x")
    with pytest.raises(ConfigError, match="parts"):
        loads(EvalConfig, "clean: {parts: some}", "x")
