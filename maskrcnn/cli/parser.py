"""argparse whose complaints are our sentences, with the option that was probably meant; shared arguments."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from maskrcnn.cli.foreign import advice, misspelt
from maskrcnn.errors import UserError, plural

SET_HELP = (
    "change one value, as in --set solver.optimizer.lr=0.01 or --set model.roi_op=roi_pool; may be repeated"
)
_NUMBERS = {"int": "a whole number", "float": "a number"}
_OPTION = re.compile(r"--?[A-Za-z][\w.-]*")
#: Two words for what is written: a command that tells of one takes the other too.
_TWINS = {"--out": "--output", "--output": "--out"}


class Parser(argparse.ArgumentParser):
    """A command's arguments.

    Raises:
        UserError: from every method that parses, where argparse would print its usage and exit: an option
            that is not there, a value that is missing or of another kind, an argument too many.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but options that are not there are told first: what follows them is misread."""
        for name, twin in _TWINS.items():
            if name in self._option_string_actions:
                self._option_string_actions.setdefault(twin, self._option_string_actions[name])
        self._refuse_unknown(list(args or ()))
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            several = "; each KEY=VALUE needs a --set of its own" if "=" in rest[0] else ""
            self._complain(f"{rest[0]!r} is an argument too many{several}")
        return found

    def error(self, message: str) -> NoReturn:
        """What argparse found wrong, as a sentence."""
        self._complain(_sentence(message, self.prog))

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        if self._subparsers is not None:  # the action's own parser knows its options
            return
        known = list(self._option_string_actions)
        for word in words:
            name = word.partition("=")[0]
            if word == "--":
                return
            if not _OPTION.fullmatch(name) or name in known:
                continue
            command = self.prog.removeprefix("maskrcnn ")
            hint = advice(command, word, takes_set="--set" in known)
            if not hint:
                bare = {option.lstrip("-"): option for option in known}
                near = difflib.get_close_matches(name.lstrip("-"), bare, n=1, cutoff=0.7)
                hint = f"did you mean {bare[near[0]]}?" if near else ""
            hint = hint or misspelt(command, word, takes_set="--set" in known)
            if name in _TWINS and any(action.metavar == "OUT" for action in self._actions):
                hint = "OUT is an argument of its own: it stands behind IN"
            self._complain(f"{self.prog} has no option {name}" + (f"; {hint}" if hint else ""))

    def _complain(self, text: str) -> NoReturn:
        stop = "" if text.endswith("?") else "."
        raise UserError(f"{text}{stop} '{self.prog} --help' lists its arguments")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``CONFIG`` (``args.config``) and ``--set`` (``args.overrides``, a list)."""
    parser.add_argument("config", metavar="CONFIG", help="the YAML file")
    add_set_argument(parser)


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint`` (``args.checkpoint``, a path), which must be given."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="C",
        help="a checkpoint file, a run folder (its best), or published weights (maskrcnn weights list)",
    )


def add_trained_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint``, and ``CONFIG`` (``args.config``, or None) in place of the config kept in it."""
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        help="the YAML file; default: the config kept in the checkpoint",
    )
    add_checkpoint_argument(parser)


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--set KEY=VALUE``, collected in ``args.overrides``."""
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help=SET_HELP
    )


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``DATA`` (``args.data``) and ``--images``; :mod:`maskrcnn.run.data_argument` reads them."""
    what = "a folder with a data.yaml, that file, a COCO json, or a config"
    parser.add_argument("data", type=Path, metavar="DATA", help=what)
    parser.add_argument("--images", type=Path, metavar="DIR", help="the images of a COCO json")


def _sentence(message: str, prog: str) -> str:
    """argparse's words (of Python 3.10 to 3.14) as ours; unchanged where they are others."""
    if found := re.fullmatch(r"the following arguments are required: (.+)", message):
        what = found[1].replace("|", ", ")
        return f"{prog} needs one of {what}" if what != found[1] else f"{prog} needs {what}"
    if found := re.fullmatch(r"one of the arguments (.+) is required", message):
        return f"{prog} needs one of {', '.join(found[1].split())}"
    found = re.fullmatch(r"argument ([^:]+): (.+)", message, re.DOTALL)
    if not found:
        return message
    name, rest = found[1].rpartition("/")[2], found[2]
    if found := re.fullmatch(r"expected (?:one argument|at least one argument)", rest):
        return f"{name} needs a value"
    if found := re.fullmatch(r"expected (\d+) arguments?", rest):
        return f"{name} needs {plural(int(found[1]), 'value')}"
    if found := re.fullmatch(r"invalid (\w+) value: (.*)", rest, re.DOTALL):
        return f"{name} {_bare(found[2])}: it must be {_NUMBERS.get(found[1], found[1])}"
    if found := re.fullmatch(r"invalid choice: (.*) \(choose from (.*)\)", rest, re.DOTALL):
        choices = [_bare(c) for c in found[2].split(", ")]
        near = difflib.get_close_matches(_bare(found[1]), choices, n=1, cutoff=0.6)
        place = f"{name} {_bare(found[1])}" if name.startswith("-") else f"{prog} {_bare(found[1])}"
        return f"{place}: choose {', '.join(choices)}" + (f"; did you mean {near[0]}?" if near else "")
    if found := re.fullmatch(r"not allowed with argument (.+)", rest):
        return f"{name} does not go with {found[1].rpartition('/')[2]}"
    if found := re.fullmatch(r"ignored explicit argument (.+)", rest):
        return f"{name} takes no value, got {_bare(found[1])}"
    return f"{name}: {rest}"


def _bare(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
