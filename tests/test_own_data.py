"""docs/own_data.md in an empty folder outside the checkout: the tutorial runs, the example by hand learns."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from maskrcnn.cli import main
from maskrcnn.engine.metrics_file import read_metrics
from tests.engine.tiny import write_data
from tests.rules.pages import ROOT, blocks, commands, split_command

PAGE = ROOT / "docs" / "own_data.md"

#: What makes the example small: a narrow ResNet-18 on images of 64 px.
SMALL = [
    *("model.backbone.depth=18", "model.backbone.width=16", "model.neck.out_channels=32"),
    *("model.box_head.hidden=64", "model.mask_head.width=16", "model.roi.samples=32"),
    *("model.rpn.pre_nms_train=200", "model.rpn.post_nms_train=100", "model.rpn.pre_nms_test=100"),
    *("model.rpn.post_nms_test=50", "model.rpn.anchors.sizes=[[12],[24],[32],[64],[128]]"),
    *("data.train_transforms.0.min_sizes=[64]", "data.eval_transforms.0.min_sizes=[64]"),
    *("model.rpn.samples=32", "solver.schedule.warmup_steps=30"),
    *("train.tensorboard=false", "train.log_every=10", "device=cpu"),
]


def maskrcnn(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command prints that ends well, and without a warning."""
    assert main(words) == 0
    told = capsys.readouterr()
    warnings = [line for line in told.err.splitlines() if "shown are scores from" not in line]
    assert warnings == []
    return told.out


def train(folder: Path, *words: str) -> str:
    """The same for a training, in a process of its own that is started in ``folder``."""
    told = subprocess.run(
        [sys.executable, "-m", "maskrcnn", "train", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "warning" not in told.stderr, told.stderr
    return told.stdout


#: What makes each command of the tutorial quick; what `new` chose stays as it is.
QUICK = {
    "data": ["--train", "8", "--val", "4", "--size", "64"],
    "new": ["--no-measure", "--weights", "none"],
    "train": [
        *("--set", "solver.steps=2", "--set", "train.tensorboard=false", "--set", "model.backbone.width=8"),
        *("--set", "model.neck.out_channels=16", "--set", "model.box_head.hidden=16"),
    ],
}
#: What each leaves behind.
MADE = {
    "data": "pictures/train/annotations.json",
    "import": "shapes/data.yaml",
    "new": "shapes.yaml",
    "train": "runs/shapes/checkpoints/last.pt",
    "predict": "predictions/predictions.json",
}


def test_the_tutorial_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for line in commands(PAGE) if "mine.yaml" not in line and "runs/mine" not in line]
    names = [split_command(line)[0] for line in lines]
    assert names == ["data", "import", "doctor", "browse", "new", "browse", "train", "eval", "predict"]
    for name, line in zip(names, lines, strict=True):
        status = main([*split_command(line), *QUICK.get(name, [])])
        told = capsys.readouterr()
        assert status in ((0, 1) if name == "doctor" else (0,)), told.err  # 1: there are findings
        assert told.out
        assert name not in MADE or (tmp_path / MADE[name]).exists()
    assert (tmp_path / "shapes.html").exists() and "epoch 2," in (tmp_path / "trained_on.html").read_text()


def test_the_worked_examples_of_steps_are_right() -> None:
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"([\d,]+) x ([\d,]+) / ([\d,]+) = ([\d,]+) steps", text)
    assert len(found) == 2
    for example in found:
        epochs, images, batch, steps = (int(number.replace(",", "")) for number in example)
        assert epochs * images // batch == steps


def test_the_example_learns_from_scratch_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (config,) = [text for text in blocks(PAGE, "yaml") if text.startswith("# mine.yaml")]
    (tmp_path / "mine.yaml").write_text(config)
    write_data(tmp_path / "images", train=24, val=8)
    for split in ("train", "val"):
        shutil.copytree(tmp_path / "images", tmp_path / "mine" / split)
        shutil.move(tmp_path / "mine" / split / f"{split}.json", tmp_path / "mine")
    assert maskrcnn(capsys, "config", "check", "mine.yaml") == "mine.yaml: ok\n"
    changes = [
        part for item in [*SMALL, "solver.steps=120", "solver.batch_size=4"] for part in ("--set", item)
    ]
    out = train(tmp_path, "mine.yaml", *changes)
    assert "learning rate 0.02 = 0.02 x 4 / 4 images" in out
    losses = [r["loss"] for r in read_metrics(tmp_path / "runs/mine/metrics.jsonl") if r["kind"] == "train"]
    assert statistics.fmean(losses[-3:]) < 0.75 * losses[0], losses
    found = maskrcnn(capsys, "eval", "--checkpoint", "runs/mine")
    box, mask = (float(re.search(rf"^{kind} +([\d.]+)", found, re.MULTILINE)[1]) for kind in ("bbox", "segm"))  # type: ignore[index]
    assert box > 0.03 and mask > 0.03, found
    photo = "mine/val/101.png"
    assert f"{photo}: " in maskrcnn(capsys, "predict", "--checkpoint", "runs/mine", photo)
    shown = maskrcnn(capsys, "config", "show", "mine.yaml")
    assert re.search(r"norm: gn +# shipped configs/base/scratch\.yaml:\d+", shown)
