"""What docs/compatibility.md promises of versions to come, held against what is kept of those before.

Checkpoints: ``tests/engine/test_before.py``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import maskrcnn
from maskrcnn.config import dump, load, loads
from maskrcnn.config.encode import flatten
from maskrcnn.recipe import Recipe
from tests.fixtures.config_1 import record
from tests.rules.pages import ROOT

KEPT = json.loads(record.KEYS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def now() -> dict[str, dict[str, str]]:
    return record.keys()


@pytest.mark.parametrize("part", sorted(KEPT))
def test_keys_stay_and_keep_their_defaults(part: str, now: dict[str, dict[str, str]]) -> None:
    assert part in now, f"no {part} any more"
    for key, default in KEPT[part].items():
        assert key in now[part], f"{part}: the key {key} is gone; read it by its old name, with a warning"
        if default != record.REQUIRED:
            assert now[part][key] == default, (
                f"{part}: {key} has another default; runs of before mean the old one"
            )
    required = {key for key, default in now[part].items() if default == record.REQUIRED}
    assert required <= KEPT[part].keys(), "a new key needs a default, which changes nothing"


def test_a_config_of_before_is_read_as_it_was_written() -> None:
    text = record.CONFIG.read_text(encoding="utf-8")
    found = loads(Recipe, text)
    assert found.solver.steps == 900 and found.model.backbone is not None
    written = [line.strip() for line in text.splitlines() if ":" in line]
    again = [line.strip() for line in dump(found).splitlines()]
    assert [line for line in written if line not in again] == []
    assert load(Recipe, record.CONFIG) == found
    assert flatten(found)["solver.optimizer.lr"] == "0.04"


def test_the_version_is_semantic_and_stated_once() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", maskrcnn.__version__)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(rf"^version: {re.escape(maskrcnn.__version__)}$", citation, re.MULTILINE)


def test_the_changelog_is_kept_as_it_says() -> None:
    """Keep a Changelog: versions from the newest on, each with its day, and six kinds of changes."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", head) for head in heads[1:]]
    assert all(released), heads
    versions = [tuple(map(int, found.groups())) for found in released if found]
    assert versions == sorted(versions, reverse=True)
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert kinds and set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_no_release_of_a_version_without_a_section(tmp_path: Path) -> None:
    """Before anything is built."""
    for name in ("tools/release.sh", "maskrcnn/__init__.py", "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [9.9.9] - 2026-01-01\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    script = tmp_path / "tools/release.sh"
    done = subprocess.run(["bash", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        f"no section '## [{maskrcnn.__version__}] - DATE'; the working tree is not its commit" in done.stderr
    )
    assert not (tmp_path / "dist").exists()
