"""CONTRIBUTING.md's recipes lead where they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rules.pages import ROOT, blocks

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
#: Of our sources, those that know RoIAlign's option by its code's name, by which a new one would be spread.
SOURCES = [*(ROOT / "maskrcnn").rglob("*.py"), *(ROOT / "csrc").rglob("*.[ch]*")]


def test_an_option_of_roi_align_touches_the_files_that_are_listed() -> None:
    _, section = TEXT.split("### A new option of RoIAlign: at most 5 files")
    listed = re.findall(r"^\d\. `([^`]+)`", section, re.MULTILINE)
    assert 1 <= len(listed) <= 5
    for name in listed:
        assert re.search(r"\bk?aligned\b", (ROOT / name).read_text(encoding="utf-8"), re.IGNORECASE), name
    # And no others: where bins of this option are told from the others'.
    told = re.compile(r"\bALIGNED\b|\bkAligned\b|self\.aligned\b")
    know = {p.relative_to(ROOT).as_posix() for p in SOURCES if told.search(p.read_text(encoding="utf-8"))}
    # The one mode of ONNX's own operator; the two that targets of masks are made by.
    elsewhere = {"maskrcnn/layers/onnx.py", "csrc/raster.h"}
    assert know - elsewhere <= set(listed)


#: What the recipe for a figure promises: it is in the table, it is logged, and it can be the best one's.
SHOWS = """
import json
from maskrcnn.evaluation import evaluate_coco, eval_result
from maskrcnn.evaluation.eval_result import check_metric
assert eval_result.__file__.startswith({folder!r}), eval_result.__file__
box = {{"image_id": 1, "category_id": 1, "bbox": [10, 10, 100, 100]}}
truth = {{
    "images": [{{"id": 1, "file_name": "a.png", "height": 200, "width": 200}}],
    "categories": [{{"id": 1, "name": "box"}}],
    "annotations": [{{**box, "id": 1, "area": 10000, "iscrowd": 0}}],
}}
# 100 x 64 of 100 x 100: an IoU of 0.64.
found = evaluate_coco(truth, [{{**box, "bbox": [10, 10, 100, 64], "score": 0.9}}], ["bbox"])
check_metric("bbox/AP60", ["bbox"], 100)
figures = [found.get(f"bbox/{{name}}") for name in ("AP60", "AP75")]
print(json.dumps([*figures, found.scalars()["bbox/AP60"], found.table()]))
"""


def test_a_new_figure_takes_the_lines_that_are_shown(tmp_path: Path) -> None:
    (diff,) = blocks(ROOT / "CONTRIBUTING.md", "diff")
    copy = tmp_path / "maskrcnn"
    shutil.copytree(ROOT / "maskrcnn", copy, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    files = re.split(r"^--- (.+)\n", diff, flags=re.MULTILINE)[1:]
    assert len(files) == 2 * 2
    for name, lines in zip(files[::2], files[1::2], strict=True):
        old = "".join(line[1:] + "\n" for line in lines.splitlines() if line[0] in "- ")
        new = "".join(line[1:] + "\n" for line in lines.splitlines() if line[0] in "+ ")
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert text.count(old) == 1, name
        (tmp_path / name).write_text(text.replace(old, new), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "MASKRCNN_REFERENCE_OPS": "1"}
    code = SHOWS.format(folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    at_60, at_75, logged, table = json.loads(done.stdout)
    assert (at_60, at_75, logged) == (pytest.approx(1), 0, at_60)
    assert re.search(r"AP50\s+AP60\s+AP75", table)
