"""What is known at the start is told at the start, all of it together, and following it works.

Covers ``maskrcnn/run/data_checks.py``, ``maskrcnn/run/evaluation_checks.py``,
``maskrcnn/run/folder.py`` and ``maskrcnn/run/machine_checks.py``.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.cli import main
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.errors import UserError
from maskrcnn.run.preflight import CHECKS, Finding, Start
from tests.engine.tiny import write_recipe

Train = Callable[..., str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


@pytest.fixture
def train(path: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    """Train with settings; what was said on stderr.  Status 2: before the first step, and nothing is left."""
    runs = iter(range(100))

    def run(*settings: str, status: int = 2) -> str:
        folder = path.parent / f"run{next(runs)}"
        arguments = [part for s in ("solver.steps=1", *settings) for part in ("--set", s)]
        assert main(["train", str(path), "--output", str(folder), *arguments]) == status
        assert folder.exists() == (status == 0)
        said: str = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    return run


def change(path: Path, **edits: Callable[[dict[str, Any]], object]) -> None:
    """Edit ``train`` and ``val`` json by functions."""
    for split, edit in edits.items():
        file = path.parent / "images" / f"{split}.json"
        content = json.loads(file.read_text())
        edit(content)
        file.write_text(json.dumps(content))


def without_masks(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["segmentation"] = []


# ---- image files ----------------------------------------------------------------------------------------


def test_missing_images_are_counted_and_named_before_the_first_step(path: Path, train: Train) -> None:
    for name in ("2.png", "4.png", "102.png"):
        (path.parent / "images" / name).unlink()
    said = train()
    assert "2 problems, found before the first step" in said
    assert re.search(
        r"data\.train: 2 of 5 image files are not there: \S+/2\.png \(image 2\), \S+/4\.png", said
    )
    assert re.search(r"data\.val: 1 of 3 image files are not there: \S+/102\.png \(image 102\);", said)
    assert "or set data.on_error to skip to go on without them" in said
    said = train("data.on_error=skip", "data.val=null", status=0)
    assert "warning: data.train: 2 of 5 image files are not there" in said and "(on_error: skip)" in said


def test_a_data_sets_own_choice_is_named_where_it_overrules(path: Path, train: Train) -> None:
    (path.parent / "images" / "2.png").unlink()
    assert "or set data.train.on_error to skip" in train("data.train.on_error=raise", "data.val=null")
    train("data.train.on_error=skip", "data.val=null", status=0)


def test_all_missing_is_an_error_whatever_is_passed_over(path: Path, train: Train) -> None:
    change(path, train=lambda c: [i.update(file_name=f"sub/{i['file_name']}") for i in c["images"]])
    said = train("data.on_error=skip")
    assert "data.train: 5 of 5 image files are not there" in said
    assert "correct data.train.images or the file names" in said
    (path.parent / "images" / "sub").mkdir()  # the advice followed
    for image in range(1, 6):
        shutil.move(path.parent / "images" / f"{image}.png", path.parent / "images" / "sub")
    train(status=0)


def test_many_missing_in_a_row_are_more_than_training_passes_over(
    path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskrcnn.run.image_checks.MAX_REPLACEMENTS", 3)
    for image in (1, 5):
        (path.parent / "images" / f"{image}.png").unlink()
    train("data.on_error=skip", "data.val=null", status=0)
    (path.parent / "images" / "4.png").unlink()
    said = train("data.on_error=skip", "data.val=null")
    assert "3 of them follow each other, and training passes over at most 2 in a row" in said


def test_many_missing_are_cut_short(path: Path, train: Train) -> None:
    def more(content: dict[str, Any]) -> None:
        content["images"] += [
            {"id": 1000 + k, "file_name": f"none{k}.png", "height": 64, "width": 64} for k in range(3000)
        ]

    change(path, train=more)
    said = train()
    assert "data.train: 3000 of 3005 image files are not there" in said and "and 2995 more" in said
    assert len(said) < 1500


def test_names_written_on_windows_are_read(path: Path, train: Train) -> None:
    (path.parent / "images" / "sub").mkdir()
    for image in range(1, 6):
        shutil.move(path.parent / "images" / f"{image}.png", path.parent / "images" / "sub")
    change(path, train=lambda c: [i.update(file_name=f"sub\\{i['file_name']}") for i in c["images"]])
    train(status=0)
    change(path, train=lambda c: [i.update(file_name=f"..\\..\\{i['file_name']}") for i in c["images"]])
    assert "file names of this json use backslashes: write / in their place" in train()


def test_exchanged_sizes_are_told_at_the_start(path: Path, train: Train) -> None:
    change(path, val=lambda c: [i.update(width=64, height=48) for i in c["images"]])
    said = train()
    assert "data.val: 3 of 3 images looked at have another size than the json says, as: image 101:" in said
    assert "64x64 pixels, val.json says 64x48; correct the json" in said


# ---- masks, keypoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("filter_empty", ["true", "false"])
def test_data_without_segmentation_follow_the_advice_step_by_step(
    path: Path, train: Train, filter_empty: str
) -> None:
    change(path, train=without_masks, val=without_masks)
    kept = f"data.train.filter_empty={filter_empty}"
    said = train(kept)
    assert "no mask" in said and "masks" in said.partition("no mask")[2]
    if filter_empty == "false":
        assert "set data.train.masks to false, and model.mask_head to null" in said
        assert "set data.val.masks to false, and eval.iou_types to [bbox]" in said
    boxes = [kept, "data.train.masks=false", "data.val.masks=false"]
    said = train(*boxes)
    assert "set data.train.masks to true, or for boxes alone model.mask_head to null" in said
    assert "data.val.masks to true, or eval.iou_types to [bbox]" in said
    train(*boxes, "model.mask_head=null", status=0)
    metrics = read_metrics(path.parent / "run2" / "metrics.jsonl")[-1]
    assert "bbox/AP" in metrics and "segm/AP" not in metrics


def test_a_val_without_masks_is_told_and_boxes_alone_can_be_evaluated(path: Path, train: Train) -> None:
    change(path, val=without_masks)
    assert "set data.val.masks to false, and eval.iou_types to [bbox]" in train()
    assert "set data.val.masks to true, or eval.iou_types to [bbox]" in train("data.val.masks=false")
    train("data.val.masks=false", "eval.iou_types=[bbox]", status=0)


def test_copy_paste_needs_masks(path: Path, train: Train) -> None:
    settings = [
        "data.copy_paste={}",
        "data.train.masks=false",
        "data.val.masks=false",
        "model.mask_head=null",
    ]
    assert "data.copy_paste is set, but data.train brings no masks" in train(*settings)
    train(*settings, "data.copy_paste=null", status=0)


# ---- metrics, transforms, backends ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("segm/ap", "Did you mean 'segm/AP"),
        ("AP50", "Did you mean 'bbox/AP50' or 'segm/AP50'?"),
        ("keypoints/AP", "no metric 'keypoints/AP'."),
        ("bbox/AP@10", "no metric 'bbox/AP@10'."),
        ("x" * 5000, "no metric 'xxx"),
    ],
)
def test_the_best_metric_must_be_one_of_this_run(train: Train, metric: str, words: str) -> None:
    said = train(f"eval.best_metric={metric}")
    assert words in said
    assert all(len(line) < 1000 for line in said.splitlines())


def test_a_best_metric_of_objects_that_val_lacks_is_told(path: Path, train: Train) -> None:
    said = train("eval.best_metric=segm/APl", status=0)
    assert f"eval.best_metric is segm/APl, and {path.parent / 'images' / 'val.json'} has no object" in said
    assert "(9216 and more square pixels)" in said and "choose another, as segm/AP\n" in said
    for metric in ("segm/AP", "bbox/APs"):
        assert "has no object of that size" not in train(f"eval.best_metric={metric}", status=0)
    change(path, val=lambda c: [a.update(area=10_000) for a in c["annotations"]])
    assert "(0 to 1024 square pixels)" in train("eval.best_metric=bbox/APs", status=0)


def test_a_figure_at_the_models_own_cap_may_be_the_best(path: Path, train: Train) -> None:
    train("eval.best_metric=segm/AP@150", "model.roi.max_detections=150", status=0)
    assert "segm/AP@150" in train("eval.best_metric=segm/AP@200", "model.roi.max_detections=150")


@pytest.mark.parametrize(
    "transform",
    [
        "vflip",
        "hflip",
        "rotate90",
        "{type: random_crop, height: 32, width: 32}",
        "{type: large_scale_jitter, size: [64, 64]}",
    ],
)
def test_transforms_that_cannot_be_undone_are_refused_by_line(
    path: Path, train: Train, transform: str
) -> None:
    text = path.read_text()
    line = next(k for k, row in enumerate(text.splitlines(), start=1) if "eval_transforms" in row)
    path.write_text(text.replace("eval_transforms: [", f"eval_transforms: [{transform}, "))
    said = train()
    assert f"tiny.yaml:{line}:" in said and "data.eval_transforms.0: " in said
    assert "moves or cuts the picture" in said
    path.write_text(text.replace("train_transforms: [", f"train_transforms: [{transform}, "))
    train(status=0)


def test_a_checkpoint_with_such_a_transform_can_go_on_with_others(
    path: Path, train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as old:  # as written when they were not refused
        for module in ("maskrcnn.recipe", "maskrcnn.run.setup"):
            old.setattr(f"{module}.not_undoable", lambda _: [])
        train("data.eval_transforms=[vflip]", status=0)
    run = path.parent / "run0"
    sound = ["--set", "data.eval_transforms=[]"]
    assert main(["train", "--resume", str(run), "--set", "solver.steps=2"]) == 2
    assert "config.yaml:" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--set", "solver.steps=2", *sound]) == 0
    assert main(["eval", "--checkpoint", str(run), *sound]) == 0
    for command in (
        ["eval"],
        ["predict", str(path.parent / "images" / "1.png"), "--out", str(path.parent / "p")],
    ):
        weights = run / "checkpoints" / "step_00000001.pt"
        assert main([*command, "--checkpoint", str(weights)]) == 2
        assert "data.eval_transforms.0: vflip moves or cuts" in capsys.readouterr().err


def test_all_problems_come_together(path: Path, train: Train) -> None:
    (path.parent / "images" / "2.png").unlink()
    said = train("eval.best_metric=x", "data.workers=500", "data.val.masks=false")
    assert "4 problems, found before the first step" in said
    for words in ("2.png", "eval.best_metric", "data.workers", "data.val.masks"):
        assert words in said


# ---- folders, room, processes ---------------------------------------------------------------------------


def test_too_little_room_ends_the_run_before_it_begins(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 100_000))
    said = train()
    assert "a checkpoint of this run takes about" in said and "100 kB are free there; make room" in said
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 10**9))
    train(status=0)


def test_where_nothing_can_be_written_is_told_before_anything_is_computed(
    path: Path, train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(status=0)
    checkpoint = ["--checkpoint", str(path.parent / "run0")]
    monkeypatch.setattr("maskrcnn.run.evaluation.run_evaluation", lambda *_: pytest.fail("it was evaluated"))
    (path.parent / "file").touch()
    at = str(path.parent / "file" / "x")
    assert main(["train", str(path), "--output", at]) == 2
    assert "is a file and no folder; choose another place with --output" in capsys.readouterr().err
    assert main(["eval", *checkpoint, "--results", at, "--pictures", at]) == 2
    said = capsys.readouterr().err
    assert "--results" in said and "--pictures" in said
    assert main(["predict", str(path.parent / "images" / "1.png"), *checkpoint, "--out", at]) == 2
    assert "choose another place with --out" in capsys.readouterr().err
    assert main(["proposals", *checkpoint, "--output", at]) == 2
    assert "choose another place with --output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.workers=10000000", "workers must be at most 512"),
        ("solver.batch_size=1000000000", "batch_size must be at most 65,536"),
        ("eval.batch_size=1000000", "batch_size must be at most 4,096"),
        ("train.pictures=1000000000", "pictures must be at most 10,000"),
        ("seed=-1", "seed must be >= 0"),
        ("seed=9223372036854775808", "seed must be at most"),
        ("model.roi.max_detections=1000000000", "max_detections must be at most 100,000"),
        ("model.roi.max_detections=0", "max_detections must be >= 1"),
        ("model.roi.samples=1000000000", "samples must be at most 100,000"),
        ("model.rpn.pre_nms_train=-5", "pre_nms_train must be >= 1"),
        ("model.rpn.post_nms_test=1000000000", "post_nms_test must be at most 100,000"),
        ("data.train.num_proposals=1000000000", "num_proposals must be at most 100,000"),
        ("data.eval_transforms.0.min_sizes=[1000000]", "min_sizes.0 must be at most 16,384"),
        ("data.eval_transforms=[{type: resize, height: 1000000, width: 5}]", "height must be at most 16,384"),
        ("data.eval_transforms=[{type: resize_longest, size: 1000000}]", "size must be at most 16,384"),
        ("data.train_transforms=[{type: large_scale_jitter, size: [9, 1000000]}]", "size.1 must be at most"),
        (
            "data.train_transforms=[{type: large_scale_jitter, max_scale: 1e9}]",
            "max_scale must be at most 64",
        ),
        ("data.train={type: synthetic, size: 1000000}", "size must be at most 4,096"),
        ("data.train={type: synthetic, num_images: 1000000000}", "num_images must be at most 1,000,000"),
    ],
)
def test_numbers_that_take_a_machine_down_are_refused_with_a_reason(
    train: Train, setting: str, words: str
) -> None:
    said = train(setting)
    assert words in said
    assert setting.partition("=")[0].rpartition(".")[2] in said


def test_a_batch_that_no_memory_holds_is_told(train: Train) -> None:
    big = "data.train_transforms=[{type: resize, height: 10000, width: 9000}]"
    said = train("solver.batch_size=60000", big, "eval.batch_size=4096")
    assert re.search(
        r"solver.batch_size is 60000, and the 60000 images of a pass at 9000 x 10000 pixels take 64.8 TB by"
        r" themselves, of the .* GB of memory; lower it or raise solver.accumulate",
        said,
    )
    train("solver.batch_size=4", "solver.accumulate=2", status=0)


def test_a_model_that_no_memory_holds_is_told(train: Train) -> None:
    said = train("model.box_head.hidden=1000000")
    assert "the model does not fit into the memory of cpu" in said and "model.box_head.hidden" in said


def test_workers_are_bounded_by_the_machine(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 10)
    said = train("data.workers=41")
    assert "this machine has 10 cores; set it to at most 40, or null" in said
    train("data.workers=null", status=0)


def test_a_check_of_a_plugin_is_told_with_the_others(
    path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own(start: Start) -> Iterator[Finding]:
        yield f"{start.key}: {len(start.dataset)} images are few"
        raise UserError("a check of one's own")

    monkeypatch.setitem(CHECKS._entries, "own", own)
    said = train("data.workers=500")
    assert "a check of one's own" in said and "data.workers is 500" in said
    assert said.count("data.train: 5 images are few") == 1
