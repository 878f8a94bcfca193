"""``maskrcnn import``: labels of any usual format to a data set of ours."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = (
    "Make a data set of labels in another format, which is found out: COCO, CVAT, labelme, YOLO, mask files."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("labels", type=Path, metavar="LABELS", help="a file or a folder of labels")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images lie, if not there")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--format", metavar="NAME", help="look for this one alone")
    parser.add_argument(
        "--plugins",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="modules to import first, with importers of one's own",
    )
    parser.add_argument(
        "--copy", action="store_true", help="copy the images, too; else they stay where they are"
    )
    parser.add_argument("--overwrite", action="store_true", help="write although the folder holds something")
    parser.add_argument(
        "--allow-outside", action="store_true", help="follow names of images that lead out of these folders"
    )
    parser.add_argument(
        "--class-name", default="object", metavar="NAME", help="class of objects of formats without classes"
    )
    parser.add_argument(
        "--binary",
        choices=["parts", "whole"],
        default="parts",
        help="of a mask file with a single value: each separate part is an object (default), or the whole",
    )
    parser.add_argument(
        "--boxes-as-masks",
        action="store_true",
        help="where others have masks, take a box for the mask of all its pixels; else it is left out",
    )
    parser.add_argument(
        "--keep-crowds", action="store_true", help="take CVAT's word that its brush masks are crowd regions"
    )


def run(args: argparse.Namespace) -> int:
    """Write ``OUT/data.yaml`` and a json a split, and say what was found and what was left out."""
    from maskrcnn.config.nodes import Origin, Scalar
    from maskrcnn.config.plugins import import_plugins
    from maskrcnn.data.formats.data_folder import DATA_FILE
    from maskrcnn.data.formats.sources import LabelSource
    from maskrcnn.run.import_data import import_data
    from maskrcnn.viz.shares import shares

    import_plugins([Scalar(name, name, Origin("--plugins")) for name in args.plugins], [])
    source = LabelSource(
        args.labels,
        args.images,
        args.allow_outside,
        args.class_name,
        args.binary,
        args.boxes_as_masks,
        args.keep_crowds,
    )
    made = import_data(source, args.out, format=args.format, copy=args.copy, overwrite=args.overwrite)
    print(f"{args.labels}: {made.found} (format {made.format})")
    for note in made.notes:
        print(note)
    print(shares(made.images, made.objects).text())
    print(f"\n{made.out / DATA_FILE}: take it up in a config by base: [..., {made.out / DATA_FILE}]")
    return 0
