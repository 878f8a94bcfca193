"""Damaged COCO files end in a right result or in a sentence: 300 mutations each of data and of results.

They run in child processes with limits, so that a crash, an endless loop or a flood of memory is a failure of
the one mutation and not of the suite.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data import fuzz

ROOT = Path(__file__).resolve().parents[2]
PART = 100


def outcomes(kind: str, first: int, folder: Path) -> dict[int, dict[str, Any]]:
    """Seed -> what came of it."""
    command = [sys.executable, "-m", "tests.data.fuzz", kind, str(first), str(first + PART), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    found = {}
    for line in done.stdout.splitlines():
        record = json.loads(line)
        found[record.pop("seed")] = record
    assert done.returncode == 0, (
        f"{kind} seed {first + len(found)}: status {done.returncode}\n{done.stderr[-2000:]}"
    )
    return found


def accepted(kind: str, seed: int) -> list[Any]:
    """The figures that are right: those of the sound files, or of the files without the changed record."""
    _, _, way = fuzz.case(kind, seed)
    found = [fuzz.figures(*fuzz.sound())["figures"]]
    rest = fuzz.without(kind, way)
    if rest is not None:
        found.append(fuzz.figures(*rest)["figures"])
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory by Linux's means")
@pytest.mark.parametrize("first", range(0, 300, PART))
@pytest.mark.parametrize("kind", ["data", "results"])
def test_a_mutated_file_gives_a_right_result_or_a_sentence(tmp_path: Path, kind: str, first: int) -> None:
    found = outcomes(kind, first, tmp_path)
    assert len(found) == PART
    told = right = 0
    for seed, result in found.items():
        _, _, way = fuzz.case(kind, seed)
        where = f"{kind} seed {seed}, at {way}: {result}"
        if "error" in result:
            assert result["error"].startswith((str(tmp_path), "none of ", "the results name no image")), where
            assert len(result["error"]) < 2000, where
            told += 1
            continue
        if way is None or way[-1] != "file_name":  # which evaluation of a file alone does not need
            assert result["file"] == result["data set"], where
        if result["file"]["figures"] in accepted(kind, seed):
            right += 1
        else:  # a record that is still sound may give other figures, as another score does
            assert changes_what_it_says(kind, way) or result["file"]["notes"], where
    assert right > PART / 2, "most mutations leave the others' figures as they were"
    assert told > 0


def changes_what_it_says(kind: str, way: tuple[Any, ...] | None) -> bool:
    """Whether the change may have made another sound file of it: other numbers, classes, images, records."""
    if way is None:
        return True
    keys = {
        "id",
        "image_id",
        "category_id",
        "bbox",
        "area",
        "score",
        "segmentation",
        "iscrowd",
        "height",
        "width",
    }
    return bool(keys & set(way)) or len(way) <= 2
