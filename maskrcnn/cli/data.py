"""``maskrcnn data``: make data sets, and measure them."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.parser import add_config_arguments
from maskrcnn.errors import DataError, plural

HELP = "generate the synthetic data set (shapes of six classes in COCO format), or measure a config's images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="synthetic|statistics")
    measure = actions.add_parser(
        "statistics",
        help="print mean and deviation of each channel of data.train, as model.preprocess takes them",
    )
    add_config_arguments(measure)
    measure.add_argument(
        "--images", type=int, default=500, metavar="N", help="read at most so many (default 500)"
    )
    parser = actions.add_parser("synthetic", help="write shapes of six classes in COCO format")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, with train/ and val/ in it")
    parser.add_argument("--level", choices=["easy", "medium", "hard"], default="medium")
    parser.add_argument("--train", type=int, default=800, metavar="N", help="training images (default 800)")
    parser.add_argument("--val", type=int, default=200, metavar="N", help="held-out images (default 200)")
    parser.add_argument("--size", type=int, default=128, metavar="PX", help="longer side (default 128)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keypoints", action="store_true", help="crescents alone, with four keypoints each")


def run(args: argparse.Namespace) -> int:
    """Dispatch to the sub-command."""
    return _statistics(args) if args.action == "statistics" else _synthetic(args)


def _statistics(args: argparse.Namespace) -> int:
    """Print a config fragment.

    Raises:
        ConfigError, DataError: the config or an image is wrong.
    """
    from maskrcnn.data.pixel_statistics import pixel_statistics
    from maskrcnn.recipe import load_recipe

    if args.images < 1:
        raise DataError(f"--images must be at least 1, got {args.images}")
    data = load_recipe(args.config, args.overrides).data
    found = pixel_statistics(data.build(data.train, True), args.images)
    print(f"# Of {plural(found.images, 'image')} of data.train, in 0..255 as the network takes them.")
    print("model:")
    print(f"  preprocess: {{mean: {list(found.mean)}, std: {list(found.std)}}}")
    return 0


def _synthetic(args: argparse.Namespace) -> int:
    """Write ``OUT/{train,val}/{images/,annotations.json}`` and say where they are.

    Raises:
        DataError: a number makes no sense, or the folder holds a data set already.
        OutputError: it cannot be written.
    """
    from maskrcnn.data.synthetic.dataset import Split, SyntheticConfig, write_synthetic

    if args.size < 32 or args.train < 0 or args.val < 0 or args.seed < 0:
        raise DataError("--size must be at least 32, --train, --val and --seed at least 0")
    if args.size > 4096 or max(args.train, args.val) > 1_000_000:
        raise DataError(
            "--size must be at most 4096 (a picture is drawn at 16 times its pixels), --train and"
            " --val at most 1,000,000 (they fill the disk)"
        )
    counts: dict[Split, int] = {"train": args.train, "val": args.val}
    wanted = [(split, count) for split, count in counts.items() if count]
    for split, _ in wanted:
        if (args.out / split / "annotations.json").exists():
            raise DataError(f"{args.out / split} holds a data set already; name another folder or remove it")
    for split, count in wanted:
        folder = args.out / split
        config = SyntheticConfig(
            level=args.level,
            split=split,
            num_images=count,
            size=args.size,
            seed=args.seed,
            keypoints=args.keypoints,
        )
        write_synthetic(folder, config)
        print(f"{split}: {plural(count, 'image')}, {folder / 'annotations.json'}")
    return 0
