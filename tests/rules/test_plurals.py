"""Numbers of things are printed by ``errors.plural``, so that nobody reads of "1 images"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskrcnn.errors import plural
from tests.rules.test_imports import MODULES, module_name

#: What is counted in sentences, with at most one word before it.
THINGS = re.compile(
    r"^ (?!(?:of|in|as|and|to|or|x|has|is|holds|these|names) )(?:[a-z]+ )?"
    r"(?:annotations|boxes|bytes|categories|channels|classes|cores|detections|entries|epochs|files|folders|gaps"
    r"|images|instances|items|jsons|keypoints|kinds|layers|levels|masks|names|numbers|objects|pages|parameters"
    r"|points|problems|processes|proposals|recipes|regions|repairs|results|runs|samples|seeds|steps|tensors"
    r"|threads|values|workers)\b(?!/)"
)
#: Values before such a word that are none of its number, or a number that is never 1.
OTHERS = {
    "maskrcnn.data.doctor.image_doubts": {"less"},  # gray or colour
    "maskrcnn.data.images": {"image.dtype"},
    "maskrcnn.evaluation.eval_result": {"word"},  # small, medium, large
    "maskrcnn.layers.arguments": {"len(features)"},  # of several maps
    "maskrcnn.studies.cross_validation": {"images"},  # those of each fold, in a row
    "maskrcnn.run.browse": {"wishes.epochs"},  # of several epochs
    "maskrcnn.run.examine": {"key.removeprefix('data.')"},
}


def numbers_of_things(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, value and following text of each place in a module where a number stands before a plural."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            for value, after in zip(node.values, node.values[1:], strict=False):
                if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                    continue
                whole = value.format_spec is None or ast.unparse(value.format_spec) in ("f','", "f'd'")
                constant = re.fullmatch("_?[A-Z_]+", ast.unparse(value.value))
                if whole and not constant and (found := THINGS.match(str(after.value))):
                    yield value.lineno, ast.unparse(value.value), found[0]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_numbers_of_things_are_printed_by_plural(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    others = OTHERS.get(module_name(path), set())
    found = [place for place in numbers_of_things(text) if place[1] not in others]
    assert found == [], "write plural(number, 'thing')"
    assert others <= {value for _, value, _ in numbers_of_things(text)}, "gone: not for this list"
    assert not re.search(r"""\{["']e?s["'] if """, text), "write plural(number, 'thing')"


def test_such_a_place_is_seen() -> None:
    text = (
        '''f"{n} faulty annotations, {len(x):,} images of {y:.3g} objects, {a} x {MOST} files, {b} files/s"'''
    )
    assert [place[1:] for place in numbers_of_things(text)] == [
        ("n", " faulty annotations"),
        ("len(x)", " images"),
    ]


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (1, ("file",), "1 file"),
        (0, ("file",), "0 files"),
        (2, ("faulty annotation",), "2 faulty annotations"),
        (2, ("box",), "2 boxes"),
        (2, ("class",), "2 classes"),
        (2, ("batch",), "2 batches"),
        (2, ("entry",), "2 entries"),
        (2, ("key",), "2 keys"),
        (1, ("step is", "steps are"), "1 step is"),
        (3, ("step is", "steps are"), "3 steps are"),
    ],
)
def test_plural(number: int, words: tuple[str, ...], text: str) -> None:
    assert plural(number, *words) == text


def test_a_number_is_formatted() -> None:
    assert plural(12345, "byte", spec=",") == "12,345 bytes"
