"""The synthetic data: true COCO files, the same on every run, hard enough to learn from.

Covers ``maskrcnn/data/synthetic/canvas.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.cli import main
from maskrcnn.data import CocoDataset, SyntheticConfig, synthetic_dataset
from maskrcnn.data.synthetic import dataset as module
from maskrcnn.errors import ConfigError, OutputError
from maskrcnn.structures import rle, xyxy_to_xywh


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("synthetic")


def make(root: Path, level: Any, count: int = 60, split: Any = "train", **more: Any) -> CocoDataset:
    folder = synthetic_dataset(root, SyntheticConfig(level=level, split=split, num_images=count, **more))
    return CocoDataset(folder / "images", folder / "annotations.json", on_error="raise")


def digest(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()


@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_ground_truth_as_predictions_scores_one(root: Path, level: str) -> None:
    """Through our reader and pycocotools' evaluation, crowd regions and empty images included."""
    dataset = make(root, level)
    results = []
    for i in range(len(dataset)):
        sample = dataset.load(i)
        targets = sample.targets
        assert targets.masks is not None
        codes = targets.masks.to_rles()
        results += [
            {
                "image_id": sample.info.image_id,
                "category_id": dataset.categories.ids[int(targets.labels[k])],
                "bbox": xyxy_to_xywh(targets.boxes)[k].tolist(),
                "segmentation": codes[k],
                "score": 1.0,
            }
            for k in range(len(targets))
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.annotation_file))
        found = truth.loadRes(results)
        for kind in ("bbox", "segm"):
            evaluation = COCOeval(truth, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[0] == pytest.approx(1.0)
            assert evaluation.stats[8] == pytest.approx(1.0)


def test_it_has_what_it_promises(root: Path) -> None:
    kinds: dict[str, int] = {}
    for level in ("easy", "medium", "hard"):
        content = json.loads(make(root, level).annotation_file.read_text())
        assert {c["name"] for c in content["categories"]} == {
            "disc",
            "box",
            "star",
            "crescent",
            "ring",
            "cross",
        }
        used = {a["category_id"] for a in content["annotations"]}
        assert used == {c["id"] for c in content["categories"]}
        assert sorted(used) != list(range(1, 7))  # with gaps
        per_image = {i["id"]: 0 for i in content["images"]}
        for a in content["annotations"]:
            if a["iscrowd"]:
                kind = "crowd"
                assert isinstance(a["segmentation"]["counts"], list)
            elif isinstance(a["segmentation"], dict):
                kind = "rle"
                bitmap = rle.decode(rle.normalise(a["segmentation"], *a["segmentation"]["size"]))
                assert bitmap.sum() == a["area"]
            else:
                kind = "polygon" if len(a["segmentation"]) == 1 else "polygons"
            kinds[kind] = kinds.get(kind, 0) + 1
            per_image[a["image_id"]] += 1
        kinds["empty"] = kinds.get("empty", 0) + sum(n == 0 for n in per_image.values())
        kinds[f"{level} most"] = max(per_image.values())
        assert {(i["height"], i["width"]) for i in content["images"]} == {(128, 128), (96, 128), (128, 96)}
    assert all(kinds.get(k, 0) > 0 for k in ("crowd", "rle", "polygon", "polygons", "empty")), kinds
    assert kinds["hard most"] > 15 > 7 > kinds["medium most"] - 1


def test_masks_lie_on_their_shapes(root: Path) -> None:
    """A shape differs from what surrounds it: the gray level changes across its outline."""
    dataset = make(root, "easy")
    contrasts = []
    for i in range(20):
        sample = dataset.load(i)
        gray = sample.image.astype(float).mean(2)
        assert sample.targets.masks is not None
        masks = sample.targets.masks.to_bitmaps().numpy().astype(bool)
        around = ~masks.any(0) if len(masks) else None
        for mask, box in zip(masks, sample.targets.boxes.numpy().astype(int), strict=True):
            x1, y1, x2, y2 = box
            window = np.zeros_like(mask)
            window[max(y1 - 3, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 3] = True
            contrasts.append(abs(gray[mask].mean() - gray[window & around].mean()))
    assert np.median(contrasts) > 50
    assert np.mean(np.array(contrasts) > 25) > 0.9


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"level": "medium", "size": 64, "seed": 3}
    one = digest(synthetic_dataset(tmp_path / "a", SyntheticConfig(split="train", num_images=5, **options)))
    again = digest(synthetic_dataset(tmp_path / "b", SyntheticConfig(split="train", num_images=5, **options)))
    assert one == again
    longer = synthetic_dataset(tmp_path / "a", SyntheticConfig(split="train", num_images=7, **options))
    others = [
        synthetic_dataset(tmp_path / "a", SyntheticConfig(split="val", num_images=5, **options)),
        synthetic_dataset(
            tmp_path / "a", SyntheticConfig(split="train", num_images=5, **{**options, "seed": 4})
        ),
        synthetic_dataset(
            tmp_path / "a", SyntheticConfig(split="train", num_images=5, **{**options, "level": "easy"})
        ),
    ]
    first = (tmp_path / "a" / "medium-train-5x64px-seed3-v1" / "images" / "000005.png").read_bytes()
    assert (longer / "images" / "000005.png").read_bytes() == first
    assert all((other / "images" / "000005.png").read_bytes() != first for other in others)


def test_it_is_generated_once_and_anew_for_a_new_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    write = module.write_synthetic
    monkeypatch.setattr(module, "write_synthetic", lambda *a, **k: (calls.append(1), write(*a, **k)))
    options: dict[str, Any] = {"level": "easy", "split": "train", "num_images": 2, "size": 64}
    one = synthetic_dataset(tmp_path, SyntheticConfig(**options))
    assert synthetic_dataset(tmp_path, SyntheticConfig(**options)) == one
    assert len(calls) == 1
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert synthetic_dataset(tmp_path, SyntheticConfig(**options)) != one
    assert len(calls) == 2


def test_an_interrupted_generation_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"level": "easy", "split": "train", "num_images": 3, "size": 64}
    scene, calls = module.make_scene, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scene(*args)

    monkeypatch.setattr(module, "make_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic_dataset(tmp_path, SyntheticConfig(**options))
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []
    monkeypatch.setattr(module, "make_scene", scene)
    folder = synthetic_dataset(tmp_path, SyntheticConfig(**options))
    assert len(list((folder / "images").iterdir())) == 3


def _generate(root: Path, queue: Any) -> None:
    queue.put(
        digest(synthetic_dataset(root, SyntheticConfig(level="easy", split="val", num_images=6, size=64)))
    )


def test_of_several_processes_one_generates(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_generate, args=(tmp_path, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    assert len({queue.get(timeout=60) for _ in processes}) == 1
    for process in processes:
        process.join()
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 1


def test_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path))
    config = SyntheticConfig(level="easy", num_images=12, size=64)
    evaluation = config.build(False)
    assert evaluation.annotation_file.is_relative_to(tmp_path / "synthetic")
    assert len(evaluation) == 12
    training = SyntheticConfig(level="easy", num_images=12, size=64, root=tmp_path / "here").build(True)
    assert training.annotation_file.is_relative_to(tmp_path / "here")
    assert (training.index.counts()[training.kept] > 0).all()
    for wrong in ({"num_images": 0}, {"size": 8}, {"seed": -1}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be >= "):
            SyntheticConfig(**wrong)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written: File exists"):
        SyntheticConfig(root=tmp_path / "file").build(True)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "data",
        "synthetic",
        "--out",
        str(tmp_path / "d"),
        "--train",
        "3",
        "--val",
        "2",
        "--size",
        "64",
    ]
    assert main(arguments) == 0
    assert "train: 3 images" in capsys.readouterr().out
    dataset = CocoDataset(tmp_path / "d/val/images", tmp_path / "d/val/annotations.json")
    assert len(dataset) == 2
    assert main(arguments) == 2
    assert "holds a data set already" in capsys.readouterr().err
    assert main([*arguments[:-1], "3"]) == 2
