"""How many images a step are kept: the largest number that fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from maskrcnn.errors import UserError
from maskrcnn.run.new import measure as module
from maskrcnn.run.new.measure import Measured, measure
from tests.engine.tiny import write_recipe

GB = 10**9


def measured(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    answers: dict[tuple[int, str], tuple[float, int] | str],
    free: int = 20 * GB,
    most: int = 16,
) -> tuple[Measured, list[tuple[int, str]]]:
    """With what each (images, precision) is said to take; and what was tried."""
    tried = []

    def answer(config: Path, settings: Sequence[str]) -> tuple[float, int] | str:
        keys = dict(s.split("=") for s in settings)
        tried.append((int(keys["solver.batch_size"]), keys["solver.precision"]))
        return answers[tried[-1]]

    monkeypatch.setattr(module, "_try", answer)
    monkeypatch.setattr(module, "free_memory", lambda cuda: free)
    config = write_recipe(tmp_path)
    return measure(config, (), most, 0.5, batch=None, precision=None, tell=lambda line: None), tried


def sizes(*memory: int) -> dict[tuple[int, str], tuple[float, int] | str]:
    return {(2**k, "float32"): (1.0 * 2**k, m * GB) for k, m in enumerate(memory)}


def test_it_doubles_until_a_step_is_too_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = {**sizes(1, 2, 4, 11), (4, "bfloat16"): (2.0, 3 * GB)}
    found, tried = measured(monkeypatch, tmp_path, answers)
    assert [n for n, _ in tried] == [1, 2, 4, 8, 4]
    assert (found.batch, found.precision, found.seconds, found.memory) == (4, "bfloat16", 2.0, 3 * GB)
    assert "8 take 11 GB" in found.told and "4: 4.00 s, 4 GB" in found.told and "of 10 GB" in found.told


def test_what_can_be_foreseen_not_to_fit_is_not_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = {**sizes(3, 5), (4, "float32"): (4.0, 9 * GB), (4, "bfloat16"): (3.95, 5 * GB)}
    found, tried = measured(monkeypatch, tmp_path, answers)
    assert (8, "float32") not in tried and "8 would take about 17 GB" in found.told
    assert (found.batch, found.precision) == (4, "float32"), "bfloat16 is hardly faster"


def test_a_step_that_fails_is_an_answer_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = {**sizes(1), (2, "float32"): "it ended with -9 (killed)", (1, "bfloat16"): "no such operator"}
    found, _ = measured(monkeypatch, tmp_path, answers)
    assert found.batch == 1 and "2 failed: it ended with -9 (killed)" in found.told
    assert found.precision == "float32" and "no such operator" in found.compared
    with pytest.raises(UserError, match="a step of 1 image cannot be made here: the data are lost"):
        measured(monkeypatch, tmp_path, {(1, "float32"): "the data are lost"})


def test_steps_are_made_in_a_process_of_their_own(tmp_path: Path) -> None:
    found = module._try(write_recipe(tmp_path), ["solver.batch_size=1"])
    assert not isinstance(found, str), found
    assert found[0] > 0 and 50 * 2**20 < found[1] < 64 * 2**30
    broken = module._try(write_recipe(tmp_path), ["solver.batch_size=0"])
    assert isinstance(broken, str) and "batch_size" in broken
