"""``maskrcnn convert --config``: another framework's config as one of ours, laid over the nearest recipe."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from maskrcnn.config import dump
from maskrcnn.config.nodes import Problems
from maskrcnn.config.shipped import shipped_recipes, zoo_names
from maskrcnn.config.text import format_plain, parse
from maskrcnn.convert.configs.base_chain import read_chain
from maskrcnn.convert.configs.detectron2_defaults import DEFAULTS
from maskrcnn.convert.configs.detectron2_keys import convert_keys as from_detectron2
from maskrcnn.convert.configs.foreign_keys import Converted, ForeignConfig, plain
from maskrcnn.convert.configs.mmdetection_defaults import with_defaults
from maskrcnn.convert.configs.mmdetection_keys import convert_keys as from_mmdetection
from maskrcnn.convert.configs.python_file import read_python
from maskrcnn.errors import ConfigError, UserError, few, plural
from maskrcnn.files import write_text
from maskrcnn.recipe import load_recipe
from maskrcnn.run.recipe_checks import load_checked_recipe


@dataclass(frozen=True)
class ConvertedConfig:
    """text: of the config.  base: what it is laid over.  lines: what was done, to be printed."""

    text: str
    base: str
    lines: list[str]


def convert_config(path: Path, images: int | None = None) -> ConvertedConfig:
    """Read Detectron2's YAML or mmdetection's Python, without running it, and give our config.

    Args:
        images: of the training data, by which epochs are turned into steps; None: COCO's.

    Raises:
        ConfigError: it cannot be read, computes something, or describes what is not built here, by file:line.
    """
    found, left = _read(path, images)
    base, differing = _nearest(found)
    text = _text(path, found, base, differing, left)
    lines = [
        f"{path}: {found.maker}'s, laid over {base}: {plural(len(differing), 'key differs', 'keys differ')}"
    ]
    lines += [f"  {sentence}" for sentence in found.notes]
    lines += [f"  no counterpart: {few(left, 12)}"] if left else []
    return ConvertedConfig(text, base, lines)


def write_config(path: Path, output: Path | None, images: int | None = None) -> list[str]:
    """Write it to ``output``, once it passes what ``maskrcnn config check`` asks; None: it is only checked.

    Returns:
        what was done, a line each.

    Raises:
        ConfigError: as :func:`convert_config`.
        UserError: there is such a file.
    """
    if output is not None and output.suffix not in (".yaml", ".yml"):
        raise UserError(f"{output}: a config is a file .yaml; name one")
    if output is not None and output.exists():
        raise UserError(f"{output}: is there already; name another file, or remove it first")
    made = convert_config(path, images)
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / "converted.yaml"
        write_text(tried, made.text)
        try:
            load_checked_recipe(tried)
        except ConfigError as error:  # of a file that goes: the line as it stands there helps
            told = str(error).replace(f"{tried}:", "line ")
            raise ConfigError(
                f"{path}: what it becomes is no config of ours ({told}); mend that value"
            ) from None
    if output is None:
        return [made.text.rstrip("\n")]
    write_text(output, made.text)
    return [*made.lines, f"wrote {output}; look at it with maskrcnn config show {output}"]


def _read(path: Path, images: int | None) -> tuple[Converted, list[str]]:
    if path.suffix in (".yaml", ".yml"):
        theirs = ForeignConfig(read_chain(path), DEFAULTS)
        if not theirs.given("MODEL"):
            raise ConfigError(f"{path}: is no config of Detectron2, which has a key MODEL")
        with theirs.kinds_checked():
            found = from_detectron2(theirs)
    elif path.suffix == ".py":
        root = read_python(path)
        if "model" not in root.entries or not hasattr(root.entries["model"].node, "entries"):
            raise ConfigError(f"{path}: is no config of mmdetection, which assigns model = dict(...)")
        theirs = with_defaults(root)
        with theirs.kinds_checked():
            found = from_mmdetection(theirs, images)
    else:
        raise ConfigError(f"{path}: a config of Detectron2 is a .yaml file, one of mmdetection a .py file")
    return found, [*theirs.left()]


def _nearest(found: Converted) -> tuple[str, dict[str, Any]]:
    """The shipped recipe of the same parts with the fewest other values, and those.

    Raises:
        ConfigError: none has these parts.
    """
    best: tuple[str, dict[str, Any]] | None = None
    names = zoo_names()
    for place, file in shipped_recipes().items():
        if not place.startswith("coco/"):
            continue
        tree = _tree_of(file)
        if not all(_has(tree, key, wanted) for key, wanted in found.parts.items()):
            continue
        differing = {key: value for key, value in found.settings.items() if not _same(_at(tree, key), value)}
        for key in [k for k in differing if k.endswith(".type")]:  # another part begins with its own defaults
            above = key.removesuffix("type")
            differing |= {k: v for k, v in found.settings.items() if k.startswith(above)}
        if best is None or len(differing) < len(best[1]):
            best = names[place], differing
    if best is None:
        parts = few(f"{key} {value}" for key, value in found.parts.items())
        raise ConfigError(f"no recipe that comes with maskrcnn has these parts: {parts}")
    base, differing = best
    return base, {key: value for key, value in found.settings.items() if key in differing}


@cache
def _tree_of(file: Path) -> Any:
    """A recipe's values, all of them."""
    problems = Problems()
    node = parse(dump(load_recipe(file)), str(file), problems)
    problems.raise_if_any()
    assert node is not None
    return plain(node)


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _has(tree: Any, key: str, wanted: str | bool | None) -> bool:
    part = _at(tree, key)
    if isinstance(wanted, bool):
        return (part is not None) == wanted
    return (part is None) if wanted is None else isinstance(part, Mapping) and part.get("type") == wanted


def _same(ours: Any, theirs: Any) -> bool:
    """Whether a value is what the recipe has; of a mapping, the keys that are given."""
    if isinstance(theirs, Mapping):
        return isinstance(ours, Mapping) and all(_same(ours.get(k), v) for k, v in theirs.items())
    if isinstance(theirs, (list, tuple)):
        both = isinstance(ours, list) and len(ours) == len(theirs)
        return both and all(_same(a, b) for a, b in zip(ours, theirs, strict=True))
    if isinstance(theirs, (int, float)) and isinstance(ours, (int, float)):
        return abs(ours - theirs) <= 1e-9 * max(abs(ours), abs(theirs))
    return bool(ours == theirs)


def _text(path: Path, found: Converted, base: str, differing: Mapping[str, Any], left: Sequence[str]) -> str:
    lines = [
        f"# {path.name} of {found.maker}, by `maskrcnn convert --config`: where it differs from the base."
    ]
    lines += [f"# {sentence}" for sentence in found.notes]
    lines += [f"# no counterpart: {key}" for key in left]
    lines += [f"# of its program alone: {', '.join(found.run_keys)}"] if found.run_keys else []
    lines += [f"base: {base}", "expect: []"]
    tree: dict[str, Any] = {}
    for key, value in differing.items():
        *above, last = key.split(".")
        inner = tree
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = _Leaf(value, found.source.get(key, ""))
    lines += _block(tree, "")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Leaf:
    value: Any
    source: str


def _block(tree: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, _Leaf):
            comment = f"  # {value.source}" if value.source else ""
            if isinstance(value.value, list) and value.value and isinstance(value.value[0], Mapping):
                yield f"{indent}{key}:{comment}"
                yield from (f"{indent}  - {_flow(item)}" for item in value.value)
            else:
                yield f"{indent}{key}: {_flow(value.value)}{comment}"
        else:
            yield f"{indent}{key}:"
            yield from _block(value, f"{indent}  ")


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return format_plain(value)
