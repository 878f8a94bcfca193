"""A value of ``weights``: a file, a run's folder, or a name; what a training does with each."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.engine.checkpoint import load
from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.recipe import load_recipe
from maskrcnn.run.named_weights import is_name, local_file, with_local_weights
from maskrcnn.weights.published import add
from tests.engine.tiny import write_recipe
from tests.weights.server import serving


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def settings(*items: str) -> list[str]:
    return [part for item in items for part in ("--set", item)]


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path]:
    """(a recipe, a run of it)."""
    recipe, run = write_recipe(tmp_path), tmp_path / "first"
    assert (
        main(["train", str(recipe), "--output", str(run), *settings("solver.steps=1", "data.val=null")]) == 0
    )
    return recipe, run


def test_what_is_a_name(tmp_path: Path) -> None:
    assert is_name(Path("torchvision/resnet50")) and is_name(Path("timm/resnet50.a1_in1k"))
    assert is_name(Path("detectron2/COCO-Detection/faster_rcnn_R_50_FPN_1x")) and is_name(Path("own/x"))
    for path in (
        "torchvision",
        "torchvision/resnet50.pth",
        "runs/a",
        "/torchvision/resnet50",
        "./timm.pt",
        "",
    ):
        assert not is_name(Path(path)), path
    (tmp_path / "torchvision" / "resnet50").mkdir(parents=True)
    assert not is_name(Path("torchvision/resnet50"))


def test_a_file_or_folder_of_that_name_is_taken_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "net").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "maskrcnn"):
        assert local_file(Path("own/net")) == Path("own/net")
    assert "own/net are read from the file or folder of that name that is here" in caplog.text


def test_a_name_that_is_none_is_a_sentence() -> None:
    with pytest.raises(CheckpointError, match="torchvison/resnet50: no such file.*begin with torchvision/"):
        local_file(Path("torchvison/resnet50"))
    with pytest.raises(CheckpointError, match="did you mean torchvision/resnet50"):
        local_file(Path("torchvision/resnet5"))


def test_a_run_begins_from_a_name_and_keeps_it(
    trained: tuple[Path, Path], own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = trained
    last = run / "checkpoints" / "last.pt"
    common = settings("solver.steps=1", "data.val=null", "solver.optimizer.lr=0.0", "weights=own/first")
    with serving(last.read_bytes()) as server:
        add("own/first", server.entry())
        capsys.readouterr()
        assert main(["config", "check", str(recipe), *common]) == 0
        checked = capsys.readouterr().out
        assert f"weights: own/first would be fetched from {server.url}" in checked and server.asked == []
        assert main(["train", str(recipe), "--output", "second", *common]) == 0
        assert len(server.asked) == 1
    out = capsys.readouterr().out
    assert "weights from own/first\n" in out and "fetching own/first" in out
    assert "weights from own/first" in Path("second/log.txt").read_text()
    assert load_recipe("second/config.yaml").weights == Path("own/first")
    made = load(Path("second/checkpoints/last.pt"))
    assert "weights: own/first" in made.config
    first = load(last).model
    assert all(value.equal(first[name]) for name, value in made.model.items() if "running" not in name)
    # The server is gone, and the cache too: what is there goes on.
    assert main(["config", "check", str(recipe), *common]) == 0
    assert "would be fetched" not in capsys.readouterr().out
    for path in own_home.rglob("*.pt*"):
        path.unlink()
    assert main(["train", "--resume", "second", "--set", "solver.steps=2"]) == 0
    assert load(Path("second/checkpoints/last.pt")).step == 2


def test_a_runs_folder_is_its_best_checkpoint(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = trained
    assert local_file(run) == run / "checkpoints" / "last.pt"
    common = settings("solver.steps=1", "data.val=null", "solver.optimizer.lr=0.0", f"weights={run}")
    assert main(["train", str(recipe), "--output", "second", *common]) == 0
    assert f"weights from {run}\n" in capsys.readouterr().out
    a, b = (load(folder / "checkpoints/last.pt").model for folder in (run, Path("second")))
    assert a["roi.box_head.fc1.weight"].equal(b["roi.box_head.fc1.weight"])


def test_weights_that_cannot_be_had_leave_no_run_behind(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, _ = trained
    with serving(b"x", 404) as server:
        add("own/first", server.entry())
        assert main(["train", str(recipe), "--output", "second", "--set", "weights=own/first"]) == 2
    message = capsys.readouterr().err
    assert "the server answers 404 Not Found" in message and "put it there by hand:" in message
    assert not Path("second").exists()


def test_an_unknown_name_is_told_by_its_place(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, _ = trained
    assert main(["config", "check", str(recipe), *settings("weights=torchvision/mask_rcnn_r50_fpn_v3")]) == 2
    message = capsys.readouterr().err
    assert "--set weights=" in message and "did you mean torchvision/mask_rcnn_r50_fpn_v2" in message


def test_names_become_files_in_all_places(tmp_path: Path, trained: tuple[Path, Path]) -> None:
    state = ResNetConfig(depth=18, width=8, norm="bn").build().state_dict()
    torch.save(state | {"fc.weight": torch.ones(3, 64), "fc.bias": torch.ones(3)}, tmp_path / "net.pth")
    with serving((tmp_path / "net.pth").read_bytes()) as server:
        add("own/backbone", server.entry(kind="backbone"))
        backbone = "model.backbone={type: resnet, depth: 18, width: 8, weights: own/backbone}"
        both = with_local_weights(load_recipe(trained[0], [backbone, f"weights={trained[1]}"]))
        assert both.weights == trained[1] / "checkpoints" / "last.pt"  # which give the backbone's, too
        assert getattr(both.model.backbone, "weights") is None and server.asked == []  # noqa: B009
        recipe = load_recipe(trained[0], [backbone])
        local = with_local_weights(recipe)
        assert with_local_weights(recipe) == local and len(server.asked) == 1
    made = getattr(local.model.backbone, "weights")  # noqa: B009 - of this kind of backbone
    assert set(torch.load(made, weights_only=True)) == {n for n in state if not n.endswith("tracked")}
    local.model.backbone.build()


def test_a_run_from_a_named_backbone_learns_with_frozen_norms(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether it can learn is asked of the file, and the name stays in the run's folder."""
    state = ResNetConfig(depth=18, width=8, norm="bn").build().state_dict()
    state = {n: v + 0.1 if n.endswith("running_mean") else v for n, v in state.items()}
    torch.save(state | {"fc.weight": torch.ones(3, 64), "fc.bias": torch.ones(3)}, tmp_path / "net.pth")
    backbone = "model.backbone={type: resnet, depth: 18, width: 8, weights: own/backbone}"
    command = ["train", str(trained[0]), *settings(backbone, "solver.steps=1", "data.val=null")]
    with serving((tmp_path / "net.pth").read_bytes()) as server:
        add("own/backbone", server.entry(kind="backbone", rate=1.0))
        assert main([*command, "--output", "named"]) == 0
    assert "own/backbone: is fine-tuned at a rate of 0.125" in capsys.readouterr().err
    assert "weights: own/backbone" in Path("named/config.yaml").read_text()
    made = load(Path("named/checkpoints/last.pt")).model
    assert made["backbone.layer1.0.conv1.weight"].equal(state["layer1.0.conv1.weight"])  # frozen


def test_a_checkpoint_may_be_a_name(trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with serving((trained[1] / "checkpoints" / "last.pt").read_bytes()) as server:
        add("own/first", server.entry())
        images = str(trained[0].parent / "images")
        assert main(["predict", "--checkpoint", "own/first", images, "--out", "out", "--no-overlays"]) == 0
    assert "own/first" in capsys.readouterr().out
