"""Every command with its arguments, as ``maskrcnn COMMAND --help`` prints them, as Markdown."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from unittest import mock

from maskrcnn.cli import COMMANDS, GROUPS, build_parser, overview


def page() -> str:
    """The overview, and a section a command."""
    with mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}):
        parts = [f"# Every command\n\n```text\n{overview()}\n```"]
        for group in GROUPS:
            parts.append(f"## {group}")
            for command in COMMANDS:
                if command.group == group:
                    helps = "\n\n".join(texts(build_parser(command.name)))
                    parts.append(f"### maskrcnn {command.name}\n\n```text\n{helps}\n```")
    return "\n\n".join(parts) + "\n"


def texts(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What ``--help`` prints of it and of its sub-commands."""
    yield parser.format_help().rstrip()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from texts(sub)
