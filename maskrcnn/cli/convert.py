"""``maskrcnn convert``: another framework's weights or config as ours, or our weights as torchvision's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from maskrcnn.cli.parser import add_set_argument
from maskrcnn.errors import UserError

HELP = "take over weights or a config from other frameworks, or hand our weights to torchvision"

MAKERS = ("torchvision", "detectron2", "maskrcnn-benchmark", "mmdetection")
#: Of classifiers alone.
CLASSIFIERS = ("timm", "efficientnet-pytorch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--from",
        dest="source",
        choices=("auto", *MAKERS, *CLASSIFIERS),
        default="auto",
        help="who made IN; default auto: recognised by its names.  Another one than recognised is an error",
    )
    way.add_argument(
        "--to",
        dest="target",
        choices=("torchvision",),
        help="IN is a checkpoint of ours, OUT for torchvision",
    )
    way.add_argument(
        "--config",
        action="store_true",
        help="IN is a config: Detectron2's (.yaml) or mmdetection's (.py, read and never run); OUT is ours",
    )
    parser.add_argument(
        "input",
        metavar="IN",
        type=Path,
        help="a detector or an ImageNet classifier (.pth, .pkl, .safetensors); with --config a config",
    )
    parser.add_argument(
        "output",
        metavar="OUT",
        type=Path,
        nargs="?",
        help="the file to write; with --config the config is printed without it",
    )
    parser.add_argument(
        "--train-images",
        type=int,
        metavar="N",
        help="with --config: images of the training data, where a schedule counts epochs; default COCO's",
    )
    parser.add_argument(
        "--classes",
        choices=("auto", "all", "coco80"),
        default="auto",
        help="all: every class of the file; coco80: COCO's 80 of torchvision's 90; auto: coco80 where a file"
        " of torchvision has 90 classes, else all",
    )
    parser.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="names of the classes: one a line, or a COCO json; default: COCO's where there are 80",
    )
    parser.add_argument(
        "--channels",
        choices=("auto", "rgb", "bgr"),
        default="auto",
        help="the order of colours that IN reads; default: concluded from its weights",
    )
    parser.add_argument(
        "--bn-eps",
        type=float,
        help="epsilon of its frozen batch normalisation; default: its maker's (0 for torchvision's published"
        " version-1 detectors, which are known by their checksum)",
    )
    parser.add_argument(
        "--drop-head", action="store_true", help="leave out the output layers, to fine-tune for other classes"
    )
    parser.add_argument("--verbose", action="store_true", help="list every tensor")
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Convert, write, and say what was matched.

    Raises:
        CheckpointError: the input is unreadable or does not match whole; the output cannot be written.
        ConfigError: the classes or the keys asked for do not fit the file.
    """
    if args.config:
        return _config(args)
    if args.output is None:
        raise UserError("maskrcnn convert needs OUT, the file to write")
    if args.train_images is not None:
        raise UserError("--train-images goes with --config")
    from maskrcnn.run.convert import Options, convert_file, export_torchvision

    if args.target is not None:
        if given := _given(args, ("classes", "names", "channels", "bn_eps", "drop_head")):
            raise UserError(f"{', '.join(given)}: of no use with --to torchvision")
        print("\n".join(export_torchvision(args.input, args.output, args.overrides)))
        return 0
    options = Options(
        source=args.source,
        coco80={"auto": None, "all": False, "coco80": True}[args.classes],
        names=args.names,
        bgr={"auto": None, "rgb": False, "bgr": True}[args.channels],
        bn_eps=args.bn_eps,
        drop_head=args.drop_head,
        overrides=args.overrides,
    )
    report = convert_file(args.input, args.output, options)
    if args.verbose:
        for theirs, ours in report.matched:
            print(f"  {theirs} -> {ours}")
    print("\n".join(report.lines))
    return 0


def _given(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """The options that the command line has."""
    set_ = [name for name in names if getattr(args, name) not in (None, False, "auto", [])]
    return ["--set" if name == "overrides" else f"--{name.replace('_', '-')}" for name in set_]


def _config(args: argparse.Namespace) -> int:
    if given := _given(args, ("classes", "names", "channels", "bn_eps", "drop_head", "overrides")):
        raise UserError(f"{', '.join(given)}: of no use with --config; change the config that it writes")
    if args.train_images is not None and args.train_images < 1:
        raise UserError(f"--train-images must be at least 1, got {args.train_images}")
    from maskrcnn.run.convert_config import write_config

    print("\n".join(write_config(args.input, args.output, args.train_images)))
    return 0
