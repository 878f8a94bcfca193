"""A key of a config with its reason, and a file of them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskrcnn.config.text import format_plain

#: Columns of a comment.
_WIDTH = 110


@dataclass(frozen=True)
class Choice:
    """key: dotted.  value: as YAML writes it.  reason: sentences; empty where another key's says it."""

    key: str
    value: str
    reason: str = ""


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{format_plain(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    return format_plain(value)


def written(head: str, bases: Sequence[str], choices: Iterable[Choice]) -> str:
    """The config: a comment, what it builds on, and its keys; those of one section stand together."""
    tree: dict[str, Any] = {}
    for choice in choices:
        *parts, last = choice.key.split(".")
        at = tree
        for part in parts:
            at = at.setdefault(part, {})
        at[last] = choice
    lines = [*_comment(head, ""), f"base: {flow(bases)}", *_lines(tree, "")]
    return "\n".join(lines) + "\n"


def _lines(tree: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, item in tree.items():
        if isinstance(item, Choice):
            yield from _comment(item.reason, indent)
            value = item.value if item.value.startswith("\n") else f" {item.value}"
            yield f"{indent}{format_plain(key)}:{value}".replace("\n", f"\n{indent}")
        else:
            yield f"{indent}{format_plain(key)}:"
            yield from _lines(item, indent + "  ")


def _comment(text: str, indent: str) -> Iterator[str]:
    for paragraph in text.splitlines():
        for line in textwrap.wrap(paragraph, _WIDTH - len(indent) - 2, break_on_hyphens=False):
            yield f"{indent}# {line}"
