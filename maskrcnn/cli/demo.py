"""``maskrcnn demo``: a small training on generated data, from nothing to figures and pictures."""

from __future__ import annotations

import argparse
from itertools import chain, count
from pathlib import Path

from maskrcnn.cli.parser import add_set_argument

_HALF = "solver.precision=bfloat16"
HELP = "train and evaluate a small model on generated data, in minutes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="default: demo.yaml of the shipped configs"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="run folder; default runs/demo, runs/demo-2 ..."
    )
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, say what to look at; the last line is ``RESULT bbox_AP=... segm_AP=...``."""
    from maskrcnn.config.shipped import shipped_configs
    from maskrcnn.engine.distributed import choose_device
    from maskrcnn.modeling.precision import computes_bfloat16
    from maskrcnn.run import train
    from maskrcnn.run.recipe_checks import load_checked_recipe

    config = args.config or shipped_configs() / "demo.yaml"
    recipe = load_checked_recipe(config, args.overrides)
    chosen = args.config is not None or any(w.startswith("solver.precision=") for w in args.overrides)
    if not chosen and computes_bfloat16(choose_device(recipe.device)):
        recipe = load_checked_recipe(config, [_HALF, *args.overrides])
        print(f"{_HALF}, which this machine computes faster (--set solver.precision=float32 turns it off)")
    output = args.output or free_folder(Path("runs") / config.stem)
    result = train(recipe, output, resume_hint=f"maskrcnn train --resume {output}")
    folder = result.folder
    print(
        f"\nrun folder   {folder.path}\n"
        f"pictures     {folder.pictures}/*.png: predictions beside the truth\n"
        f"curves       tensorboard --logdir {folder.path}\n"
        f"evaluate     maskrcnn eval --checkpoint {folder.path}\n"
        f"predict      maskrcnn predict --checkpoint {folder.path} IMAGE..."
    )
    parts = [f"{kind}_AP={result.metrics.get(f'{kind}/AP', 0.0):.3f}" for kind in ("bbox", "segm")]
    print("RESULT " + " ".join(parts), flush=True)
    return 0


def free_folder(path: Path) -> Path:
    """``path``, or ``path-2``, ``path-3`` ... where it is taken: a demo never refuses to start."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(p for p in chain([path], numbered) if not p.exists() or (p.is_dir() and not any(p.iterdir())))
