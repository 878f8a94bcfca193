"""Where the configs lie that come with the package, and the names by which they are found from anywhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from maskrcnn.errors import ConfigError, UserError, few, plural

#: Folders of parts and variants, which are no recipes of their own.
_NO_RECIPES = ("base", "ablations", "suites")
#: First part of a shipped name.  It is asked for, so that a file of one's own that is missing is never
#: replaced by one of ours that happens to be called the same.
_PREFIX = "configs"
#: The other one, which also begins short names: see :func:`zoo_names`.
ZOO = "zoo"
#: Names that a message lists.
_LISTED = 3


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


def zoo_names() -> dict[str, str]:
    """What one types for each recipe, by its place as :func:`shipped_recipes` has it, in that order.

    ``zoo/`` and its folder, where that holds no other recipe (``zoo/nuclei``); else the name of its file,
    where no other recipe has that (``zoo/mask_rcnn_r50_fpn_1x``); else its place.
    """
    recipes = shipped_recipes()
    taken = _short_names(recipes)
    short = {places[0]: name for name, places in reversed(taken.items()) if len(places) == 1}
    return {place: f"{ZOO}/{short.get(place, place)}" for place in recipes}


def _short_names(recipes: Iterable[str]) -> dict[str, list[str]]:
    """Folder and file names of recipes, folders first, and the places of all recipes that each stands for."""
    found: dict[str, list[str]] = {}
    for part in (0, -1):
        for place in recipes:
            parts = place.split("/")
            if place not in found.setdefault(parts[part], []):
                found[parts[part]].append(place)
    return found


def is_shipped_name(name: str) -> bool:
    """Whether ``name`` begins as those of shipped files do, and leads nowhere else."""
    parts = _parts(name)
    return len(parts) > 1 and parts[0] in (_PREFIX, ZOO) and ".." not in parts


def shipped_file(name: str) -> Path | None:
    """The file that comes with the package under a name like ``configs/base/mask_rcnn_fpn.yaml``.

    Args:
        name: as it stands below a checkout, with ``zoo`` in place of ``configs`` if one likes; ``.yaml`` may
            be left out.  Or ``zoo/`` and a recipe's short name, as ``zoo/nuclei``; see :func:`zoo_names`.

    Returns:
        None where it is no such name.

    Raises:
        ConfigError: several recipes have this short name.
    """
    root = _root()
    if root is None or not is_shipped_name(name):
        return None
    first, *rest = _parts(name)
    path = root.joinpath(*rest)
    candidates = (path, path.with_name(f"{path.name}.yaml"))
    found = next((p for p in candidates if p.is_file()), None)
    if found is not None or first != ZOO or len(rest) != 1:
        return found
    recipes = shipped_recipes()
    places = _short_names(recipes).get(rest[0].removesuffix(".yaml"), [])
    if len(places) > 1:
        names = few((f"{ZOO}/{place}" for place in places), _LISTED)
        raise ConfigError(
            f"{name} stands for {plural(len(places), 'recipe')} ({names}); name one of them, maskrcnn zoo"
            " lists all"
        )
    return recipes[places[0]] if places else None


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
    first, _, wanted = name.removesuffix(".yaml").partition("/")
    if root is None or first not in (_PREFIX, ZOO):
        return None
    known = [p.relative_to(root).with_suffix("").as_posix() for p in sorted(root.rglob("*.yaml"))]
    short: dict[str, str] = {}
    if first == ZOO:  # of a part or variant its own name counts too: zoo/gn is meant for zoo/base/gn
        short = {place.rpartition("/")[2]: place for place in reversed(known)}
        short |= {name: name for name in (typed.partition("/")[2] for typed in zoo_names().values())}
    near = difflib.get_close_matches(wanted, [*short, *known], n=1, cutoff=0.6)
    if not near:
        return None
    return f"{ZOO}/{short.get(near[0], near[0])}" if first == ZOO else f"{_PREFIX}/{near[0]}.yaml"


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts


def _root() -> Path | None:
    try:
        return shipped_configs().resolve()
    except UserError:  # an installation without them: then nothing has such a name
        return None
