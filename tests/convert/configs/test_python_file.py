"""Python configs are read as data: what there is of Python, what is refused, and that nothing is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.convert.configs.foreign_keys import plain
from maskrcnn.convert.configs.python_file import read_python
from maskrcnn.errors import ConfigError


def read(folder: Path, text: str, **others: str) -> dict[str, object]:
    for name, content in others.items():
        (folder / f"{name}.py").write_text(content)
    (folder / "mine.py").write_text(text)
    found = plain(read_python(folder / "mine.py"))
    assert isinstance(found, dict)
    return found


def test_values_names_and_sums(tmp_path: Path) -> None:
    text = """
'''Words.'''
root = 'data/'
one = dict(type='A', scale=(1333, 800), beta=1.0 / 9.0, lr=0.02 * 4, none=None, low=-1)
two = dict(file=root + 'x.json', **one)
three = [dict(a=1)] * 2 + [{'b': True}]
"""
    one = {"type": "A", "scale": [1333, 800], "beta": 1 / 9, "lr": 0.08, "none": None, "low": -1}
    found = read(tmp_path, text)
    assert found["one"] == one and found["two"] == {"file": "data/x.json", **one}
    assert found["three"] == [{"a": 1}, {"a": 1}, {"b": True}]


def test_bases_are_laid_over_each_other(tmp_path: Path) -> None:
    """dicts key by key, but for those that say ``_delete_``; lists whole, or by the index of their items."""
    base = "model = dict(a=dict(x=1, y=2), b=dict(x=1), c=[1, 2], d=[dict(x=1), dict(x=2)])\nsteps = 3"
    text = """
_base_ = ['./base.py', 'other.py']
model = dict(a=dict(y=3), b=dict(_delete_=True, z=5), c=[7], d={1: dict(x=9)})
last = _base_.steps + other
twice = {{_base_.model.a.x}}
"""
    found = read(tmp_path, text, base=base, other="other = 4")
    model = {"a": {"x": 1, "y": 3}, "b": {"z": 5}, "c": [7], "d": [{"x": 1}, {"x": 9}]}
    assert found["model"] == model
    assert (found["steps"], found["other"], found["last"], found["twice"]) == (3, 4, 7, 1)
    changed = read(tmp_path, "_base_ = 'base.py'\n_base_.model.a = dict(q=1)", base=base)
    assert changed["model"] == {"a": {"q": 1}, "b": {"x": 1}, "c": [1, 2], "d": [{"x": 1}, {"x": 2}]}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import os", "imports modules"),
        ("from a import b", "imports modules"),
        ("x = open('victim', 'w')", "this value is computed"),
        ("x = [i for i in (1, 2)]", "this value is computed"),
        ("x = f'{1}'", "this value is computed"),
        ("x = 1 if True else 2", "this value is computed"),
        ("if True:\n    x = 1", "this statement computes something"),
        ("x = y", "y is assigned nowhere before"),
        ("x = dict(a=1).pop('a')", "this value is computed"),
        ("__import__('os').remove('victim')", "this statement computes something"),
        ("x = 'a' * 10 ** 9", "this value is computed"),
        ("x = [1] * 1000000000", "this value is computed"),
        ("x = 1 / 0", "divides by 0"),
        ("x = b'a'", "of no kind that a config has"),
        ("_base_ = 'mmdet::a/b.py'", "lies in another package"),
        ("_base_ = 3", "must be a file"),
    ],
)
def test_what_is_computed_is_refused_by_its_line_and_not_run(
    tmp_path: Path, line: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("victim").write_text("whole")
    with pytest.raises(ConfigError, match=what) as told:
        read(tmp_path, f"model = dict(a=1)\n{line}\n")
    assert f"{tmp_path / 'mine.py'}:2" in str(told.value)
    assert Path("victim").read_text() == "whole"


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.py: cannot be read"):
        read_python(tmp_path / "nowhere.py")
    with pytest.raises(ConfigError, match=r"mine\.py:1: is no Python file"):
        read(tmp_path, "model = dict(")
    with pytest.raises(ConfigError, match="leads back to itself"):
        read(tmp_path, "_base_ = 'mine.py'")


@pytest.mark.parametrize("twice", ["dict(a=x, b=x)", "[x, x]", "x + x"])
def test_names_that_hold_names_twice_end(tmp_path: Path, twice: str) -> None:
    first = "x = ['a']" if twice != "x + x" else "x = 'a' + 'b'"
    with pytest.raises(ConfigError, match=r"mine\.py:\d+: this value is larger than any config"):
        read(tmp_path, "\n".join([first, *[f"x = {twice}"] * 60]))
    with pytest.raises(ConfigError, match="nested too deeply|is no Python file"):
        read(tmp_path, "x = " + "-" * 5000 + "1")


@pytest.mark.parametrize("last", ["a = a * a * a * a * a", "a = 0x" + "f" * 9000, "a = a / 1e-300 * 10 ** 9"])
def test_numbers_without_end_are_refused(last: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"a = 999999999\n{last}\n")
    with pytest.raises(ConfigError, match=r"mine\.py:2:.* and a config is read as data"):
        read_python(path)
