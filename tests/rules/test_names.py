"""Files and parts of the code that pages and the comments of csrc name are there."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from tests.rules.pages import PAGES, ROOT

SOURCES = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".h", ".cu", ".cuh"))
DECISIONS = sorted((ROOT / "docs/adr").glob("*.md"))
#: A file with an ending that this project has, or a folder below one of its roots.
FILE = re.compile(r"(?<![\w./~$}{*-])((?:[\w.<>*-]+/)*[\w<>*-]+\.(?:pyi?|cpp|cuh?|h|md|sh|toml))(?![\w/])")
FOLDER = re.compile(
    r"(?<![\w./~$}{-])((?:maskrcnn|csrc|tests|configs|benchmarks|tools|docs|modeling)/(?:[\w-]+/)*)"
)
#: A module, class or function of ours by its dotted name (keys of configs begin otherwise).
DOTTED = re.compile(
    r"(?<![\w./])((?:maskrcnn|engine|run|evaluation|modeling|layers|structures|ablation|explain)(?:\.[A-Za-z_]\w*)+)"
)
#: Where a relative name may start.
STARTS = (ROOT, ROOT / "maskrcnn", ROOT / "maskrcnn/modeling", ROOT / "csrc", ROOT / "docs")
#: Files of a reader or a run, of other projects, and of another place of the pages.
NOT_OURS = {
    *(
        "my_backbone.py",
        "my_operator.py",
        "text_folder.py",
        "theirs.py",
        "roi.md",
        "report.md",
        "folds.md",
        "shim.h",
        "references/detection/train.py",
        "proposals/transforms.py",
    ),
    *("Detectron2/detectron2/layers/mask_ops.py",),
}


def words_of(path: Path) -> str:
    """A page's text; of a source the comments alone."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return re.sub(r"https?://\S+", "", text)
    return "\n".join(re.findall(r"//[^\n]*|/\*.*?\*/", text, re.DOTALL))


@cache
def file_names() -> frozenset[str]:
    folders = ("maskrcnn", "csrc", "tests", "configs", "benchmarks", "tools", "docs")
    return frozenset(p.name for folder in folders for p in (ROOT / folder).rglob("*")) | frozenset(
        p.name for p in ROOT.iterdir()
    )


def is_there(name: str, near: Path) -> bool:
    """Whether a file or folder is: below the roots, beside ``near``, or, without a folder, anywhere."""
    pattern = re.sub(r"<\w+>", "*", name).rstrip("/")
    if "/" not in name and "*" not in pattern:
        return name in file_names()
    return any(any(start.glob(pattern)) for start in (*STARTS, near))


def resolves(name: str) -> bool:
    """Whether a dotted name can be imported, as far as modules go, and then looked up."""
    parts = name.split(".")
    if parts[0] != "maskrcnn":
        parts = ["maskrcnn", *parts]
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


@pytest.mark.parametrize("path", [*PAGES, *DECISIONS, *SOURCES], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_is_named_is_there(path: Path) -> None:
    text = words_of(path)
    names = {*FILE.findall(text), *FOLDER.findall(text)} - NOT_OURS
    missing = sorted(name for name in names if not is_there(name, path.parent))
    files = tuple(f".{suffix}" for suffix in ("py", "md", "yaml", "json", "h", "toml"))
    dotted = {name for name in DOTTED.findall(text) if not name.endswith(files)}
    missing += sorted(name for name in dotted if not resolves(name))
    assert not missing, f"{path.name} names {missing}"


def test_the_rule_sees_what_is_not_there() -> None:
    """The rule itself: it finds names of each kind, and tells those that are missing."""
    text = "`maskrcnn/run.py` `library.py` modeling/nowhere/ engine.trainer.Trainer maskrcnn.run.nothing"
    assert FILE.findall(text) == ["maskrcnn/run.py", "library.py"]
    assert FOLDER.findall(text) == ["maskrcnn/", "modeling/nowhere/"]
    assert not is_there("maskrcnn/run.py", ROOT) and is_there("library.py", ROOT)
    assert not is_there("modeling/nowhere/", ROOT) and is_there("maskrcnn/cli/<command>.py", ROOT)
    assert not is_there("nowhere.py", ROOT)
    found = DOTTED.findall(text)
    assert [resolves(name) for name in found] == [True, False], found


def test_decisions_are_called_by_their_subject() -> None:
    """Without numbers, which branches give twice, in name and title."""
    titles = {path.stem: path.read_text(encoding="utf-8").splitlines()[0] for path in DECISIONS}
    assert [name for name in titles if not re.fullmatch("[a-z]+(-[a-z]+)*", name)] == []
    assert [title for title in titles.values() if not re.match("# [A-Z]", title)] == []
