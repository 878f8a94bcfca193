"""``maskrcnn predict``: overlays and a results file for images."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from maskrcnn.cli.parser import add_checkpoint_argument, add_set_argument
from maskrcnn.errors import DataError, UserError, plural

HELP = "find objects in images: writes an overlay an image and predictions.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, folders or patterns")
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("predictions"), metavar="DIR", help="default predictions"
    )
    parser.add_argument("--recursive", action="store_true", help="of folders, take their sub-folders too")
    parser.add_argument("--score", type=float, default=0.5, help="leave out instances below it; default 0.5")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")
    parser.add_argument("--no-overlays", action="store_true", help="write predictions.json alone")
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Predict every readable image; exit status 2 where one was not, or was not written, named on stderr."""
    from maskrcnn.data.file_names import shown
    from maskrcnn.engine.console import Unwritten
    from maskrcnn.engine.memory import keep_freed_memory
    from maskrcnn.evaluation import save_results
    from maskrcnn.files import write_image
    from maskrcnn.run import Predictor
    from maskrcnn.run.find_images import find_images
    from maskrcnn.run.room import check_folder

    if not 0.0 <= args.score <= 1.0:
        raise UserError(f"--score must be in [0, 1], got {args.score}")
    images = find_images(args.images, recursive=args.recursive)
    check_folder(args.out, "--out")
    keep_freed_memory()
    predictor = Predictor(args.checkpoint, device=args.device, score=args.score, overrides=args.overrides)
    if predictor.recipe.model.rpn is None:
        raise UserError(
            f"{args.checkpoint}: this model has no RPN and needs proposals with each image; evaluate it on"
            " data that have them (maskrcnn eval), or call maskrcnn.run.Predictor with proposals"
        )
    unwritten = Unwritten(lambda text: print(f"maskrcnn: {text}", file=sys.stderr))
    for note in images.notes:
        print(f"maskrcnn: {note}", file=sys.stderr)
    records = []
    broken = 0
    for image_id, (path, name) in enumerate(images.names.items(), start=1):
        try:
            found = predictor(path)
        except DataError as error:
            broken += 1
            print(f"maskrcnn: skipped: {error}", file=sys.stderr)
            continue
        for record in found.records:
            category = predictor.categories.index_of(record["category_id"])
            extra = {**file_name(path), "category": predictor.categories.names[category]}
            records.append({**record, "image_id": image_id, **extra})
        if not args.no_overlays:
            target = args.out / f"{name}.png"
            unwritten.attempt(target, partial(write_image, target, found.draw()))
        print(f"{shown(path)}: {plural(len(found), 'instance')}", flush=True)
    target = args.out / "predictions.json"
    unwritten.attempt(target, partial(save_results, target, records))
    print(
        f"{plural(len(images.names) - broken, 'image')}, {plural(len(records), 'instance')}:"
        f" {shown(args.out)}"
    )
    unwritten.raise_if_any()
    if broken:
        raise UserError(
            f"{broken} of {plural(len(images.names), 'image')} could not be read (named above); the others"
            " are done"
        )
    return 0


def file_name(path: Path) -> dict[str, str]:
    """An image's name for a json: ``file_name``, and where that is no Unicode its bytes beside it, as hex.

    Half surrogates, which stand for such bytes in Python, many readers of json refuse.
    """
    from maskrcnn.data.file_names import shown

    try:
        str(path).encode()
    except UnicodeEncodeError:
        return {"file_name": shown(path), "file_name_hex": os.fsencode(path).hex()}
    return {"file_name": str(path)}
