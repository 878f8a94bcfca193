"""Names of shipped files work from any folder; a file of one's own comes first, and nothing is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.cli import main
from maskrcnn.config import load_traced
from maskrcnn.config.shipped import shipped_configs, shipped_file, shipped_name, similar_shipped
from maskrcnn.errors import ConfigError
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.studies.ablation.suite import load_suite, recipe_of

DATA = "\ndata:\n  train: {type: synthetic}\n"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "base", ["configs/base/mask_rcnn_fpn.yaml", "configs/base/mask_rcnn_fpn", "${HERE}/gn.yaml"]
)
def test_a_base_is_found_from_anywhere_and_provenance_says_so(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE", "configs/base")
    loaded = load_traced(Recipe, write("sub/mine.yaml", f"base: {base}{DATA}"))
    name = "shipped configs/base/" + ("gn.yaml:3" if "HERE" in base else "mask_rcnn_fpn.yaml:4")
    assert loaded.origin("model.backbone.norm").short == name
    assert f"# {name}" in loaded.render()
    assert loaded.origin("data.train.type").short == "sub/mine.yaml:3"


def test_ones_own_file_of_that_name_comes_first() -> None:
    write("configs/base/mask_rcnn_fpn.yaml", "seed: 77")
    loaded = load_traced(Recipe, write("mine.yaml", f"base: configs/base/mask_rcnn_fpn.yaml{DATA}"))
    assert loaded.value.seed == 77
    assert loaded.origin("seed").short == "configs/base/mask_rcnn_fpn.yaml:1"


def test_bases_of_a_shipped_file_are_shown_by_their_names_too() -> None:
    loaded = load_traced(Recipe, "configs/coco/mask_rcnn_r50_fpn_3x.yaml")
    assert loaded.origin("solver.schedule.gamma").short.startswith("shipped configs/base/schedule_1x.yaml:")


def test_commands_take_shipped_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "configs/ablations/demo/roi_pool.yaml", "configs/demo"]) == 0
    assert "configs/ablations/demo/roi_pool.yaml: ok" in capsys.readouterr().out
    assert main(["config", "diff", "configs/demo.yaml", "configs/ablations/demo/roi_pool.yaml"]) == 1
    assert "# shipped configs/" in capsys.readouterr().out


def test_a_suite_may_build_on_shipped_files() -> None:
    path = write(
        "mine/suite.yaml",
        "title: x\nconfig: configs/demo.yaml\nvariants: [{label: a}, {label: b, config: b.yaml}]",
    )
    write("mine/b.yaml", "base: configs/demo.yaml\nseed: 5")
    suite = load_suite(path)
    assert recipe_of(suite, suite.variants[0], 3).model == load_recipe("configs/demo.yaml").model
    assert recipe_of(suite, suite.variants[1], 3).seed == 3
    other = load_suite(write("other.yaml", "base: configs/suites/table2c_demo.yaml\ntitle: mine"))
    assert other.config.is_file(), "a path in a shipped suite is relative to that"


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (
            "configs/base/mask_rcn_fpn.yaml",
            "Did you mean 'configs/base/mask_rcnn_fpn.yaml', which comes with maskrcnn?",
        ),
        ("configs/base/mask_rcn_fpn", "Did you mean 'configs/base/mask_rcnn_fpn.yaml'"),
        ("configs/mask_rcnn_fpn.yaml", "Did you mean 'configs/"),
        (
            "base/mask_rcnn_fpn.yaml",
            "mine.yaml:1:7: base: base/mask_rcnn_fpn.yaml: no such file; there is no folder base",
        ),
        ("demo.yaml", "demo.yaml: no such file"),
        ("mine/demo.yaml", "no such file; there is no folder mine"),
        ("configs/base/../demo.yaml", "no such file"),
        ("configs", "no such file"),
        ("/configs/demo.yaml", "no such file"),
    ],
)
def test_other_names_are_not_found(base: str, words: str) -> None:
    path = write("mine.yaml", f"base: {base}{DATA}")
    with pytest.raises(ConfigError) as told:
        load_recipe(path)
    assert words in str(told.value)
    assert "Traceback" not in str(told.value)


def test_the_suggestion_works() -> None:
    with pytest.raises(ConfigError) as told:
        load_recipe(write("mine.yaml", f"base: configs/base/mask_rcn_fpn.yaml{DATA}"))
    name = str(told.value).split("Did you mean '")[1].split("'")[0]
    assert load_recipe(write("mine.yaml", f"base: {name}{DATA}")).model.neck is not None


def test_names_and_files_are_each_others_inverse() -> None:
    for path in sorted(shipped_configs().rglob("*.yaml")):
        name = shipped_name(path)
        assert name is not None
        found = shipped_file(name)
        assert found is not None and found.samefile(path)
    assert shipped_name(Path("mine.yaml")) is None
    assert similar_shipped("configs/xyzzy") is None
