"""Imports run one way, and no module imports itself round a corner."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "maskrcnn"

#: Lower numbers may not import higher ones; of one rank none imports another.
RANK = {
    "errors": 0,
    "files": 1,
    "native": 1,
    "config": 1,
    "picture_files": 2,
    "layers": 2,
    "structures": 2,
    "weights": 3,
    "modeling": 4,
    "convert": 5,
    "data": 5,
    "inference": 6,
    "viz": 7,
    "evaluation": 8,
    "engine": 9,
    "recipe": 10,
    "run": 11,
    "studies": 12,
    "cli": 13,
    "__main__": 14,
}
#: What single modules import of another room on their floor.  Codes are measured by the compiled operator,
#: once a run has loaded it.
ALLOWED = {"maskrcnn.structures.rle": {"maskrcnn.layers.ops", "maskrcnn.layers.ops.areas_of_codes"}}

MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Names of our modules that a file imports, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name == "maskrcnn" or name.startswith("maskrcnn.")}


def layer(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    here = layer(module_name(path))
    if here == "":
        return
    assert here in RANK, f"{here} has no place in the order of imports: add it to RANK"
    for name in imported(path):
        there = layer(name)
        if there in ("", here, "__version__") or name in ALLOWED.get(module_name(path), ()):
            continue
        assert RANK[there] < RANK[here], f"{module_name(path)} imports {name}, which lies above it"


def test_no_import_loops() -> None:
    names = {module_name(path): path for path in MODULES}
    graph = {name: {n for n in imported(path) if n in names and n != name} for name, path in names.items()}
    # A package's __init__ re-exports its modules; only the modules themselves form the graph.
    graph = {name: {n for n in to if names[n].name != "__init__.py"} for name, to in graph.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "import loop: " + " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for after in sorted(graph[name]):
                visit(after, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert len(done) == len(names) >= 11
