"""``maskrcnn predict``: overlays and a results file for images."""

from __future__ import annotations

import argparse
import glob
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from maskrcnn.cli.options import add_checkpoint_argument, add_set_argument
from maskrcnn.errors import DataError, UserError

HELP = "find objects in images: writes an overlay an image and predictions.json"

#: Taken from folders; a file named outright may have any name.
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".jp2", ".png", ".tif", ".tiff", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, folders or patterns")
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("predictions"), metavar="DIR", help="default predictions"
    )
    parser.add_argument("--score", type=float, default=0.5, help="leave out instances below it; default 0.5")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")
    parser.add_argument("--no-overlays", action="store_true", help="write predictions.json alone")
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Predict every readable image; exit status 2 where one was not, or was not written, named on stderr."""
    from maskrcnn.engine.memory import keep_freed_memory
    from maskrcnn.engine.unwritten import Unwritten
    from maskrcnn.evaluation import save_results
    from maskrcnn.run import Predictor
    from maskrcnn.run.evaluate import write_picture
    from maskrcnn.run.room import check_folder

    if not 0.0 <= args.score <= 1.0:
        raise UserError(f"--score must be in [0, 1], got {args.score}")
    paths = find_images(args.images)
    check_folder(args.out, "--out")
    keep_freed_memory()
    predictor = Predictor(args.checkpoint, device=args.device, score=args.score, overrides=args.overrides)
    names = overlay_names(paths)
    if predictor.recipe.model.rpn is None:
        raise UserError(
            f"{args.checkpoint}: this model has no RPN and needs proposals with each image; evaluate it on"
            " data that have them (maskrcnn eval), or call maskrcnn.run.Predictor with proposals"
        )
    unwritten = Unwritten(lambda text: print(f"maskrcnn: {text}", file=sys.stderr))
    records = []
    broken = 0
    for image_id, path in enumerate(paths, start=1):
        try:
            found = predictor(path)
        except DataError as error:
            broken += 1
            print(f"maskrcnn: skipped: {error}", file=sys.stderr)
            continue
        for record in found.records:
            category = predictor.categories.index_of(record["category_id"])
            extra = {"file_name": str(path), "category": predictor.categories.names[category]}
            records.append({**record, "image_id": image_id, **extra})
        if not args.no_overlays:
            target = args.out / names[path]
            unwritten.attempt(target, partial(write_picture, target, found.draw()))
        print(f"{path}: {len(found)} instances", flush=True)
    target = args.out / "predictions.json"
    unwritten.attempt(target, partial(save_results, target, records))
    print(f"{len(paths) - broken} images, {len(records)} instances: {args.out}")
    unwritten.raise_if_any()
    if broken:
        raise UserError(
            f"{broken} of {len(paths)} images could not be read (named above); the others are done"
        )
    return 0


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Files, the images of folders (sorted), and what patterns match; each once.

    Raises:
        UserError: something names nothing.
    """
    found: dict[Path, None] = {}
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            files = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
            if not files:
                raise UserError(f"{path}: no images in this folder (looked for {', '.join(SUFFIXES)})")
        elif path.exists() or not glob.has_magic(item):
            if not path.exists():
                raise UserError(f"{path}: no such image, folder or pattern")
            files = [path]
        else:
            matches = sorted(glob.glob(item, recursive=True))  # noqa: PTH207 - the pattern may be absolute
            files = [Path(p) for p in matches if Path(p).is_file()]
            if not files:
                raise UserError(f"{item}: no file matches this pattern")
        found.update(dict.fromkeys(files))
    return list(found)


def overlay_names(paths: Iterable[Path]) -> dict[Path, str]:
    """A PNG name for each image, distinct even where folders hold files of the same name."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name = path.stem
        number = 2
        while name.lower() in taken:
            name = f"{path.stem}_{number}"
            number += 1
        taken.add(name.lower())
        names[path] = f"{name}.png"
    return names
