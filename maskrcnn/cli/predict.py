"""``maskrcnn predict``: what is found in images and videos, as pictures and as files of many formats."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from maskrcnn.cli.drawing import add_drawing_arguments, drawing_style, with_tta
from maskrcnn.cli.parser import add_checkpoint_argument, add_set_argument
from maskrcnn.errors import UserError, plural

HELP = "find objects in images: writes an overlay an image and predictions.json, or other formats"

#: As ``maskrcnn.run.prediction_files.WRITES``, which is not loaded for --help.
WRITES = (
    *("overlays", "labels", "labels-tiff", "polygons", "crops", "yolo", "labelme", "coco", "csv", "cvat"),
    "labelstudio",
)
DEFAULT_WRITES = "overlays,coco"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="image or video files, folders, patterns, lists (.txt, a name a line)",
    )
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("predictions"), metavar="DIR", help="default predictions"
    )
    parser.add_argument("--recursive", action="store_true", help="of folders, take their sub-folders too")
    parser.add_argument(
        "--write",
        default=DEFAULT_WRITES,
        metavar="A,B",
        help=f"what is written, of {', '.join(WRITES)}; default {DEFAULT_WRITES}",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run: what is done there stays"
    )
    parser.add_argument(
        "--score",
        type=float,
        help="leave out instances below it; default those of each class beside the checkpoint, else 0.5",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="default float32; bfloat16 is faster on a GPU",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images a pass; default eval.batch_size of the recipe"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the model first, for thousands of images"
    )
    parser.add_argument(
        "--tiles",
        type=int,
        nargs="?",
        const=0,
        metavar="SIZE",
        help="predict window by window, for images of any size: of so many pixels a side, by default so that"
        " objects are seen as large as in training; a model that was trained on tiles takes those without it",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        metavar="F",
        help="of neighbouring tiles, a share of their side in [0, 0.5]; default as trained, else 0.2",
    )
    parser.add_argument("--no-overlays", action="store_true", help="write no overlays")
    add_set_argument(parser)
    add_drawing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Predict every readable image; exit status 2 where one was not, or was not written, named on stderr."""
    from maskrcnn.data.file_names import shown
    from maskrcnn.engine.console import Console
    from maskrcnn.engine.memory import keep_freed_memory
    from maskrcnn.run import Predictor
    from maskrcnn.run.find_images import find_images
    from maskrcnn.run.predict import Predicting
    from maskrcnn.run.room import check_folder

    if args.score is not None and not 0.0 <= args.score <= 1.0:
        raise UserError(f"--score must be in [0, 1], got {args.score}")
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {args.batch_size}")
    if args.tiles is not None and args.tiles and not 32 <= args.tiles <= 16_384:
        raise UserError(f"--tiles must be from 32 to 16384 pixels, got {args.tiles}")
    if args.overlap is not None and (args.tiles is None or not 0.0 <= args.overlap <= 0.5):
        wrong = (
            "needs --tiles beside it" if args.tiles is None else f"must be in [0, 0.5], got {args.overlap}"
        )
        raise UserError(f"--overlap {wrong}")
    writes, style = _writes(args), drawing_style(args)
    images = find_images(args.images, recursive=args.recursive)
    check_folder(args.out, "--out")
    keep_freed_memory()
    predictor = Predictor(
        args.checkpoint,
        device=args.device,
        score=args.score,
        precision=args.precision,
        compile=True if args.compile else None,
        overrides=with_tta(args),
    )
    if predictor.recipe.model.rpn is None:
        raise UserError(
            f"{args.checkpoint}: this model has no RPN and needs proposals with each image; evaluate it on"
            " data that have them (maskrcnn eval), or call maskrcnn.run.Predictor with proposals"
        )
    if predictor.recipe.data.reading.pages == "channels":  # known now: pages are no images
        images = find_images(args.images, recursive=args.recursive, pages=False)

    def tell(text: str) -> None:
        print(f"maskrcnn: {text}", file=sys.stderr)

    tiled = args.tiles is not None or predictor.recipe.data.tiles is not None
    tiling = predictor.tiling(args.tiles or None, args.overlap) if tiled else None
    told = () if tiling is None else (f"tiles of {tiling}",)
    for note in (*images.notes, predictor.scores_told, *told):
        tell(note)
    settings = {
        "the checkpoint": predictor.identity,
        "--score": predictor.thresholds,
        "--set": with_tta(args),
        "--draw": style,
        "--precision": args.precision,
        "--batch-size": args.batch_size,
    }
    if tiling is not None:
        settings |= {"--tiles": [tiling.size, *tiling.sides] if tiling.sides else tiling.size}
        settings |= {"--overlap": tiling.overlap}
    console = Console()
    work = Predicting(
        predictor,
        images,
        args.out,
        writes,
        settings,
        args.resume,
        args.batch_size,
        console,
        tell,
        style,
        tiling,
    )
    counts = work.run()
    console.line(
        f"{plural(counts.images, 'image')}, {plural(counts.instances, 'instance')}: {shown(args.out)}"
    )
    if doubts := counts.doubts(predictor.recipe.model.roi.max_detections, tiled=tiling is not None):
        tell(doubts)
    work.unwritten.raise_if_any()
    if counts.broken:
        total = len(images.names) + len(images.videos)
        raise UserError(
            f"{counts.broken} of {plural(total, 'image')} could not be read (named above); the others are"
            " done (mended, the same command with --resume takes those alone)"
        )
    return 0


def _writes(args: argparse.Namespace) -> list[str]:
    """What ``--write`` and ``--no-overlays`` ask for, each once."""
    from maskrcnn.config.registry import did_you_mean

    wished = [name for name in dict.fromkeys(args.write.split(",")) if name]
    for name in wished:
        if name not in WRITES:
            raise UserError(
                f"--write {name}: there is no such format; there are {', '.join(WRITES)}."
                f"{did_you_mean(name, WRITES)}"
            )
    if args.no_overlays:
        wished = [name for name in wished if name != "overlays"]
    if not wished:
        raise UserError(f"--write names nothing that is to be written; name some of {', '.join(WRITES)}")
    return wished
