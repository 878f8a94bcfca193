"""Drawings, charts, tables and pages are viz/'s, and tags stand in its templates alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.rules.test_imports import MODULES, PACKAGE, imported, layer, module_name

TEMPLATES = sorted((PACKAGE / "viz" / "templates").iterdir())
#: A tag of a page or a drawing.  ``<name>`` in prose is a placeholder.
TAG = re.compile(
    r"</?(svg|html|body|head|div|span|table|t[hdr]|tbody|thead|ul|ol|li|p|h[1-6]|img|figure|style|script|path|text"
    r"|line|polyline|circle|rect|g|a|b|i|code|br)(\s[^<]*=[^<]*)?/?>",
    re.IGNORECASE,
)
#: Padding to a width, which is how a table is set; and what it is for where it is none.
PADDED = {
    "maskrcnn.config.encode": "where a value was set, as a comment beside it: still YAML",
    "maskrcnn.cli": "the list of commands of --help",
    "maskrcnn.cli.config": "as config.encode",
}
#: OpenCV's functions that draw.
DRAWING = re.compile(
    r"cv2\.(putText|rectangle|polylines|line|circle|ellipse|fillPoly|addWeighted|arrowedLine)\b"
)
DRAWN = {"maskrcnn.data.synthetic.canvas": "the pictures of the synthetic data set"}


def strings(tree: ast.AST) -> list[str]:
    """Texts in code, f-strings by their parts; no docstrings."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def pads(tree: ast.AST) -> bool:
    """Whether something is set to a width: ``ljust``, ``rjust``, or ``:<20`` in an f-string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("ljust", "rjust"):
            return True
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            spec = "".join(p.value if isinstance(p, ast.Constant) else "9" for p in node.format_spec.values)
            if re.match(r"[<>^]\d", spec):
                return True
    return False


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_tags_tables_and_drawings_are_vizs(path: Path) -> None:
    name, text = module_name(path), path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert not [s for s in strings(tree) if TAG.search(s)], f"{name} writes tags; put them into viz/templates"
    assert name in PADDED or not pads(tree), f"{name} sets columns itself; see viz/tables.py"
    if layer(name) == "viz":
        return
    assert not [s for s in strings(tree) if "|---" in s or "---:" in s], (
        f"{name} sets a Markdown table itself"
    )
    assert "matplotlib" not in {n.split(".")[0] for n in all_imports(tree)}, f"{name} imports matplotlib"
    assert name in DRAWN or not DRAWING.search(text), f"{name} draws"
    assert "jinja2" not in {n.split(".")[0] for n in all_imports(tree)}, f"{name} fills in templates itself"


def all_imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


def test_the_exceptions_are_needed() -> None:
    by_name = {module_name(p): p for p in MODULES}
    assert all(pads(ast.parse(by_name[name].read_text())) for name in PADDED)
    assert all(DRAWING.search(by_name[name].read_text()) for name in DRAWN)


def test_viz_knows_nothing_of_what_is_computed_above() -> None:
    for path in (p for p in MODULES if layer(module_name(p)) == "viz"):
        assert not {layer(n) for n in imported(path)} & {"evaluation", "engine", "run", "studies", "cli"}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.name)
def test_templates_leave_nothing_unescaped(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert path.suffixes == [".html", ".j2"]
    assert not re.search(r"\|\s*safe\b|autoescape\s+false|https?://(?!www\.w3\.org/2000/svg)", text)
    # Where an attribute takes a value, it stands in quotes.
    assert not re.search(r"=\{\{", text)


@pytest.mark.parametrize("code", ['f"<td>{x}</td>"', '"<svg>"', "'<i style=\"a:b\"></i>'", '"</div>"'])
def test_the_rule_sees_tags(code: str) -> None:
    assert [s for s in strings(ast.parse("x = " + code)) if TAG.search(s)]


def test_the_rule_sees_columns() -> None:
    assert (
        pads(ast.parse("x.ljust(3)")) and pads(ast.parse('f"{x:>8.3f}"')) and pads(ast.parse('f"{x:<{w}}"'))
    )
    assert not pads(ast.parse('f"{x:.3f} {y:,} {z:+.1f} {s:08d}"'))
