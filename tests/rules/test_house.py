"""Names: no two public classes have one, and no two modules of different duties."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.rules.test_imports import MODULES, module_name

#: Modules that share a name, and why a reader who opens one expects just that.
SAME_DUTY = {
    "coco": "COCO is a format of data and a way to evaluate; each room has its part",
    "decode": "what outputs mean: of the RPN, of the RoI heads",
    "interfaces": "the swappable slots of the room",
    "losses": "of the RPN, of the RoI heads, and those of both",
    "table": "the tables of the study",
    "targets": "of the RPN, of the RoI heads",
}


def test_no_two_public_classes_have_one_name() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module_name(path))
    assert {name: where for name, where in found.items() if len(where) > 1} == {}


def test_no_two_modules_of_different_duties_have_one_name() -> None:
    """``cli/x.py`` is the command whose work ``run/x.py`` does: that is one duty."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in MODULES:
        room, _, name = module_name(path).removeprefix("maskrcnn.").rpartition(".")
        if path.name != "__init__.py":
            found[name].add("run" if room == "cli" else room)
    shared = {name: rooms for name, rooms in found.items() if len(rooms) > 1}
    unexplained = {name: sorted(rooms) for name, rooms in shared.items() if name not in SAME_DUTY}
    assert not unexplained, "rename the one that misleads"
    assert set(SAME_DUTY) <= set(shared), "a reason for names that are not shared any more"
