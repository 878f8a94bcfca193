"""``_BASE_`` chains of YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.convert.configs.base_chain import read_chain
from maskrcnn.convert.configs.foreign_keys import plain
from maskrcnn.errors import ConfigError


def test_a_chain(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("MODEL: {MASK_ON: False, RESNETS: {DEPTH: 5, NORM: GN}}\nA: (1, 2)\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/middle.yaml").write_text('_BASE_: "../base.yaml"\nMODEL: {MASK_ON: True}\n')
    (tmp_path / "sub/mine.yaml").write_text("_BASE_: middle.yaml\nMODEL: {RESNETS: {DEPTH: 9}}\nB: ('a',)\n")
    found = plain(read_chain(tmp_path / "sub/mine.yaml"))
    assert found == {
        "MODEL": {"MASK_ON": True, "RESNETS": {"DEPTH": 9, "NORM": "GN"}},
        "A": [1, 2],
        "B": ["a"],
    }


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("_BASE_: mine.yaml", "leads back to itself"),
        ("_BASE_: [a.yaml]", r"mine\.yaml:1:9: _BASE_ must be one file"),
        ("_BASE_: nowhere.yaml", r"nowhere\.yaml: cannot be read"),
        ("- 1", "is a mapping of keys"),
        ("A: !!python/object/apply:os.system [ls]", "tags are not supported"),
    ],
)
def test_what_is_none(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=what):
        read_chain(tmp_path / "mine.yaml")
