"""Names: no two public classes have one, and no two modules of different duties.  What training imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.engine.tiny import write_recipe
from tests.rules.test_imports import MODULES, imported, module_name
from tests.rules.test_mirror import faces

#: Files that ``maskrcnn train`` imports, as an import statement anywhere in them says.  To be lowered.
MOST_FILES = 115
#: Who imports by a name that is computed, which :data:`MOST_FILES` cannot count, and what.
BY_STRING = {
    "maskrcnn": "Model, the object for Python, when it is asked for",
    "maskrcnn.cli": "the command that is asked for",
    "maskrcnn.config.plugins": "the user's plugins",
    "maskrcnn.config.registry": "built-in parts that a config names, and what a package hands on",
    "maskrcnn.layers.onnx": "onnxscript, an extra",
    "maskrcnn.run.export.needed": "packages of the extra for exports",
}

#: Modules that share a name, and why a reader who opens one expects just that.
SAME_DUTY = {
    "coco": "COCO is a format of data and a way to evaluate; each room has its part",
    "decode": "what outputs mean: of the RPN, of the RoI heads",
    "figures": "what was measured, as numbers: by a benchmark, of an evaluation",
    "interfaces": "the swappable slots of the room",
    "report": "the page that a command writes: about runs, about an ablation",
    "make": "puts together what its package is about",
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


def test_what_training_imports() -> None:
    graph = {module_name(path): imported(path) for path in MODULES}
    found, ahead = set[str](), ["maskrcnn.cli.train"]
    while ahead:
        name = ahead.pop()
        if name in graph and name not in found:  # else a class or function of a module that is there too
            found.add(name)
            ahead += [
                *graph[name],
                *(faces()[n] for n in graph[name] if n in faces()),
                name.rpartition(".")[0],
            ]
    assert len(found) <= MOST_FILES, f"{len(found)} files"


#: Trains the recipe, and prints what of this package was imported for it.
TRAINS = """
import sys
from maskrcnn.cli import main
assert main(["train", *sys.argv[1:]]) == 0
print("imported", *(name for name in sys.modules if name.startswith("maskrcnn.")))
"""


@pytest.mark.parametrize("evaluates", [False, True])
def test_a_training_imports_what_its_config_names(evaluates: bool, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    wishes = ["train.tensorboard=true"] if evaluates else ["data.val=null"]
    options = [part for wish in ("solver.steps=1", *wishes) for part in ("--set", wish)]
    command = [sys.executable, "-c", TRAINS, str(recipe), "--output", str(tmp_path / "run"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("imported"))
    rooms = {name for name in line.split() if re.match(r"maskrcnn\.(evaluation|inference|viz)$", name)}
    assert rooms == ({"maskrcnn.evaluation", "maskrcnn.inference", "maskrcnn.viz"} if evaluates else set())
    assert ("maskrcnn.engine.board" in line.split()) == evaluates
    assert "maskrcnn.layers.other_operators" not in line.split()


def test_imports_by_string_are_known() -> None:
    def calls(path: Path) -> bool:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = {getattr(n.func, "attr", getattr(n.func, "id", "")) for n in nodes if isinstance(n, ast.Call)}
        return bool(names & {"import_module", "__import__", "exec", "spec_from_file_location"})

    assert {module_name(path) for path in MODULES if calls(path)} == set(BY_STRING)
