"""``maskrcnn export``: a model as an ONNX, torch.export or OpenVINO file, proven equal."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.parser import add_checkpoint_argument, add_set_argument

#: The file was not proven equal.
EXIT_UNVERIFIED = 1

HELP = (
    "write a checkpoint as ONNX, torch.export or OpenVINO, compared with the model before it is called good"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_checkpoint_argument(parser)
    parser.add_argument("--to", choices=("onnx", "torch", "openvino"), required=True, help="the format")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="MODEL.onnx, MODEL.pt2 or MODEL.xml"
    )
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        metavar="PART",
        help="of onnx and openvino leave out: resize (images come in the network frame), paste (masks are"
        " probabilities over their boxes)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="of openvino: what its layers compute in; int8 takes its ranges from images of data.train;"
        " default: float32",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="compare on the first N images of data.val; default: all"
    )
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write it; 1 where it keeps the name ``.unverified``, else 0."""
    from maskrcnn.errors import UserError
    from maskrcnn.run.export.exporting import export

    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit must be at least 1, got {args.limit}")
    found = export(
        args.checkpoint,
        args.to,
        args.output,
        without=args.without,
        precision=args.precision,
        limit=args.limit,
        overrides=tuple(args.overrides),
        tell=lambda line: print(line, flush=True),
    )
    return 0 if found.good else EXIT_UNVERIFIED
