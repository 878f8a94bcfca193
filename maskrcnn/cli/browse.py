"""``maskrcnn browse``: a contact sheet of what a training sees."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

from maskrcnn.cli.parser import add_set_argument
from maskrcnn.errors import UserError, plural

HELP = (
    "write one HTML file with training images before and after augmentation, as the training's own functions"
    " and seeds make them, to be filtered by class and by what the doctor finds"
)
#: Seconds between two lines of progress.
_EVERY = 5.0
#: Images on a page that is asked for without a number.
_IMAGES = 60
#: Most of what may be asked for.
_MOST_IMAGES, _MOST_EPOCHS, _MOST_MIB = 10_000, 50, 2_000
_SIDES = (64, 2048)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA|CONFIG",
        help="a config; or a folder with a data.yaml, that file, or a COCO json (with --images DIR), whose"
        " images are then seen as with no other key set",
    )
    add_set_argument(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("browse.html"), metavar="FILE.html", help="default browse.html"
    )
    parser.add_argument(
        "--images",
        type=_number_or_folder,
        action="append",
        default=[],
        metavar="N|DIR",
        help=f"show so many (default {_IMAGES}); or the folder of a COCO json's images; or, twice, both",
    )
    parser.add_argument(
        "--epochs", type=int, default=1, metavar="N", help="draw each image in so many epochs (default 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images (default 0)")
    parser.add_argument(
        "--class",
        action="append",
        default=[],
        dest="classes",
        metavar="NAME",
        help="images with such objects",
    )
    parser.add_argument(
        "--finding", action="append", default=[], dest="findings", metavar="KIND", help="images with such"
    )
    parser.add_argument(
        "--thorough", action="store_true", help="open every image for findings, as maskrcnn doctor does"
    )
    parser.add_argument(
        "--side", type=int, default=480, metavar="PX", help="longer side of a picture, at most (default 480)"
    )
    parser.add_argument(
        "--most", type=int, default=64, metavar="MIB", help="of pictures in the file (default 64 MiB)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the page, and say what is on it.

    Raises:
        UserError: the data cannot be read, an option makes no sense, or the file cannot be written.
    """
    _check(args)
    from maskrcnn.data.doctor.look import Look
    from maskrcnn.files import write_text
    from maskrcnn.recipe import Recipe
    from maskrcnn.run.browse import SheetWishes, browse
    from maskrcnn.run.data_argument import read_data_or_recipe

    folders = [given for given in args.images if isinstance(given, Path)]
    data, recipe = read_data_or_recipe(args.data, folders[-1] if folders else None, args.overrides)
    wishes = SheetWishes(
        images=_number(args),
        epochs=args.epochs,
        seed=args.seed,
        classes=tuple(args.classes),
        findings=tuple(args.findings),
        side=args.side,
        most_bytes=args.most << 20,
    )
    sheet = browse(
        recipe or Recipe(data=data),
        f"What a training sees of {args.data}",
        wishes,
        fits=recipe is not None,
        look=Look(_Progress("opened")) if args.thorough else None,
        tell=_Progress("drew"),
    )
    replaced = args.out.exists()
    write_text(args.out, sheet.html)
    for line in sheet.told:
        print(line)
    size = len(sheet.html.encode("utf-8")) / 2**20
    done = "replaced" if replaced else "written"
    print(f"{args.out}: {done}, {size:.1f} MiB (of pictures at most {args.most}); open it in a browser")
    return 0


def _check(args: argparse.Namespace) -> None:
    """
    Raises:
        UserError: an option makes no sense.
    """
    limits = (
        ("images", _number(args), 1, _MOST_IMAGES),
        ("epochs", args.epochs, 1, _MOST_EPOCHS),
        ("seed", args.seed, 0, 2**63 - 1),
        ("side", args.side, *_SIDES),
        ("most", args.most, 1, _MOST_MIB),
    )
    for name, value, least, most in limits:
        if not least <= value <= most:
            raise UserError(f"--{name} must be {least} to {most}, got {value}")
    if args.out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {args.out}: the page is a file of HTML; give it a name that ends in .html")
    if args.out.is_dir():
        raise UserError(f"--out {args.out}: is a folder; name a file in it, as {args.out / 'browse.html'}")


def _number_or_folder(text: str) -> int | Path:
    """Of ``--images``, which other commands take a folder by."""
    return int(text) if re.fullmatch(r"-?\d+", text) else Path(text)


def _number(args: argparse.Namespace) -> int:
    numbers = [given for given in args.images if isinstance(given, int)]
    return numbers[-1] if numbers else _IMAGES


class _Progress:
    """How many images are done, now and then."""

    def __init__(self, what: str) -> None:
        self._what, self._last = what, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            print(f"{self._what} {done} of {plural(total, 'image')}", file=sys.stderr, flush=True)
