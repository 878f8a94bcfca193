"""The journal of an unfinished prediction: what is in it, whatever became of its last line."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.errors import UserError
from maskrcnn.run.prediction_journal import JOURNAL, DoneImage, Journal

SETTINGS = {"--score": (0.5, 0.25), "--set": []}


def line(number: int, key: str, *, written: bool = True) -> DoneImage:
    records = [{"image_id": number, "category_id": 1, "bbox": [0.1, 0.2, 3.0, 4.0], "score": 0.1 + 0.2}]
    name = {"file_name": "caf\\xe9.png", "file_name_hex": "636166e92e706e67"}
    return DoneImage(
        number, key, name, "caf\\xe9.png", "caf_", 4, 5, records, ["box"], True, 2, written=written
    )


def test_lines_come_back_as_they_were_by_their_ids(tmp_path: Path) -> None:
    journal = Journal(tmp_path / JOURNAL, SETTINGS, resume=False)
    for number, key in ((3, "c"), (1, "a\udce9"), (2, "b")):
        journal.add(line(number, key))
    journal.mark("v", 2)
    assert list(journal.lines(["b", "a\udce9"])) == [line(1, "a\udce9"), line(2, "b")]
    journal.close(finished=False)
    again = Journal(tmp_path / JOURNAL, SETTINGS, resume=True)
    assert (again.done, again.videos) == ({"c": 3, "a\udce9": 1, "b": 2}, {"v": 2})
    again.add(line(4, "b"))  # done anew
    assert list(again.lines()) == [line(1, "a\udce9"), line(3, "c"), line(4, "b")]
    again.close(finished=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 30, 10_000])
def test_a_line_that_was_cut_is_no_line(cut: int, tmp_path: Path) -> None:
    journal = Journal(tmp_path / JOURNAL, SETTINGS, resume=False)
    for number, key in ((1, "a"), (2, "b")):
        journal.add(line(number, key))
    journal.close(finished=False)
    data = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(data[: max(len(data) - cut, 5)])
    again = Journal(tmp_path / JOURNAL, SETTINGS, resume=True)
    assert again.done == ({"a": 1} if cut < 10_000 else {})
    again.add(line(2, "b"))
    assert again.done["b"] == 2 and [done.key for done in again.lines()][-1] == "b"


def test_an_image_whose_files_are_not_written_is_not_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / JOURNAL, SETTINGS, resume=False)
    journal.add(line(1, "a", written=False))
    journal.close(finished=False)
    again = Journal(tmp_path / JOURNAL, SETTINGS, resume=True)
    assert again.done == {} and [done.key for done in again.lines()] == ["a"]


def test_other_settings_are_named(tmp_path: Path) -> None:
    Journal(tmp_path / JOURNAL, SETTINGS, resume=False).close(finished=False)
    with pytest.raises(UserError, match=r"other options \(--score\)"):
        Journal(tmp_path / JOURNAL, {**SETTINGS, "--score": (0.5, 0.3)}, resume=True)
    Journal(tmp_path / JOURNAL, SETTINGS, resume=True)  # nothing was lost by asking


@pytest.mark.parametrize("text", ['"a text"\n', "{}\nnothing\n", '{"key": "a"}\n'])
def test_a_journal_that_somebody_changed_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(UserError, match="damaged; begin anew|other options"):
        Journal(tmp_path / JOURNAL, {}, resume=True)
    assert (tmp_path / JOURNAL).read_text() == text
