"""``maskrcnn explain-roi``: what an RoI operator reads for a box, and how far off it is on a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from maskrcnn.errors import UserError, plural

if TYPE_CHECKING:
    from maskrcnn.data.transforms.network_size import Resize
    from maskrcnn.layers.operator import RoIOperator
    from maskrcnn.studies.explain.scaled_boxes import Boxes
    from maskrcnn.studies.explain.statistics import Stride

HELP = (
    "draw what RoI operators read for a box, beside what they should (by default the worked example: a box "
    "of 665 x 665 px, stride 32); or, with --data, measure how far off they are on the boxes of a data set"
)
_PICTURE_OPS = ("roi_pool:rounding=floor,bins=truncate", "roi_pool", "roi_align")
_DATA_OPS = ("roi_pool", "roi_warp", "roi_align", "roi_align_legacy", "prroi_pool")
_DATA_STRIDES = ("4", "8", "16", "32", "fpn")
#: FPN's (Lin et al. 2017, section 5.1) with the longer side capped, as in every peer.
_MIN_SIZE, _MAX_SIZE = 800, 1333

#: Edges of --box, pixels: no image is as large.
_FAR = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of both forms."""
    both = parser.add_argument_group("both forms")
    both.add_argument(
        "--ops",
        nargs="+",
        metavar="OP",
        help="operators, with options as in roi_pool:rounding=floor,bins=truncate; there are "
        + ", ".join(_DATA_OPS)
        + ", and those of --plugins",
    )
    both.add_argument(
        "--plugins",
        nargs="+",
        metavar="MODULE",
        default=[],
        help="modules that register operators of your own (those of a config given with --data are known)",
    )
    both.add_argument("--output-size", type=int, metavar="N", help="bins a side (default 7)")
    both.add_argument(
        "--cells",
        choices=("centre", "corner"),
        default="centre",
        help="where a cell's value sits in its patch of pixels: its centre (2x2 pooling, RoIAlign aligned; "
        "default) or its corner (padded odd kernels, as in a ResNet)",
    )
    both.add_argument(
        "--out", type=Path, metavar="FILE", help="the picture: .png, .svg, .pdf (default explain_roi.png)"
    )
    both.add_argument("--dpi", type=int, default=110, help="dots an inch of a .png (default 110)")

    box = parser.add_argument_group("a box in an image")
    box.add_argument("--image", type=Path, metavar="FILE", help="the image (default: a drawn one)")
    box.add_argument("--box", type=float, nargs=4, metavar=("X1", "Y1", "X2", "Y2"), help="the box, pixels")
    box.add_argument("--stride", type=int, metavar="S", help="pixels a feature cell (default 32)")

    data = parser.add_argument_group("a data set")
    data.add_argument(
        "--data", metavar="CONFIG|JSON", help="a config file or COCO annotations: measure on its boxes"
    )
    data.add_argument(
        "--strides",
        nargs="+",
        metavar="S",
        help="strides; fpn: each box's own (default: 4 8 16 32 fpn)",
    )
    data.add_argument("--split", choices=("train", "val"), help="which set of a config (default train)")
    data.add_argument("--min-size", type=int, metavar="PX", help="shorter side at network scale; 0: as it is")
    data.add_argument("--max-size", type=int, metavar="PX", help="longest side at network scale")
    data.add_argument("--table", type=Path, metavar="FILE", help="write all figures: .md or .csv")


def run(args: argparse.Namespace) -> int:
    """Draw one or the other.

    Raises:
        UserError: arguments that do not go together, or a file that cannot be read or written.
    """
    from maskrcnn.config.nodes import Origin, Scalar
    from maskrcnn.config.plugins import import_plugins
    from maskrcnn.recipe import load_recipe
    from maskrcnn.studies.explain.written_ops import parse_op
    from maskrcnn.viz.figure import SUFFIXES, check_out

    of_box = ("image", "box", "stride")
    of_data = ("strides", "split", "min_size", "max_size", "table")
    for name in of_data if args.data is None else of_box:
        if getattr(args, name) is not None:
            needs = "needs --data" if args.data is None else "does not go with --data"
            raise UserError(f"--{name.replace('_', '-')} {needs}")
    if args.output_size is not None and not 1 <= args.output_size <= 64:
        raise UserError(f"--output-size {args.output_size}: it must be from 1 to 64")
    if not 30 <= args.dpi <= 600:
        raise UserError(f"--dpi {args.dpi}: it must be from 30 to 600")
    args.out = args.out or Path("explain_roi.png")
    check_out("--out", args.out, SUFFIXES)
    import_plugins([Scalar(name, name, Origin("--plugins")) for name in args.plugins], [])
    # A config imports its plugins, whose operators --ops may name.
    args.recipe = None if args.data is None or args.data.endswith(".json") else load_recipe(args.data)
    texts = args.ops or (_PICTURE_OPS if args.data is None else _DATA_OPS)
    ops = list(dict.fromkeys(parse_op(text) for text in texts))
    return _box(args, ops) if args.data is None else _data(args, ops)


def _box(args: argparse.Namespace, ops: list[RoIOperator]) -> int:
    from maskrcnn.data.images import read_image
    from maskrcnn.studies.explain.region import BoxOnMap, Region
    from maskrcnn.studies.explain.view import title_of, view_of
    from maskrcnn.viz import example
    from maskrcnn.viz.figure import save
    from maskrcnn.viz.roi_picture import draw

    if args.image is not None and args.box is None:
        raise UserError("--image needs --box X1 Y1 X2 Y2: which box to explain")
    box = tuple(args.box) if args.box else example.BOX
    if any(abs(edge) > _FAR for edge in box):
        shown = " ".join(f"{edge:g}" for edge in box)
        raise UserError(f"--box {shown}: coordinates must lie between -{_FAR} and {_FAR} px")
    if args.image is not None:
        image = read_image(args.image)
        size = image.shape[0], image.shape[1]
    else:
        size = example.size_for(box)
    where = BoxOnMap(
        box,
        size,
        example.STRIDE if args.stride is None else args.stride,
        (args.output_size or example.OUTPUT_SIZE,) * 2,
        args.cells,
    )
    if args.image is None:
        image = example.example_image(box, size)
    views = [view_of(Region(op, where)) for op in ops]
    save(draw(image, views, title_of(where)), args.out, args.dpi)
    for view in views:
        print("\n  ".join([view.name, *view.facts]))
    print(f"drawn to {args.out}")
    return 0


def _data(args: argparse.Namespace, ops: list[RoIOperator]) -> int:
    from maskrcnn.studies.explain.measured import (
        TABLE_SUFFIXES,
        draw_chart,
        sentence,
        summary,
        write_table,
    )
    from maskrcnn.studies.explain.statistics import measure
    from maskrcnn.viz.figure import check_out, new_figure, save

    strides = [_stride(text) for text in args.strides or _DATA_STRIDES]
    if args.table is not None:
        check_out("--table", args.table, TABLE_SUFFIXES)
    if args.data.endswith(".json") and args.split is not None:
        raise UserError("--split needs a config file; a .json is one set")
    new_figure(1, 1)  # is matplotlib there?
    boxes = _boxes(args)
    rows = measure(boxes, ops, list(dict.fromkeys(strides)), args.output_size or 7, args.cells)
    print(
        f"{boxes.name}: {plural(len(boxes), 'box')} of {plural(boxes.images, 'image')}, at network scale;"
        " offsets in pixels\n"
    )
    print(summary(rows).text())
    print(f"\n{sentence(rows)}")
    save(draw_chart(rows, boxes), args.out, args.dpi)
    written = str(args.out)
    if args.table is not None:
        write_table(rows, args.table)
        written += f", {args.table}"
    print(f"written to {written}")
    return 0


def _stride(text: str) -> Stride:
    if text == "fpn":
        return "fpn"
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise UserError(f"--strides {text}: a stride is a whole number from 1 to 1024, or fpn")
    return int(text)


def _fixed_resize(args: argparse.Namespace) -> Resize | None:
    """What --min-size and --max-size say, or this command for a .json; None: it is the config's."""
    from maskrcnn.data.transforms.resizing import ResizeShortestEdge

    for name in ("min_size", "max_size"):
        value = getattr(args, name)
        if value is not None and value < (0 if name == "min_size" else 1):
            raise UserError(f"--{name.replace('_', '-')} {value}: it must be positive")
    if args.min_size == 0:
        if args.max_size is not None:
            raise UserError("--max-size does not go with --min-size 0, which leaves images as they are")
        return lambda height, width: (height, width)
    if args.min_size is None and args.max_size is None and not args.data.endswith(".json"):
        return None
    shortest = args.min_size or _MIN_SIZE
    resizer = ResizeShortestEdge(min_sizes=(shortest,), max_size=args.max_size or max(_MAX_SIZE, shortest))
    return lambda height, width: resizer.output_size(height, width, shortest)


def _boxes(args: argparse.Namespace) -> Boxes:
    from maskrcnn.data.interfaces import as_transform
    from maskrcnn.data.transforms.network_size import resize_of
    from maskrcnn.studies.explain.scaled_boxes import load_boxes

    fixed, recipe = _fixed_resize(args), args.recipe
    if recipe is None:
        assert fixed is not None
        return load_boxes(Path(args.data), fixed)
    config = recipe.data.val if args.split == "val" else recipe.data.train
    if config is None:
        raise UserError(f"{args.data}: data.val is not set, so there is no --split val")
    dataset = config.build(training=args.split != "val")
    transforms = [as_transform(transform) for transform in recipe.data.eval_transforms]
    resize = fixed or resize_of(transforms, f"{args.data}: data.eval_transforms")
    return load_boxes(dataset.annotation_file, resize, image_ids=list(dataset.image_ids))
