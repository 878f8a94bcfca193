"""``data.cache``: the same run with and without, one sentence where there is no room for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.memory import _left_to_container
from maskrcnn.errors import ConfigError, OutputError, UserError
from maskrcnn.recipe import load_recipe
from maskrcnn.run import image_caching, setup, train
from tests.engine.tiny import write_recipe
from tests.test_resume import assert_same_state, last

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_recipe(tmp_path_factory.mktemp("tiny"))
    for file in (path.parent / "images").glob("*.png"):
        os.utime(file, (10**9, 10**9))
    return path


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def empty_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of this machine may be nearly full."""
    usage = SimpleNamespace(total=10**9, used=0, free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)


class Lines(Console):
    """Remembers what was told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.told = ""

    def line(self, text: str = "") -> None:
        self.told += text + "\n"


def test_a_run_is_the_same_with_kept_images(recipe_file: Path, tmp_path: Path) -> None:
    settings = ["solver.steps=4", "data.workers=1"]
    told = {}
    for name, cache in (("none", "none"), ("ram", "ram"), ("disk", "disk"), ("again", "disk")):
        recipe = load_recipe(recipe_file, [*settings, f"data.cache={cache}"])
        console = Lines()
        train(recipe, tmp_path / name, console=console)
        told[name] = console.told
        assert_same_state(last(tmp_path / name), last(tmp_path / "none"))
    assert "decoded images" not in told["none"]
    assert "decoded images are kept in memory: 98.3 kB once all were read" in told["ram"]
    assert "0 of 8 are there, the others take 98.3 kB" in told["disk"]
    assert "8 of 8 are there, the others take 0 B" in told["again"]


def prepare(recipe_file: Path, cache: str) -> tuple[Any, setup.Data, list[str]]:
    recipe = load_recipe(recipe_file, [f"data.cache={cache}"])
    lines: list[str] = []
    data = setup.build_data(recipe, ALONE)
    return recipe, data, lines


def test_too_little_memory_is_told(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_caching, "free_memory", lambda cuda: 100_000)
    recipe, data, lines = prepare(recipe_file, "ram")
    with pytest.raises(UserError) as caught:
        image_caching.keep_in_memory(recipe, data, ALONE, lines.append)
    assert str(caught.value) == (
        "data.cache is ram, and the decoded images take 98.3 kB of the 100 kB of memory that are free, of"
        " which at most 80% are taken; set it to disk, or to none"
    )
    image_caching.keep_on_disk(recipe, data, ALONE, lines.append)  # the advice
    assert len(lines) == 1


def test_a_disk_that_is_nearly_full_is_told(
    recipe_file: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, data, lines = prepare(recipe_file, "disk")
    # 100 kB of the 1.2 MB that it has are kept from this user.
    usage = SimpleNamespace(total=1_200_000, used=850_000, free=150_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    image_caching.keep_on_disk(recipe, data, ALONE, lines.append)
    (line,) = lines
    assert line == (
        f"decoded images are kept in {own_home}/images: 0 of 8 are there, the others take 98.3 kB"
        ", of which 50 kB are kept: 10% of the disk stay free"
    )


def test_a_folder_that_cannot_be_written_is_told(recipe_file: Path, own_home: Path) -> None:
    own_home.write_text("a file")
    recipe, data, lines = prepare(recipe_file, "disk")
    with pytest.raises(OutputError) as caught:
        image_caching.keep_on_disk(recipe, data, ALONE, lines.append)
    assert str(caught.value).startswith(f"{own_home}/images: could not be written: ")
    assert str(caught.value).endswith("; set MASKRCNN_HOME to another folder, or data.cache to none")


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_data_set_of_ones_own_is_told(recipe_file: Path, cache: str) -> None:
    recipe, _, lines = prepare(recipe_file, cache)
    data: Any = SimpleNamespace(train=SimpleNamespace(), val=None)
    keep = {"ram": image_caching.keep_in_memory, "disk": image_caching.keep_on_disk}[cache]
    with pytest.raises(ConfigError, match=f"data.cache is {cache}, and SimpleNamespace reads its images"):
        keep(recipe, data, ALONE, lines.append)


def test_what_a_container_may_take(tmp_path: Path) -> None:
    assert _left_to_container(tmp_path) == float("inf")
    for name, text in (("max", "max"), ("current", "60"), ("stat", "anon 1\ninactive_file 10\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert _left_to_container(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("100\n")
    assert _left_to_container(tmp_path) == 50
