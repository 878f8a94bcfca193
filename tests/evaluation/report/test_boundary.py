"""Boundary AP is that of boundary-iou-api and of vernier."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from maskrcnn.evaluation.backends import Case
from maskrcnn.evaluation.report.averages import mean, precisions
from maskrcnn.evaluation.report.boundary import boundary, boundary_overlaps, overlap
from maskrcnn.evaluation.report.overlaps import measure
from maskrcnn.evaluation.report.pairing import pair
from maskrcnn.structures import rle
from tests.evaluation.random_cases import outline_case, random_case
from tests.evaluation.report.cases import case_of
from tests.evaluation.report.peers import recorded, run_vernier

CASES = {"random": random_case, "outline": outline_case}


def by_size(case: Case) -> npt.NDArray[np.float64]:
    assert case.found.masks is not None
    pairing = pair(boundary_overlaps(measure(case), case.found.masks), 100)
    return np.stack([precisions(pairing, area) for area in range(4)], axis=-1)


@pytest.mark.parametrize("name", CASES)
def test_numbers_that_the_peers_gave(name: str) -> None:
    case = case_of(*CASES[name](7), "segm")
    theirs = None
    try:
        found = run_vernier(case)
        found = np.where(found < 0, np.nan, found)
        theirs = [[mean(one) for one in found[..., area]] for area in range(4)]
    except ImportError:
        pass
    ours = [[mean(one) for one in by_size(case)[..., area]] for area in range(4)]
    assert ours == recorded(f"boundary {name}", theirs)
    assert (ours[0][0] or 0) > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CASES)
def test_vernier_where_it_is_installed(name: str, seed: int) -> None:
    pytest.importorskip("vernier", reason="vernier is not installed")
    case = case_of(*CASES[name](seed), "segm")
    assert np.array_equal(np.nan_to_num(by_size(case), nan=-1), run_vernier(case))


@pytest.mark.parametrize("box", [(0, 0, 80, 60), (20, 10, 40, 40), (30, 20, 3, 30), (70, 50, 10, 10)])
def test_the_boundary_is_what_an_erosion_of_the_whole_image_takes(box: tuple[int, int, int, int]) -> None:
    height, width = 60, 80  # 2 % of the diagonal: 2 px
    x, y, w, h = box
    bitmap = np.zeros((height, width), dtype=np.uint8)
    bitmap[y : y + h, x : x + w] = 1
    padded = np.pad(bitmap, 2)
    inner = cv2.erode(padded, np.ones((5, 5), dtype=np.uint8))[2:-2, 2:-2]
    crop, x0, y0 = boundary(rle.encode(bitmap))
    drawn = np.zeros_like(bitmap)
    drawn[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] = crop
    assert np.array_equal(drawn, bitmap - inner)
    assert drawn.any()


def test_overlaps_of_crops_are_those_of_the_image() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        bitmaps = np.zeros((2, 30, 40), dtype=np.uint8)
        crops: list[Any] = []
        for bitmap in bitmaps:
            x, y = rng.integers(0, 25, 2)
            crop = (rng.random((5, 8)) < 0.6).astype(np.uint8)
            bitmap[y : y + 5, x : x + 8] = crop
            crops.append((crop, int(x), int(y)))
        one, other = bitmaps.astype(bool)
        assert overlap(*crops) == (one & other).sum() / (one | other).sum()
    empty = (np.zeros((0, 0), dtype=np.uint8), 0, 0)
    assert overlap(empty, crops[0]) == overlap(empty, empty) == 0
