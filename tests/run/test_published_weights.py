"""Published files become ours: converted once, with what the registry states."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from maskrcnn.engine.checkpoint import load
from maskrcnn.errors import CheckpointError
from maskrcnn.recipe import parse_recipe
from maskrcnn.run import published_weights
from maskrcnn.run.named_weights import local_file, publisher_of
from maskrcnn.weights.published import add, registry
from tests.convert.foreign import our_state, their_state
from tests.weights.server import serving

NAME = Path("own/theirs")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def theirs(folder: Path, framework: str, form: str = "mask") -> bytes:
    """A small detector's file of another framework."""
    state = their_state(our_state(form, msra=framework == "detectron2"), framework)
    if framework == "detectron2":
        return pickle.dumps({"model": {n: v.numpy() for n, v in state.items()}}, protocol=2)
    torch.save(state, folder / "theirs.pth")
    return (folder / "theirs.pth").read_bytes()


@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
def test_a_detector_is_converted_once(
    framework: str, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("cell", "person", "dog")
    with serving(theirs(tmp_path, framework)) as server:
        url = server.url.replace(".pth", ".pkl" if framework == "detectron2" else ".pth")
        std = (11.0, 12.0, 13.0)
        add(str(NAME), server.entry(url=url, classes=names, mean=(1.0, 2.0, 3.0), std=std))
        made = local_file(NAME)
        assert made.parent == own_home / "weights" / NAME
        checkpoint, changed = load(made), made.stat().st_mtime_ns
        assert local_file(NAME) == made and made.stat().st_mtime_ns == changed
        assert len(server.asked) == 1
    assert checkpoint.category_names == names
    assert parse_recipe(checkpoint.config, "made").model.preprocess.std == std
    assert checkpoint.model["backbone.conv1.weight"].shape == (8, 3, 7, 7)
    # Another version of the converters makes its own file, of the same one.
    monkeypatch.setattr(published_weights, "converter", lambda: "00000000")
    other = local_file(NAME)
    assert other.name == f"{made.name.partition('-')[0]}-00000000.pt" and made.is_file()
    assert load(other).category_names == names


def test_a_file_that_is_no_weights_is_told(tmp_path: Path) -> None:
    torch.save({"what": torch.ones(1)}, tmp_path / "x.pth")
    with serving((tmp_path / "x.pth").read_bytes()) as server:
        add(str(NAME), server.entry())
        with pytest.raises(CheckpointError, match=r"net\.pth: recognised as none of torchvision"):
            local_file(NAME)


def test_what_is_stated_of_torchvisions() -> None:
    facts = publisher_of(Path("torchvision/resnet50")).facts("torchvision/resnet50")
    assert facts.mean == (123.675, 116.28, 103.53) and facts.rate == 0.02 and facts.stride_in_1x1 is False
    msra = publisher_of(Path("detectron2/x")).facts("detectron2/MSRA/R-50")
    assert msra.name == "detectron2/ImageNetPretrained/MSRA/R-50" and msra.stride_in_1x1
    assert msra.std == (1.0, 1.0, 1.0)


def test_the_outlook_says_where_to_put_a_file(own_home: Path) -> None:
    name = "torchvision/mask_rcnn_r50_fpn_v2"
    entry = registry()[name]
    outlook = publisher_of(Path(name)).outlook(name)
    place = own_home / "weights" / name / "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"
    assert outlook == f"{name} would be fetched from {entry.url} (177.2 MiB) to {place}"


def test_a_file_put_there_by_hand_is_used_without_a_network(tmp_path: Path, own_home: Path) -> None:
    with serving(theirs(tmp_path, "torchvision")) as server:
        add(str(NAME), server.entry())
    place = own_home / "weights" / NAME / "net.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(server.content)
    assert load(local_file(NAME)).versions["converted_from"] == "torchvision"
