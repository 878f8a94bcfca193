"""`maskrcnn doctor`: is this installation in order?"""

from __future__ import annotations

import argparse

HELP = "say which operators, compilers and devices are in use, and why"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command takes no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 when the compiled operators work, 1 otherwise."""
    from maskrcnn.run.doctor import diagnose

    report = diagnose()
    print(report)
    return 0 if report.healthy else 1
