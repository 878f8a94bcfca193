"""For the tests of what the docs show."""

from tests.rules.reader import folder

__all__ = ["folder"]
