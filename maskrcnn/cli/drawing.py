"""How predictions are made and drawn, as options of a command."""

from __future__ import annotations

import argparse
from typing import Any

from maskrcnn.errors import UserError

#: Switches of ``maskrcnn.run.prediction.Prediction.draw``.
PARTS = ("fill", "outline", "labels", "scores", "numbers", "contrast", "enlarge")
DEFAULT = "fill,outline,labels,scores"


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """``--draw``, ``--colour-by`` and ``--tta``."""
    group = parser.add_argument_group("pictures and accuracy")
    group.add_argument(
        "--draw",
        default=DEFAULT,
        metavar="A,B",
        help=f"what overlays show, of {', '.join(PARTS)}; default {DEFAULT}",
    )
    group.add_argument(
        "--colour-by",
        choices=("auto", "class", "instance"),
        default="auto",
        help="default auto: by instance where there is one class",
    )
    group.add_argument(
        "--tta",
        nargs="?",
        const="{}",
        metavar="VIEWS",
        help="see each image scaled and mirrored too, which is slower and better; VIEWS as"
        " '{flips: [h, v], scales: [0.8, 1.0, 1.25]}', which eval.tta takes too",
    )


def drawing_style(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ``Prediction.draw``.

    Raises:
        UserError: ``--draw`` names what there is not.
    """
    from maskrcnn.config.registry import did_you_mean

    wished = [name for name in args.draw.split(",") if name]
    for name in wished:
        if name not in PARTS:
            raise UserError(f"--draw {name}: there is no such part.{did_you_mean(name, PARTS)}")
    return {**{name: name in wished for name in PARTS}, "colour_by": args.colour_by}


def with_tta(args: argparse.Namespace) -> list[str]:
    """The overrides of ``--set``, behind them that of ``--tta``."""
    return [*args.overrides, *([] if args.tta is None else [f"eval.tta={args.tta}"])]
