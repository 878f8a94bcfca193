"""The command line: ``maskrcnn <command>``, one module a command.

A command module has ``HELP`` (a sentence), ``add_arguments(parser)`` and ``run(args) -> int``.  It is
imported only when its command is given, so ``maskrcnn --help`` does not wait for torch.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import importlib
import io
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from maskrcnn import __version__
from maskrcnn.cli.parser import Parser
from maskrcnn.config.registry import did_you_mean
from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.errors import UserError, cut
from maskrcnn.files import FULL, reason


class Command(NamedTuple):
    """A command and its line in the overview; its module is ``maskrcnn.cli.<name>``, - as _."""

    name: str
    group: str
    summary: str


#: What a command is for, in the order of the overview.
GROUPS = ("data", "train", "use", "study")

COMMANDS = (
    Command("import", "data", "make a data set of labels: CVAT, labelme, YOLO, COCO ..."),
    Command("doctor", "data", "what is wrong with DATA; without, with the installation"),
    Command("browse", "data", "training images before and after augmentation, as a page"),
    Command("split", "data", "divide a data set into one to train on and one to validate"),
    Command("export-data", "data", "write a data set in another format"),
    Command("data", "data", "generate the synthetic data set; mean and deviation of yours"),
    Command("demo", "train", "train and evaluate a small model on generated data"),
    Command("new", "train", "write a config that fits a data set and this machine"),
    Command("train", "train", "train a model from a config file, or go on with a run"),
    Command("status", "train", "how far runs are, and whether a process works on them"),
    Command("config", "train", "show, check or compare config files"),
    Command("zoo", "train", "the recipes that come along: expected AP, and cost"),
    Command("weights", "train", "published weights by name: list, fetch, add one's own"),
    Command("convert", "train", "take over weights, or a config, of other frameworks"),
    Command("benchmark", "train", "images a second here, and what to change for more"),
    Command("debug-batch", "train", "the batch of a step whose losses were not finite"),
    Command("predict", "use", "find objects in images and videos: pictures and files"),
    Command("eval", "use", "evaluate a checkpoint: COCO's figures, boxes and masks"),
    Command("report", "use", "one HTML page that explains a run, or compares several"),
    Command("export", "use", "write ONNX, OpenVINO or torch.export, proven equal"),
    Command("package", "use", "a folder with a model, config and card, for any machine"),
    Command("strip", "use", "a checkpoint for inference alone"),
    Command("proposals", "use", "write the proposals of a trained RPN, for Fast R-CNN"),
    Command("ablate", "study", "train the variants of a suite, compare with error bars"),
    Command("cross-validate", "study", "train k times, judge each by the part that it did not see"),
    Command("explain-roi", "study", "draw what RoIPool, RoIAlign and the others read"),
)

#: Modules of commands that a module cannot be called as: a word of Python's.
_MODULES = {"import": "import_data"}

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE: the reader of our output (``| head``) went away."""


#: What the system says of a place that was named, at whatever moment it is first asked for.
_OF_A_PLACE = (
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
)


class CommandModule(Protocol):
    """What a module in ``maskrcnn/cli`` provides."""

    HELP: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        argv: arguments after the program's name; by default those of this process.

    Returns:
        The command's own status; 2 for a :class:`UserError` (told in a sentence on stderr) or a
        misused command line, or where a file or folder cannot be had or written; 128 + the signal's number
        where one stopped it (130 for Ctrl-C).
        Anything else that a command raises is a bug and passes.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a file name that is no UTF-8 is printed all the same
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _flush(_dispatch(arguments))
    except UserError as e:
        complain(f"error: {e}")
        distributed = sys.modules.get("maskrcnn.engine.distributed")
        if distributed is not None:
            distributed.tell_the_others(str(e))
        return _flush(EXIT_USER_ERROR)
    except Interrupted as stop:
        complain(str(stop))
        leave_if_held(stop.exit_status)
        return _flush(stop.exit_status)
    except KeyboardInterrupt:
        complain("interrupted")
        return _flush(EXIT_INTERRUPTED)
    except BrokenPipeError:
        _forget_output()
        return EXIT_BROKEN_PIPE
    except OSError as e:
        if e.errno in _OF_A_PLACE and isinstance(e.filename, str):
            name = cut(e.filename.encode("ascii", "backslashreplace").decode())
            complain(f"error: {name}: {e.strerror}; name another file or folder, or mend that")
            return _flush(EXIT_USER_ERROR)
        if e.errno not in FULL:
            raise
        place = Path(e.filename).parent if isinstance(e.filename, str) else Path()
        what = e.filename or "standard output or a file"
        complain(f"error: {what}: could not be written: {reason(e, place)}; make room there")
        _flush(EXIT_USER_ERROR)
        return EXIT_USER_ERROR


def _flush(status: int) -> int:
    """``status``, or where all went well but standard output cannot be written, that of an error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        if status == 0:
            raise
        _forget_output()
    except OSError as e:
        _forget_output()
        if status == 0:
            complain(f"error: standard output: could not be written: {reason(e, Path())}")
            return EXIT_USER_ERROR
    return status


def _forget_output() -> None:
    """Python flushes stdout once more at exit; let that go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(argv: list[str]) -> int:
    if not argv:
        print(overview(), file=sys.stderr)
        return EXIT_USER_ERROR
    name, *rest = argv
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name in ("-V", "--version"):
        print(f"maskrcnn {__version__}")
        return 0
    names = [command.name for command in COMMANDS]
    if name not in names:
        kind = "option" if name.startswith("-") else "command"
        raise UserError(f"no {kind} {name!r}.{did_you_mean(name, names)}")
    try:
        args = build_parser(name).parse_args(rest)
    except SystemExit as e:  # --help
        return e.code if isinstance(e.code, int) else EXIT_USER_ERROR
    return _load(name).run(args)


def build_parser(name: str) -> argparse.ArgumentParser:
    """The arguments of one command, as ``maskrcnn <name> --help`` shows them."""
    module = _load(name)
    parser = Parser(prog=f"maskrcnn {name}", description=module.HELP, allow_abbrev=False)
    module.add_arguments(parser)
    return parser


def overview() -> str:
    """What ``maskrcnn --help`` prints."""
    width = max(len(command.name) for command in COMMANDS)
    lines = ["usage: maskrcnn <command> [arguments]", ""]
    for group in GROUPS:
        lines += [group, *(f"  {c.name:<{width}}  {c.summary}" for c in COMMANDS if c.group == group), ""]
    return "\n".join([*lines, "maskrcnn <command> --help: its arguments; maskrcnn --version: the version."])


def _load(name: str) -> CommandModule:
    module = f"maskrcnn.cli.{_MODULES.get(name, name.replace('-', '_'))}"
    try:
        return cast(CommandModule, importlib.import_module(module))
    except ModuleNotFoundError as e:
        if e.name != module:
            raise
        raise UserError(f"the command {name!r} is not part of this version ({__version__})") from None


def complain(text: str) -> None:
    """Print ``maskrcnn: text`` on standard error, unless another process of this run on this machine did.

    Each attempt of torchrun gives its processes a folder in common; a file in it stands for the sentence.
    """
    given = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    if given and os.environ.get("WORLD_SIZE", "1") != "1":
        folder = Path(given).parent.parent  # .../attempt_0/<local rank>/error.json
        mark = folder / f"said-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}"
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return
        except OSError:
            pass
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"maskrcnn: {text}", file=sys.stderr, flush=True)


def leave_if_held(status: int) -> None:
    """End the process at once where one that it started cannot be ended (hung in a disk's driver, say)."""
    if any(child.is_alive() for child in multiprocessing.active_children()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
