"""The house in figures: no two public classes of one name, no import loops (inside functions too)."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.rules.test_imports import MODULES, imported, module_name


def test_no_two_public_classes_have_one_name() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module_name(path))
    assert {name: where for name, where in found.items() if len(where) > 1} == {}


def test_no_import_loops_inside_functions_either() -> None:
    names = {module_name(path): path for path in MODULES}
    graph = {
        name: {
            n
            for n in imported(path, top_level_only=False)
            if n in names and n != name and names[n].name != "__init__.py"
        }
        for name, path in names.items()
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "import loop: " + " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for after in sorted(graph[name]):
                visit(after, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert len(done) > 150
