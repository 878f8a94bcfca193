"""Fixtures and settings that every test may use."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.structures import InstanceMasks
from tests.engine.tiny import write_recipe
from tests.structures.instances import HEIGHT, WIDTH, draw_bitmaps, make_segmentations

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Keep the processes of a parallel run from fighting over the cores; hear hangups even under nohup.

    The suite is the CPU's wherever it runs, bits and all: a GPU is seen by its own tests alone, ``-m gpu``.
    """
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
    if hasattr(
        signal, "SIGHUP"
    ):  # the tests send it, and processes that they start inherit that it is ignored
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function from a data set's name to its folder; it skips the test where that is absent.

    The folder is ``$MASKRCNN_SHARED_DATA/<name>`` or ``../shared/data/<name>`` beside the checkout.
    """

    def find(name: str) -> Path:
        root = Path(os.environ.get("MASKRCNN_SHARED_DATA") or ROOT.parent / "shared" / "data")
        path = root / name
        if not path.exists():
            pytest.skip(f"the data set '{name}' is not in {root} (set MASKRCNN_SHARED_DATA)")
        return path

    return find


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps of ``tests/engine/tiny.py``, whose data are beside it; without val."""
    folder = tmp_path_factory.mktemp("tiny")
    path = write_recipe(folder)
    changes = ["--set", "solver.steps=2", "--set", "data.val=null"]
    assert main(["train", str(path), "--output", str(folder / "run"), *changes]) == 0
    return folder / "run"


@pytest.fixture
def segmentations() -> list[Any]:
    """Polygons and run-length codes of six instances, see ``tests/structures/instances.py``."""
    return make_segmentations()


@pytest.fixture
def masks(segmentations: list[Any]) -> InstanceMasks:
    """All of them."""
    return InstanceMasks.from_coco(segmentations, HEIGHT, WIDTH)


@pytest.fixture
def bitmaps(segmentations: list[Any]) -> torch.Tensor:
    """uint8 [6, HEIGHT, WIDTH], as pycocotools draws them."""
    return draw_bitmaps(segmentations)
