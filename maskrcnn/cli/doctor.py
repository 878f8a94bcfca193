"""`maskrcnn doctor`: is this installation in order?  With an argument: are these data?"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from maskrcnn.cli.parser import add_set_argument
from maskrcnn.errors import UserError, plural

if TYPE_CHECKING:
    from maskrcnn.run.examine import Examination

HELP = (
    "say which operators, compilers and devices are in use, and why (exit status 1 where the compiled"
    " operators do not work); or, with DATA or CONFIG, what is wrong with data or hardly meant, what it costs"
    " and what to do: exit status 0 for sound data, 1 with findings, 2 where they cannot be read"
)
#: Seconds between two lines of progress.
_EVERY = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All of them are about data."""
    parser.add_argument(
        "data",
        nargs="?",
        type=Path,
        metavar="DATA|CONFIG",
        help="a folder with a data.yaml, that file, a COCO json (with --images), or a config, whose model is"
        " then held against its data",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder of a COCO json's images")
    add_set_argument(parser)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="do not open every image (what a training does at its start, train.check_data)",
    )
    parser.add_argument(
        "--measure", action="store_true", help="make some steps of CONFIG, and say their time"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with the ids of all that is found")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write findings.json there, and pictures of examples"
    )
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="DIR",
        help="write a repaired copy of the annotations there, with a data.yaml and the list of what was done",
    )
    parser.add_argument("--copy", action="store_true", help="with --fix: copy the images, too")


def run(args: argparse.Namespace) -> int:
    """Print the report of the installation (0 or 1), or that of the data (0, 1).

    Raises:
        UserError: arguments that do not go together; data that cannot be read; files that cannot be written.
    """
    if args.data is None:
        for name in ("images", "overrides", "quick", "measure", "json", "out", "fix", "copy"):
            if getattr(args, name, None):
                option = {"overrides": "--set"}.get(name, f"--{name}")
                raise UserError(f"{option} is about data: name them, as maskrcnn doctor DATA {option}")
        from maskrcnn.run.doctor import diagnose

        report = diagnose()
        print(report)
        return 0 if report.healthy else 1
    return _data(args)


def _data(args: argparse.Namespace) -> int:
    from maskrcnn.data.doctor.look import Look
    from maskrcnn.run.data_argument import read_data_or_recipe
    from maskrcnn.run.examine import examine
    from maskrcnn.run.room import check_folder

    if args.copy and args.fix is None:
        raise UserError("--copy goes with --fix DIR, where the copy is written")
    for option, folder in (("--out", args.out), ("--fix", args.fix)):
        if folder is not None:
            check_folder(folder, option)
    config, recipe = read_data_or_recipe(args.data, args.images, args.overrides)
    if args.measure and recipe is None:
        raise UserError("--measure makes steps of a training: name a config in place of DATA")
    look = None if args.quick else Look(_Progress())
    found = examine(config, recipe, look=look, measure=args.measure, tell=_tell)
    print(json.dumps(found.as_json()) if args.json else found.text())
    if args.out is not None:
        _write(found, args.out)
    if args.fix is not None:
        from maskrcnn.run.repair import repair

        for line in repair(config, found, look, args.fix, copy=args.copy):
            _tell(line)
    return 1 if found.doubts else 0


def _write(found: Examination, folder: Path) -> None:
    from maskrcnn.files import write_json
    from maskrcnn.picture_files import write_image
    from maskrcnn.run.finding_pictures import finding_pictures

    content = found.as_json()
    for number, picture in finding_pictures(found.doubts, found.data.values()):
        kind = found.doubts[number].kind.replace(" ", "_").replace("/", "_").replace(":", "")
        name = f"{number + 1:02d}_{kind[:60]}.png"
        write_image(folder / name, picture)
        content["findings"][number]["picture"] = name
    write_json(folder / "findings.json", content, indent=1)
    _tell(f"findings and examples are in {folder}")


class _Progress:
    """How many images were opened, now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            _tell(f"opened {done} of {plural(total, 'image')}")


def _tell(line: str) -> None:
    """For people, beside the output."""
    print(line, file=sys.stderr, flush=True)
