"""Five channels of 16 bits, from the config to pictures of what was found; 12 bits in 16."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.data.interfaces import ContrastConfig
from maskrcnn.data.pixel_statistics import pixel_statistics
from maskrcnn.recipe import load_recipe
from maskrcnn.run import Predictor
from tests.engine import tiny

#: As tests.engine.tiny, with a backbone that has a first convolution of three channels.
MODEL = "{type: resnet, depth: 18, width: 8, norm: gn, freeze_at: 0}"


def write(folder: Path, *, suffix: str = ".npy", extra: str = "") -> Path:
    """The tiny data set in five channels of 12 bits in 16: its three, a dark one, and one of noise."""
    tiny.write_data(folder / "images")
    rng = np.random.default_rng(1)
    for path in sorted((folder / "images").glob("*.png")):
        rgb = cv2.imread(str(path))[..., ::-1].astype(np.uint16) * 16
        more = [rgb[..., :1] // 8, rng.integers(0, 4000, (64, 64, 1), dtype=np.uint16)]
        deep = np.concatenate([rgb, *more], axis=2)
        if suffix == ".npy":
            np.save(path.with_suffix(suffix), deep)
        else:
            import tifffile

            tifffile.imwrite(path.with_suffix(suffix), deep.transpose(2, 0, 1), photometric="minisblack")
        path.unlink()
    for file in (folder / "images").glob("*.json"):
        content = json.loads(file.read_text())
        for image in content["images"]:
            image["file_name"] = image["file_name"].replace(".png", suffix)
        file.write_text(json.dumps(content))
    text = tiny.RECIPE.format(folder=folder / "images").replace(
        "backbone: tiny_for_tests", f"backbone: {MODEL}"
    )
    text = text.replace("plugins: [tests.engine.tiny_backbone]\n", "")
    text = text.replace("data:\n", f"data:\n  channels: 5\n  contrast: {{percentiles: [1, 99.8]}}\n{extra}")
    path = folder / "five.yaml"
    path.write_text(text.replace("pictures: 0", "pictures: 1"))
    return path


def measured(config: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The config over which lie the statistics that the command prints."""
    capsys.readouterr()
    assert main(["data", "statistics", str(config)]) == 0
    with_mean = config.with_name("measured.yaml")
    with_mean.write_text(f"base: {config.name}\n{capsys.readouterr().out}")
    return with_mean


SUFFIXES = [
    ".npy",
    pytest.param(
        ".tif",
        marks=pytest.mark.skipif(importlib.util.find_spec("tifffile") is None, reason="needs tifffile"),
    ),
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_from_a_config_to_pictures(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = "  pages: channels\n" if suffix == ".tif" else ""
    augment = "  augment: microscopy\n  tighten_boxes: true\n"
    config = write(tmp_path, suffix=suffix, extra=pages + augment)
    assert main(["config", "check", str(config)]) == 2
    told = capsys.readouterr().err
    assert "model.preprocess.mean has 3 values, and data.channels is 5" in told
    assert "maskrcnn data statistics" in told
    config = measured(config, capsys)  # as the sentence says
    assert main(["config", "check", str(config)]) == 0
    run = tmp_path / "run"
    assert main(["train", str(config), "--output", str(run)]) == 0
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(m["loss"]) for m in metrics if "loss" in m)
    pictures = list((run / "pictures").rglob("*.png"))
    assert pictures and cv2.imread(str(pictures[0])).std() > 5
    assert main(["eval", "--checkpoint", str(run)]) == 0
    image = tmp_path / "images" / f"101{suffix}"
    assert (
        main(
            ["predict", str(image), "--checkpoint", str(run), "--out", str(tmp_path / "out"), "--score", "0"]
        )
        == 0
    )
    assert cv2.imread(str(next((tmp_path / "out").glob("*.png")))) is not None
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert records
    # From an array it is the same, and another number of channels is told.
    predictor = Predictor(run, score=0.0, device="cpu")
    deep = (
        np.load(image)
        if suffix == ".npy"
        else pytest.importorskip("tifffile").imread(image).transpose(1, 2, 0)
    )
    found = predictor(deep)
    assert [r["score"] for r in found.records] == [r["score"] for r in records]
    assert found.image.shape == (64, 64, 3) and found.image.dtype == np.uint8
    with pytest.raises(ValueError, match=r"has 3 channels, and data\.channels is 5"):
        predictor(deep[..., :3])


def test_a_stop_and_a_resumption_are_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Augmented, of five channels: to the bit."""
    config = measured(write(tmp_path, extra="  augment: microscopy\n"), capsys)
    fast = ["--set", "data.val=null", "--set", "solver.steps=4", "--set", "train.checkpoint_every=2"]
    assert main(["train", str(config), "--output", str(tmp_path / "a"), *fast]) == 0
    assert main(["train", str(config), "--output", str(tmp_path / "b"), *fast]) == 0
    folder = tmp_path / "b" / "checkpoints"
    last = max(folder.glob("*4*"))
    last.unlink()
    assert main(["train", str(config), "--output", str(tmp_path / "b"), "--resume", *fast]) == 0
    states: list[Any] = [
        torch.load(tmp_path / run / "checkpoints" / last.name, weights_only=True) for run in "ab"
    ]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name])


def test_statistics_are_of_all_pixels(tmp_path: Path) -> None:
    config = write(tmp_path)
    data = load_recipe(config).data
    dataset = data.build(data.train, True)
    whole = np.concatenate([dataset.load(i).image.reshape(-1, 5) for i in range(len(dataset))])
    whole = whole.astype(np.float64)
    found = pixel_statistics(dataset)
    assert found.images == len(dataset) == 5
    assert np.allclose(found.mean, whole.mean(0), atol=1e-3) and np.allclose(
        found.std, whole.std(0), atol=1e-3
    )
    assert data.contrast == ContrastConfig() and whole.max() == 255


def test_pages_as_images(tmp_path: Path) -> None:
    """One TIFF of several pages, each an image of its own: read, looked for and doubted as such."""
    tifffile = pytest.importorskip("tifffile")
    config = tiny.write_recipe(tmp_path)
    images = tmp_path / "images"
    for split in ("train", "val"):
        content = json.loads((images / f"{split}.json").read_text())
        stack = []
        for k, image in enumerate(content["images"]):
            stack.append(cv2.imread(str(images / image["file_name"]), cv2.IMREAD_GRAYSCALE))
            image["file_name"] = f"{split}.tif[{k}]"
        tifffile.imwrite(images / f"{split}.tif", np.stack(stack), photometric="minisblack")
        (images / f"{split}.json").write_text(json.dumps(content))
    fast = ["--set", "data.pages=images", "--output", str(tmp_path / "run")]
    assert main(["train", str(config), *fast]) == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert not any(doubt in log for doubt in ("or pages", "not there", "twice", "warning"))
    data = load_recipe(config, ["data.pages=images"]).data
    assert np.array_equal(
        data.build(data.train, True).load(2).image[..., 0], cv2.imread(str(images / "3.png"), 0)
    )
