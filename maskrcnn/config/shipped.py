"""Where the configs lie that come with the package."""

from __future__ import annotations

from pathlib import Path

from maskrcnn.errors import UserError

#: Folders of parts and variants, which are no recipes of their own.
_NO_RECIPES = ("base", "ablations", "suites")


def shipped_configs() -> Path:
    """The folder ``configs``: inside an installed package, beside it in a checkout.

    Raises:
        UserError: there is neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "base").is_dir():
            return folder
    raise UserError(f"the folder configs is missing beside {package}; install the package again")


def shipped_recipes() -> dict[str, Path]:
    """The files of all recipes by name (their place below ``configs``, without ``.yaml``), in order."""
    root = shipped_configs()
    found = {path.relative_to(root): path for path in sorted(root.rglob("*.yaml"))}
    return {
        name.with_suffix("").as_posix(): path
        for name, path in found.items()
        if not set(name.parts[:-1]) & set(_NO_RECIPES)
    }
