"""How deep the mask loss lies below the command: what someone reads who follows a step from end to end."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from torch import Tensor

from maskrcnn.cli import main
from maskrcnn.modeling.roi.mask_head import PixelMaskHead
from tests.engine.tiny import write_recipe
from tests.rules.pages import ROOT

#: Frames of ours from cli/train.py to the head's loss, both counted.  To be lowered.
MOST = 10


class ReachedError(Exception):
    pass


def test_frames_from_the_command_to_the_mask_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(self: PixelMaskHead, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        raise ReachedError

    monkeypatch.setattr(PixelMaskHead, "loss", loss)
    command = ["train", str(write_recipe(tmp_path)), "--output", str(tmp_path / "run")]
    with pytest.raises(ReachedError) as reached:
        main(command)
    files = [Path(frame.filename) for frame in traceback.extract_tb(reached.tb)]
    ours = [file for file in files if file.is_relative_to(ROOT / "maskrcnn")]
    below = ours[ours.index(ROOT / "maskrcnn" / "cli" / "train.py") :]
    assert files[-1] == Path(__file__)
    assert len(below) + 1 <= MOST, [str(file.relative_to(ROOT)) for file in below]
