"""``maskrcnn convert`` from a file to a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.engine.checkpoint import load
from tests.modeling.test_convert import source


def test_converts_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(source(), tmp_path / "theirs.pth")
    out = tmp_path / "ours.pt"
    assert (
        main(["convert", "--from", "torchvision", str(tmp_path / "theirs.pth"), str(out), "--verbose"]) == 0
    )
    printed = capsys.readouterr().out
    assert "Mask R-CNN" in printed
    assert "4 classes" in printed
    assert "backbone.body.conv1.weight -> backbone.conv1.weight" in printed
    checkpoint = load(out)
    assert checkpoint.model["roi.box_head.predictor.logits.bias"].shape == (5,)
    assert checkpoint.versions["converted_from"] == "torchvision"


def test_what_does_not_match_is_a_sentence_and_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = source()
    del state["rpn.head.bbox_pred.weight"]
    torch.save(state, tmp_path / "theirs.pth")
    out = tmp_path / "ours.pt"
    assert main(["convert", "--from", "torchvision", str(tmp_path / "theirs.pth"), str(out)]) == 2
    message = capsys.readouterr().err
    assert "theirs.pth" in message
    assert "rpn.head.deltas.weight" in message
    assert not out.exists()


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint"])
def test_an_unreadable_file_is_a_sentence(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "theirs.pth"
    if content is not None:
        path.write_bytes(content)
    assert main(["convert", "--from", "torchvision", str(path), str(tmp_path / "ours.pt")]) == 2
    assert "theirs.pth" in capsys.readouterr().err
