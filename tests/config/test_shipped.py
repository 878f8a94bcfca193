"""Names of shipped files work from any folder; a file of one's own comes first, and nothing is replaced."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import maskrcnn
from maskrcnn.cli import main
from maskrcnn.config import load_traced
from maskrcnn.config.shipped import (
    shipped_configs,
    shipped_file,
    shipped_name,
    shipped_recipes,
    similar_shipped,
    zoo_names,
)
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
    "base", ["configs/base/mask_rcnn_fpn.yaml", "configs/base/mask_rcnn_fpn", "${PARTS}/gn.yaml"]
)
def test_a_base_is_found_from_anywhere_and_provenance_says_so(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTS", "configs/base")
    loaded = load_traced(Recipe, write("sub/mine.yaml", f"base: {base}{DATA}"))
    name = "shipped configs/base/" + ("gn.yaml:3" if "PARTS" in base else "mask_rcnn_fpn.yaml:4")
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


def test_every_recipe_is_found_by_its_zoo_name_and_by_its_place() -> None:
    recipes, names = shipped_recipes(), zoo_names()
    assert names.keys() == recipes.keys() and len(set(names.values())) == len(names)
    assert names["nuclei/mask_rcnn_r18_fpn_gn"] == "zoo/nuclei" and names["demo"] == "zoo/demo"
    assert names["coco/mask_rcnn_r50_fpn_1x"] == "zoo/mask_rcnn_r50_fpn_1x"
    for place, path in recipes.items():
        for name in (names[place], f"{names[place]}.yaml", f"zoo/{place}"):
            found = shipped_file(name)
            assert found is not None and found.samefile(path)


@pytest.mark.parametrize(
    ("base", "file"),
    [
        ("zoo/mask_rcnn_r50_fpn", "paper/mask_rcnn_r50_fpn.yaml"),
        ("zoo/base/mask_rcnn_fpn", "base/mask_rcnn_fpn.yaml"),
        ("zoo/ablations/demo/one_level.yaml", "ablations/demo/one_level.yaml"),
    ],
)
def test_a_base_may_be_a_zoo_name(base: str, file: str) -> None:
    loaded = load_traced(Recipe, write("sub/mine.yaml", f"base: {base}{DATA}"))
    assert (shipped_configs() / file).resolve() == loaded.files[-2]
    assert f"shipped configs/{file}" in loaded.places


def test_a_command_takes_a_zoo_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "zoo/demo", "zoo/nuclei"]) == 0
    assert "zoo/nuclei: ok" in capsys.readouterr().out


@pytest.mark.parametrize("own", ["zoo/demo", "zoo/demo.yaml"])
def test_ones_own_file_comes_before_the_zoos(own: str) -> None:
    write(own, f"seed: 77{DATA}")
    assert load_recipe("zoo/demo").seed == 77
    assert load_recipe(write("mine.yaml", "base: zoo/demo")).seed == 77
    write("zoo/nuclei/image.txt", "a folder is no config file, and hides none")
    assert load_recipe("zoo/nuclei").solver.steps > 0


def test_a_zoo_name_of_several_recipes_is_told_with_some_of_them() -> None:
    with pytest.raises(ConfigError, match=r"^mine.yaml:1:7: base: zoo/coco stands for \d+ recipes") as told:
        load_recipe(write("mine.yaml", f"base: zoo/coco{DATA}"))
    name = str(told.value).split("(")[1].split(",")[0]
    assert load_recipe(name).solver.steps > 0, "the advice works"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("zoo/mask_rcn_r50_fpn_1x", "zoo/mask_rcnn_r50_fpn_1x"),
        ("zoo/gn", "zoo/base/gn"),
        ("zoo/coco/overfit_r18", "zoo/coco/overfit_r18_gn"),
        ("zoo/nuclie.yaml", "zoo/nuclei"),
    ],
)
def test_an_unknown_zoo_name_is_told_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: no such file. Did you mean '{near}', which comes"):
        load_recipe(name)
    assert shipped_file(near) is not None


def test_a_zoo_name_like_none_is_told_where_the_names_are() -> None:
    with pytest.raises(ConfigError, match="no recipe that comes with maskrcnn is called so; maskrcnn zoo"):
        load_recipe("zoo/xyzzy")


def test_zoo_names_work_beside_an_installed_package() -> None:
    """The package and the configs as a wheel lays them down, in another process and folder."""
    package = Path(maskrcnn.__file__).parent
    skipped = shutil.ignore_patterns("__pycache__", "*.so", "build")
    shutil.copytree(package, "site/maskrcnn", ignore=skipped)
    shutil.copytree(shipped_configs(), "site/maskrcnn/configs")
    write("work/mine.yaml", f"base: [zoo/mask_rcnn_r50_fpn, zoo/base/scratch]{DATA}")
    for words in (["config", "check", "mine.yaml", "zoo/demo"], ["config", "show", "zoo/nuclei"]):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "maskrcnn", *words],
            cwd="work",
            env={**os.environ, "PYTHONPATH": str(Path("site").resolve())},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "# shipped configs/nuclei/mask_rcnn_r18_fpn_gn.yaml" in done.stdout
