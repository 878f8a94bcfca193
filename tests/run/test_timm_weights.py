"""timm's weights by name, through timm's own loader, which is given a file in place of its hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.backbones.timm_backbone import TimmConfig
from maskrcnn.run.named_weights import local_file, publisher_of

timm = pytest.importorskip("timm")
NAME = Path("timm/resnet18.a1_in1k")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def published(monkeypatch: pytest.MonkeyPatch, file: Path | None) -> list[str]:
    """timm, whose weights are in ``file`` (None: whose hub cannot be reached); what it was asked for."""
    asked: list[str] = []
    create = timm.create_model

    def from_file(name: str, pretrained: bool = False, **options: Any) -> Any:
        if not pretrained:
            return create(name, **options)
        asked.append(name)
        if file is None:
            raise OSError("Connection error, and we cannot find the requested files in the cached path")
        return create(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **options)

    monkeypatch.setattr(timm, "create_model", from_file)
    return asked


def test_they_are_fetched_once_and_fit_both_kinds_of_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    state = timm.create_model("resnet18").state_dict()
    torch.save(state, tmp_path / "theirs.pth")
    asked = published(monkeypatch, tmp_path / "theirs.pth")
    assert "would be fetched by timm from https://huggingface.co/timm/resnet18.a1_in1k" in publisher_of(
        NAME
    ).outlook(str(NAME))
    made = local_file(NAME)
    assert (
        local_file(NAME) == made
        and asked == ["resnet18.a1_in1k"]
        and publisher_of(NAME).outlook(str(NAME)) == ""
    )
    ours = ResNetConfig(depth=18, weights=made).build()
    theirs = TimmConfig(name="resnet18", weights=made).build()
    assert ours.layer4[1].conv2.weight.equal(state["layer4.1.conv2.weight"])
    assert theirs.net.layer4[1].conv2.weight.equal(state["layer4.1.conv2.weight"])


def test_without_a_network_it_is_a_sentence_and_by_hand_it_works(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(monkeypatch, None)
    place = own_home / "weights" / NAME / "model.safetensors"
    with pytest.raises(
        CheckpointError, match="timm could not fetch it from https://huggingface.co/timm/"
    ) as error:
        local_file(NAME)
    assert f"put it there by hand: {place} or " in str(error.value)
    pytest.importorskip("safetensors.torch").save_model(timm.create_model("resnet18"), str(place))
    assert local_file(NAME) == place
    ResNetConfig(depth=18, weights=local_file(NAME)).build()


def test_what_timm_states() -> None:
    facts = publisher_of(NAME).facts("timm/tf_efficientnet_lite0.in1k")
    assert (facts.mean, facts.std, facts.licence) == ((127.5,) * 3, (127.5,) * 3, "apache-2.0")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm/resnet18", "has weights of resnet18 as timm/resnet18.a1_in1k, timm/"),
        ("timm/resnet18.nothing", "has weights of resnet18 as timm/resnet18.a1_in1k, timm/"),
        ("timm/resnet81.a1_in1k", "no weights have that name; did you mean timm/resnet18.a1_in1k"),
    ],
)
def test_a_name_that_timm_does_not_have(name: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: .*{said}"):
        local_file(Path(name))
