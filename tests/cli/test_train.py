from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.config import fingerprint
from maskrcnn.config.shipped import shipped_configs
from maskrcnn.engine.checkpoint import load
from maskrcnn.recipe import NEUTRAL_KEYS, load_recipe, parse_recipe
from tests.engine.tiny import write_data, write_recipe


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


def test_a_run_folder_says_everything(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    changes = [
        "solver.steps=2",
        "solver.reference_batch_size=8",
        "train.pictures=2",
        "train.tensorboard=true",
    ]
    settings = [part for item in changes for part in ("--set", item)]
    assert main(["train", str(recipe_file), "--output", str(run), *settings]) == 0
    out = capsys.readouterr().out
    assert "learning rate 0.0025 = 0.01 x 2 / 8 images" in out
    assert "step 2/2  epoch 0.80/0.80  loss " in out
    assert "disc" in out  # the table per class
    kept = {p.name for p in run.iterdir()}
    assert kept == {
        *("config.yaml", "run.json", "log.txt", "metrics.jsonl", "figures.json", "results.json"),
        *("checkpoints", "pictures", "tensorboard"),
    }
    recipe = load_recipe(recipe_file, changes)
    assert load_recipe(run / "config.yaml") == recipe
    facts = json.loads((run / "run.json").read_text())[0]
    assert facts["seed"] == 0
    assert facts["config"] == fingerprint(recipe, NEUTRAL_KEYS)
    assert set(facts["versions"]) == {"maskrcnn", "torch", "python"}
    assert len(facts["code"]) == 12
    assert sorted(p.name for p in (run / "pictures").iterdir()) == ["101.png", "102.png"]
    saved = load(run / "checkpoints" / "last.pt")
    assert (saved.category_ids, saved.category_names) == ((2, 5), ("box", "disc"))
    assert "step 2/2" in (run / "log.txt").read_text()
    assert json.loads((run / "figures.json").read_text())["step"] == 2

    assert main(["train", str(recipe_file), "--output", str(run), *settings]) == 2
    assert "already holds a run or other files; go on with it by --resume" in capsys.readouterr().err


def test_weights_start_a_run_on_other_classes(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--set", "solver.steps=1", "--set", "data.val=null"]
    assert main(["train", str(recipe_file), "--output", str(tmp_path / "a"), *common]) == 0
    write_recipe(tmp_path)
    write_data(tmp_path / "images", names=("one", "two", "three"))
    weights = tmp_path / "a" / "checkpoints" / "last.pt"
    bare = tmp_path / "bare.pt"  # a state dict, which does not name its classes
    torch.save(load(weights).model, bare)
    capsys.readouterr()
    command = ["train", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path / "b"), *common]
    still = ["--set", f"weights={bare}", "--set", "solver.optimizer.lr=0.0"]
    assert main([*command, *still]) == 2
    message = capsys.readouterr().err
    assert "for another number of classes" in message and "--drop-head" in message
    command = ["train", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path / "c"), *common]
    assert main([*command, *still, "--drop-head"]) == 0
    out = capsys.readouterr().out
    assert f"weights from {bare}; fresh: roi." in out
    a, b = load(weights).model, load(tmp_path / "c" / "checkpoints" / "last.pt").model
    assert a["backbone.stem.weight"].equal(b["backbone.stem.weight"])


def test_classes_of_the_same_name_keep_what_they_know(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--set", "solver.steps=1", "--set", "data.val=null"]
    assert main(["train", str(recipe_file), "--output", str(tmp_path / "a"), *common]) == 0
    write_recipe(tmp_path)
    write_data(tmp_path / "images", names=("one", "Disc", "three"))  # disc was the second of two
    still = ["--set", f"weights={tmp_path / 'a'}", "--set", "solver.optimizer.lr=0.0"]
    run = tmp_path / "b"
    assert main(["train", str(tmp_path / "tiny.yaml"), "--output", str(run), *common, *still]) == 0
    a, b = (load(folder / "checkpoints" / "last.pt").model for folder in (tmp_path / "a", run))
    logits = "roi.box_head.predictor.logits.weight"
    assert b[logits][[1, 3]].equal(a[logits][[1, 2]]) and not b[logits][0].equal(a[logits][0])
    assert (
        "1 of 3 classes have a namesake in the weights; the others begin afresh"
        in (run / "log.txt").read_text()
    )
    # Going on takes nothing over again.
    assert main(["train", "--resume", str(run), "--set", "solver.steps=2"]) == 0
    assert (run / "log.txt").read_text().count("have a namesake") == 1


def test_nothing_but_empty_images_trains(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    content = json.loads((tmp_path / "images" / "train.json").read_text())
    (tmp_path / "images" / "train.json").write_text(json.dumps({**content, "annotations": []}))
    assert main(["train", str(path), "--output", str(tmp_path / "run"), "--set", "solver.steps=2"]) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train"], "name a config file, or a run to go on with"),
        (["train", "--resume", "nowhere"], "--resume nowhere: there is no such run folder"),
        (["train", "x.yaml", "--resume", "a", "--output", "b"], "name two run folders"),
        (["eval", "--checkpoint", "none.pt"], "none.pt: no such checkpoint file"),
    ],
)
def test_misuse_is_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_what_is_given_as_a_run_is_told_what_it_is_and_the_advice_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path)
    few = ["--set", "solver.steps=1", "--set", "data.val=null"]

    def refused(*words: str) -> str:
        assert main(["train", *words, *few]) == 2
        return capsys.readouterr().err

    assert "write maskrcnn train tiny.yaml --resume to go on" in refused("--resume", "tiny.yaml")
    assert main(["train", "tiny.yaml", "--resume", *few]) == 0
    checkpoint = Path("runs/tiny/checkpoints/last.pt")
    assert f"is a file; name its run folder, as --resume {Path('runs/tiny')}," in refused(
        "--resume", str(checkpoint)
    )
    assert main(["train", "--resume", "runs/tiny", *few]) == 0
    assert "no such run folder; to begin it: --output new --resume" in refused("tiny.yaml", "--resume", "new")
    assert main(["train", "tiny.yaml", "--output", "new", "--resume", *few]) == 0


def test_other_categories_in_val_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)
    val = tmp_path / "images" / "val.json"
    content = json.loads(val.read_text())
    content["categories"][1]["name"] = "ring"
    content["categories"].append({"id": 9, "name": "extra"})
    val.write_text(json.dumps(content))
    assert main(["train", str(path), "--output", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "only there: 9 (extra)" in err
    assert "5 is 'disc', there 'ring'" in err


def test_the_demo_ends_with_its_result(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/tiny", "runs/tiny-2"):
        assert main(["demo", "--config", str(recipe_file), "--set", "solver.steps=1"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1].startswith("RESULT bbox_AP=0.")
        assert " segm_AP=0." in lines[-1]
        assert f"run folder   {folder}" in lines
    assert (shipped_configs() / "demo.yaml").is_file()
    shutil.rmtree(tmp_path / "runs")


@pytest.mark.parametrize(("able", "wish"), [(True, None), (False, None), (True, "float32")])
def test_the_demo_trains_in_bfloat16_where_the_machine_computes_it(
    able: bool,
    wish: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("maskrcnn.modeling.precision.computes_bfloat16", lambda device: able)
    small = {"data.train.num_images": 12, "data.val.num_images": 2, "solver.steps": 1, "train.pictures": 0}
    settings = [f"{key}={value}" for key, value in small.items()]
    settings += [f"solver.precision={wish}"] * (wish is not None)
    assert main(["demo", *(part for setting in settings for part in ("--set", setting))]) == 0
    half = able and wish is None
    assert parse_recipe(load(tmp_path / "runs/demo/checkpoints/last.pt").config, "").solver.precision == (
        "bfloat16" if half else "float32"
    )
    assert ("bfloat16, which this machine computes faster" in capsys.readouterr().out) == half


def test_ruined_weights_are_told_and_the_advice_works(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    common = ["train", str(recipe_file), "--set", "data.val=null"]
    wild = ["solver.optimizer.lr=1.0e+18", "train.checkpoint_every=1", "train.keep=1"]
    settings = [part for item in wild for part in ("--set", item)]
    # The warm-up's first step has a thousandth of the rate: of zero, here.
    schedule = "solver.schedule={type: multistep, milestones: [5], warmup_steps: 1, warmup_factor: 0.0}"
    assert main([*common, *settings, "--set", schedule, "--output", str(run)]) == 2
    err = capsys.readouterr().err
    sound = run / "checkpoints" / "step_00000001.pt"
    assert f"{sound} is from before and is kept" in err
    assert "their weights" in err or "its weights are ruined" in err
    advice = f"--set weights={sound}"
    assert f"begin a new run with a lower --set solver.optimizer.lr and {advice}" in err
    again = [*common, *advice.split(), "--set", "solver.optimizer.lr=0.01", "--set", "solver.steps=2"]
    assert main([*again, "--output", str(tmp_path / "again")]) == 0
    assert "ruined" not in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_a_run_folder_whose_name_is_no_utf_8_is_printed_and_logged(recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / os.fsdecode(b"caf\xe9")
    command = [sys.executable, "-m", "maskrcnn", "train", str(recipe_file), "--set", "solver.steps=1"]
    # In a process whose output takes nothing but UTF-8, as a terminal's.
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*command, "--output", str(run)], capture_output=True, env=strict)
    assert done.returncode == 0, done.stderr.decode()
    line = rf"run folder {tmp_path}/caf\udce9 "
    assert line in done.stdout.decode()
    assert line in (run / "log.txt").read_text(encoding="utf-8")
    assert load(run / "checkpoints" / "last.pt").step == 1
