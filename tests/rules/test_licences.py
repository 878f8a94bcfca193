"""docs/licences.md has a row for all that an installation asks for, and for all weights."""

from __future__ import annotations

import re

import pytest

from maskrcnn.config import load
from maskrcnn.weights.published import SHIPPED, PublishedFile
from tests.rules.pages import ROOT

PAGE = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `?([\w./<>-]+)`? \| (.+?) \|", PAGE, re.MULTILINE))
#: Meta-packages that hold no code.
EMPTY = {"cuda-toolkit"}


def test_every_package_that_is_asked_for_has_a_row() -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[^\w.-]", wish)[0].lower() for wishes in lists for wish in wishes} - {"maskrcnn"}
    assert len(names) > 25 and names - ROWS.keys() == set(), "make licences"
    unknown = {name for name, licence in ROWS.items() if licence == "**not stated**"}
    assert unknown <= EMPTY


def test_weights_have_the_licence_of_the_registry() -> None:
    known = load(PublishedFile, SHIPPED).weights
    assert {n: ROWS.get(n) for n in known} == {n: w.licence or "*not stated*" for n, w in known.items()}


def test_no_licence_that_would_bind_users_of_the_package() -> None:
    """Of what every installation brings: none of the GPL family."""
    core = re.findall(r"^\| ([\w.-]+) \| (.+?) \| core \|$", PAGE, re.MULTILINE)
    assert len(core) > 30
    assert [name for name, licence in core if re.search(r"\b[AL]?GPL", licence)] == []


def test_the_project_has_one_licence() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    for name, line in {
        "pyproject.toml": 'license = "Apache-2.0"',
        "CITATION.cff": "license: Apache-2.0",
    }.items():
        assert line in (ROOT / name).read_text(encoding="utf-8").splitlines()
