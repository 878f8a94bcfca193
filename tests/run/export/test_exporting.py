from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from maskrcnn import __version__
from maskrcnn.cli import main
from maskrcnn.data.regions import Pixels
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.distributed import connect
from maskrcnn.errors import UserError
from maskrcnn.files import save_tensors
from maskrcnn.modeling import MaskRCNN
from maskrcnn.modeling.interfaces import RoIHead
from maskrcnn.recipe import load_recipe
from maskrcnn.run.export import onnx_file, torch_file
from maskrcnn.run.export.exporting import described
from maskrcnn.run.export.needed import needed
from maskrcnn.run.export.network import SAFE, trace
from maskrcnn.run.export.onnx_file import OnnxWriter
from maskrcnn.run.export.openvino_file import OpenVinoWriter
from maskrcnn.run.export.running import Instances
from maskrcnn.run.export.torch_file import TorchWriter, with_room
from maskrcnn.run.export.verify import compare
from maskrcnn.run.export.writing import WRITERS, Order, Writer
from maskrcnn.run.predictor import Predictor
from maskrcnn.run.setup import build_val
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
    size = ("min_sizes=[112]", "max_size=200")  # larger than they are, so that they are resized
    settings = [part for one in size for part in ("--set", f"data.eval_transforms.0.{one}")]
    assert main(["export", "--checkpoint", str(run), "--to", to, "--output", str(file), *settings]) == 0
    told = capsys.readouterr().out
    assert file.is_file() and not (tmp_path / f"model.unverified{suffix}").exists()
    assert "equal, so it is called" in told
    line = next(line for line in told.splitlines() if "found again" in line)
    again, of = [int(word) for word in line.split() if word.isdigit()][1:3]
    assert of >= 60 and again >= (0.99 if to == "openvino" else 1.0) * of, line  # 20 an image
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
    assert "eval.clean=null, or --without paste" in told(*onnx, "--set", "eval.clean={parts: largest}")
    assert "export with --set eval.tta=null" in told(*onnx, "--set", "eval.tta={}")
    assert "data.contrast makes fractions" in told(*onnx, "--set", "data.contrast={}")
    assert "sixteen_bit: keep makes fractions" in told(*onnx, "--set", "data.val.sixteen_bit=keep")
    assert "--limit must be at least 1" in told(*onnx, "--limit", "0")
    assert not list(tmp_path.iterdir())


def test_missing_packages_and_models_without_a_form_are_told() -> None:
    with pytest.raises(UserError, match=r"needs the package no_such: pip install 'maskrcnn\[export\]'"):
        needed("no_such")
    assert needed("json") is json
    with pytest.raises(UserError, match="this model has no RPN"):
        trace(build(rpn=None))
    mute = r"Mute has no method in_graph\(rois, values\).*A new head\)"
    with pytest.raises(UserError, match=mute + ", or leave the head out with --set model.keypoint_head=null"):
        trace(changed_head("keypoint_head", Mute()))
    with pytest.raises(UserError, match=f"model.heads.further: {mute}$"):
        trace(changed_head("further", Mute()))
    with pytest.raises(UserError, match="model.heads.boxes: an exported file has something else"):
        trace(changed_head("boxes", Mute()))


class Mute(RoIHead):
    """A head that does not say what an exported file tells of it."""


def changed_head(name: str, head: RoIHead) -> MaskRCNN:
    """The tiny model with ``head`` as a head of that name."""
    model = build()
    model.roi.head_names = (name,)
    setattr(model.roi, name, head)
    return model


def test_what_is_advised_leaves_a_head_out(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    head = "keypoint_head: {type: conv, num_keypoints: 3}"
    (tmp_path / "more.yaml").write_text(f"base: {path.name}\nmodel: {{{head}}}\n")
    assert load_recipe(tmp_path / "more.yaml").model.keypoint_head is not None
    advised = load_recipe(tmp_path / "more.yaml", ["model.keypoint_head=null"])
    assert advised.model == load_recipe(path).model


@pytest.mark.parametrize("writer", [OnnxWriter, TorchWriter, OpenVinoWriter])
def test_formats_are_known_by_the_suffixes_of_their_files(writer: type[Writer]) -> None:
    assert {"onnx": OnnxWriter, "torch": TorchWriter, "openvino": OpenVinoWriter}.items() <= {
        name: WRITERS.get(name) for name in WRITERS.names()
    }.items()
    assert writer.suffix in (".onnx", ".pt2", ".xml")


KEYS = {
    *("classes", "category_ids", "thresholds", "score_threshold", "nms_threshold", "max_detections", "mean"),
    *("std", "channels", "keypoint_scores", "paste", "precision", "left_out", "made_from", "sha256"),
    *("trained_on", "licence", "maskrcnn", "torch"),
}


def order_of(run: Path) -> tuple[Predictor, Order]:
    """As ``maskrcnn export`` gives it to a writer."""
    predictor = Predictor(run, device="cpu", score=0.0)
    metadata = described(predictor, run, ("paste",), "float32")
    return predictor, Order(("paste",), "float32", metadata, list)


def test_files_say_what_they_are(run: Path, tmp_path: Path) -> None:
    (run.parent / "last.thresholds.json").unlink(missing_ok=True)
    _, order = order_of(run)
    assert set(order.metadata) == KEYS and all(isinstance(value, str) for value in order.metadata.values())
    lists = ("classes", "category_ids", "thresholds", "keypoint_scores", "left_out", "mean", "std")
    numbers = ("nms_threshold", "max_detections", "score_threshold")
    told = {name: json.loads(order.metadata[name]) for name in (*lists, *numbers)}
    assert told["classes"] == ["box", "disc"] and told["category_ids"] == [2, 5]
    assert told["thresholds"] is None and told["keypoint_scores"] is None and told["left_out"] == ["paste"]
    assert (told["nms_threshold"], told["max_detections"], told["score_threshold"]) == (0.9, 40, 0.0)
    assert len(told["mean"]) == len(told["std"]) == 3
    assert order.metadata["sha256"] == sha256(run.read_bytes()).hexdigest()
    plain = {name: order.metadata[name] for name in ("made_from", "trained_on", "paste", "precision")}
    assert [*plain.values()] == ["last.pt", "train.json", "aligned", "float32"]
    assert order.metadata["channels"] == "RGB" and order.metadata["licence"].startswith("not stated")
    assert (order.metadata["maskrcnn"], order.metadata["torch"]) == (__version__, torch.__version__)


def test_every_format_keeps_all_of_the_metadata(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model of one sum, in place of ours, which takes a minute."""
    onnx = pytest.importorskip("onnx")
    openvino = pytest.importorskip("openvino", reason="the package openvino is not installed")
    predictor, order = order_of(run)
    text = '<ir_version: 9, opset_import: ["" : 18]> sum (float[N] image) => (float[N] boxes)'
    sums = onnx.parser.parse_model(text + "{ boxes = Add(image, image) }")

    def written(*given: Any, **named: Any) -> Any:
        onnx.helper.set_model_props(sums, dict(given[3]))
        return sums

    monkeypatch.setattr(onnx_file, "onnx_model", written)
    OnnxWriter().write(predictor, tmp_path / "a.onnx", order)
    properties = onnx.load(tmp_path / "a.onnx").metadata_props
    assert {entry.key: entry.value for entry in properties} == order.metadata

    OpenVinoWriter().write(predictor, tmp_path / "a.xml", order)
    model = openvino.Core().read_model(tmp_path / "a.xml")
    assert {name: model.get_rt_info(["maskrcnn", name]).astype(str) for name in KEYS} == order.metadata
    assert [port.get_any_name() for port in (*model.inputs, *model.outputs)] == ["image", "boxes"]

    layer = torch.export.export(torch.nn.ReLU(), (torch.ones(2),))
    monkeypatch.setattr(torch_file, "trace", lambda model: (layer, {}))
    TorchWriter().write(predictor, tmp_path / "a.pt2", order)
    found = dict.fromkeys(KEYS, "")
    torch.export.load(tmp_path / "a.pt2", extra_files=found)
    assert found == order.metadata


def test_images_are_compared_as_they_were_read(run: Path) -> None:
    """A contrast is not taken of what it was taken of before: both get the same values."""
    contrast = "data.contrast={percentiles: [10, 90]}"
    predictor = Predictor(run, device="cpu", score=0.0, overrides=(contrast,))
    seen = []

    def same(image: Any) -> Instances:
        seen.append(image)
        found = predictor(Pixels(image))
        masks = np.stack([decode(record["segmentation"]).astype(bool) for record in found.records])
        return Instances(found.boxes, found.scores, found.labels, masks)

    told = compare(predictor, same, build_val(predictor.recipe, connect("cpu")), 2, lambda number: None)
    assert len(seen) == 2 and all(image.dtype == np.float32 and image.max() == 255 for image in seen)
    assert told.matched == told.detections > 20
    assert (told.boxes, told.scores, told.masks) == (0.0, 0.0, 1.0)


def test_what_a_file_finds_becomes_records() -> None:
    masks = np.zeros((1, 9, 12), dtype=np.bool_)
    masks[0, 2:5, 3:8] = True
    points, further = np.array([[[4.0, 3.0, 0.5], [6.0, 4.0, -1.0]]]), {"centroid": np.array([[0.25, 0.5]])}
    boxes = np.array([[3.0, 2.0, 8.0, 5.0]])
    found = Instances(boxes, np.array([0.75]), np.array([1]), masks, points, further)
    (record,) = found.records(ImageInfo(7, "", 9, 12), Categories((4, 6), ("a", "b")))
    assert (record["image_id"], record["category_id"], record["score"]) == (7, 6, 0.75)
    assert record["bbox"] == [3.0, 2.0, 5.0, 3.0]
    assert (decode(record["segmentation"]) == masks[0]).all()
    assert record["keypoints"] == [3.5, 2.5, 0.5, 5.5, 3.5, -1.0] and record["centroid"] == [0.25, 0.5]
    (record,) = found.records(ImageInfo(7, "", 9, 12), Categories((4, 6), ("a", "b")), 0.0)
    assert record["keypoints"] == [4.0, 3.0, 0.5, 6.0, 4.0, -1.0]


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
