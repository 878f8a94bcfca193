"""Every key of a config as Markdown: what it takes, its default, and the comment at its field."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from maskrcnn.config.encode import one_line
from maskrcnn.config.registry import Registry
from maskrcnn.config.schema import DictOf, Field, ListOf, Maybe, Slot, Spec, Struct, describe, fields_of
from maskrcnn.recipe import Recipe

HEAD = "| key | takes | default | meaning, range, source |\n|---|---|---|---|\n"


def pages() -> dict[str, str]:
    """Markdown by the part of a config: ``run`` (what stands at the top), ``data``, ``model`` ..."""
    parts = {"run": table(Recipe, "", own=True)}
    for name, field in fields_of(Recipe).items():
        cls = struct_of(field.spec)
        if cls is not None:
            parts[name] = "\n".join(sections(cls, name))
    titles = {"run": "Keys of a run"}
    return {name: f"# {titles.get(name, f'Keys: {name}')}\n\n{text}" for name, text in parts.items()}


def sections(cls: type, path: str) -> Iterator[str]:
    """The table of a dataclass, then those of what it holds: dataclasses, and the parts of its slots."""
    yield f"## `{path}`\n\n{about(cls)}\n\n{table(cls, f'{path}.')}"
    slots: dict[int, tuple[Registry[Any], list[str]]] = {}
    for name, field in fields_of(cls).items():
        inner = struct_of(field.spec)
        if inner is not None:
            yield from sections(inner, f"{path}.{name}")
        for registry in slots_of(field.spec):
            slots.setdefault(id(registry), (registry, []))[1].append(f"{path}.{name}")
    for registry, where in slots.values():
        for kind in registry.names():
            part = registry.get(kind)
            if part.__module__.startswith("maskrcnn."):  # others come of plugins that this process imported
                named = ", ".join(f"`{place}`" for place in where)
                title = f"## `type: {kind}` of {named}"
                yield f"{title}\n\n{about(part)}\n\n{table(part, '') or 'It has no keys.'}"
                inside = ((f"{kind}.{n}", struct_of(f.spec)) for n, f in fields_of(part).items())
                for place, inner in inside:
                    if inner is not None:
                        yield from sections(inner, place)


def table(cls: type, prefix: str, own: bool = False) -> str:
    """A row a key; ``own``: only of keys that hold no dataclass."""
    said = comments(cls)
    rows = [
        f"| `{prefix}{name}` | {cell(takes(field))} | {default(field)} | {cell(said.get(name, ''))} |"
        for name, field in fields_of(cls).items()
        if not (own and struct_of(field.spec) is not None)
    ]
    return HEAD + "\n".join(rows) + "\n" if rows else ""


def comments(cls: type) -> dict[str, str]:
    """The ``#:`` comment above each field, of the class or of the one that it has the field from."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if "__annotations__" not in vars(owner):
            continue
        lines = inspect.getsource(owner).splitlines()
        (tree,) = ast.parse(textwrap.dedent("\n".join(lines))).body
        assert isinstance(tree, ast.ClassDef)
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                first = node.lineno - 1
                while lines[first - 1].strip().startswith("#:"):
                    first -= 1
                words = [line.strip().removeprefix("#:").strip() for line in lines[first : node.lineno - 1]]
                found[node.target.id] = " ".join(words)
    return found


def takes(field: Field) -> str:
    """``an integer > 0``; of a slot the names of its parts."""
    inner = field.spec.inner if isinstance(field.spec, Maybe) else field.spec
    if isinstance(inner, Slot):
        return f"one of {', '.join(inner.registry.names())}" + (" or null" if inner is not field.spec else "")
    items = inner.item if isinstance(inner, ListOf) else inner.value if isinstance(inner, DictOf) else None
    of = "" if items is None or isinstance(items, Struct) else f", each {describe(items)}"
    return describe(field.spec) + of


def default(field: Field) -> str:
    """Its default as YAML, of a slot the name of the part; or that it must be given."""
    if field.required:
        return "*required*"
    value, inner = field.default(), field.spec.inner if isinstance(field.spec, Maybe) else field.spec
    if value is None:
        return "`null`"
    text = inner.registry.name_of(type(value)) if isinstance(inner, Slot) else one_line(field.spec, value)
    return f"`{text}`".replace("|", "\\|")


def about(cls: type) -> str:
    """The first paragraph of its docstring."""
    return plain(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0])


def cell(text: str) -> str:
    """Prose for a cell of a table: what Markdown would read as a sign, outside of code, is escaped."""
    parts = re.split(r"(``?[^`]+``?)", plain(text))
    quoted = [p if p.startswith("`") else re.sub(r"([*<\[\]])", r"\\\1", p) for p in parts]
    return "".join(quoted).replace("|", "\\|").replace("\n", " ")


def plain(text: str) -> str:
    """Without the roles of docstrings: :class:`X` is `X`."""
    return re.sub(r":(?:class|func|meth|mod|data|attr|exc):`~?([^`]+)`", r"`\1`", text)


def struct_of(spec: Spec) -> type | None:
    """The dataclass that a key holds, in whatever way."""
    match spec:
        case Struct(cls):
            return cls
        case Maybe(inner) | ListOf(inner) | DictOf(inner):
            return struct_of(inner)
    return None


def slots_of(spec: Spec) -> Iterator[Registry[Any]]:
    """The registry whose parts a key takes."""
    match spec:
        case Slot(registry):
            yield registry
        case Maybe(inner) | ListOf(inner) | DictOf(inner):
            yield from slots_of(inner)
