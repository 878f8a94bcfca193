"""CONTRIBUTING.md's recipes lead where they say."""

from __future__ import annotations

import re

from tests.rules.pages import ROOT

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
    elsewhere = {"maskrcnn/layers/onnx.py"}  # the one mode of ONNX's own operator
    assert know - elsewhere <= set(listed)
