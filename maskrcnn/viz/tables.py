"""The one printer of tables: aligned text, Markdown, CSV; pages set them by ``parts.html.j2``."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from maskrcnn.data.file_names import shown
from maskrcnn.errors import cut

#: Characters of a cell in the terminal; the middle of longer ones is left out.
WIDEST = 80

Row = Sequence[str]


@dataclass(frozen=True)
class Table:
    """Names of columns, and cells; all text.

    rows: one that is empty is a gap between groups of rows, where the form has such.
    title: stands above; may be empty.
    left: columns set to the left, as text is; the others hold numbers.
    groups: (name, columns) from left to right, a line above the names of the columns; or none.
    """

    head: Row
    rows: Sequence[Row]
    title: str = ""
    left: Collection[int] = (0,)
    groups: Sequence[tuple[str, int]] = ()

    def text(self) -> str:
        """For a terminal: columns at one width, under the title."""
        lines = [[cut(shown(cell), WIDEST) for cell in row] for row in (self.head, *self.rows)]
        above: list[str] = []
        if self.groups:
            above, widths, start = [""], _widths(lines), 0
            for name, columns in self.groups:
                room = sum(widths[start : start + columns]) + 2 * (columns - 1)
                above[0] += "  " * (start > 0) + _padded(name, room, to_left=False)
                start += columns
        title = [shown(self.title)] if self.title else []
        return "\n".join([*title, *above, *aligned(lines, self.left)])

    def markdown(self) -> str:
        """Under its title in bold."""
        title = [f"**{in_markdown(self.title)}**", ""] if self.title else []
        rule = "|".join("---" if i in self.left else "---:" for i in range(len(self.head)))
        head, *rows = ("| " + " | ".join(map(in_markdown, r)) + " |" for r in (self.head, *self.rows) if r)
        return "\n".join([*title, head, f"|{rule}|", *rows])

    def comma_separated(self) -> str:
        """CSV: a line of names, then the rows."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.head, *filter(None, self.rows)])
        return text.getvalue()


def aligned(rows: Sequence[Row], left: Collection[int] = (0,)) -> list[str]:
    """Lines of columns two blanks apart, those of ``left`` set to the left and the others to the right."""
    widths = list(enumerate(_widths(rows)))
    lines = ([_padded(c, w, to_left=i in left) for c, (i, w) in zip(r, widths, strict=False)] for r in rows)
    return ["  ".join(line).rstrip() for line in lines]


def in_markdown(text: str) -> str:
    """``text`` on one line, where it can neither end a cell nor begin a tag."""
    return shown(" ".join(text.split("\n"))).replace("|", "\\|").replace("<", "&lt;")


def _widths(rows: Sequence[Row]) -> list[int]:
    return [max(map(_width, column)) for column in zip_longest(*rows, fillvalue="")]


def _width(text: str) -> int:
    """Places of a terminal: two for a wide character, none for one that is set over another."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _padded(text: str, width: int, *, to_left: bool) -> str:
    blanks = " " * (width - _width(text))
    return text + blanks if to_left else blanks + text
