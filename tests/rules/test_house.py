"""Names: no two public classes have one."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.rules.test_imports import MODULES, module_name


def test_no_two_public_classes_have_one_name() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module_name(path))
    assert {name: where for name, where in found.items() if len(where) > 1} == {}
