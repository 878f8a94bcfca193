"""Faults of a data set: counted by kind, the first few named, or raised at once."""

from __future__ import annotations

import logging

import pytest

from maskrcnn.data.fault_report import NAMED, FaultReport
from maskrcnn.errors import DataError


def test_nothing_is_nothing_to_tell() -> None:
    report = FaultReport("x.json", "skip")
    assert not report and len(report) == 0
    assert report.summary() == "" and report.notes() == ()


def test_raise_raises_the_first_with_advice() -> None:
    report = FaultReport("x.json", "raise")
    with pytest.raises(
        DataError, match="annotation 3 has no box .set on_error: skip to leave such annotations out"
    ):
        report.annotation("no box", "annotation 3 has no box")
    with pytest.raises(DataError, match="leave such images out"):
        report.record("no size", "image 1 has no size")


def test_kinds_are_counted_and_the_first_few_named() -> None:
    report = FaultReport("x.json", "skip")
    for i in range(NAMED + 3):
        report.annotation("no box" if i % 2 else "no class", f"annotation {i}")
    report.record("no size", "image 1")
    report.mend("a text of bytes", "annotation 90")
    report.mend("a text of bytes", "annotation 91")
    assert len(report) == NAMED + 4
    assert report.named == [f"annotation {i}" for i in range(NAMED)]
    assert report.notes() == (
        "1 faulty image record left out (1 no size); first: image 1",
        f"{NAMED + 3} faulty annotations left out (4 no class, 4 no box); first: annotation 0",
        "2 annotations read as meant: a text of bytes",
    )
    lines = report.summary().splitlines()
    assert lines[0] == "x.json: 1 faulty image record left out (1 no size)"
    assert lines[-1] == "  2 a text of bytes (first: annotation 90)"


def test_an_unreadable_image_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    report = FaultReport("x.json", "skip")
    with caplog.at_level(logging.WARNING):
        for image in (7, 7, 9):
            report.image(image, f"image {image} is damaged")
    assert report.images == 3 and report.unreadable == {7, 9}
    assert [r.message for r in caplog.records] == [
        f"image {i} is damaged; passed over (on_error: skip)" for i in (7, 9)
    ]
    assert "unreadable images passed over 3 times" in report.summary()


def test_doubts_are_told_once_an_image_and_of_a_few_images(caplog: pytest.LogCaptureFixture) -> None:
    report = FaultReport("x.json", None)
    report.told("damaged", [0])
    with caplog.at_level(logging.WARNING):
        for image in (0, 1, 1, *range(2, NAMED + 5)):
            report.doubt("damaged", image, "it is cut")
    assert len(caplog.records) == NAMED - 1
    assert caplog.records[0].message == "x.json: image 1: it is cut"
    assert "further ones are not named" in caplog.records[-1].message
