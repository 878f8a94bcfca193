"""A config of another framework: its values by key path, which of them were taken, what became of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from maskrcnn.config.nodes import Map, Node, Origin, Scalar, Seq, join
from maskrcnn.errors import ConfigError

#: What stands for a value that no file gives.
MISSING = object()
#: What neither framework has, or does in one way: a recipe that does otherwise is overruled.
ALIKE: dict[str, Any] = {
    "data.copy_paste": None,
    "data.repeat_threshold": None,
    "data.train.max_images": None,
    "data.val.max_images": None,
    "data.train.filter_empty": True,
    "model.backbone.zero_init_residual": False,
    "model.roi.background_iou": 0.0,
    "model.roi.min_size": 0.0,
    "model.roi.level_rule": "detectron2",
    "model.rpn.normalize_by": "capacity",
    "model.rpn.rank_by": "logit",
    "model.rpn.anchors.rounded": False,
    "model.rpn.anchors.true_stride": True,
    "solver.optimizer.weight_decay_bias": None,
    "eval.paste": "aligned",
}


class ForeignConfig:
    """Values by key path (``model.backbone.depth``; items of lists by their index)."""

    def __init__(
        self, root: Map, defaults: Mapping[str, Any], usual: Mapping[str, Any] | None = None
    ) -> None:
        """
        Args:
            defaults: what their framework has where no file gives a value, by key path.
            usual: what its own files give where it has no default; it is told, never taken.
        """
        self.root = root
        self._defaults = defaults
        self._usual = usual or {}
        self._taken: set[str] = set()
        self._last = ""

    def node(self, path: str) -> Node | None:
        """The value at a key path, as the files have it."""
        node: Node | None = self.root
        for part in path.split("."):
            if isinstance(node, Map):
                node = node.entries[part].node if part in node.entries else None
            elif isinstance(node, Seq) and part.isdigit() and int(part) < len(node.items):
                node = node.items[int(part)]
            else:
                return None
        return node

    def given(self, path: str) -> bool:
        """Whether a file gives it."""
        return self.node(path) is not None

    def peek(self, path: str) -> Any:
        """The value that a file gives, or None; it does not count as taken."""
        node = self.node(path)
        return None if node is None else plain(node)

    def get(self, path: str, default: Any = MISSING) -> Any:
        """The value, or their default, or ``default``; it and all below it count as taken."""
        self._taken.add(path)
        node = self.node(path)
        if node is not None:
            self._last = path
            return plain(node)
        return self._defaults.get(path, None if default is MISSING else default)

    def must(self, path: str) -> Any:
        """The value, or their default.

        Raises:
            ConfigError: neither is there.
        """
        if not self.given(path) and path not in self._defaults:
            usual = f"={self._usual[path]!r}, as in its own configs" if path in self._usual else ""
            what = "is not given, and has no default there"
            self.refuse(path, f"{what}; add {path.rpartition('.')[2]}{usual}")
        return self.get(path)

    def where(self, path: str) -> Origin:
        """Where it stands; the file where it does not."""
        while path:
            node = self.node(path)
            if node is not None:
                return node.where
            path = path.rpartition(".")[0]
        return Origin(self.root.where.name)

    def refuse(self, path: str, what: str) -> NoReturn:
        """
        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.where(path)}: {path}: {what}")

    @contextmanager
    def kinds_checked(self) -> Iterator[None]:
        """Within it a value that is computed with, and is of no kind for that, is refused.

        Raises:
            ConfigError: by file:line of the value that was asked for last.
        """
        try:
            yield
        except ConfigError:  # a sentence of its own
            raise
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
            self.refuse(self._last, f"{self.peek(self._last)!r} is of another kind than is known there")

    def needs(self, path: str, known: Mapping[Any, Any], default: Any = MISSING) -> Any:
        """What ``known`` has for the value.

        Raises:
            ConfigError: it has nothing; this is what decides the network.
        """
        value = self.must(path) if default is MISSING and path in self._usual else self.get(path, default)
        try:
            return known[value]
        except (KeyError, TypeError):
            words = ", ".join(str(k) or "''" for k in known)
            if value is None and not self.given(path):
                self.refuse(path, f"is not given; add {path.rpartition('.')[2]}, one of {words}")
            self.refuse(path, f"{value!r} has no counterpart here; known are {words}")

    def left(self) -> Iterator[str]:
        """Key paths that a file gives and nothing took."""
        yield from _left(self.root, "", self._taken)


def _left(node: Node, path: str, taken: set[str]) -> Iterator[str]:
    if path in taken:
        return
    if isinstance(node, Map) and node.entries:
        for key, entry in node.entries.items():
            yield from _left(entry.node, join(path, key), taken)
    elif isinstance(node, Seq) and any(isinstance(item, Map) for item in node.items):
        for i, item in enumerate(node.items):
            yield from _left(item, join(path, i), taken)
    else:
        yield path


def plain(node: Node) -> Any:
    """A value as Python has it; lists for sequences.  A text like ``(1, 2)`` is the tuple that it shows."""
    if isinstance(node, Map):
        return {key: plain(entry.node) for key, entry in node.entries.items()}
    if isinstance(node, Seq):
        return [plain(item) for item in node.items]
    assert isinstance(node, Scalar)
    if isinstance(node.value, str) and node.value[:1] in ("(", "["):
        try:
            return _lists(ast.literal_eval(node.value))
        except (ValueError, SyntaxError):
            return node.value
    return node.value


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


@dataclass
class Converted:
    """A config in our keys.

    parts: key -> whether the base has a part there, or its type: what decides which recipe it is laid over.
    settings: our key path -> value.
    source: our key path -> their key, for a comment.
    notes: what has no counterpart, and what is to be done by hand, a sentence each.
    run_keys: of their program alone, which say nothing of a training's result.
    """

    maker: str
    parts: dict[str, str | bool | None] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=lambda: dict(ALIKE))
    source: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    run_keys: list[str] = field(default_factory=list)

    def set(self, key: str, value: Any, of: str = "") -> None:
        """Note a value of ours, and their key that it comes from."""
        self.settings.pop(key, None)  # in the order in which they are set
        self.settings[key], self.source[key] = value, of

    def copy(self, theirs: ForeignConfig, key: str, path: str, default: Any = MISSING) -> None:
        """A value that means the same in both."""
        self.set(key, theirs.must(path) if default is MISSING else theirs.get(path, default), path)

    def map(self, theirs: ForeignConfig, key: str, path: str, known: Mapping[Any, Any]) -> None:
        """A value that is called otherwise here.

        Raises:
            ConfigError: it is none of ``known``.
        """
        self.set(key, theirs.needs(path, known), path)

    def note(self, sentence: str) -> None:
        """Once each."""
        if sentence not in self.notes:
            self.notes.append(sentence)
