from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.cli import main
from maskrcnn.errors import cut, few


@pytest.mark.parametrize(
    ("count", "text"), [(0, ""), (1, "0"), (5, "0, 1, 2, 3, 4"), (6, "0, 1, 2, 3, 4, and 1 more")]
)
def test_few_names_the_first_and_counts_the_rest(count: int, text: str) -> None:
    assert few(range(count)) == text
    assert few(iter(range(count))) == text


def test_few_takes_another_separator_and_number() -> None:
    assert few("abc", 2, "; ") == "a; b; and 1 more"


def test_cut_keeps_both_ends() -> None:
    assert cut("short") == "short"
    assert cut("a" * 400 + "b" * 400) == "a" * 300 + " ... " + "b" * 300


def test_a_config_of_thousands_of_wrong_keys_prints_a_screenful(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "many.yaml"
    path.write_text("\n".join(f"wrong_{i}: 1" for i in range(3000)))
    assert main(["config", "check", str(path)]) == 2
    text = capsys.readouterr().err
    assert "3001 problems in the configuration" in text  # data.train is missing, too
    assert "many.yaml:1:1: wrong_0: unknown key" in text and "and 2981 more" in text
    assert len(text) < 10_000


@pytest.mark.parametrize(
    "text",
    ["{x}: 1", "model: {{backbone: {x}}}", "seed: [{x}]", "output: {x}: 1", "device: {x}", '{x}: "{x}"'],
)
def test_endless_words_are_cut(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(text.format(x="word" * 20_000))
    assert main(["config", "check", str(path)]) == 2
    assert len(capsys.readouterr().err) < 3000
