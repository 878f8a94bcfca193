"""What a training starts from: names where they can be had, files of backbones, run folders, chance."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.recipe import load_recipe
from maskrcnn.run.new import start
from tests.run.new.scenes import crowd, write_discs
from tests.run.new.test_make import new, read, trains


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_discs(tmp_path / "d", crowd(8), val=2)


def test_without_a_network_it_is_said_and_all_trains(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("socket.create_connection", refuse)
    out = tmp_path / "mine.yaml"
    assert new(data, out, weights="auto") == 0
    recipe, text = read(out)
    backbone = recipe.model.backbone
    assert recipe.weights is None and getattr(backbone, "norm", "") == "gn"
    assert getattr(backbone, "freeze_at", 1) == 0 and not getattr(backbone, "zero_init_residual", True)
    assert "there is no network" in text and "there is no network" in capsys.readouterr().out


def test_behind_a_proxy_it_is_the_proxy_that_is_asked(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], **options: object) -> socket.socket:
        asked.append(address)
        return socket.socket()

    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    out = tmp_path / "mine.yaml"
    assert new(data, out, weights="auto") == 0
    assert asked == [("proxy.example", 3128)] and read(out)[0].weights is not None
    monkeypatch.setenv("no_proxy", "*")
    assert new(data, tmp_path / "second.yaml", weights="auto") == 0
    assert asked[1][0] == "dl.fbaipublicfiles.com"


def test_with_a_network_weights_of_coco_with_their_pixels_and_rate(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "_at_hand", lambda name: "fetched by the training")
    out = tmp_path / "mine.yaml"
    assert new(data, out, weights="auto") == 0
    recipe, text = read(out)
    assert recipe.weights is not None and "mask_rcnn_R_50_FPN_3x" in recipe.weights.as_posix()
    assert tuple(recipe.model.preprocess.std) == (1, 1, 1) and "segm/AP 0.372" in text
    assert recipe.solver.learning_rate == pytest.approx(0.02 / 16 * recipe.solver.batch_size)
    assert recipe.expect == () and recipe.model.num_channels == 3
    assert main(["config", "check", str(out)]) == 0


def test_an_efficientnet_file_is_found_out(
    data: Path, tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    pytest.importorskip("timm")
    file = shared_data("weights") / "efficientnet-lite0-57934424.pth"
    out = tmp_path / "mine.yaml"
    assert new(data, out, weights=str(file)) == 0
    recipe, _ = read(out)
    backbone = recipe.model.backbone
    assert getattr(backbone, "name", "") == "tf_efficientnet_lite0" and getattr(backbone, "frozen_bn", False)
    assert tuple(recipe.model.preprocess.mean) == tuple(recipe.model.preprocess.std) == (127.5,) * 3
    assert recipe.solver.learning_rate == pytest.approx(0.005 * recipe.solver.batch_size / 4)
    trains(out, tmp_path / "run")


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_a_resnet_file_is_found_out(depth: int, data: Path, tmp_path: Path) -> None:
    blocks, deep = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[depth], depth == 50
    state = {"conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}
    for k, count in enumerate(blocks, start=1):
        for block in range(count):
            for conv in (1, 2, 3)[: 2 + deep]:
                state[f"layer{k}.{block}.conv{conv}.weight"] = torch.zeros(1)
    file = tmp_path / "net.pth"
    torch.save(state, file)
    assert start._resnet_depth(state) == depth
    out = tmp_path / "mine.yaml"
    assert new(data, out, weights=str(file)) == 0
    backbone = load_recipe(out).model.backbone
    assert (getattr(backbone, "depth", 0), getattr(backbone, "norm", "")) == (depth, "frozen_bn")
    assert getattr(backbone, "weights", None) == file


def test_a_run_goes_on_as_another(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, run = tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "run"
    assert new(data, first) == 0
    trains(first, run)
    assert new(data, second, weights=str(run)) == 0
    assert load_recipe(second).weights == run
    capsys.readouterr()
    trains(second, tmp_path / "again")
    assert f"weights from {run}" in capsys.readouterr().out
