"""Files are written in one place, whole or not at all; who else opens one is listed with the reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rules.test_imports import MODULES, module_name

#: Modules that write by themselves: what, and why it is not one of files.py's ways.
WRITERS = {
    "maskrcnn.files": "the one writer",
    "maskrcnn.picture_files": "its ways for pictures",
    "maskrcnn.native.build": "compilers write into a folder, then renamed; setup.py loads it alone",
    "maskrcnn.native.cache": "the lock of the cache of operators, which lies below files.py",
    "maskrcnn.data.image_cache": "memory that another process shares is opened as a file",
    "maskrcnn.cli": "standard output goes nowhere once its reader is gone",
    "maskrcnn.studies.ablation.processes": "a run's process appends what it prints to output.txt",
    "maskrcnn.viz.figure": "matplotlib and Pillow write into memory",
}
#: Methods and functions that write a file, by their last name.
WRITING = frozenset(
    {
        *("write_text", "write_bytes", "imwrite", "savefig", "tofile", "save_file", "NamedTemporaryFile"),
        *("copyfile", "copy2", "copytree", "copyfileobj", "move", "symlink_to", "hardlink_to"),
    }
)
#: The same, where the last name alone says too little.
WRITING_BY = {
    "torch": {"save"},
    "np": {"save", "savez", "savez_compressed", "savetxt"},
    "json": {"dump"},
    "pickle": {"dump"},
    "yaml": {"dump"},
    "os": {"rename", "replace", "link", "symlink", "fdopen"},
    "shutil": {"copy"},
    "picture": {"save"},
}


def mode_of(call: ast.Call) -> str:
    """What a call of ``open`` asks for, as far as it is written; "?" where it is no literal."""
    path_first = isinstance(call.func, ast.Name) or getattr(call.func.value, "id", "") in (
        "io",
        "os",
        "archive",
    )
    place = 1 if path_first else 0
    given = [k.value for k in call.keywords if k.arg == "mode"] or call.args[place : place + 1]
    if not given:
        return "r"
    return given[0].value if isinstance(given[0], ast.Constant) and isinstance(given[0].value, str) else "?"


def writes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) for each call that writes a file by itself."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            if node.func.id == "open" and set(mode_of(node)) & set("wax+?"):
                yield node.lineno, "open"
            continue
        if not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, getattr(node.func.value, "id", "")
        if owner == "files":  # ours
            continue
        if name in WRITING or name in WRITING_BY.get(owner, ()):
            yield node.lineno, f"{owner}.{name}"
        if name == "open" and owner == "os":
            if any(isinstance(n, ast.Attribute) and n.attr in ("O_WRONLY", "O_RDWR") for n in ast.walk(node)):
                yield node.lineno, "os.open"
        elif name == "open" and owner != "archive" and set(mode_of(node)) & set("wax+"):
            yield node.lineno, "open"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nobody_writes_past_files(path: Path) -> None:
    found = list(writes(ast.parse(path.read_text(encoding="utf-8"))))
    assert not found or module_name(path) in WRITERS, (
        f"{path.name} writes a file itself: {found}; see files.py"
    )


def test_the_exceptions_are_there_and_write() -> None:
    by_name = {module_name(p): p for p in MODULES}
    for name in WRITERS.keys() & by_name.keys():
        assert list(writes(ast.parse(by_name[name].read_text(encoding="utf-8")))), (
            f"{name} writes nothing any more"
        )


@pytest.mark.parametrize(
    "code",
    [
        'open(p, "w")',
        'open(p, mode="ab")',
        'Path(p).open("x")',
        'p.open("r+b")',
        'p.write_text("")',
        'p.write_bytes(b"")',
        'cv2.imwrite("a.png", image)',
        "json.dump(x, file)",
        "torch.save(x, p)",
        "figure.savefig(p)",
        "np.savez(p, a=a)",
        "shutil.copy(a, b)",
        "shutil.copyfile(a, b)",
        "os.replace(a, b)",
        "os.open(p, os.O_WRONLY | os.O_CREAT)",
    ],
)
def test_the_rule_sees(code: str) -> None:
    assert len(list(writes(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code", ["open(p)", 'p.open("rb")', "json.dumps(x)", 'write_text(p, "")', 'text.replace("a", "b")']
)
def test_the_rule_lets_pass(code: str) -> None:
    assert not list(writes(ast.parse(code)))
