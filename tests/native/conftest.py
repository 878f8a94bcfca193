"""The pretended installation for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native.house import House


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """Return a pretended installation with two C++ files and no objects."""
    return House(tmp_path, monkeypatch)
