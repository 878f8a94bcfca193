"""Scores by class beside a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.errors import CheckpointError
from maskrcnn.recipe import TTAConfig
from maskrcnn.run.thresholds import Thresholds, read_thresholds, thresholds_file, views_of, write_thresholds


def test_what_is_written_is_read(tmp_path: Path) -> None:
    checkpoint = tmp_path / "best.pt"
    assert read_thresholds(checkpoint) is None
    found = Thresholds({"Zellkern": 0.37, "a/b": 1}, views_of(TTAConfig(flips=("v",))))
    assert write_thresholds(checkpoint, found) == tmp_path / "best.thresholds.json"
    assert thresholds_file(checkpoint) == tmp_path / "best.thresholds.json"
    assert read_thresholds(checkpoint) == found
    assert read_thresholds(tmp_path / "last.pt") is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"scores": [0.5]}', '{"scores": {"a": "0.5"}}', '{"scores": {"a": 2}}'),
        *('{"scores": null}', '{"scores": {"a": NaN}}', '{"scores": {"a": true}}', "[" * 100_000),
        '{"scores": {"a": 0.5}, "tta": [1]}',
    ],
    ids=lambda text: text[:20],
)
def test_a_broken_file_is_one_sentence_whose_advice_works(tmp_path: Path, text: str) -> None:
    checkpoint = tmp_path / "best.pt"
    thresholds_file(checkpoint).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"best\.thresholds\.json.*delete the file"):
        read_thresholds(checkpoint)
    thresholds_file(checkpoint).unlink()
    assert read_thresholds(checkpoint) is None


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    thresholds_file(tmp_path / "best.pt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_thresholds(tmp_path / "best.pt")


def test_scores_of_before_have_no_doubt(tmp_path: Path) -> None:
    checkpoint = tmp_path / "best.pt"
    thresholds_file(checkpoint).write_text('{"scores": {"a": 0.5}}', encoding="utf-8")
    found = read_thresholds(checkpoint)
    assert found == Thresholds({"a": 0.5}) and found.doubt(views_of(TTAConfig())) == ""
