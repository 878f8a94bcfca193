"""``maskrcnn weights list|fetch|where|add``: published weights by name."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

HELP = "list published weights by name, fetch them, say where they lie, add one's own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the four sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|fetch|where|add")

    shown = actions.add_parser("list", help="print the names, with what their publishers state of them")
    shown.add_argument("words", metavar="WORD", nargs="*", help="only names that hold every WORD")
    shown.add_argument("--json", action="store_true", help="all that is known, as a JSON object by name")

    fetch = actions.add_parser("fetch", help="fetch and convert, for a machine that will have no network")
    fetch.add_argument("names", metavar="NAME", nargs="+", help="as torchvision/mask_rcnn_r50_fpn_v2")

    where = actions.add_parser("where", help="print where the file of a name lies, or is to be put by hand")
    where.add_argument("name", metavar="NAME", nargs="?", help="without one: the folder of all")

    add = actions.add_parser("add", help="add a name of one's own for an address or a file")
    add.add_argument("name", metavar="NAME", help="own/NAME; or a known NAME, whose file was got otherwise")
    add.add_argument("source", metavar="SOURCE", help="https://HOST/FILE, or a file, which is copied")
    add.add_argument("--backbone", action="store_true", help="an ImageNet classifier and no detector")
    add.add_argument("--sha256", metavar="HEX", help="the beginning of the file's SHA-256, at least 6 digits")
    add.add_argument("--host", action="append", default=[], help="another host that may send it; repeatable")
    add.add_argument("--licence", metavar="TEXT", help="under which it may be used")
    for key in ("mean", "std"):
        add.add_argument(f"--{key}", nargs=3, type=float, metavar=("R", "G", "B"), help="of pixels in 0..255")
    add.add_argument("--rate", type=float, help="learning rate of SGD for 16 images, to fine-tune it at")
    add.add_argument("--classes", metavar="FILE", type=Path, help="its classes: one a line, or a COCO json")


def run(args: argparse.Namespace) -> int:
    """Dispatch to the sub-command.

    Raises:
        CheckpointError: no weights have the name, or they cannot be had.
    """
    actions = {"list": _list, "fetch": _fetch, "where": _where, "add": _add}
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from maskrcnn.errors import UserError
    from maskrcnn.run import weights

    rows = weights.listed(args.words)
    if not rows:
        raise UserError(f"no name holds {' and '.join(args.words)}; see maskrcnn weights list")
    if args.json:
        print(json.dumps({row.name: {**asdict(row.entry), "state": row.state} for row in rows}, indent=1))
    else:
        print(weights.text(rows))
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from maskrcnn.run.named_weights import local_file

    for name in args.names:
        print(f"{name}: {local_file(Path(name))}", flush=True)
    return 0


def _where(args: argparse.Namespace) -> int:
    from maskrcnn.run import weights

    print(weights.where(args.name))
    return 0


def _add(args: argparse.Namespace) -> int:
    from maskrcnn.run import weights

    stated: dict[str, Any] = {key: getattr(args, key) for key in ("sha256", "licence", "rate")}
    stated |= {key: tuple(value) for key in ("mean", "std") if (value := getattr(args, key)) is not None}
    stated |= {"kind": "backbone" if args.backbone else "detector", "hosts": tuple(args.host)}
    print(weights.add(args.name, args.source, args.classes, stated))
    return 0
