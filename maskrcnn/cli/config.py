"""``maskrcnn config show|check|diff``: look at configs without running them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from maskrcnn.cli.parser import add_config_arguments, add_set_argument
from maskrcnn.config import Loaded, dump, flatten
from maskrcnn.config.encode import one_line
from maskrcnn.config.schema import Slot
from maskrcnn.errors import ConfigError

HELP = "show what a config resolves to and where each value was set, check configs, compare two"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="show|check|diff")

    show = actions.add_parser("show", help="print the resolved config, with where each value was set")
    add_config_arguments(show)
    show.add_argument("--plain", action="store_true", help="values alone: a complete config file")

    check = actions.add_parser(
        "check",
        help="validate configs and try their models; exit status 2 for a wrong one, a warning for a doubt",
    )
    check.add_argument("configs", metavar="CONFIG", nargs="+", help="the YAML files")
    add_set_argument(check)

    diff = actions.add_parser("diff", help="print the values that differ; exit status 1 if any does")
    diff.add_argument("a", metavar="A", help="the first YAML file")
    diff.add_argument("b", metavar="B", nargs="?", help="the second; left out: A again, changed by --set")
    add_set_argument(diff)


def run(args: argparse.Namespace) -> int:
    """Dispatch to the sub-command.

    Raises:
        ConfigError: a config is wrong (``check`` prints it instead).
    """
    if args.action == "show":
        loaded = _resolve(args.config, args.overrides)
        print(dump(loaded.value) if args.plain else loaded.render(), end="")
        if not args.plain:
            _show_named(loaded.value)
        return 0
    if args.action == "check":
        return _check(args.configs, args.overrides)
    return _diff(args.a, args.b, args.overrides)


def _resolve(path: str, overrides: list[str]) -> Loaded[Any]:
    from maskrcnn.recipe import load_traced_recipe  # brings torch, which --help need not wait for

    return load_traced_recipe(path, overrides)


def _show_named(recipe: Any) -> None:
    """Print what a recipe's named augmentation stands for, as comments."""
    from maskrcnn.data.interfaces import TRANSFORMS

    named = recipe.data.augmentation() if hasattr(recipe, "data") else ()
    if named:
        print("# Behind data.train_transforms data.augment and data.tighten_boxes put:")
    for transform in named:
        print(f"#   - {one_line(Slot(TRANSFORMS), transform)}")


def _check(paths: list[str], overrides: list[str]) -> int:
    status = 0
    for path in paths:
        try:
            loaded = _resolve(path, overrides)
            doubts, fetched = _doubts(loaded), _fetched(loaded)
        except ConfigError as e:
            print(e, file=sys.stderr)
            status = 2
        else:
            print(f"{path}: ok")
            for sentence in fetched:
                print(f"{path}: {sentence}")
            for doubt in doubts:
                print(f"warning: {path}: {doubt}", file=sys.stderr)
    return status


def _doubts(loaded: Loaded[Any]) -> list[str]:
    """What is valid and yet likely a mistake, as far as it shows without data and memory.

    Raises:
        ConfigError: parts do not fit.
    """
    from maskrcnn.run.evaluation_checks import check_figures
    from maskrcnn.run.learnable import solver_doubts
    from maskrcnn.run.recipe_checks import check_recipe
    from maskrcnn.run.setup import cuda_levels_doubt

    levels = cuda_levels_doubt(loaded.value)
    return [
        *check_recipe(loaded, [check_figures]),
        *solver_doubts(loaded.value.solver),
        *([levels] if levels else []),
    ]


def _fetched(loaded: Loaded[Any]) -> list[str]:
    """What a training would fetch first, a sentence each."""
    from maskrcnn.run.recipe_checks import to_fetch

    return to_fetch(loaded.value)


def _diff(first: str, second: str | None, overrides: list[str]) -> int:
    """``--set`` changes the second config only, so that one file can be compared with its own variant."""
    a, b = _resolve(first, []), _resolve(first if second is None else second, overrides)
    old, new = flatten(a.value), flatten(b.value)
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if not differing:
        return 0
    print(f"--- {first}")
    print("+++ " + " ".join([second or first, *(f"--set {item}" for item in overrides)]))
    for key in differing:
        for sign, values, loaded in (("-", old, a), ("+", new, b)):
            if key in values:
                print(f"{f'{sign} {key}: {values[key]}':<56}  # {loaded.origin(key).short}")
    return 1
