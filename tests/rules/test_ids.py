"""A test has the same name in every process: a run on several of them stops where their names differ."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]  # not of tests.conftest, which loads torch


def pytest_make_parametrize_id(val: object) -> str | None:
    """As a plugin of the collections below: a long text is its own id, which pytest 9 shortens by itself."""
    return ascii(val) if isinstance(val, str | bytes) else None


def collect(folder: str, *, seed: int) -> subprocess.Popen[str]:
    """A process that prints the ids of a folder's tests, a line each, with a seed for the order of sets."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        __name__,
        "-p",
        "no:cacheprovider",
    ]
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    return subprocess.Popen([*command, folder], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def differing(folder: str) -> set[str]:
    """Ids that stand in another place in another process, which begins in another second."""
    first = collect(folder, seed=1)
    time.sleep(1.1)
    second = collect(folder, seed=2)
    found = [[line for line in p.communicate()[0].splitlines() if "::" in line] for p in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert len(found[0]) > 1
    return {name for pair in zip_longest(*found, fillvalue="none") if len({*pair}) > 1 for name in pair}


@pytest.mark.slow
def test_every_test_has_the_same_id_in_every_process() -> None:
    assert differing("tests") == set()


def test_ids_of_the_time_of_tokens_and_of_the_order_of_a_set_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "test_made.py").write_text(
        """
import secrets, time, pytest

@pytest.mark.parametrize("value", ["a", "b" * 500, 1.5])
def test_same(value): ...

@pytest.mark.parametrize("value", [str(time.time())])
def test_time(value): ...

@pytest.mark.parametrize("value", [secrets.token_bytes() * 9])
def test_token(value): ...

@pytest.mark.parametrize("value", {"one", "two", "three", "four", "five", "six", "seven"})
def test_order(value): ...
"""
    )
    found = {name.partition("::")[2].partition("[")[0] for name in differing(str(tmp_path))}
    assert found == {"test_time", "test_token", "test_order"}
