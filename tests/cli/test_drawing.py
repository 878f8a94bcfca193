"""``maskrcnn predict --draw --colour-by --tta``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from maskrcnn.cli import main
from maskrcnn.run import Predictor


def predicted(tiny_run: Path, out: Path, *options: str) -> tuple[npt.NDArray[Any], list[dict[str, Any]]]:
    """The overlay of an image, RGB, and its records."""
    image = tiny_run.parent / "images" / "101.png"
    arguments = ["predict", str(image), "--checkpoint", str(tiny_run), "--score", "0", "--out", str(out)]
    assert main([*arguments, *options]) == 0
    picture = cv2.imread(str(out / "101.png"))
    assert picture is not None
    return picture[..., ::-1], json.loads((out / "predictions.json").read_text())


def test_an_overlay_lies_pixel_on_pixel_and_shows_what_is_asked_for(tiny_run: Path, tmp_path: Path) -> None:
    image = cv2.imread(str(tiny_run.parent / "images" / "101.png"))
    assert image is not None
    plain, records = predicted(tiny_run, tmp_path / "plain")
    assert plain.shape == image.shape and len(records) > 1
    nothing, same = predicted(tiny_run, tmp_path / "nothing", "--draw", "")
    assert np.array_equal(nothing, image[..., ::-1]) and same == records
    lines, _ = predicted(tiny_run, tmp_path / "lines", "--draw", "outline,numbers", "--colour-by", "instance")
    found = Predictor(tiny_run, device="cpu", score=0.0)(tiny_run.parent / "images" / "101.png")
    wanted = found.draw(fill=False, labels=False, scores=False, numbers=True, colour_by="instance")
    assert np.array_equal(lines, wanted) and not np.array_equal(lines, plain)
    large, _ = predicted(tiny_run, tmp_path / "large", "--draw", "fill,enlarge,contrast")
    assert large.shape[0] > image.shape[0] and large.shape[0] % image.shape[0] == 0


def test_views_are_asked_for_on_the_command_line(tiny_run: Path, tmp_path: Path) -> None:
    _, plain = predicted(tiny_run, tmp_path / "plain")
    views = "{flips: [v], scales: [1.0]}"
    _, some = predicted(tiny_run, tmp_path / "some", "--tta", views)
    _, config = predicted(tiny_run, tmp_path / "config", "--set", f"eval.tta={views}")
    assert some == config != plain
    predictor = Predictor(tiny_run, device="cpu", score=0.0, overrides=[f"eval.tta={views}"])
    assert len(predictor(tiny_run.parent / "images" / "101.png")) == len(some)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--draw", "fil"], "--draw fil: there is no such part. Did you mean 'fill'?"),
        (["--tta", "{scales: [99]}"], "eval.tta.scales.0 must be at most 10, got 99"),
        (["--tta", "{turn: 1}"], "turn"),
    ],
)
def test_a_wrong_wish_is_told(
    options: list[str], told: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(tiny_run.parent / "images" / "101.png")
    assert main(["predict", image, "--checkpoint", str(tiny_run), "--out", str(tmp_path), *options]) == 2
    assert told in capsys.readouterr().err
