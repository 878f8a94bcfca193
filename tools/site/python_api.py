"""What is public in Python, as a page of directives for mkdocstrings."""

from __future__ import annotations

import inspect
from importlib import import_module

from tools.site.keys import plain

#: Modules whose ``__all__`` is public, or names of it, with what they are for.
PUBLIC: dict[str, tuple[str, tuple[str, ...]]] = {
    "maskrcnn": ("One object that trains, is evaluated and predicts.", ("Model",)),
    "maskrcnn.run": (
        "What the commands do, as functions.",
        ("Predictor", "Prediction", "Evaluation", "RunFolder", "TrainResult", "evaluate", "propose", "train"),
    ),
    "maskrcnn.layers": ("RoI operators, non-maximum suppression and matching.", ()),
    "maskrcnn.recipe": ("The whole of a config.", ("Recipe", "load_recipe")),
    "maskrcnn.config": ("Configs, read and written.", ("load", "loads", "dump", "fingerprint", "Range")),
    "maskrcnn.modeling.interfaces": (
        "What a part of one's own offers.",
        ("Backbone", "Neck", "RoIHead", "RoIFeatures"),
    ),
    "maskrcnn.data.interfaces": ("The same of data.", ("Dataset", "Transform")),
    "maskrcnn.errors": ("Mistakes of users.", ("UserError", "ConfigError", "DataError", "CheckpointError")),
}


def public() -> dict[str, dict[str, object]]:
    """The public classes and functions by the module that hands them out and their names."""
    found: dict[str, dict[str, object]] = {}
    for module, (_, names) in PUBLIC.items():
        handed = import_module(module)
        members = {name: getattr(handed, name) for name in names or handed.__all__}
        found[module] = {
            n: m for n, m in members.items() if inspect.isclass(m) or inspect.isroutine(m)
        }  # registries are documented by the keys that they serve
    return found


def page() -> str:
    """A heading a module, a directive a name."""
    parts = [
        "# The Python API",
        "What stands here is public: [its changes follow the version](../compatibility.md).",
    ]
    for module, members in public().items():
        parts.append(f"## {module}\n\n{plain(PUBLIC[module][0])}")
        parts += [f"::: {m.__module__}.{m.__qualname__}" for m in members.values()]  # type: ignore[attr-defined]
    return "\n\n".join(parts) + "\n"
