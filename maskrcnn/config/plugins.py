"""Importing the user's own modules, so that their parts register themselves."""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from maskrcnn.config.nodes import Scalar
from maskrcnn.config.reader import shown
from maskrcnn.errors import ConfigError


def import_plugins(plugins: Sequence[Scalar], folders: Iterable[Path]) -> None:
    """Import modules; the given folders and the working folder are importable, after all else.

    Args:
        plugins: module names, with their places in the config.
        folders: those of the config files.

    Raises:
        ConfigError: an import fails; nothing that comes after it could be judged.
    """
    if not plugins:
        return
    search = list(dict.fromkeys(map(str, (*folders, Path.cwd()))))
    sys.path += [folder for folder in search if folder not in sys.path]  # last: never shadows a library
    importlib.invalidate_caches()
    for plugin in plugins:
        try:
            importlib.import_module(plugin.text)
        except (Exception, SystemExit) as e:
            raise ConfigError(f"{plugin.where}: plugins: {_failure(plugin.text, e, search)}") from e


def refuse_untrusted(plugins: Sequence[Scalar], overrides: Sequence[str]) -> None:
    """A text that comes out of a checkpoint imports nothing by itself.

    Raises:
        ConfigError: it names a module that is not imported yet and that no override ``plugins=[...]`` names.
    """
    consent = " ".join(o.partition("=")[2] for o in overrides if o.partition("=")[0].strip() == "plugins")
    trusted = {word.strip("'\"") for word in consent.strip("[] ").replace(",", " ").split()}
    for plugin in plugins:
        if plugin.text not in sys.modules and plugin.text not in trusted:
            raise ConfigError(
                f"{plugin.where}: it asks to import the plugin {plugin.text!r}, which would run code; if you"
                f" trust that module, add --set plugins=[{plugin.text}]"
            )


def plugins_fingerprint(names: Sequence[str]) -> str:
    """Twelve hex digits over the Python sources of imported plugins, whole packages; empty for no plugins."""
    if not names:
        return ""
    digest = hashlib.sha256()
    for name in names:
        file = Path(getattr(sys.modules.get(name), "__file__", None) or "")
        for path in sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]:
            digest.update(f"{name}/{path.name}\0".encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()[:12]


def _failure(name: str, error: BaseException, folders: Sequence[str]) -> str:
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing and (name == missing or name.startswith(missing + ".")):
        here = str(Path.cwd())
        searched = ", ".join(dict.fromkeys("the working folder" if f == here else f for f in folders))
        return f"no module named {missing!r}; looked in {searched} and among the installed packages"
    if name.startswith(".") or not all(part.isidentifier() for part in name.split(".")):
        return f"{name!r} is not a module name; write it as in 'import my_package.my_module'"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    place = f"{shown(Path(frames[-1].filename))}:{frames[-1].lineno}" if frames[1:] else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{shown(Path(error.filename))}:{error.lineno}"
    reason = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"cannot import {name!r}: {type(error).__name__}: {reason}" + (f" (at {place})" if place else "")
