"""Shapes as docstrings state them: ``boxes: float [R, 4]``, or ``x`` [N, C, H, W] -> [N, C, h, w].

A shape belongs to the arguments whose names stand before it (``low, high: [K]``).  After ``->`` or
``Returns`` it is a result's; so is one of no argument in a docstring that has neither.  One without a name
before ``->`` is that of the next argument.  "or" gives alternatives, "..." is any number of dimensions, "of"
begins a remark.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

#: Names, numbers and their arithmetic in brackets; "in [0, 1]" is an interval, "a[i]" and "[i](x)" are code.
SHAPE = re.compile(r"(?<!\bin )(?<!\w)\[((?:\.\.\.|[A-Za-z0-9])[^\[\]`:=]*|)\](?!\()")
#: What may stand between an argument's name and its shape.
BETWEEN = r"(?:``)?[:,]?(?: (?:float|float32|float64|int64|uint8|bool|0/1|of every image,))* ?$"
RESULTS = re.compile(r"->|\bReturns\b")
SCALAR = re.compile(r"\bscalar\b", re.IGNORECASE)

Function = Callable[..., Any]
Dimensions = list[str]


class ShapeError(AssertionError):
    """A docstring states another shape."""


@dataclass(frozen=True)
class Stated:
    """What a docstring says: for each argument, and of the results in order; each with its alternatives."""

    arguments: dict[str, list[Dimensions]]
    results: list[list[Dimensions]]


def of_tensors(function: Function) -> list[str]:
    """The arguments that are tensors or arrays, or lists of them; ``return`` among them."""
    try:
        hints = typing.get_type_hints(function)
    except NameError:  # of an import for the type checker alone
        hints = function.__annotations__
    return [name for name, hint in hints.items() if re.search(r"\b(Tensor|ndarray)\b", str(hint))]


def states_a_shape(function: Function) -> bool:
    """Whether the docstring has any shape."""
    doc = function.__doc__ or ""
    return bool(SHAPE.search(doc) or SCALAR.search(doc))


def read(function: Function, doc: str | None = None) -> Stated:
    """The shapes that the docstring of ``function``, or ``doc`` in its place, states."""
    text = inspect.cleandoc(doc or function.__doc__ or "").split("\nRaises:")[0]
    names = of_tensors(function)
    start = RESULTS.search(text)
    stated, last, end = Stated({}, []), list[Dimensions](), -1
    for match in SHAPE.finditer(text):
        parts = match[1].split(",") if match[1].strip() else []
        shape = [re.sub(r" of .*", "", part.strip()) for part in parts]
        if text[end : match.start()] == " or ":
            last.append(shape)
        else:
            last = [shape]
            is_result = start is not None and match.start() > start.start()
            owners = [] if is_result else _owners(text[: match.start()], names)
            if start and not is_result:
                owners = owners or [name for name in names if name not in stated.arguments][:1]
            stated.arguments.update(dict.fromkeys(owners, last))
            if not owners:
                stated.results.append(last)
        end = match.end()
    return stated


def _owners(before: str, names: Sequence[str]) -> list[str]:
    one = "|".join(name for name in names if name != "return") or "(?!)"
    several = rf"(?:{one})(?:(?:``)?(?:, | and | to )(?:``)?(?:{one}))*"
    listed = re.search(rf"(?:^|[\s`])({several}){BETWEEN}", before)
    return re.findall(rf"\b(?:{one})\b", listed[1]) if listed else []


def compare(function: Function, *args: Any, doc: str | None = None, **known: Any) -> None:
    """Call ``function`` and compare the shapes of what goes in and comes out with those that are stated.

    A letter takes the size where it is met first; ``known`` gives letters, and keywords of the function.
    Arguments and attributes that are whole numbers count by their names.

    Raises:
        ShapeError: one differs, or nothing is stated of the result.
    """
    stated = read(function, doc)
    signature = inspect.signature(function)
    keywords = {name: value for name, value in known.items() if name in signature.parameters}
    bound = signature.bind(*args, **keywords)
    owner = getattr(function, "__self__", bound.arguments.get("self"))
    letters = {**vars(owner)} if owner is not None and hasattr(owner, "__dict__") else {}
    letters |= {**bound.arguments, **known}
    letters = {name: value for name, value in letters.items() if type(value) is int}
    for name, value in bound.arguments.items():
        if name in stated.arguments:
            _fit(stated.arguments[name], value, letters, f"{function.__qualname__}: {name}")
    result = function(*args, **keywords)
    found = list(result) if isinstance(result, tuple) else [result]
    found = [value for value in found if _tensors(value)]
    wanted = stated.results * (len(found) if len(stated.results) == 1 else 1)
    if not wanted and SCALAR.search(doc or function.__doc__ or ""):
        wanted = [[[]]] * len(found)
    if not found or len(wanted) != len(found):
        raise ShapeError(f"{function.__qualname__}: {len(wanted)} results are stated, {len(found)} come")
    for want, value in zip(wanted, found, strict=True):
        _fit(want, value, letters, f"{function.__qualname__}: result")


def _tensors(value: Any) -> list[Tensor | np.ndarray[Any, Any]]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [tensor for part in value for tensor in _tensors(part)]
    return [value] if isinstance(value, Tensor | np.ndarray) else []


def _fit(stated: Sequence[Dimensions], value: Any, letters: dict[str, Any], where: str) -> None:
    """Of several tensors each has letters of its own beside those that are known before."""
    tensors = _tensors(value)
    for tensor in tensors:
        shape = tuple(tensor.shape)
        for wanted in stated:
            tried = dict(letters)
            if _matches(wanted, shape, tried):
                break
        else:
            raise ShapeError(f"{where} is {list(shape)}, stated {stated} with {letters}")
        if len(tensors) == 1:
            letters |= tried


def _matches(wanted: Dimensions, shape: tuple[int, ...], letters: dict[str, Any]) -> bool:
    if "..." in wanted:
        at, more = wanted.index("..."), max(len(shape) - len(wanted) + 1, 0)
        dots = shape[at : at + more]
        if letters.setdefault("...", dots) != dots:
            return False
        wanted = [*wanted[:at], *map(str, dots), *wanted[at + 1 :]]
    return len(wanted) == len(shape) and all(map(lambda w, s: _is(w, s, letters), wanted, shape))


def _is(wanted: str, size: int, letters: dict[str, Any]) -> bool:
    for choice in wanted.split(" or "):
        if re.fullmatch(r"[A-Za-z_]\w*'?", choice):
            if letters.setdefault(choice, size) == size:
                return True
        elif _value(choice, letters) == size:
            return True
    return False


def _value(text: str, letters: dict[str, Any]) -> int | None:
    """``4 K``, ``P + 1``, ``Hl * Wl * A``, ``H / stride``; None where a letter is not known."""
    total = 0
    for term in text.split("+"):
        product = 1
        for sign, factor in re.findall(r"([*/]?) *(\d+|[A-Za-z_]\w*'?)", term):
            number = int(factor) if factor.isdigit() else letters.get(factor)
            if number is None:
                return None
            product = product // number if sign == "/" else product * number
        total += product
    return total
