"""``maskrcnn config``, with a small schema in the recipe's place."""

from __future__ import annotations

import functools
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from maskrcnn.cli import config, main
from maskrcnn.config import load, load_traced


@dataclass(frozen=True, kw_only=True)
class Solver:
    lr: float = 0.02
    steps: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    solver: Solver = field(default_factory=Solver)
    seed: int | None = None


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    recipe = types.ModuleType("maskrcnn.recipe")
    recipe.load_traced_recipe = functools.partial(load_traced, Recipe)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "maskrcnn.recipe", recipe)
    for about_recipes in ("_doubts", "_fetched"):  # see tests/run
        monkeypatch.setattr(config, about_recipes, lambda loaded: [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("name: x\nsolver:\n  lr: 1e-3\n")
    (tmp_path / "a.yaml").write_text("base: base.yaml\nseed: 5\n")
    (tmp_path / "wrong.yaml").write_text("base: base.yaml\nsede: 5\n")
    return tmp_path


def test_show_says_where_each_value_was_set(capsys):
    assert main(["config", "show", "a.yaml", "--set", "solver.steps=[3]"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "name: x # base.yaml:1",
        "solver:",
        "lr: 0.001 # base.yaml:3",
        "steps: [3] # --set solver.steps=[3]",
        "seed: 5 # a.yaml:2",
    ]


def test_plain_show_is_a_complete_config(capsys):
    assert main(["config", "show", "a.yaml", "--plain"]) == 0
    text = capsys.readouterr().out
    assert "#" not in text
    Path("plain.yaml").write_text(text)
    assert load(Recipe, "plain.yaml") == load(Recipe, "a.yaml")


def test_show_of_a_wrong_config(capsys):
    assert main(["config", "show", "wrong.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("maskrcnn: error: wrong.yaml:2:1: sede: unknown key. Did you mean 'seed'?")
    assert "Traceback" not in captured.err


def test_check_goes_on_after_a_fault(capsys):
    assert main(["config", "check", "a.yaml", "wrong.yaml", "none.yaml", "base.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["a.yaml: ok", "base.yaml: ok"]
    first, second = captured.err.splitlines()
    assert first.startswith("wrong.yaml:2:1: sede: unknown key.")
    assert second.startswith("none.yaml: no such file.")


def test_check_of_right_configs(capsys):
    assert main(["config", "check", "a.yaml", "base.yaml"]) == 0
    assert capsys.readouterr().err == ""


def test_check_applies_set(capsys):
    assert main(["config", "check", "a.yaml", "--set", "seed=1"]) == 0
    assert main(["config", "check", "a.yaml", "--set", "seed=x"]) == 2
    assert "--set seed=x: seed: expected an integer, got 'x'" in capsys.readouterr().err


def test_diff_shows_values_and_origins(capsys):
    assert main(["config", "diff", "base.yaml", "a.yaml", "--set", "solver.lr=0.1"]) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "--- base.yaml",
        "+++ a.yaml --set solver.lr=0.1",
        "- solver.lr: 0.001 # base.yaml:3",
        "+ solver.lr: 0.1 # --set solver.lr=0.1",
        "- seed: null # default",
        "+ seed: 5 # a.yaml:2",
    ]


def test_diff_of_a_file_with_its_own_variant(capsys):
    assert main(["config", "diff", "a.yaml", "--set", "seed=6"]) == 1
    assert "+ seed: 6" in capsys.readouterr().out


def test_diff_of_equals_prints_nothing(capsys):
    assert main(["config", "diff", "a.yaml", "base.yaml", "--set", "seed=5"]) == 0
    assert capsys.readouterr().out == ""


def test_a_missing_action_is_a_misuse(capsys):
    assert main(["config"]) == 2
    assert "maskrcnn config needs one of show, check, diff" in capsys.readouterr().err
