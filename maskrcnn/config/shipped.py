"""Where the configs lie that come with the package, and the names by which they are found from anywhere."""

from __future__ import annotations

import difflib
from pathlib import Path, PurePosixPath

from maskrcnn.errors import UserError

#: Folders of parts and variants, which are no recipes of their own.
_NO_RECIPES = ("base", "ablations", "suites")
#: First part of a shipped name.  It is asked for, so that a file of one's own that is missing is never
#: replaced by one of ours that happens to be called the same.
_PREFIX = "configs"


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


def shipped_file(name: str) -> Path | None:
    """The file that comes with the package under a name like ``configs/base/mask_rcnn_fpn.yaml``.

    Args:
        name: as it stands below a checkout; ``.yaml`` may be left out.

    Returns:
        None where it is no such name.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if len(parts) < 2 or parts[0] != _PREFIX or ".." in parts:
        return None
    root = _root()
    if root is None:
        return None
    path = root.joinpath(*parts[1:])
    candidates = (path, path.with_name(f"{path.name}.yaml"))
    return next((p for p in candidates if p.is_file()), None)


def shipped_name(path: Path) -> str | None:
    """The name by which :func:`shipped_file` finds ``path``; None where it does not come with the package."""
    root = _root()
    real = path.resolve()
    if root is None or root not in real.parents:
        return None
    return f"{_PREFIX}/{real.relative_to(root).as_posix()}"


def similar_shipped(name: str) -> str | None:
    """The shipped name nearest to one that begins like one; None where nothing is near."""
    root = _root()
    if root is None or not name.startswith(f"{_PREFIX}/"):
        return None
    known = [p.relative_to(root).with_suffix("").as_posix() for p in sorted(root.rglob("*.yaml"))]
    wanted = name.removeprefix(f"{_PREFIX}/").removesuffix(".yaml")
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.6)
    return f"{_PREFIX}/{near[0]}.yaml" if near else None


def _root() -> Path | None:
    try:
        return shipped_configs().resolve()
    except UserError:  # an installation without them: then nothing has such a name
        return None
