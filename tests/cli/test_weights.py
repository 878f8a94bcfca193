"""``maskrcnn weights list|fetch|where|add``; covers ``maskrcnn/run/weights.py``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.run.weights import listed
from maskrcnn.weights.published import find
from tests.convert.foreign import our_state, their_state
from tests.weights.server import serving


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small detector of torchvision's."""
    torch.save(their_state(our_state("mask"), "torchvision"), tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def test_the_list_says_what_is_stated_and_what_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    out = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out if "/" in line}
    named = rows["torchvision/mask_rcnn_r50_fpn_v2"]
    assert named == "detector 47.4 41.8 0.02 not stated 177.2 MiB, SHA-256 73cbd019"
    assert rows["detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"].endswith(
        "CC BY-SA 3.0 MD5 f10217"
    )
    assert rows["detectron2/ImageNetPretrained/MSRA/R-50"].endswith("not tried here")


def test_words_choose_and_json_tells_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list", "torchvision", "resnet50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "torchvision/resnet50" in found and "torchvision/resnet18" not in found
    assert found["torchvision/resnet50"]["mean"] == [123.675, 116.28, 103.53]
    assert main(["weights", "list", "nothing"]) == 2
    assert "no name holds nothing" in capsys.readouterr().err


def test_an_address_of_ones_own(file: Path, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "names.txt").write_text("cell\nperson\ndog\n")
    with serving(file.read_bytes()) as server:
        stated = ["--licence", "MIT", "--rate", "0.01", "--std", "1", "2", "3", "--classes", "names.txt"]
        assert main(["weights", "add", "own/cells", server.url, *stated]) == 0
        entry = find("own/cells")[1]
        assert (entry.licence, entry.rate, entry.std) == ("MIT", 0.01, (1.0, 2.0, 3.0))
        assert entry.classes == ("cell", "person", "dog") and server.asked == []
        assert [row.state for row in listed(["own"])] == ["not tried here"]
        assert main(["weights", "fetch", "own/cells"]) == 0
    out = capsys.readouterr().out
    made = Path(out.strip().splitlines()[-1].removeprefix("own/cells: "))
    assert made.is_file() and made.is_relative_to(own_home)
    assert f"fetching own/cells from {server.url}" in out and "licence: MIT" in out
    assert listed(["own"])[0].state.startswith("here, ")
    assert main(["weights", "where", "own/cells"]) == 0
    assert capsys.readouterr().out.strip() == str(own_home / "weights/own/cells/net.pth")


def test_a_file_of_ones_own_is_copied(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "add", "own/cells", str(file)]) == 0
    file.unlink()
    assert main(["weights", "fetch", "own/cells"]) == 0
    assert "own/cells: " in capsys.readouterr().out


def test_a_known_file_from_elsewhere_is_checked(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "add", "torchvision/resnet18", str(file)]) == 2
    message = capsys.readouterr().err
    assert "is not the file that its publisher states" in message and "stated are 44.661" in message
    assert file.is_file()
    assert main(["weights", "where", "torchvision/resnet18"]) == 0
    assert "(not there yet: torchvision/resnet18 would be fetched from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("add cells theirs.pth", "write it as in own/cells_r50"),
        ("add torchvision/resnet18 https://example.org/x.pth", "take a name of your own, as own/resnet18"),
        ("add own/cells nothing.pth", "nothing.pth: no such file; name a file, or an address"),
        ("add own/cells ftp://example.org/x.pth", "url must be https://HOST"),
        ("add own/cells https://example.org/x.pth --sha256 xyz", "sha256 must be 6 to 64 hex digits"),
        ("fetch torchvision/resnet5", "did you mean torchvision/resnet50"),
        ("where resnet50", "no weights have that name; did you mean"),
        ("where torchvision/resnet5", "did you mean torchvision/resnet50"),
        ("fetch", "needs NAME"),
    ],
)
def test_mistakes_are_sentences(
    words: str, said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", *words.split()]) == 2
    assert said in capsys.readouterr().err
    assert listed(["own"]) == []
