"""``maskrcnn train``: train a recipe, or go on with a run."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from maskrcnn.cli.parser import add_set_argument
from maskrcnn.errors import CheckpointError, UserError

HELP = "train a model from a config file, with evaluations, checkpoints and logs in a run folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        help="the YAML file; with --resume RUN that run's own by default",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on from the newest checkpoint of RUN, by default of the config's run folder;"
        " starts at step 0 where there is none yet",
    )
    parser.add_argument(
        "--drop-head",
        action="store_true",
        help="start the output layers afresh: the key 'weights' names a file for other classes",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="with --resume: refuse where data, code, config, torch or devices are not what they were",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="run folder; default runs/<config name>")
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train.

    Raises:
        Interrupted: see :func:`maskrcnn.run.train.train`.
    """
    from maskrcnn.run import train
    from maskrcnn.run.recipe_checks import load_checked_recipe

    if args.strict and args.resume is None:
        raise UserError("--strict compares a run with its resumption; give --resume as well, or leave it out")
    config, output = _places(args)
    if args.drop_head:
        args.overrides.append("drop_head=true")
    recipe = load_checked_recipe(config, args.overrides)
    output = output or recipe.output or Path("runs") / Path(config).stem
    settings = [part for item in args.overrides for part in ("--set", item)]
    hint = shlex.join(["maskrcnn", "train", str(config), *settings, "--resume", str(output)])
    train(recipe, output, resume=args.resume is not None, resume_hint=hint, strict=args.strict)
    return 0


def _places(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """The config file and, where the command line says it, the run folder."""
    resumed = Path(args.resume) if args.resume else None
    if resumed is not None and args.output is not None and resumed != args.output:
        raise UserError("--resume RUN and --output DIR name two run folders; give one of them")
    if resumed is not None and not resumed.is_dir():
        raise UserError(f"--resume {resumed}: {_no_run(resumed, args.config)}")
    if args.config is not None:
        return Path(args.config), resumed or args.output
    if resumed is None:
        raise UserError("name a config file, or a run to go on with: maskrcnn train --resume RUN")
    if not (resumed / "config.yaml").is_file():
        raise UserError(f"--resume {resumed}: no config.yaml in it; name the config file as well")
    return resumed / "config.yaml", resumed


def _no_run(path: Path, config: str | None) -> str:
    """Why ``path`` is no run folder, and what was probably meant."""
    if not path.is_file():
        return "there is no such run folder" + (f"; to begin it: --output {path} --resume" if config else "")
    if path.suffix in (".yaml", ".yml"):
        return f"is a config file; write maskrcnn train {path} --resume to go on in its run folder"
    from maskrcnn.engine.checkpoint import load, refuse_stripped  # brings torch

    try:
        found = load(path)
    except CheckpointError:  # some file or other
        found = None
    if found is not None:
        refuse_stripped(found, path)
    run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return f"is a file; name its run folder, as --resume {run}, which goes on from the newest checkpoint"
