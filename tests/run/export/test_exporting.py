from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.engine.checkpoint import load
from maskrcnn.errors import UserError
from maskrcnn.files import save_tensors
from maskrcnn.modeling.roi.keypoint_head import ConvKeypointHeadConfig
from maskrcnn.run.export.needed import needed
from maskrcnn.run.export.network import SAFE, trace
from maskrcnn.run.export.onnx_file import OnnxWriter
from maskrcnn.run.export.openvino_file import OpenVinoWriter
from maskrcnn.run.export.running import Instances
from maskrcnn.run.export.torch_file import TorchWriter, with_room
from maskrcnn.run.export.writing import WRITERS, Writer
from maskrcnn.structures import ImageInfo
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.rle import decode
from tests.engine.tiny import write_recipe
from tests.modeling.tiny import build
from tests.rules.pages import ROOT

ROOM = (
    *("model.roi.max_detections=40", "model.roi.nms_threshold=0.9"),
    *("model.rpn.post_nms_test=60", "model.rpn.pre_nms_test=60"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step whose class layer is scaled up, so that it detects something."""
    folder = tmp_path_factory.mktemp("export")
    recipe = write_recipe(folder)
    settings = [part for setting in ("solver.steps=1", *ROOM) for part in ("--set", setting)]
    assert main(["train", str(recipe), "--output", str(folder / "run"), *settings]) == 0
    path = folder / "run/checkpoints/last.pt"
    state = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name, value in state["model"].items():
        if "predictor.logits" in name:
            value.copy_(torch.randn(value.shape, generator=generator))
    save_tensors(path, state)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("to", "suffix"), [("onnx", ".onnx"), ("torch", ".pt2"), ("openvino", ".xml")])
def test_a_file_finds_what_the_model_finds(
    run: Path, to: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if to != "torch":
        pytest.importorskip("onnxscript", reason="the package onnxscript is not installed")
        pytest.importorskip("onnxruntime" if to == "onnx" else "openvino", reason=f"no runtime for {to}")
    file = tmp_path / f"model{suffix}"
    # Images as they are, since resizing rounds in its own way (test_onnx_parts.py); a .pt2 takes larger ones.
    size = ("min_sizes=[112]", "max_size=200") if to == "torch" else ("min_sizes=[64]",)
    settings = [part for one in size for part in ("--set", f"data.eval_transforms.0.{one}")]
    assert main(["export", "--checkpoint", str(run), "--to", to, "--output", str(file), *settings]) == 0
    told = capsys.readouterr().out
    assert file.is_file() and not (tmp_path / f"model.unverified{suffix}").exists()
    assert "equal, so it is called" in told
    line = next(line for line in told.splitlines() if "found again" in line)
    again, of = [int(word) for word in line.split() if word.isdigit()][1:3]
    assert of >= 60 and again >= 0.99 * of, line  # 20 an image
    if to != "onnx":
        return
    onnx: Any = pytest.importorskip("onnx")
    model = onnx.load(file)
    assert {(node.domain, op.version) for node in model.graph.node for op in model.opset_import} == {("", 18)}
    image = next((run.parents[2] / "images").glob("10*.png"))
    np.save(tmp_path / "image.npy", cv2.imread(str(image))[..., ::-1])
    command = [sys.executable, str(ROOT / "examples/onnx_predict.py"), str(file), str(tmp_path / "image.npy")]
    done = subprocess.run(
        [*command, "--masks", str(tmp_path / "masks.npy")], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(np.load(tmp_path / "masks.npy")) >= 20
    assert {line.split()[0] for line in lines} <= set(json.loads(model.metadata_props[0].value))
    assert load(run).step == 1


def test_what_cannot_be_exported_is_told_in_a_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> str:
        assert main(["export", "--checkpoint", str(run), *words]) == 2
        return capsys.readouterr().err

    onnx = ["--to", "onnx", "--output", str(tmp_path / "model.onnx")]
    assert "a file for --to torch ends in .pt2" in told("--to", "torch", "--output", str(tmp_path / "a.onnx"))
    assert "--without mask: of --to onnx there can be left out: resize, paste" in told(
        *onnx, "--without", "mask"
    )
    assert "there can be left out: nothing" in told(
        "--to", "torch", "--output", str(tmp_path / "a.pt2"), "--without", "paste"
    )
    assert "the original RoIPool alone" in told(
        *onnx, "--set", "model.roi_op={type: roi_pool, bins: partition}"
    )
    assert "the original RoIPool alone" in told(*onnx, "--set", "model.roi_op=roi_warp")
    assert "eval.paste: torchvision has no form in ONNX" in told(*onnx, "--set", "eval.paste=torchvision")
    assert "--limit must be at least 1" in told(*onnx, "--limit", "0")
    assert not list(tmp_path.iterdir())


def test_missing_packages_and_models_without_a_form_are_told() -> None:
    with pytest.raises(UserError, match=r"needs the package no_such: pip install 'maskrcnn\[export\]'"):
        needed("no_such")
    assert needed("json") is json
    with pytest.raises(UserError, match="this model has no RPN"):
        trace(build(rpn=None))
    with pytest.raises(UserError, match=r"--set model.keypoint_head=null"):
        trace(build(keypoint_head=ConvKeypointHeadConfig(convs=1, width=8)))


@pytest.mark.parametrize("writer", [OnnxWriter, TorchWriter, OpenVinoWriter])
def test_formats_are_known_by_the_suffixes_of_their_files(writer: type[Writer]) -> None:
    assert {"onnx": OnnxWriter, "torch": TorchWriter, "openvino": OpenVinoWriter}.items() <= {
        name: WRITERS.get(name) for name in WRITERS.names()
    }.items()
    assert writer.suffix in (".onnx", ".pt2", ".xml")


def test_what_a_file_finds_becomes_records() -> None:
    masks = np.zeros((1, 9, 12), dtype=np.bool_)
    masks[0, 2:5, 3:8] = True
    found = Instances(np.array([[3.0, 2.0, 8.0, 5.0]]), np.array([0.75]), np.array([1]), masks)
    (record,) = found.records(ImageInfo(7, "", 9, 12), Categories((4, 6), ("a", "b")))
    assert (record["image_id"], record["category_id"], record["score"]) == (7, 6, 0.75)
    assert record["bbox"] == [3.0, 2.0, 5.0, 3.0]
    assert (decode(record["segmentation"]) == masks[0]).all()


@pytest.mark.parametrize("divisor", [1, 32, 64])
def test_small_images_get_the_room_that_a_program_asks_for(divisor: int) -> None:
    small, large = torch.ones(2, 3, 64, 256), torch.ones(1, 3, 128, 256)
    padded = with_room(small, divisor)
    assert min(padded.shape[2:]) >= SAFE and padded.shape[3] == 256
    assert padded.shape[2] % divisor == 0 and padded.shape[2] - divisor < SAFE
    assert torch.equal(padded[:, :, :64, :256], small) and padded.sum() == small.sum()
    assert with_room(large, divisor).equal(large)


def test_the_example_says_which_images_it_reads(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    image = tmp_path / "photo.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    example = (ROOT / "examples/onnx_predict.py").read_text(encoding="utf-8").split("\nparser =")[0]
    names: dict[str, Any] = {}
    exec(compile(example, "onnx_predict.py", "exec"), names)
    with pytest.raises(SystemExit, match="not a binary PPM of 8 bits"):
        names["read_image"](str(image))
    image.with_suffix(".ppm").write_bytes(b"P6\n2 1\n255\n" + bytes(range(6)))
    assert names["read_image"](str(image.with_suffix(".ppm"))).tolist() == [[[0, 1, 2], [3, 4, 5]]]
